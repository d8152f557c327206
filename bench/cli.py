"""``imagedist-bench``: figures from your own machine, peers side by side."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Annotated, ParamSpec

import typer
from rich.console import Console

from bench import caps as caps_benchmark
from bench import crowd as crowd_benchmark
from bench import decoders as decoders_benchmark
from bench import layers as layers_benchmark
from bench import limit as limit_benchmark
from bench import lone as lone_benchmark
from bench import many as many_benchmark
from bench import memory as memory_benchmark
from bench import neighbour as neighbour_benchmark
from bench import proxy as proxy_benchmark
from bench import runtimes as runtimes_benchmark
from bench import scaleout as scaleout_benchmark
from bench import statistics
from bench import swarm as swarm_benchmark
from bench import tracker as tracker_benchmark
from bench import transfer as transfer_benchmark
from bench import unpack as unpack_benchmark
from bench import update as update_benchmark
from bench.report import show, show_difference
from bench.result import Result, load, save
from bench.session import Settings, image_of
from bench.swarm_network import Configuration
from imagedist.config import parse_size
from imagedist.config.values import parse_rate
from imagedist.errors import ImagedistError, InputError

P = ParamSpec("P")

_PIPE_WIDTH = 200
_QUICK_ROUNDS = 3
_QUICK_CUTS = (1, 4, 16)

app = typer.Typer(
    name="imagedist-bench",
    help="Measure imagedist beside the runtimes of this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Image = Annotated[
    str, typer.Option(help="reference (seven layers from Debian packages), small, or registry/repository:tag.")
]
Rounds = Annotated[int, typer.Option(min=1, max=100, help="Cold runs of each; tables show medians.")]
Store = Annotated[Path, typer.Option(help="Where stores are made and removed: the file system to measure.")]
Ext4 = Annotated[
    str | None, typer.Option(help="Measure a fresh ext4 of this size in a file below --store, until syncfs returns.")
]
Cache = Annotated[Path, typer.Option(help="Where images are kept between benchmarks.", envvar="IMAGEDIST_BENCH_CACHE")]
Quick = Annotated[bool, typer.Option("--quick", help="The small image, three rounds.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result to this file; - is standard output.")]
Names = Annotated[str, typer.Option(help=f"Comma-separated, of: {', '.join(unpack_benchmark.CONTESTANTS)}.")]

_STORE = Path("/dev/shm/imagedist-bench")
_CACHE = Path("/var/tmp/imagedist-bench")


def explained(command: Callable[P, None]) -> Callable[P, None]:
    """Ends a command with one readable line and the right exit code: 1 failed, 2 usage, 130 interrupted."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            command(*args, **kwargs)
        except ImagedistError as error:
            print(f"imagedist-bench: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            print("imagedist-bench: interrupted; no result was written", file=sys.stderr)
            raise typer.Exit(130) from None

    return run


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM cleans up as Ctrl-C does: daemons, mounts and stores go."""
    raise KeyboardInterrupt


def _settings(image: str, rounds: int, store: Path, ext4: str | None, cache: Path, quick: bool) -> Settings:
    return Settings(
        cache=cache.absolute(),
        store=store.absolute(),
        ext4_bytes=parse_size(ext4) if ext4 else None,
        image="small" if quick else image,
        rounds=min(rounds, _QUICK_ROUNDS) if quick else rounds,
        say=_say,
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _give(result: Result, file: Path | None) -> None:
    if file is not None and str(file) == "-":
        print(result.model_dump_json(indent=2))
        return
    if file is not None:
        save(result, file)
    show(result, _console())


def _console() -> Console:
    """A pipe has no width to fold at."""
    return Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)


@app.command()
@explained
def unpack(
    image: Image = "reference",
    contestants: Names = ",".join(unpack_benchmark.DEFAULT),
    rounds: Rounds = 5,
    quick: Quick = False,
    store: Store = _STORE,
    ext4: Ext4 = None,
    cache: Cache = _CACHE,
    json: Json = None,
) -> None:
    """Pull one image into empty stores: imagedist's strategies, docker, containerd, podman."""
    settings = _settings(image, rounds, store, ext4, cache, quick)
    _give(unpack_benchmark.run(settings, _names(contestants)), json)


@app.command()
@explained
def layers(
    image: Image = "reference",
    peers: Annotated[str, typer.Option(help="Contestants to measure as well, comma-separated.")] = "",
    rounds: Rounds = 5,
    quick: Quick = False,
    store: Store = _STORE,
    ext4: Ext4 = None,
    cache: Cache = _CACHE,
    json: Json = None,
) -> None:
    """Pull the same files cut into 1 to 32 layers, and one fat layer with one CPU and with two."""
    settings = _settings(image, rounds, store, ext4, cache, quick)
    beside = [unpack_benchmark.named(name) for name in _names(peers)]
    _give(layers_benchmark.run(settings, _QUICK_CUTS if quick else layers_benchmark.CUTS, beside), json)


@app.command()
@explained
def limit(
    image: Image = "reference",
    rounds: Rounds = 5,
    quick: Quick = False,
    store: Store = _STORE,
    ext4: Ext4 = None,
    cache: Cache = _CACHE,
    json: Json = None,
) -> None:
    """Measure the CPU time of each step that a pull cannot do without, and how near imagedist comes to it."""
    _give(limit_benchmark.run(_settings(image, rounds, store, ext4, cache, quick)), json)


@app.command()
@explained
def update(
    image: Image = "reference",
    contestants: Names = "agent,imagedist,docker",
    rounds: Rounds = 5,
    quick: Quick = False,
    store: Store = _STORE,
    ext4: Ext4 = None,
    cache: Cache = _CACHE,
    json: Json = None,
) -> None:
    """Pull a 20 MB application layer onto a node that has the base; the first contestant is the measure."""
    settings = _settings(image, rounds, store, ext4, cache, quick)
    chosen = [unpack_benchmark.named(name) for name in _names(contestants)]
    _give(update_benchmark.run(settings, chosen, chosen[0].name), json)


@app.command()
@explained
def memory(
    image: Image = "reference",
    ramdisk_budget: Annotated[str, typer.Option(help="What the ramdisk may hold.")] = "256MiB",
    rounds: Rounds = 3,
    quick: Quick = False,
    store: Store = _STORE,
    ext4: Ext4 = None,
    cache: Cache = _CACHE,
    json: Json = None,
) -> None:
    """Watch the anonymous memory and the ramdisk of a pull."""
    parse_size(ramdisk_budget)
    _give(memory_benchmark.run(_settings(image, rounds, store, ext4, cache, quick), ramdisk_budget), json)


@app.command()
@explained
def runtimes(
    image: Image = "reference",
    rounds: Rounds = 5,
    quick: Quick = False,
    store: Store = _STORE,
    ext4: Ext4 = None,
    cache: Cache = _CACHE,
    json: Json = None,
) -> None:
    """Pull as kubelet does, by CRI: containerd with imagedist's snapshotter, and with overlayfs."""
    _give(runtimes_benchmark.run(_settings(image, rounds, store, ext4, cache, quick)), json)


@app.command()
@explained
def proxy(
    rounds: Rounds = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller blobs, fewer clients, three rounds.")] = False,
    json: Json = None,
) -> None:
    """Measure the site's proxy: warm beside nginx and docker-registry, cold beside its upstream; its memory."""
    scale = proxy_benchmark.QUICK if quick else proxy_benchmark.FULL
    scale = replace(scale, rounds=min(rounds, scale.rounds) if quick else rounds)
    _give(proxy_benchmark.run(scale, _say), json)


@app.command()
@explained
def swarm(
    nodes: Annotated[str, typer.Option(help="How many at once, comma-separated.")] = "1,2,4,8",
    size: Annotated[str, typer.Option(help="Of the image, in two blobs.")] = "100MB",
    cap: Annotated[
        int, typer.Option(min=1, max=100_000, help="Mbit/s of a node's link; the site has ten times that.")
    ] = 32,
    rounds: Rounds = 5,
    quick: Annotated[bool, typer.Option("--quick", help="1, 2 and 4 nodes, 12 MB, two rounds.")] = False,
    proxy: Annotated[str, typer.Option(help="A setting for [proxy] of proxy.toml, such as first_wave_nodes=4.")] = "",
    seeder: Annotated[str, typer.Option(help="One for [seeder] of seeder.toml.")] = "",
    agent: Annotated[str, typer.Option(help="One for [agent] of agent.toml.")] = "",
    json: Json = None,
) -> None:
    """Give a new image to N nodes at once, over capped links in network namespaces; needs root."""
    scale = swarm_benchmark.Scale(_counts(nodes), parse_size(size), cap * 1_000_000, rounds)
    scale = replace(swarm_benchmark.QUICK if quick else scale, configuration=Configuration(proxy, seeder, agent))
    _give(swarm_benchmark.run(scale, _say), json)


@app.command()
@explained
def neighbour(
    link: Annotated[int, typer.Option(min=10, max=10_000, help="Mbit/s of the node's card.")] = 1000,
    upload: Annotated[str, typer.Option(help="The node's cap towards peers; by default half of the link.")] = "",
    rounds: Rounds = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Two rounds of 4 s.")] = False,
    cache: Cache = _CACHE,
    json: Json = None,
) -> None:
    """Measure what a web service on a node feels of an agent that seeds and unpacks beside it; needs root."""
    scale = neighbour_benchmark.QUICK if quick else neighbour_benchmark.Scale(rounds)
    upload = str(parse_rate(upload)) if upload else ""
    scale = replace(scale, link_bits_per_second=link * 1_000_000, upload=upload)
    _give(neighbour_benchmark.run(scale, cache.absolute(), _say), json)


@app.command()
@explained
def lone(
    size: Annotated[str, typer.Option(help="Of the image, in two blobs.")] = "100MB",
    rounds: Rounds = 5,
    quick: Annotated[bool, typer.Option("--quick", help="20 MB, two rounds.")] = False,
    proxy: Annotated[str, typer.Option(help="A setting for [proxy] of proxy.toml.")] = "",
    agent: Annotated[str, typer.Option(help="One for [agent] of agent.toml.")] = "",
    json: Json = None,
) -> None:
    """Hold one node, two, a small layer and skopeo against plain downloads, on links of 1 Gbit/s; needs root."""
    scale = lone_benchmark.QUICK if quick else lone_benchmark.Scale(parse_size(size), rounds)
    _give(lone_benchmark.run(replace(scale, configuration=Configuration(proxy=proxy, agent=agent)), _say), json)


@app.command()
@explained
def many(
    nodes: Annotated[int, typer.Option(min=1, max=500, help="That ask at once.")] = 32,
    torrents: Annotated[int, typer.Option(min=1, max=5000, help="Small blobs that each of them asks for.")] = 500,
    quick: Annotated[bool, typer.Option("--quick", help="4 nodes, 50 torrents.")] = False,
    json: Json = None,
) -> None:
    """Let nodes ask for hundreds of small torrents at once; read an agent's memory at rest and with 200; needs root."""
    scale = many_benchmark.QUICK if quick else many_benchmark.Scale(nodes, torrents)
    _give(many_benchmark.run(scale, _say), json)


@app.command()
@explained
def transfer(
    size: Annotated[str, typer.Option(help="Of the blob.")] = "400MB",
    rounds: Rounds = 5,
    quick: Annotated[bool, typer.Option("--quick", help="40 MB, two rounds.")] = False,
    json: Json = None,
) -> None:
    """Give one peer a blob on loopback without caps, by the swarm's session and by aiohttp."""
    scale = transfer_benchmark.QUICK if quick else transfer_benchmark.Scale(parse_size(size), rounds)
    _give(transfer_benchmark.run(scale, _say), json)


@app.command()
@explained
def tracker(
    rounds: Rounds = 5,
    quick: Annotated[bool, typer.Option("--quick", help="1,000 peers, short runs.")] = False,
    json: Json = None,
) -> None:
    """Announce for 10,000 peers of one torrent: how many a second on one core, and what the peers weigh."""
    scale = tracker_benchmark.QUICK if quick else replace(tracker_benchmark.FULL, rounds=rounds)
    _give(tracker_benchmark.run(scale, _say), json)


@app.command()
@explained
def caps(
    upload: Annotated[str, typer.Option(help="The node's cap towards peers.")] = "2MB/s",
    download: Annotated[str, typer.Option(help="Its cap for what it takes.")] = "4MB/s",
    seconds: Annotated[float, typer.Option(min=1, max=600, help="For how long each way is measured.")] = 10.0,
    store: Annotated[Path, typer.Option(help="Where blobs are made and removed.")] = Path("/dev/shm"),
) -> None:
    """Hold what a node gives and takes, by swarm and by HTTP, against its caps; on loopback."""
    up, down = parse_rate(upload), parse_rate(download)
    if up is None or down is None:
        raise InputError("both caps are wanted: give --upload and --download a rate such as 4MB/s")
    for kept in asyncio.run(caps_benchmark.measure(up, down, seconds, store)):
        rate = f"{kept.measured / 1e6:.2f} of {kept.allowed / 1e6:.2f} MB/s"
        print(f"{kept.way:<32}{rate:<24}{kept.deviation:+.1%}", flush=True)


@app.command()
@explained
def scaleout(
    nodes: Annotated[int, typer.Option(min=1, max=64, help="All pull at once.")] = 16,
    cap: Annotated[str, typer.Option(help="What a node's link carries; the site's ten times that.")] = "12.5MB/s",
    base: Annotated[str, typer.Option(help="Compressed size of the base, of this machine's files.")] = "200MB",
    layer: Annotated[str, typer.Option(help="Compressed size of the application's layer.")] = "20MB",
    cache: Cache = _CACHE,
) -> None:
    """Pull an application image onto many nodes: with its base preheated, beside the same with nothing there."""
    rate = parse_rate(cap)
    if rate is None:
        raise InputError("--cap none measures this machine: give a rate such as 12.5MB/s")
    found = scaleout_benchmark.measure(nodes, 8 * rate, parse_size(base), parse_size(layer), cache, _say)
    print(f"image           {found.image_bytes / 1e6:.0f} MB, the application's layer {found.layer_bytes / 1e6:.1f} MB")
    for what, seconds in (("nothing there", found.cold_seconds), ("base preheated", found.preheated_seconds)):
        print(f"{what:<16}{statistics.median(seconds):.2f} s median, {max(seconds):.2f} s the last of {nodes}")
    print(f"ratio           {found.ratio:.3f} (aim: 0.15), by the last node")
    moved = found.moved_bytes / found.layer_bytes / nodes
    print(f"moved           {moved:.3f} times the application's layer and config, a node")
    print(f"preheat         {found.preheat_seconds:.1f} s until every node had confirmed the base")


@app.command()
@explained
def crowd(
    nodes: Annotated[int, typer.Option(min=1, max=8000, help="Simulated nodes.")] = 2000,
    beat: Annotated[float, typer.Option(min=0.1, help="Seconds between a node's heartbeats.")] = 10.0,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="For how long it is measured.")] = 60.0,
) -> None:
    """Let thousands of nodes send heartbeats to one seeder and wait there for orders: its CPU and memory."""
    found = asyncio.run(crowd_benchmark.measure(nodes, seconds, beat))
    answered = ", ".join(f"{count} {what}" for what, count in sorted(found.answered.items()))
    print(f"nodes                 {found.nodes}, {found.confirmed} confirmed their preheat")
    print(f"answers in {found.seconds:.0f} s       {answered}")
    print(f"seeder's CPU          {found.cpu:.1%} of one core (aim: 50%); {found.start_cpu:.1%} while they came")
    print(f"anonymous memory      {found.anonymous_bytes / 1e6:.0f} MB at most (aim: 300)")
    print(f"a heartbeat's answer  {found.heartbeat_ms:.1f} ms (median)")


@app.command()
@explained
def decoders(
    image: Image = "reference",
    size: Annotated[str, typer.Option(help="Of the tar that is decoded, at most.")] = "300MB",
    rounds: Rounds = 5,
    quick: Quick = False,
    cache: Cache = _CACHE,
    json: Json = None,
) -> None:
    """Inflate, hash and write one tar by every decoder: the engine's own, zlib, and rapidgzip if it is installed."""
    settings = _settings(image, rounds, _STORE, None, cache, quick)
    _give(decoders_benchmark.run(settings, parse_size(size)), json)


@app.command()
@explained
def image(image: Image = "reference", cache: Cache = _CACHE) -> None:
    """Build or copy an image into the cache, and print its OCI layout."""
    print(image_of(_settings(image, 1, _STORE, None, cache, False)).layout)


@app.command(name="show")
@explained
def show_result(
    file: Annotated[Path, typer.Argument(help="A result written with --json.")],
    against: Annotated[Path | None, typer.Option(help="An earlier one to compare it with.")] = None,
) -> None:
    """Show a saved result again, or compare two."""
    result = load(file)
    if against is None:
        show(result, _console())
    else:
        show_difference(load(against), result, _console())


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _counts(text: str) -> tuple[int, ...]:
    names = _names(text)
    if not names or not all(name.isdecimal() and int(name) for name in names):
        raise InputError(f"--nodes is {text!r}: expected numbers such as 1,2,4,8")
    return tuple(dict.fromkeys(map(int, names)))


def main() -> None:
    """The console script."""
    app()
