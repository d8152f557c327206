"""The same with the extension in C and without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from imagedist.errors import ImagedistError
from imagedist.unpack import extension


@contextmanager
def python_only() -> Iterator[None]:
    """In this process; workers that are started meanwhile have the extension."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extension, "compiled", None)
        yield


def both(what: Callable[[], object]) -> tuple[object, object]:
    """What it gives with the extension and without; an error as its class and text."""

    def outcome() -> object:
        try:
            return what()
        except ImagedistError as error:
            return type(error), str(error)

    with python_only():
        without = outcome()
    return outcome(), without
