"""What the command's options say, as values of a scenario. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imagedist.errors import InputError


def class_of(text: str) -> dict[str, Any]:
    """``name:share:up:down``, such as ``old:0.3:1Gbit/s…``; rates as everywhere (``12.5MB/s``).

    Raises:
        InputError: it has other parts.
    """
    parts = text.split(":")
    if len(parts) != 4:
        raise InputError(f"--class {text!r}: expected name:share:up:down, such as old:0.3:50MB/s:100MB/s")
    return {"name": parts[0], "share": _number(parts[1], "--class"), "up": parts[2], "down": parts[3]}


def classes_of(texts: Sequence[str], upload: str | None, download: str | None) -> list[dict[str, Any]] | None:
    """None: neither is given.

    Raises:
        InputError: both are, or one that is malformed.
    """
    if texts and (upload or download):
        raise InputError("--class says what nodes' links carry: leave --upload and --download out")
    if texts:
        return [class_of(text) for text in texts]
    if upload or download:
        return [{"up": upload or download, "down": download or upload}]
    return None


def stragglers_of(text: str) -> dict[str, Any]:
    """``share:rate``. Raises InputError."""
    share, _, rate = text.partition(":")
    if not rate:
        raise InputError(f"--stragglers {text!r}: expected share:rate, such as 0.05:2MB/s")
    return {"share": _number(share, "--stragglers"), "rate": rate}


def churn_of(text: str) -> dict[str, Any]:
    """``share`` per minute, or ``share:seconds`` until a node is back. Raises InputError."""
    share, _, back = text.partition(":")
    found = {"per_minute": _number(share, "--churn")}
    return {**found, "back": _number(back, "--churn")} if back else found


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{option}: {text!r} is no number; expected one such as 0.05") from error
