"""What takes part: a client that pulls into an empty store, and imagedist's own ways to do it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

import imagedist
from bench.account import Account
from bench.directories import short_directory
from imagedist.progress import Event

Command = Callable[[str], list[str]]
"""A reference → the program and arguments that pull it."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A contestant that waits, its daemons running, its store empty.

    Attributes:
        call: does the job instead of ``command``, without a process of its own: a daemon's client that is no program.
        environment: set for the client, beside what every client gets.
        ramdisk: where it keeps what is on its way, if it has such a place.
        prepare: puts on the node what is to be there beforehand; None: by a pull of its own.
        site: account of what works for it on other hosts, if it needs any; here they share this machine's CPUs.
        figures: read after the run: what else is to be known, units in the names.
        figures_of: the same from what the client printed.
    """

    command: Command | None = None
    call: Callable[[str], None] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    ramdisk: Path | None = None
    prepare: Command | None = None
    site: Account | None = None
    figures: Callable[[], Mapping[str, float]] = dict
    figures_of: Callable[[str], Mapping[str, float]] = lambda said: {}


class Contestant(Hashable, Protocol):
    """One way to turn a reference into an unpacked image."""

    @property
    def name(self) -> str:
        """How tables and ``--contestants`` call it."""

    @property
    def is_ours(self) -> bool:
        """Whether its failure is ours, and ends the benchmark."""

    def cannot(self) -> str | None:
        """Why it cannot run on this machine; None when it can."""

    def version(self) -> str:
        """One line."""

    def ready(self, store: Path, account: Account, registry: str) -> AbstractContextManager[Ready]:
        """Starts whatever is to run before a pull, on the account.

        Args:
            store: an empty directory on the file system that is measured.
            registry: ``host:port`` of the registry that will be asked.

        Raises:
            ImagedistError: a daemon did not start.
        """


@dataclass(frozen=True, slots=True)
class Imagedist:
    """``imagedist pull`` by itself, as a user types it.

    Args:
        options: further options of the command, such as ``--strategy serial``.
    """

    name: str = "imagedist"
    options: tuple[str, ...] = ()
    is_ours: bool = True

    def cannot(self) -> str | None:
        return None

    def version(self) -> str:
        return own_version()

    @contextmanager
    def ready(self, store: Path, account: Account, registry: str) -> Iterator[Ready]:
        with short_directory() as directory:
            ramdisk = directory / "ramdisk"
            ramdisk.mkdir()
            where = () if "disk" in self.options else ("--ramdisk", str(ramdisk))
            flags = ["--no-agent", "--plain-http", "--json", "--root", str(store), *where, *self.options]
            pull = [*PROGRAM, "pull"]
            yield Ready(lambda reference: [*pull, reference, *flags], ramdisk=ramdisk, figures_of=stages)


def stages(said: str) -> Mapping[str, float]:
    """The seconds that each stage was busy, summed over layers, from the events that ``pull --json`` printed."""
    told = Event.parse(said.strip().rpartition("\n")[2])
    return {f"{stage}_seconds": seconds for stage, seconds in (told.stages or {}).items()} if told else {}


@cache
def own_version() -> str:
    """The version, with what git says of the source when it is a checkout."""
    source = Path(imagedist.__file__).parents[1]
    describe = ["git", "-C", str(source), "describe", "--always", "--dirty", "--tags"]
    try:
        done = subprocess.run(describe, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return imagedist.__version__
    said = done.stdout.strip()
    return f"{imagedist.__version__} ({said})" if done.returncode == 0 and said else imagedist.__version__


def _program() -> tuple[str, ...]:
    script = Path(sys.executable).with_name("imagedist")
    return (str(script),) if os.access(script, os.X_OK) else (sys.executable, "-m", "imagedist")


PROGRAM = _program()
"""The command line of this very installation."""
