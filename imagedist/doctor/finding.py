"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "warn", "bad", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination.

    Attributes:
        severity: ``warn`` works, but not as well as it could; ``bad`` does not; ``unknown`` could not be checked.
        code: short and stable, for machines and for docs/doctor.md, where each is explained.
        what: what was found. why: why that matters. fix: a command, or the line to change.
    """

    severity: Severity
    code: str
    what: str
    why: str = ""
    fix: str = ""
