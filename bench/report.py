"""A result as people read it on a terminal: tables, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from bench.headlines import headlines
from bench.result import Contestant, Result, Verdict
from bench.statistics import ALL_RATIOS, CONFIDENCE

_NAMED = 4
"""Noisy rows; all of them are in the result."""


def show(result: Result, console: Console) -> None:
    """Prints machine, tables and verdicts of every benchmark in it; a noisy or partial one says so."""
    for part in result.benchmarks:
        _show(part, console)
        console.print()
    if result.parts:
        for line in headlines([result]):
            console.print(f"• {line}")
    for line in remarks(result):
        console.print(line)
    if result.command:
        console.print(f"again: {result.command}")


def _show(result: Result, console: Console) -> None:
    console.print(headline(result))
    console.print(machine(result))
    if has_times(result):
        console.print(drawn(*table(result)))
    if any(row.summary for row in result.contestants):
        console.print(drawn(*summary(result)))
    for verdict in result.verdicts:
        console.print(f"{verdict.what}: {verdict.value:.2f} {verdict.unit}{aim(verdict)}")
    for line in cautions(result):
        console.print(line)


def aim(verdict: Verdict) -> str:
    """The aim of a figure, and whether it is met."""
    if not verdict.aim:
        return ""
    met = {True: ": met", False: ": MISSED", None: ""}[verdict.is_met]
    return f"  (aim: {verdict.aim}{met})"


def markdown(result: Result) -> Iterator[str]:
    """The same as lines of Markdown, for a page of documentation."""
    for part in result.benchmarks:
        yield from (f"**{headline(part)}.** {machine(part)}.", "")
        tables = [table(part)] if has_times(part) else []
        tables += [summary(part)] if any(row.summary for row in part.contestants) else []
        for titles, rows in tables:
            titles = [title.lower() for title in titles]
            yield f"| {' | '.join(titles)} |"
            yield f"|---|{'---:|' * (len(titles) - 1)}"
            yield from (
                f"| {' | '.join(cell.strip() for cell in row)} |{' |' * (len(titles) - len(row))}" for row in rows
            )
            yield ""
        yield from (f"- {one.what}: {one.value:.2f} {one.unit}{aim(one)}" for one in part.verdicts)
        yield from (f"- {line}" for line in cautions(part))
        yield ""
    yield from remarks(result)
    yield from (f"`{result.command}`", "")


def headline(result: Result) -> str:
    image = result.image
    return f"{result.benchmark}: {image.name}, {image.layers} layers, {image.compressed_bytes / 1e6:.0f} MB compressed"


def machine(result: Result) -> str:
    one = result.machine
    limits = ", ".join(f"{name} {value}" for name, value in one.cgroup_limits.items())
    return (
        f"{one.cpus} CPUs ({one.processor}), {one.memory_bytes / 2**30:.0f} GiB, Linux {one.kernel}, "
        f"stores on {one.store_file_system.split()[0]}; {result.settings.get('registry', 'no registry')}"
        f"{f'; cgroup limits: {limits}' if limits else ''}"
    )


def cautions(result: Result) -> list[str]:
    """Why the figures of one benchmark may be other ones tomorrow."""
    found = []
    if result.is_busy:
        load = result.settings["load_at_start"]
        found.append(f"busy: the load was {load} when it began; measure on a quiet machine")
    if result.noisy:
        rows, more = ", ".join(result.noisy[:_NAMED]), len(result.noisy) - _NAMED
        named = f"{rows} and {more} more" if more > 0 else rows
        found.append(
            f"noisy: runs of one row differ by more than a third ({named}); close other programs and measure again"
        )
    return found


def remarks(result: Result) -> list[str]:
    """Whether it is all there."""
    if not result.partial:
        return []
    return [f"partial: {result.stopped or 'it was killed, or still runs'}; rows may be missing or have fewer runs"]


def has_times(result: Result) -> bool:
    """Whether a row has runs, or a reason why not."""
    return any(row.runs or row.not_run for row in result.contestants)


def table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Titles and rows: times with their spread, what they cost, and how many times longer others took."""
    ratios = {one.slower: one for one in result.comparisons}
    faster = {one.faster for one in result.comparisons}
    is_synced = any(row.median_cost("written_bytes") is not None for row in result.contestants)
    titles = ["", "SECONDS", "SPREAD", "CPU-SECONDS", "MEMORY MB", "WRITTEN MB" if is_synced else "STORED MB"]
    titles += ["CPU-S OF ITS SITE", "CPU-S OF THE REGISTRY"]
    if ratios:
        measure = faster.pop().upper() if len(faster) == 1 else "OURS"
        fewest = min(len(one.ratios) for one in ratios.values())
        titles += [f"÷ {measure}", "ALL RATIOS" if fewest <= ALL_RATIOS else f"{CONFIDENCE:.0%} INTERVAL"]
    rows = []
    for row in result.contestants:
        cells = [row.name, *_cells(row, is_synced)]
        if one := ratios.get(row.name):
            cells += [f"{one.median:.2f}×", f"{one.low:.2f} to {one.high:.2f}"]
        rows.append(cells)
        if row.not_run:
            rows.append([f"  not run: {row.not_run}"])
    return _without_empty(titles, rows)


def _without_empty(titles: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Columns that say something of any row."""
    kept = [
        at for at in range(len(titles)) if at == 0 or any(row[at : at + 1] not in ([], [""], ["–"]) for row in rows)
    ]
    return [titles[at] for at in kept], [[row[at] for at in kept if at < len(row)] for row in rows]


def summary(result: Result) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of what runs say together."""
    rows = [row for row in result.contestants if row.summary]
    titles = list(dict.fromkeys(title for row in rows for title in row.summary))
    cells = [
        [row.name, *(f"{row.summary[title]:.2f}" if title in row.summary else "–" for title in titles)] for row in rows
    ]
    return ["", *(title.upper() for title in titles)], cells


def _cells(row: Contestant, is_synced: bool) -> list[str]:
    if row.median_seconds is None:
        return ["–"] * 7
    memory, disk = row.median_cost("memory_bytes"), row.median_cost("written_bytes" if is_synced else "stored_bytes")
    megabytes = [f"{count / 1e6:.0f}" if count is not None else "" for count in (memory, disk)]
    cpu, site, registry = (
        f"{seconds:.2f}" if seconds is not None else ""
        for seconds in (
            row.median_cost("cpu_seconds"),
            row.figure("site_cpu_seconds"),
            row.median_cost("registry_cpu_seconds"),
        )
    )
    spread = f"{row.spread:.0%}" if len(row.runs) > 1 else "–"  # one run says nothing of it
    return [f"{row.median_seconds:.2f}", spread, cpu, *megabytes, site, registry]


def drawn(titles: list[str], rows: list[list[str]]) -> Table:
    """A table without lines; titled columns are numbers."""
    drawn = Table(box=None, pad_edge=False)
    for title in titles:
        drawn.add_column(title, justify="right" if title else "left", no_wrap=bool(title))
    for row in rows:
        drawn.add_row(*row)
    return drawn
