"""A result as people read it: a table, what it means, and two results beside each other."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from bench.result import Contestant, Result
from bench.statistics import CONFIDENCE


def show(result: Result, console: Console) -> None:
    """Prints machine, table and verdicts; a noisy run says so."""
    machine, image = result.machine, result.image
    megabytes = image.compressed_bytes / 1e6
    console.print(f"{result.benchmark}: {image.name}, {image.layers} layers, {megabytes:.0f} MB compressed")
    console.print(
        f"{machine.cpus} CPUs ({machine.processor}), {machine.memory_bytes / 2**30:.0f} GiB, Linux {machine.kernel}, "
        f"stores on {machine.store_file_system.split()[0]}; {result.settings['registry']}"
    )
    if machine.cgroup_limits:
        console.print("cgroup limits: " + ", ".join(f"{name} {value}" for name, value in machine.cgroup_limits.items()))
    console.print(_table(result))
    if any(row.summary for row in result.contestants):
        console.print(_summary(result))
    for verdict in result.verdicts:
        aim = f"  (aim: {verdict.aim})" if verdict.aim else ""
        console.print(f"{verdict.what}: {verdict.value:.2f} {verdict.unit}{aim}")
    if float(result.settings.get("load_at_start", 0)) > machine.cpus / 2:
        console.print(
            f"busy: the load was {result.settings['load_at_start']} when it began; measure on a quiet machine"
        )
    if result.is_noisy:
        console.print("noisy: runs of one row differ by more than a third; close other programs and measure again")


def _table(result: Result) -> Table:
    ratios = {one.slower: one for one in result.comparisons}
    faster = {one.faster for one in result.comparisons}
    table = Table(box=None, pad_edge=False)
    titles = ["", "SECONDS", "SPREAD", "CPU-SECONDS", "OF THE REGISTRY"]
    if ratios:
        measure = faster.pop().upper() if len(faster) == 1 else "OURS"
        titles += [f"÷ {measure}", f"{CONFIDENCE:.0%} INTERVAL"]
    for title in titles:
        table.add_column(title, justify="right" if title else "left", no_wrap=bool(title))
    for row in result.contestants:
        cells = [row.name, *_cells(row)]
        if one := ratios.get(row.name):
            cells += [f"{one.median:.2f}×", f"{one.low:.2f} to {one.high:.2f}"]
        table.add_row(*cells)
        if row.not_run:
            table.add_row(f"  not run: {row.not_run}")
    return table


def _summary(result: Result) -> Table:
    rows = [row for row in result.contestants if row.summary]
    titles = list(dict.fromkeys(title for row in rows for title in row.summary))
    table = Table(box=None, pad_edge=False)
    for title in ("", *titles):
        table.add_column(title.upper(), justify="right" if title else "left", no_wrap=True)
    for row in rows:
        table.add_row(row.name, *(f"{row.summary[title]:.2f}" if title in row.summary else "–" for title in titles))
    return table


def _cells(row: Contestant) -> list[str]:
    if row.median_seconds is None or row.median_cpu_seconds is None:
        return ["–"] * 4
    registry = [run.registry_cpu_seconds for run in row.runs if run.registry_cpu_seconds is not None]
    of_registry = f"{sorted(registry)[len(registry) // 2]:.2f}" if registry else ""
    return [f"{row.median_seconds:.2f}", f"{row.spread:.0%}", f"{row.median_cpu_seconds:.2f}", of_registry]


def show_difference(old: Result, new: Result, console: Console) -> None:
    """Row by row, what became faster; figures of different machines or images are no comparison, and it says so."""
    differing = [
        name
        for name, one, other in (
            ("machine", old.machine, new.machine),
            ("image", old.image.manifest_digest, new.image.manifest_digest),
            ("settings", old.settings, new.settings),
        )
        if one != other
    ]
    console.print(f"{old.benchmark} of {old.started} against {new.benchmark} of {new.started}")
    if differing:
        console.print(f"not the same {', '.join(differing)}: the ratios below mean little")
    table = Table(box=None, pad_edge=False)
    for title in ("", "BEFORE", "AFTER", "AFTER ÷ BEFORE"):
        table.add_column(title, justify="right" if title else "left")
    for row in new.contestants:
        before = old.contestant(row.name)
        then, now = before.median_seconds if before else None, row.median_seconds
        ratio = f"{now / then:.2f}×" if then and now else "–"
        table.add_row(row.name, *(f"{value:.2f}" if value else "–" for value in (then, now)), ratio)
    console.print(table)
    for name in sorted(old.versions.keys() | new.versions.keys()):
        if old.versions.get(name) != new.versions.get(name):
            console.print(f"{name}: {old.versions.get(name, 'none')} → {new.versions.get(name, 'none')}")
