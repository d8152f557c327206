"""Time windows: over midnight, on days, and what is none."""

from __future__ import annotations

from datetime import datetime

import pytest

from imagedist.preheat.windows import TimeWindow

MONDAY, SATURDAY, SUNDAY = "2026-11-23", "2026-11-28", "2026-11-29"


@pytest.mark.parametrize(
    ("text", "at", "is_open"),
    [
        ("22:00-06:00", f"{MONDAY} 21:59", False),
        ("22:00-06:00", f"{MONDAY} 22:00", True),
        ("22:00-06:00", f"{MONDAY} 05:59", True),
        ("22:00-06:00", f"{MONDAY} 06:00", False),
        ("09:30-10:00", f"{MONDAY} 09:45", True),
        ("mon-fri 20:00-07:00", f"{SATURDAY} 06:00", True),  # Friday's
        ("mon-fri 20:00-07:00", f"{SATURDAY} 20:00", False),
        ("mon-fri 20:00-07:00", f"{MONDAY} 06:00", False),  # Sunday has none
        ("sat,sun 00:00-24:00", f"{SUNDAY} 23:59", True),
        ("sat-mon 0:00-24:00", f"{MONDAY} 12:00", True),
    ],
)
def test_a_window_is_open_when_it_says_so(text: str, at: str, is_open: bool) -> None:
    assert TimeWindow.parse(text).is_open(datetime.fromisoformat(at)) is is_open


@pytest.mark.parametrize(
    "text", ["", "22-06", "25:00-26:00", "10:00-10:00", "24:00-01:00", "foo 1:00-2:00", "1:60-2:00"]
)
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        TimeWindow.parse(text)
