"""What many nodes do at once: swarms, lone nodes, small torrents, neighbours, caps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bench import caps as caps_benchmark
from bench import lone as lone_benchmark
from bench import many as many_benchmark
from bench import neighbour as neighbour_benchmark
from bench import scaleout as scaleout_benchmark
from bench import sites as sites_benchmark
from bench import swarm as swarm_benchmark
from bench import transfer as transfer_benchmark
from bench.commands.command import CACHE, Cache, Json, Rounds, app, counts, explained, measured, say
from bench.swarm_network import Configuration
from imagedist.config import parse_size
from imagedist.config.values import parse_rate
from imagedist.errors import InputError


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
    straight: Annotated[
        bool, typer.Option("--straight", help="Also as many nodes straight from the registry, which takes long.")
    ] = False,
    json: Json = None,
) -> None:
    """Give a new image to N nodes at once, over capped links in network namespaces; needs root."""
    scale = swarm_benchmark.Scale(counts(nodes, "--nodes"), parse_size(size), cap * 1_000_000, rounds)
    configuration = Configuration(proxy, seeder, agent)
    scale = replace(swarm_benchmark.QUICK if quick else scale, configuration=configuration, is_straight_too=straight)
    measured(lambda keep: swarm_benchmark.run(scale, say, keep), json)


@app.command()
@explained
def neighbour(
    link: Annotated[int, typer.Option(min=10, max=10_000, help="Mbit/s of the node's card.")] = 1000,
    upload: Annotated[str, typer.Option(help="The node's cap towards peers; by default half of the link.")] = "",
    rounds: Rounds = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Two rounds of 4 s.")] = False,
    cache: Cache = CACHE,
    json: Json = None,
) -> None:
    """Measure what a web service on a node feels of an agent that seeds and unpacks beside it; needs root."""
    scale = neighbour_benchmark.QUICK if quick else neighbour_benchmark.Scale(rounds)
    upload = str(parse_rate(upload)) if upload else ""
    scale = replace(scale, link_bits_per_second=link * 1_000_000, upload=upload)
    measured(lambda keep: neighbour_benchmark.run(scale, cache.absolute(), say, keep), json)


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
    scale = replace(scale, configuration=Configuration(proxy=proxy, agent=agent))
    measured(lambda keep: lone_benchmark.run(scale, say, keep), json)


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
    measured(lambda keep: many_benchmark.run(scale, say), json)


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
    measured(lambda keep: transfer_benchmark.run(scale, say, keep), json)


@app.command()
@explained
def caps(
    upload: Annotated[str, typer.Option(help="The node's cap towards peers.")] = "2MB/s",
    download: Annotated[str, typer.Option(help="Its cap for what it takes.")] = "4MB/s",
    seconds: Annotated[float, typer.Option(min=1, max=600, help="For how long each way is measured.")] = 10.0,
    quick: Annotated[bool, typer.Option("--quick", help="Three seconds each.")] = False,
    store: Annotated[Path, typer.Option(help="Where blobs are made and removed.")] = Path("/dev/shm"),
    json: Json = None,
) -> None:
    """Hold what a node gives and takes, by swarm and by HTTP, against its caps; on loopback."""
    up, down = parse_rate(upload), parse_rate(download)
    if up is None or down is None:
        raise InputError("a cap of none cannot be kept or broken: give rates such as 2MB/s")
    measured(lambda keep: caps_benchmark.run(up, down, 3.0 if quick else seconds, store), json)


@app.command()
@explained
def sites(
    size: Annotated[str, typer.Option(help="Of the image, in four layers.")] = "40MB",
    cap: Annotated[int, typer.Option(min=1, max=100_000, help="Mbit/s of the link between the sites.")] = 32,
    tags: Annotated[int, typer.Option(min=0, max=100_000, help="That have not changed; 0 leaves them out.")] = 10_000,
    rounds: Rounds = 5,
    quick: Annotated[bool, typer.Option("--quick", help="12 MB, two rounds, 1,000 tags.")] = False,
    json: Json = None,
) -> None:
    """Sync an image between two sites beside one curl of its bytes; webhooks, and many tags unchanged; needs root."""
    scale = sites_benchmark.Scale(parse_size(size), cap * 1_000_000, rounds, tags=tags)
    measured(lambda keep: sites_benchmark.run(sites_benchmark.QUICK if quick else scale, say, keep), json)


@app.command()
@explained
def scaleout(
    nodes: Annotated[int, typer.Option(min=1, max=64, help="All pull at once.")] = 16,
    cap: Annotated[str, typer.Option(help="What a node's link carries; the site's ten times that.")] = "12.5MB/s",
    base: Annotated[str, typer.Option(help="Compressed size of the base, of this machine's files.")] = "200MB",
    layer: Annotated[str, typer.Option(help="Compressed size of the application's layer.")] = "20MB",
    quick: Annotated[bool, typer.Option("--quick", help="4 nodes, 60 MB and 6 MB.")] = False,
    cache: Cache = CACHE,
    json: Json = None,
) -> None:
    """Pull an application image onto many nodes: with its base preheated, beside the same with nothing there."""
    rate = parse_rate(cap)
    if rate is None:
        raise InputError("--cap none measures this machine: give a rate such as 12.5MB/s")
    sizes = (4, 60_000_000, 6_000_000) if quick else (nodes, parse_size(base), parse_size(layer))
    measured(lambda keep: scaleout_benchmark.run(*sizes, 8 * rate, cache.absolute(), say), json)
