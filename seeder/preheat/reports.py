"""What each node said last about the rules it keeps. In memory: after a restart they say it again within seconds."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import ValidationError

from imagedist.errors import InputError
from imagedist.preheat.shapes import Report, RuleReport
from seeder.preheat.plan import Heard

MAX_REPORT_BYTES = 1 << 20


class _Last(NamedTuple):
    body: bytes
    version: str
    wait_seconds: float
    rules: dict[str, Heard]


class Reports:
    """The bodies are kept as they came, and read in full only when somebody asks for a node's layers."""

    def __init__(self) -> None:
        self._last: dict[str, _Last] = {}

    def take(self, node_id: str, body: bytes) -> tuple[Report, bool]:
        """Keeps a report.

        Returns:
            It, and whether it says anything new. Of one that says nothing new, only version and wait are filled in.

        Raises:
            InputError: it is too large, or none.
        """
        before = self._last.get(node_id)
        if before is not None and before.body == body:
            return Report(version=before.version, wait_seconds=before.wait_seconds), False
        report = read(body)
        rules = {rule.rule: _heard(rule) for rule in report.rules}
        self._last[node_id] = _Last(body, report.version, report.wait_seconds, rules)
        return report, before is None or before.rules != rules

    def heard(self, node_id: str, rule: str) -> Heard | None:
        last = self._last.get(node_id)
        return last.rules.get(rule) if last is not None else None

    def full(self, node_id: str, rule: str) -> RuleReport | None:
        last = self._last.get(node_id)
        if last is None or rule not in last.rules:
            return None
        return next((each for each in read(last.body).rules if each.rule == rule), None)

    def forget(self, node_id: str) -> None:
        self._last.pop(node_id, None)


def read(body: bytes) -> Report:
    """Raises InputError: it is too large, or no report."""
    if len(body) > MAX_REPORT_BYTES:
        raise InputError(f"bad report: {len(body)} bytes, more than {MAX_REPORT_BYTES}")
    try:
        return Report.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise InputError(f"bad report: {where}: {first['msg']}") from error


def _heard(rule: RuleReport) -> Heard:
    message = next((image.message for image in rule.images if image.message), "")
    return Heard(rule.run, len(rule.images), rule.state, message, rule.received_bytes)
