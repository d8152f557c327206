"""What a site's own servers do."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from bench import crowd as crowd_benchmark
from bench import proxy as proxy_benchmark
from bench import tracker as tracker_benchmark
from bench.commands.command import say
from bench.commands.options import Asked, benchmark
from bench.result import Result


@benchmark("Smaller blobs, fewer clients, three rounds.", rounds=5)
def proxy(asked: Asked) -> Result:
    """Measure the site's proxy: warm beside nginx and docker-registry, cold beside its upstream; its memory."""
    scale = proxy_benchmark.QUICK if asked.quick else proxy_benchmark.FULL
    scale = replace(scale, rounds=min(asked.rounds, scale.rounds) if asked.quick else asked.rounds)
    return proxy_benchmark.run(scale, say, asked.keep)


@benchmark("1,000 peers, short runs.", rounds=5)
def tracker(asked: Asked) -> Result:
    """Announce for 10,000 peers of one torrent: how many a second on one core, and what the peers weigh."""
    scale = tracker_benchmark.QUICK if asked.quick else replace(tracker_benchmark.FULL, rounds=asked.rounds)
    return tracker_benchmark.run(scale, say, asked.keep)


@benchmark("500 nodes, 15 s.")
def crowd(
    asked: Asked,
    nodes: Annotated[int, typer.Option(min=1, max=8000, help="Simulated nodes.")] = 2000,
    beat: Annotated[float, typer.Option(min=0.1, help="Seconds between a node's heartbeats.")] = 10.0,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="For how long it is measured.")] = 60.0,
) -> Result:
    """Let thousands of nodes send heartbeats to one seeder and wait there for orders: its CPU and memory."""
    scale = crowd_benchmark.QUICK if asked.quick else crowd_benchmark.Scale(nodes, seconds)
    return crowd_benchmark.run(replace(scale, beat_seconds=beat), say, asked.keep)
