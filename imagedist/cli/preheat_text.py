"""What the preheat commands print: a summary that a mail can carry, tables of nodes and layers."""

from __future__ import annotations

import time
from collections.abc import Sequence

from imagedist.preheat.shapes import ImageReport, NodePreheat, PreheatStatus, Suggestions
from imagedist.render import decimal, duration, table

_MAX_PROBLEMS = 50
"""Lines about single nodes in a summary; the rest is counted."""
_OUTCOMES = ("done", "working", "waiting", "missing", "failed", "gone", "paused")


def summary(status: PreheatStatus) -> str:
    """A run in a few lines, with every node that is not done."""
    lines = [
        f"preheat {status.name}, run {status.run}: {status.state} after {duration(status.seconds)}",
        f"began     {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(status.started_at))}",
        f"into      {', '.join(status.rule.into)}",
        *(f"image     {image.reference} = {image.digest}" for image in status.images),
        f"nodes     {_counts(status)}",
        f"received  {decimal(status.received_bytes)} by all nodes together",
    ]
    lines += [f"problem   {problem}" for problem in status.problems]
    others = [node for node in status.nodes if node.outcome not in ("done", "waiting", "working")]
    others += [node for node in status.nodes if node.outcome in ("waiting", "working")] if status.is_over else []
    lines += [
        f"node      {node.id}: {node.outcome}{f', {node.message}' if node.message else ''}"
        for node in others[:_MAX_PROBLEMS]
    ]
    if len(others) > _MAX_PROBLEMS:
        lines.append(f"          and {len(others) - _MAX_PROBLEMS} more")
    if not sum(status.counts.values()):
        lines.append("problem   no node of the site has the rule's labels")
    return "\n".join(lines)


def preheat_table(preheats: Sequence[PreheatStatus]) -> str:
    """The site's rules, one per line."""
    titles = ("PREHEAT", "RUN", "STATE", "BEGAN", "IMAGES", "INTO", "NODES", "RECEIVED")
    rows = [
        (
            each.name,
            str(each.run),
            each.state,
            time.strftime("%Y-%m-%d %H:%M", time.localtime(each.started_at)),
            str(len(each.images)),
            ",".join(each.rule.into),
            _counts(each),
            decimal(each.received_bytes),
        )
        for each in preheats
    ]
    return table(titles, rows, numbers=("RUN", "IMAGES", "RECEIVED"))


def preheat_nodes(status: PreheatStatus) -> str:
    """A rule's nodes, one per line: how many images are there, how many layers are cached and unpacked."""
    titles = ("NODE", "OUTCOME", "IMAGES", "CACHED", "UNPACKED", "RECEIVED", "WHY")
    rows = []
    for node in status.nodes:
        layers = [layer for image in node.images for layer in image.layers]
        present = sum(image.state == "present" for image in node.images)
        rows.append(
            (
                node.id,
                node.outcome,
                f"{present} of {len(status.images)}",
                f"{sum(layer.is_cached for layer in layers)} of {len(layers)}",
                f"{sum(layer.is_unpacked for layer in layers)} of {len(layers)}",
                decimal(node.received_bytes),
                node.message,
            )
        )
    return table(titles, rows, numbers=titles[2:6])


def node_layers(node: NodePreheat) -> str:
    """Each layer on one node."""
    titles = ("IMAGE", "STATE", "LAYER", "SIZE", "CACHED", "UNPACKED")
    rows = [row for image in node.images for row in _layers(image)]
    said = f"{node.id}: {node.outcome}{f', {node.message}' if node.message else ''}"
    return f"{said}\n{table(titles, rows, numbers=('SIZE',))}"


def suggestion_text(suggestions: Suggestions, name: str) -> str:
    """A rule's file with the measured layers as comments, to be kept and changed."""
    lines = [f"# measured over {suggestions.images} images of this site, {time.strftime('%Y-%m-%d')}"]
    for each in suggestions.suggestions:
        what = "exactly these" if each.is_exact else "these and others"
        lines.append(
            f"# {len(each.layers)} layers, {decimal(each.size_bytes)}, under {each.images} images ({each.share:.0%}); "
            f"{each.carrier} has {what}"
        )
    carriers = dict.fromkeys(each.carrier for each in suggestions.suggestions)
    if not carriers:
        return "\n".join([*lines, "# no layers are shared by so many of them: try a smaller --share"])
    images = [f'    "{carrier}",' for carrier in carriers]
    return "\n".join([*lines, f'name = "{name}"', "images = [", *images, "]", 'into = ["storage"]'])


def _layers(image: ImageReport) -> list[tuple[str, ...]]:
    def yes(is_so: bool) -> str:
        return "yes" if is_so else "no"

    state = image.state + (f" ({', '.join(image.missing)})" if image.missing else "")
    if not image.layers:
        return [(image.reference, state, "-", "-", "-", "-")]
    return [
        (
            image.reference if index == 0 else "",
            state if index == 0 else "",
            layer.digest.short,
            decimal(layer.size_bytes),
            yes(layer.is_cached),
            yes(layer.is_unpacked),
        )
        for index, layer in enumerate(image.layers)
    ]


def _counts(status: PreheatStatus) -> str:
    total = sum(status.counts.values())
    each = ", ".join(f"{status.counts[name]} {name}" for name in _OUTCOMES if status.counts.get(name))
    return f"{total}{f': {each}' if each else ''}"
