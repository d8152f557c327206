"""What saved results say."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bench.commands.command import app, console, explained
from bench.compare import LEAST_RUNS, THRESHOLD, Change, compare, differences
from bench.preflight import check_report
from bench.report import drawn, remarks, show
from bench.report import markdown as lines_of
from bench.result import Result, load
from imagedist.errors import InputError

_REGRESSION = 1


@app.command()
@explained
def report(
    files: Annotated[list[Path], typer.Argument(help="Results written with --json.")],
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
    charts: Annotated[Path | None, typer.Option(help="Write the charts into this directory, PNG and SVG.")] = None,
) -> None:
    """Show saved results: as tables, as one HTML page, as charts."""
    results = [load(file) for file in files]
    if markdown:
        for result in results:
            print("\n".join(lines_of(result)))
    if html is None and charts is None and not markdown:
        for result in results:
            show(result, console())
        return
    if html is None and charts is None:
        return
    check_report(html)
    from bench.charts import charts_of, write_charts  # matplotlib and jinja2 only where they are needed
    from bench.page import write_page

    found = charts_of(results)
    if charts is not None:
        for path in write_charts(found, charts):
            print(path)
    if html is not None:
        write_page(results, found, html)
        print(html)


@app.command(name="compare")
@explained
def compare_results(
    old: Annotated[Path, typer.Argument(help="A result written with --json.")],
    new: Annotated[Path, typer.Argument(help="A later one.")],
    threshold: Annotated[float, typer.Option(min=0, max=10, help="Changes up to this share are not told.")] = THRESHOLD,
    despite_differences: Annotated[
        bool, typer.Option("--despite-differences", help="Compare other machines, images or settings, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Name what got faster or slower beyond noise; exit code 1: something got slower."""
    before, after = load(old), load(new)
    found = differences(before, after)
    if found and not despite_differences:
        raise InputError(f"not the same: {'; '.join(found)}: no comparison, unless with --despite-differences")
    changes = compare(before, after, threshold)
    if as_json:
        told = {"threshold": threshold, "differences": found, "changes": [asdict(change) for change in changes]}
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        _show(before, after, found, changes)
    if any(change.judgement == "slower" for change in changes):
        raise typer.Exit(_REGRESSION)
    if not any(change.judgement in ("faster", "same") for change in changes):
        raise InputError(
            f"nothing can be told: no row has {LEAST_RUNS} runs in both results; measure with more --rounds"
        )


def _show(before: Result, after: Result, found: list[str], changes: list[Change]) -> None:
    out = console()
    out.print(f"{before.benchmark} of {before.started} against {after.benchmark} of {after.started}")
    for difference in found:
        out.print(f"not the same {difference}: the ratios mean little")
    for name, result in (("before", before), ("after", after)):
        for line in remarks(result):
            out.print(f"{name}: {line}")
    titles = ["", "BEFORE", "AFTER", "AFTER ÷ BEFORE", "95% INTERVAL", ""]
    out.print(drawn(titles, [_cells(change, after.benchmark == "all") for change in changes]))
    for judgement in ("slower", "faster", "gone"):
        rows = [_name(change, after.benchmark == "all") for change in changes if change.judgement == judgement]
        out.print(f"{judgement}: {', '.join(rows) or 'nothing'}")
    for name in sorted(before.versions.keys() | after.versions.keys()):
        if before.versions.get(name) != after.versions.get(name):
            out.print(f"{name}: {before.versions.get(name, 'none')} → {after.versions.get(name, 'none')}")


def _name(change: Change, is_one_of_several: bool) -> str:
    return f"{change.benchmark}: {change.row}" if is_one_of_several else change.row


def _cells(change: Change, is_one_of_several: bool) -> list[str]:
    numbers = [f"{value:.2f}" if value is not None else "–" for value in (change.before, change.after)]
    ratio = f"{change.ratio:.2f}×" if change.ratio is not None else "–"
    interval = f"{change.low:.2f} to {change.high:.2f}" if change.low is not None else ""
    said = change.judgement if change.judgement != "same" else ""
    return [
        _name(change, is_one_of_several),
        *numbers,
        ratio,
        interval,
        f"{said}{f': {change.why}' if change.why else ''}",
    ]
