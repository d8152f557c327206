"""What ``fallback`` does: whether a client that cannot be served now is sent on to the upstream, or held here.

A mirror's 5xx sends containerd, Docker and podman on to the next host of their list, in the end the upstream
(facts of real clients). ``never`` closes that door as far as a mirror can:

- a request is held, and tried again, for up to ``HOLD_SECONDS``: below the 60 s without progress after which
  containerd's CRI plugin gives a pull up;
- then it is answered 429: containerd asks the same host again at once, five times, and is held again each time; podman
  does after a pause. What the client does then, or after a 404, is decided by its own list of hosts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from imagedist.errors import OverloadedError, SourceError, StorageError, UnauthorizedError

HOLD_SECONDS = 45.0
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0

T = TypeVar("T")


class Holding:
    """Tries a request again until it can be answered, or was held for long enough.

    Args:
        hold_seconds: give or take a fifth, so that those who were refused together do not come back together.
        clock, sleep: injected by tests.
    """

    def __init__(
        self,
        hold_seconds: float = HOLD_SECONDS,
        *,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._hold_seconds = hold_seconds
        self._clock = clock or asyncio.get_running_loop().time
        self._sleep = sleep

    async def run(self, attempt: Callable[[], Awaitable[T]], is_wanted: Callable[[], bool]) -> T:
        """
        Args:
            is_wanted: whether the client is still there.

        Raises:
            What the last attempt raised. OverloadedError (it has been held already), UnauthorizedError, and what is
            no failure of a source or the disk, at once.
        """
        deadline = self._clock() + self._hold_seconds * random.uniform(0.8, 1.2)
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await attempt()
            except (OverloadedError, UnauthorizedError):
                raise
            except (SourceError, StorageError):
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS) * random.uniform(0.75, 1.25)
                if self._clock() + pause_seconds > deadline or not is_wanted():
                    raise
            await self._sleep(pause_seconds)
