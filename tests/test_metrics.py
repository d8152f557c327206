"""docs/metrics.md is the file of metric names, as a table. ``UPDATE=1 pytest tests/test_metrics.py`` writes it anew."""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram

from imagedist import metrics

DOCUMENT = Path(__file__).parents[1] / "docs/metrics.md"
_BEGIN, _END = "<!-- table -->\n", "<!-- end of table -->\n"


def rows() -> list[str]:
    found = []
    for metric in vars(metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            kind = type(metric).__name__.lower()
            name = metric._name + ("_total" if kind == "counter" else "")
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            found.append(f"| `{name}` | {kind} | {labels} | {metric._documentation} |\n")
    return found


def test_the_document_lists_every_metric_with_its_labels_and_meaning() -> None:
    table = "".join(["| name | type | labels | meaning |\n", "|---|---|---|---|\n", *rows()])
    text = DOCUMENT.read_text()
    before, rest = text.split(_BEGIN)
    listed, after = rest.split(_END)
    if os.environ.get("UPDATE"):
        DOCUMENT.write_text(f"{before}{_BEGIN}{table}{_END}{after}")
    else:
        assert listed == table, "run UPDATE=1 pytest tests/test_metrics.py"


def test_every_metric_is_named_and_explained() -> None:
    names = [row.split("`")[1] for row in rows()]
    assert len(names) == len(set(names))
    for row in rows():
        assert row.startswith("| `imagedist_")
        assert row.rstrip(" |\n").endswith(".")
