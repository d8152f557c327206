"""How a command ends: as it should, or with one readable line on standard error and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from imagedist.errors import ImagedistError
from imagedist.plain import plain

INTERRUPTED = 130
"""128 + SIGINT, as every shell expects."""


@contextmanager
def explained(as_json: bool) -> Iterator[None]:
    """Around a command.

    Args:
        as_json: an error is an event on standard output as well.

    Raises:
        SystemExit: it failed, with 1 or 2 (usage); it was interrupted, with 130; or nobody reads its output any more.
    """
    try:
        yield
    except ImagedistError as error:
        if as_json:
            from imagedist.progress import Event

            print(Event(event="error", message=str(error), exit_code=error.exit_code).line())
        print(f"imagedist: {plain(str(error))}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt:
        print("imagedist: interrupted; nothing half-done was kept", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`): no traceback at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
