"""SIGTERM and SIGINT on the event loop: the first asks to stop, the second to stop now."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """What has been signalled so far.

    Attributes:
        stop: set by the first signal. cut: set by the second: requests under way need not finish.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.cut = asyncio.Event()

    async def wait(self) -> None:
        """Returns at the first signal."""
        await self.stop.wait()

    def received(self) -> None:
        (self.cut if self.stop.is_set() else self.stop).set()


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """While open, SIGTERM and SIGINT are noted instead of ending the process. Opened before anything is started: a
    signal during start-up then stops what was started, too."""
    loop = asyncio.get_running_loop()
    signals = StopSignals()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, signals.received)
    try:
        yield signals
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


async def until_signalled() -> None:
    """Returns at the first SIGTERM or SIGINT from now on."""
    with stop_signals() as signals:
        await signals.wait()
