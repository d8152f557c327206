"""The examination as people read it: what is fine in a line each, what is not with the reason and the remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from imagedist.doctor.finding import Finding, Severity
from imagedist.plain import plain

_WORDS: dict[Severity, str] = {"bad": "problem", "warn": "warning", "unknown": "not checked", "ok": "fine"}


def text(findings: Sequence[Finding]) -> str:
    lines = []
    for finding in findings:
        lines.append(f"{finding.severity:<8}{plain(finding.what)}")
        if finding.why:
            lines.append(f"{'':<8}  why: {plain(finding.why)}")
        if finding.fix:
            lines.append(f"{'':<8}  fix: {plain(finding.fix)}")
    counts = Counter(finding.severity for finding in findings)
    parts = [_counted(counts[severity], word) for severity, word in _WORDS.items() if counts[severity]]
    return "\n".join([*lines, f"{', '.join(parts)}; docs/doctor.md explains each"])


def _counted(count: int, word: str) -> str:
    is_plural = count != 1 and word in ("problem", "warning")
    return f"{count} {word}{'s' if is_plural else ''}"
