"""When something is due: cron expressions (cronsim's owner here) and hours of the day, in a site's own time zone."""

from __future__ import annotations

import re
import zoneinfo
from datetime import datetime, time
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, InstanceOf, PlainSerializer

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(r"([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})\Z")


class Schedule:
    """``*/15 * * * *``: minute, hour, day of the month, month, day of the week, as Debian's cron reads them.

    Raises:
        ValueError: not an expression, or one whose time never comes.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.after(datetime(2000, 1, 1))

    def __repr__(self) -> str:
        return f"<Schedule {self.text}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def after(self, moment: datetime) -> datetime:
        """The next time after ``moment``, in its time zone."""
        from cronsim import CronSim, CronSimError

        try:
            return next(CronSim(self.text, moment))
        except CronSimError as error:
            raise ValueError(
                f'expected a cron expression such as "*/15 * * * *" or "30 2 * * mon-fri", got {self.text!r}: {error}'
            ) from error
        except StopIteration:
            raise ValueError(f"{self.text!r} never comes: there is no such day") from None


class Hours:
    """``22:00-06:00``: hours of the day, over midnight too.

    Raises:
        ValueError: not hours.
    """

    def __init__(self, text: str) -> None:
        match = _HOURS.match(text)
        try:
            if match is None:
                raise ValueError
            first_hour, first_minute, last_hour, last_minute = map(int, match.groups())
            self._first = time(first_hour, first_minute)
            self._last = time(last_hour % 24 if last_minute == 0 else last_hour, last_minute)
        except ValueError as error:
            raise ValueError(f'expected hours such as "08:00-20:00", got {text!r}') from error
        if self._first == self._last and self._first != time(0):
            raise ValueError(f"{text!r} is no time at all; the whole day is 00:00-24:00")
        self.text = text

    def __repr__(self) -> str:
        return f"<Hours {self.text}>"

    def have(self, moment: time) -> bool:
        if self._first < self._last:
            return self._first <= moment < self._last
        return moment >= self._first or moment < self._last


def _parse_schedule(value: Any) -> Schedule:
    return value if isinstance(value, Schedule) else Schedule(str(value))


def _parse_hours(value: Any) -> Hours:
    return value if isinstance(value, Hours) else Hours(str(value))


def _parse_days(value: Any) -> frozenset[int]:
    """``mon-fri,sun`` → weekdays as Python counts them, Monday 0."""
    if isinstance(value, frozenset):
        return value
    days: set[int] = set()
    for part in str(value).lower().split(","):
        first, dash, last = part.strip().partition("-")
        if first not in _DAYS or (dash and last not in _DAYS):
            raise ValueError(f'expected days such as "mon-fri,sun", got {value!r}')
        begin, end = _DAYS.index(first), _DAYS.index(last if dash else first)
        days.update(day % 7 for day in range(begin, end + 1 if end >= begin else end + 8))
    return frozenset(days)


def _check_time_zone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f'expected a time zone such as "Asia/Shanghai" or "UTC", got {value!r}') from error
    return value


Cron = Annotated[InstanceOf[Schedule], BeforeValidator(_parse_schedule), PlainSerializer(lambda value: value.text)]
DayHours = Annotated[InstanceOf[Hours], BeforeValidator(_parse_hours), PlainSerializer(lambda value: value.text)]
Days = Annotated[frozenset[int], BeforeValidator(_parse_days)]
TimeZone = Annotated[str, AfterValidator(_check_time_zone)]
