"""The part in C, ``c/``: does the ordinary case of what the Python here does, with less CPU."""

from __future__ import annotations

import importlib
from types import ModuleType


def _load() -> ModuleType | None:
    try:
        return importlib.import_module("imagedist.unpack._ordinary")
    except ImportError:
        return None


compiled = _load()
"""None: it was installed without a C compiler."""
