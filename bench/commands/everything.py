"""``all``: both charts and what stands beside them, by one command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import swarm, whole
from bench.commands.command import app, console, counts, endpoints, explained, measured, names
from bench.commands.options import CACHE, Asked, Cache, Dragonfly, Image, Json, Kraken, Spegel
from bench.image_choice import ImageChoice
from bench.preflight import check_report, check_root
from bench.result import Keep, Result, load
from imagedist.config import parse_size
from imagedist.errors import ImagedistError, InputError

STORE = Path("/var/tmp/imagedist-bench-stores")
_QUICK_ROUNDS = 2
_EXT4_TIMES, _LEAST_EXT4_BYTES = 8, 1_000_000_000
_BESIDE: Any = {"is_straight_too": True, "kraken_pieces": swarm.KRAKEN_PIECES}
_QUICK = swarm.Scale((1, 2, 4, 8), 12_000_000, 32_000_000, 1, **_BESIDE)
_SIMULATED, _QUICK_SIMULATED = (64, 256, 1000, 5000), (64, 256, 1000)
"""A site's line of ten nodes' links is too thin for the torrents of 20,000: docs/simulator.md has a site for them."""
_NODES_A_CPU, _MOST_NODES = 16, 64
"""What agents cost (docs/swarm-benchmark.md): more are measured as the machine's CPUs, not as a swarm."""


@app.command(name="all")
@explained
def everything(
    image: Image = "reference",
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Of everything.")] = 3,
    cuts: Annotated[str, typer.Option(help="Numbers of layers, comma-separated.")] = "1,4,16,32",
    nodes: Annotated[str, typer.Option(help="Numbers of nodes. Default: as many as this machine carries.")] = "",
    parts: Annotated[str, typer.Option(help=f"Comma-separated, of: {', '.join(whole.PARTS)}.")] = ",".join(
        whole.CHARTS
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Some minutes: small image, few nodes, two rounds.")] = False,
    store: Annotated[Path, typer.Option(help="Where a fresh ext4 is made, in a file: the disk to measure.")] = STORE,
    ext4: Annotated[str, typer.Option(help="Its size. Default: what the image needs.")] = "",
    cache: Cache = CACHE,
    kraken: Kraken = None,
    dragonfly: Dragonfly = None,
    spegel: Spegel = None,
    json: Json = Path("imagedist-bench.json"),
    html: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("imagedist-bench.html"),
    charts: Annotated[Path | None, typer.Option(help="Write the charts into this directory as well.")] = None,
) -> None:
    """Measure both charts with the peers of this machine; needs root. Writes a result and a report."""
    check_root("imagedist-bench all")
    if json is None or str(json) == "-":
        raise InputError("--json of all is a file: the report is made of it")
    check_report(html)
    chosen = names(parts)
    if unknown := [name for name in chosen if name not in whole.PARTS]:
        raise InputError(f"--parts {unknown[0]!r}: expected {', '.join(whole.PARTS)}")

    def run(keep: Keep) -> Result:
        wanted = min(rounds, _QUICK_ROUNDS) if quick else rounds
        settings = Asked(image, wanted, quick, store, ext4 or _ext4(image, quick), cache, keep).settings()
        bursts = _QUICK if quick else swarm.Scale(_nodes(nodes), 24_000_000, 8_000_000, rounds, **_BESIDE)
        layers = (1, 4, 16) if quick else counts(cuts, "--cuts")
        plan = whole.Plan(
            settings, layers, bursts, _QUICK_SIMULATED if quick else _SIMULATED, endpoints(kraken, dragonfly, spegel)
        )
        whole.check(plan, chosen)
        return whole.run(plan, {name: whole.PARTS[name] for name in chosen}, keep)

    measured(run, json, store)
    from bench.charts import charts_of, write_charts
    from bench.page import write_page

    results = [load(json)]
    found = charts_of(results)
    write_page(results, found, html)
    written = [json, html, *(write_charts(found, charts) if charts else ())]
    console().print(f"written: {', '.join(map(str, written))}")
    check_whole(results[0])


def check_whole(result: Result) -> None:
    """Raises ImagedistError: a part failed. What the others found is written."""
    if failed := [f"{row.name} failed: {row.not_run}" for row in result.contestants]:
        raise ImagedistError("; ".join(failed))


def _ext4(image: str, quick: bool) -> str:
    choice = ImageChoice.parse("small" if quick and image == "reference" else image)
    return str(max(_EXT4_TIMES * (choice.approximate_bytes or parse_size("4GB")), _LEAST_EXT4_BYTES))


def _nodes(text: str) -> tuple[int, ...]:
    if text:
        return counts(text, "--nodes")
    most = min(_MOST_NODES, _NODES_A_CPU * len(os.sched_getaffinity(0)))
    return tuple(count for count in (1, 4, 16, 32, 64) if count <= most)
