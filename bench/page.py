"""A report as one HTML file: nothing is loaded from elsewhere, and nothing needs a script. Owns jinja2."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from bench import headlines, report
from bench.charts import Chart
from bench.result import Result
from imagedist.errors import storage_error


def write_page(results: Sequence[Result], charts: Sequence[Chart], path: Path) -> None:
    """Writes it aside and renames it.

    Raises:
        StorageError: no space or no permission.
    """
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template.globals.update(report=report, headlines=headlines)
    text = (files("bench") / "page.html").read_text(encoding="utf-8")
    pictures = [base64.b64encode(chart.drawn.svg).decode() for chart in charts]
    page = template.from_string(text).render(results=results, charts=list(zip(charts, pictures, strict=True)))
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.write_text(page, encoding="utf-8")
        aside.rename(path)
    except OSError as error:
        raise storage_error(f"write the report {path}", error) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
