"""One runtime as it was found, and what it is told: the shapes that the runtimes' files fill in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Edit:
    """What one file should say.

    Attributes:
        change: the file's text ("" if there is none) → the text it should have; the same if it says so already.
            Raises ConfigError, without the path: the text is malformed, or of a kind that cannot be changed.
        is_by_name_only: written only for a runtime that the user named, since it hides what is there now.
        is_snapshotters: makes the runtime depend on our snapshotter, without which it can start nothing.
    """

    path: Path
    change: Callable[[str], str]
    is_by_name_only: bool = False
    is_snapshotters: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A runtime of this machine.

    Attributes:
        key: as the user types it.
        p2p, parallel_unpack: ``yes``, ``no`` or when; how: by what configuration.
        edits: everything it needs, in order; several runtimes may edit the same file.
        directories: must exist besides.
        restart: the command after which the configuration holds; empty if it is read anew each time.
        notes: what the user should know before, one sentence each.
        is_containerd: a containerd of its own, which would keep its snapshots with our snapshotter.
    """

    key: str
    name: str
    version: str
    p2p: str
    parallel_unpack: str
    how: str
    edits: tuple[Edit, ...] = ()
    directories: tuple[Path, ...] = ()
    restart: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_containerd: bool = False


@dataclass(frozen=True, slots=True)
class RuntimeReport:
    """One row of the survey: does it get P2P, does it get the parallel unpack, how, and what is missing.

    Attributes:
        changes: path → unified diff of what `--apply` would write.
        problem: why it cannot be written, if it cannot.
    """

    key: str
    name: str
    version: str
    p2p: str
    parallel_unpack: str
    how: str
    is_configured: bool
    changes: dict[str, str]
    restart: str
    notes: tuple[str, ...]
    problem: str | None
