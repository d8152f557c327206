"""Starts ``imagedist`` as systemd does with a socket unit: descriptor 3 listens, and the environment says for whom."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "imagedist", *sys.argv[2:]])
"""


def activated(listener: int, command: Sequence[str]) -> list[str]:
    """The argv for a process that inherits the descriptor ``listener``."""
    return [sys.executable, "-c", _ACTIVATE, str(listener), *command]
