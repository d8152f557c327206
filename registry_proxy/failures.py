"""What upstream refused a moment ago: remembered briefly, so that a crowd of askers does not ask it one by one."""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from imagedist.errors import ImagedistError, NotFoundError, UnauthorizedError

SOURCE_SECONDS = 3.0
_LIMIT = 4096


class RecentFailures:
    """A bounded, expiring map of errors."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._errors: OrderedDict[Hashable, tuple[float, ImagedistError]] = OrderedDict()

    def remember(self, key: Hashable, error: ImagedistError, answer_seconds: float) -> None:
        """
        Args:
            answer_seconds: the life of an answer ("no such manifest", "denied"); a failure's own is short.
        """
        is_answer = isinstance(error, NotFoundError | UnauthorizedError)
        expires = self._clock() + (answer_seconds if is_answer else SOURCE_SECONDS)
        self._errors[key] = (expires, copy.copy(error))  # without the traceback, which keeps every local variable
        self._errors.move_to_end(key)
        while len(self._errors) > _LIMIT:
            self._errors.popitem(last=False)

    def check(self, key: Hashable) -> None:
        """Raises again what was remembered for the key, while it is fresh."""
        expires, error = self._errors.get(key, (0.0, None))
        if error is None:
            return
        if self._clock() < expires:
            raise copy.copy(error)
        del self._errors[key]
