"""The log of a process that runs for long: lines on standard error, with the time unless the journal has it."""

from __future__ import annotations

import logging
import sys
import time

from imagedist.systemd import is_journal

_STDERR = 2
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_OTHER = 6


def log_to_stderr(level: int = logging.INFO) -> None:
    """Has everything from ``level`` on written, as ``TIME LEVEL LOGGER: MESSAGE``; replaces what was set up before.

    TIME is ISO 8601, UTC, to the millisecond, as in the access log. Under systemd lines begin with their priority
    (sd-daemon(3)) instead: the journal notes the time itself, and ``journalctl -p err`` finds them.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ForJournal() if is_journal(_STDERR) else ForPeople())
    logging.basicConfig(level=level, handlers=[handler], force=True)


class ForPeople(logging.Formatter):
    """Of a terminal, or of a container's log."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")


class ForJournal(logging.Formatter):
    """Each line with a priority: the journal takes every line for a message."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITIES.get(record.levelno, _OTHER)}>"
        return "\n".join(prefix + line for line in super().format(record).split("\n"))
