"""docs/metrics.md has the file of metric names as a table: checks it, or with ``--write`` writes it anew."""

from __future__ import annotations

import sys
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


def main() -> int:
    text = DOCUMENT.read_text()
    before, rest = text.split(_BEGIN)
    after = rest.split(_END)[1]
    table = "".join(["| name | type | labels | meaning |\n", "|---|---|---|---|\n", *rows()])
    current = f"{before}{_BEGIN}{table}{_END}{after}"
    if current == text:
        return 0
    if "--write" in sys.argv:
        DOCUMENT.write_text(current)
        return 0
    print("docs/metrics.md is not as imagedist/metrics.py says: run make format", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
