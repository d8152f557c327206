"""What no machine here is large enough to measure: a burst of thousands of nodes, simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bench.commands.command import counts, say
from bench.commands.options import Asked, benchmark
from bench.result import Result
from bench.result import load as load_result
from bench.simulate import run as simulation
from bench.simulate.known import KNOWN, KRAKEN, KRAKEN_MEASURED, Known, known_of
from bench.simulate.options import churn_of, classes_of, stragglers_of
from bench.simulate.scenario import load, scenario_of
from imagedist.errors import InputError

_NODES = "1,16,64,256,1000,5000,20000"
_QUICK_NODES = "1,16,64,256"


@benchmark(f"{_QUICK_NODES} nodes, 100 MB.")
def simulate(
    asked: Asked,
    nodes: Annotated[str, typer.Option(help="How many at once, comma-separated, up to 20,000.")] = "",
    size: Annotated[str | None, typer.Option(help="Of the image; 1GB if nothing says.")] = None,
    layers: Annotated[int | None, typer.Option(help="Equal blobs it is cut into; 2.")] = None,
    upload: Annotated[str | None, typer.Option(help="Of every node, such as 125MB/s.")] = None,
    download: Annotated[str | None, typer.Option(help="The same towards it.")] = None,
    classes: Annotated[list[str] | None, typer.Option("--class", help="name:share:up:down, repeatable.")] = None,
    stragglers: Annotated[str | None, typer.Option(help="share:rate, such as 0.05:2MB/s.")] = None,
    churn: Annotated[
        str | None, typer.Option(help="Share of the nodes switched off each minute[:seconds away].")
    ] = None,
    sites: Annotated[int | None, typer.Option(help="How many the nodes are dealt out to.")] = None,
    seeders: Annotated[int | None, typer.Option(help="Of each site.")] = None,
    site_egress: Annotated[str | None, typer.Option(help="Out of each seeder's host; 1.25GB/s.")] = None,
    upstream: Annotated[str | None, typer.Option(help="Out of the registry; 1.25GB/s.")] = None,
    inter_site: Annotated[str | None, typer.Option(help="Other sites copy from the first one at this rate.")] = None,
    warm: Annotated[bool | None, typer.Option("--warm/--cold", help="Whether the sites have the image before.")] = None,
    preheated: Annotated[float | None, typer.Option(help="Share of the nodes that have it before.")] = None,
    arrival: Annotated[float | None, typer.Option(help="Seconds over which the nodes begin.")] = None,
    scenario: Annotated[Path | None, typer.Option(help="A TOML file of all of this; options win.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all chance.")] = None,
    runs: Annotated[int, typer.Option(min=1, max=100, help="Of each, with seeds that follow each other.")] = 1,
    sizing: Annotated[bool, typer.Option("--sizing", help="What a site of so many nodes needs.")] = False,
    torrents: Annotated[int, typer.Option(min=1, max=5000, help="That a node seeds at rest, for --sizing.")] = 20,
    within: Annotated[
        float | None,
        typer.Option(min=0.1, max=86_400, help="Seconds: how few seeders give 99 of 100 nodes the image by then."),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="Hold the model against a result of swarm, or against: known, kraken. Repeatable."),
    ] = None,
) -> Result:
    """Simulate a burst of up to 20,000 nodes by the project's own tracker, seeder and piece rules; sizes a site."""
    known = [one for name in against or [] for one in _known(name)]
    given: dict[str, Any] = {
        "size": size or ("100MB" if asked.quick else None),
        "layers": layers,
        "classes": classes_of(classes or [], upload, download),
        "stragglers": stragglers_of(stragglers) if stragglers else None,
        "churn": churn_of(churn) if churn else None,
        "sites": sites,
        "seeders": seeders,
        "site_egress": site_egress,
        "upstream": upstream,
        "inter_site": inter_site,
        "state": None if warm is None else "warm" if warm else "cold",
        "preheated": preheated,
        "arrival": arrival,
        "seed": seed,
    }
    values = load(scenario) if scenario is not None else {}
    values |= {name: value for name, value in given.items() if value is not None}
    of_file = str(values.pop("nodes", ""))
    wanted = nodes or of_file or ("" if known else _QUICK_NODES if asked.quick else _NODES)
    numbers = counts(wanted, "--nodes") if wanted else ()
    source = str(scenario) if scenario is not None else "scenario"
    scenarios = [scenario_of({**values, "nodes": number}, source) for number in numbers]
    if not scenarios and (sizing or within is not None):
        raise InputError(f"{'--sizing' if sizing else '--within'} needs --nodes beside --against")
    plan = simulation.Plan(scenarios, runs, known, torrents if sizing else None, within)
    return simulation.run(plan, say, asked.keep)


def _known(name: str) -> tuple[Known, ...]:
    """Raises InputError: no result of the swarm's benchmark."""
    if name in ("known", "kraken"):
        return KNOWN if name == "known" else (KRAKEN, KRAKEN_MEASURED)
    return known_of(load_result(Path(name)), Path(name).name)
