"""Who may build, use or remove a layer or an image, over all processes of the machine."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from imagedist.locking import LockFile


class ChainLocks:
    """Two bytes of one lock file per layer or image, at offsets made of its id: nothing to clean up, no file to race
    for. Use it as a context; its end drops them all.

    *use* (shared) keeps a layer from being removed between "it is there" and the image record; *build* (exclusive)
    makes one builder of many.

    Args:
        own: the store's ``imagedist`` directory.
    """

    def __init__(self, own: Path) -> None:
        self._file = LockFile(own / "locks" / "chains")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def use(self, identity: str, timeout_seconds: float, stop: threading.Event | None) -> None:
        self._file.acquire(_offset(identity), 1, shared=True, timeout_seconds=timeout_seconds, stop=stop)

    def build(self, layer_id: str, timeout_seconds: float, stop: threading.Event | None) -> None:
        self._file.acquire(_offset(layer_id) + 1, 1, timeout_seconds=timeout_seconds, stop=stop)

    def end_build(self, layer_id: str) -> None:
        self._file.release(_offset(layer_id) + 1, 1)

    def try_remove(self, identity: str) -> bool:
        """Whether nobody uses it for a build; until the end of the context nobody will."""
        return self._file.try_acquire(_offset(identity), 1)

    def may_remove(self, identity: str) -> bool:
        """The same for now only: for looking without touching."""
        is_free = self.try_remove(identity)
        if is_free:
            self._file.release(_offset(identity), 1)
        return is_free


def _offset(identity: str) -> int:
    return int(identity[:15], 16) * 2
