"""How much of the link sync may take at this hour. Pure, but for the clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from imagedist.config import Backup, TransferTable

Now = Callable[[], datetime]
"""The time in the site's own time zone."""


def cap(table: TransferTable | Backup, now: datetime) -> int | None:
    """Bytes per second; None: no cap. The first hours that fit decide, else ``bandwidth``."""
    for hours in table.hours:
        if now.weekday() in hours.days and hours.at.have(now.time()):
            return hours.bandwidth
    return table.bandwidth
