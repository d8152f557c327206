"""What many nodes do at once: swarms, lone nodes, small torrents, neighbours, caps."""

from __future__ import annotations

import re
from dataclasses import replace
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
from bench.commands.command import counts, names, say, size_of
from bench.commands.options import CACHE, STORE, Asked, benchmark
from bench.result import Result
from bench.swarm_network import Configuration
from imagedist.config.values import parse_rate
from imagedist.errors import InputError

AgentLine = Annotated[str, typer.Option(help="One for [agent] of agent.toml.")]


@benchmark("1, 2 and 4 nodes, 12 MB, two rounds.", rounds=5)
def swarm(
    asked: Asked,
    nodes: Annotated[str, typer.Option(help="How many at once, comma-separated.")] = "1,2,4,8",
    size: Annotated[str, typer.Option(help="Of the image, in two blobs.")] = "100MB",
    cap: Annotated[
        int, typer.Option(min=1, max=100_000, help="Mbit/s of a node's link; the site has ten times that.")
    ] = 32,
    proxy: Annotated[str, typer.Option(help="A setting for [proxy] of proxy.toml, such as first_wave_nodes=4.")] = "",
    seeder: Annotated[str, typer.Option(help="One for [seeder] of seeder.toml.")] = "",
    agent: AgentLine = "",
    straight: Annotated[
        bool, typer.Option("--straight", help="Also as many nodes straight from the registry, which takes long.")
    ] = False,
    kraken_pieces: Annotated[
        str,
        typer.Option(help="Also by Kraken, once for each length of its pieces; its own is 4MB. Empty: not by Kraken."),
    ] = ",".join(swarm_benchmark.KRAKEN_PIECES),
    warm: Annotated[
        bool, typer.Option("--warm", help="The site has an image before nodes ask, not the registry alone.")
    ] = False,
) -> Result:
    """Give a new image to N nodes at once, over capped links in network namespaces; needs root."""
    scale = swarm_benchmark.Scale(counts(nodes, "--nodes"), size_of(size), cap * 1_000_000, asked.rounds)
    scale = swarm_benchmark.QUICK if asked.quick else scale
    scale = replace(scale, configuration=Configuration(proxy, seeder, agent).check(), is_straight_too=straight)
    scale = replace(scale, kraken_pieces=[_piece(text) for text in names(kraken_pieces)], is_warm=warm)
    return swarm_benchmark.run(scale, say, asked.keep)


@benchmark("Two rounds of 4 s.", rounds=5, cache=CACHE)
def neighbour(
    asked: Asked,
    link: Annotated[int, typer.Option(min=10, max=10_000, help="Mbit/s of the node's card.")] = 1000,
    upload: Annotated[str, typer.Option(help="The node's cap towards peers; by default half of the link.")] = "",
) -> Result:
    """Measure what a web service on a node feels of an agent that seeds and unpacks beside it; needs root."""
    scale = neighbour_benchmark.QUICK if asked.quick else neighbour_benchmark.Scale(asked.rounds)
    upload = str(parse_rate(upload)) if upload else ""
    scale = replace(scale, link_bits_per_second=link * 1_000_000, upload=upload)
    return neighbour_benchmark.run(scale, asked.cache.absolute(), say, asked.keep)


@benchmark("20 MB, two rounds.", rounds=5)
def lone(
    asked: Asked,
    size: Annotated[str, typer.Option(help="Of the image, in two blobs.")] = "100MB",
    proxy: Annotated[str, typer.Option(help="A setting for [proxy] of proxy.toml.")] = "",
    agent: AgentLine = "",
) -> Result:
    """Hold one node, two, a small layer and skopeo against plain downloads, on links of 1 Gbit/s; needs root."""
    scale = lone_benchmark.Scale(size_of(size), asked.rounds)
    scale = replace(
        lone_benchmark.QUICK if asked.quick else scale, configuration=Configuration(proxy, agent=agent).check()
    )
    return lone_benchmark.run(scale, say, asked.keep)


@benchmark("4 nodes, 50 torrents.")
def many(
    asked: Asked,
    nodes: Annotated[int, typer.Option(min=1, max=500, help="That ask at once.")] = 32,
    torrents: Annotated[int, typer.Option(min=1, max=5000, help="Small blobs that each of them asks for.")] = 500,
) -> Result:
    """Let nodes ask for hundreds of small torrents at once; read an agent's memory at rest and with 200; needs root."""
    scale = many_benchmark.QUICK if asked.quick else many_benchmark.Scale(nodes, torrents)
    return many_benchmark.run(scale, say, asked.keep)


@benchmark("40 MB, two rounds.", rounds=5)
def transfer(
    asked: Asked,
    size: Annotated[str, typer.Option(help="Of the blob.")] = "400MB",
) -> Result:
    """Give one peer a blob on loopback without caps, by the swarm's session and by aiohttp."""
    scale = transfer_benchmark.Scale(size_of(size), asked.rounds)
    return transfer_benchmark.run(transfer_benchmark.QUICK if asked.quick else scale, say, asked.keep)


@benchmark("Three seconds each.", store=STORE)
def caps(
    asked: Asked,
    upload: Annotated[str, typer.Option(help="The node's cap towards peers.")] = "2MB/s",
    download: Annotated[str, typer.Option(help="Its cap for what it takes.")] = "4MB/s",
    seconds: Annotated[float, typer.Option(min=1, max=600, help="For how long each way is measured.")] = 10.0,
) -> Result:
    """Hold what a node gives and takes, by swarm and by HTTP, against its caps; on loopback."""
    up, down = _rate(upload, "--upload"), _rate(download, "--download")
    scale = caps_benchmark.Scale(up, down, 3.0 if asked.quick else seconds)
    return caps_benchmark.run(scale, asked.store.absolute(), say, asked.keep)


@benchmark("12 MB, two rounds, 1,000 tags.", rounds=5)
def sites(
    asked: Asked,
    size: Annotated[str, typer.Option(help="Of the image, in four layers.")] = "40MB",
    cap: Annotated[int, typer.Option(min=1, max=100_000, help="Mbit/s of the link between the sites.")] = 32,
    tags: Annotated[int, typer.Option(min=0, max=100_000, help="That have not changed; 0 leaves them out.")] = 10_000,
) -> Result:
    """Sync an image between two sites beside one curl of its bytes; webhooks, and many tags unchanged; needs root."""
    scale = sites_benchmark.Scale(size_of(size), cap * 1_000_000, asked.rounds, tags=tags)
    return sites_benchmark.run(sites_benchmark.QUICK if asked.quick else scale, say, asked.keep)


@benchmark("4 nodes, 60 MB and 6 MB.", cache=CACHE)
def scaleout(
    asked: Asked,
    nodes: Annotated[int, typer.Option(min=1, max=64, help="All pull at once.")] = 16,
    cap: Annotated[str, typer.Option(help="What a node's link carries; the site's ten times that.")] = "12.5MB/s",
    base: Annotated[str, typer.Option(help="Compressed size of the base, of this machine's files.")] = "200MB",
    layer: Annotated[str, typer.Option(help="Compressed size of the application's layer.")] = "20MB",
) -> Result:
    """Pull an application image onto many nodes: with its base preheated, beside the same with nothing there."""
    scale = scaleout_benchmark.Scale(nodes, size_of(base, "--base"), size_of(layer, "--layer"))
    scale = replace(scaleout_benchmark.QUICK if asked.quick else scale, bits_per_second=8 * _rate(cap, "--cap"))
    return scaleout_benchmark.run(scale, asked.cache.absolute(), say, asked.keep)


def _rate(text: str, option: str) -> int:
    """Raises InputError: no rate, or none at all."""
    if (rate := parse_rate(text)) is None:
        raise InputError(f"{option} {text} is no cap: expected a rate such as 12.5MB/s")
    return rate


def _piece(text: str) -> str:
    """Raises InputError: not as Kraken writes sizes."""
    if not re.fullmatch(r"[1-9][0-9]*[KM]B", text):
        raise InputError(f"--kraken-pieces {text!r}: expected lengths such as 4MB,64KB")
    return text
