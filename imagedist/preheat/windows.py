"""Time windows of a rule: ``22:00-06:00``, ``sat,sun 00:00-24:00``, ``mon-fri 20:00-07:00``. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FORM = re.compile(r"(?:(?P<days>[a-z,-]+)\s+)?(?P<begin>\d{1,2}:\d{2})\s*-\s*(?P<end>\d{1,2}:\d{2})\Z")
_DAY_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """
    Attributes:
        days: on which it begins, 0 is Monday.
        begin, end: minutes after midnight; an end before the begin is the next day's.
    """

    text: str
    days: frozenset[int]
    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> TimeWindow:
        """Raises ValueError: not a window."""
        found = _FORM.match(text.strip().lower())
        if found is None:
            raise ValueError(f'expected a window such as "22:00-06:00" or "mon-fri 20:00-07:00", got {text!r}')
        days = _days(found["days"]) if found["days"] else frozenset(range(7))
        begin, end = _minutes(found["begin"]), _minutes(found["end"])
        if begin in (end, _DAY_MINUTES):
            raise ValueError(f"expected a window that is open for a while, got {text!r}")
        return cls(text.strip(), days, begin, end)

    def is_open(self, now: datetime) -> bool:
        """At a local time."""
        minute, day = now.hour * 60 + now.minute, now.weekday()
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        return (day in self.days and minute >= self.begin) or ((day - 1) % 7 in self.days and minute < self.end)

    def __str__(self) -> str:
        return self.text


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in _DAYS or (dash and last not in _DAYS):
            raise ValueError(f"expected days such as mon-fri or sat,sun, got {text!r}")
        begin, end = _DAYS.index(first), _DAYS.index(last or first)
        days.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return frozenset(days)


def _minutes(text: str) -> int:
    hour, minute = map(int, text.split(":"))
    if hour * 60 + minute > _DAY_MINUTES or minute > 59:
        raise ValueError(f"expected a time of day from 00:00 to 24:00, got {text!r}")
    return hour * 60 + minute
