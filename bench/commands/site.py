"""What a site's own servers do."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from bench import crowd as crowd_benchmark
from bench import proxy as proxy_benchmark
from bench import tracker as tracker_benchmark
from bench.commands.command import Json, Rounds, app, explained, measured, say


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
    measured(lambda keep: proxy_benchmark.run(scale, say, keep), json)


@app.command()
@explained
def tracker(
    rounds: Rounds = 5,
    quick: Annotated[bool, typer.Option("--quick", help="1,000 peers, short runs.")] = False,
    json: Json = None,
) -> None:
    """Announce for 10,000 peers of one torrent: how many a second on one core, and what the peers weigh."""
    scale = tracker_benchmark.QUICK if quick else replace(tracker_benchmark.FULL, rounds=rounds)
    measured(lambda keep: tracker_benchmark.run(scale, say, keep), json)


@app.command()
@explained
def crowd(
    nodes: Annotated[int, typer.Option(min=1, max=8000, help="Simulated nodes.")] = 2000,
    beat: Annotated[float, typer.Option(min=0.1, help="Seconds between a node's heartbeats.")] = 10.0,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="For how long it is measured.")] = 60.0,
    quick: Annotated[bool, typer.Option("--quick", help="500 nodes, 15 s.")] = False,
    json: Json = None,
) -> None:
    """Let thousands of nodes send heartbeats to one seeder and wait there for orders: its CPU and memory."""
    count, lasts = (500, 15.0) if quick else (nodes, seconds)
    measured(lambda keep: crowd_benchmark.run(count, lasts, beat), json)
