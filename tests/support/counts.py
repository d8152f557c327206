"""How often a random or repeated test runs: enough for every day, or the full proof with ``PROVE=1`` (make prove)."""

from __future__ import annotations

import os


def count(reduced: int, full: int) -> int:
    """``full`` when the environment has ``PROVE=1``, else ``reduced``."""
    return full if os.environ.get("PROVE") == "1" else reduced
