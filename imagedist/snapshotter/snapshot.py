"""What a snapshot is, in containerd's own words (core/snapshots/snapshotter.go)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum


class Kind(IntEnum):
    """With the numbers of the API."""

    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot as recorded.

    Attributes:
        id: of its directory; never used again.
        name: the key while it is active or a view, the name once it is committed.
        parent: name of the committed snapshot below; empty for none.
        created_ns, updated_ns: nanoseconds since the epoch.
        layer_id: the layer of the node's store that it is; empty: it has a directory of its own.
    """

    id: int
    name: str
    parent: str
    kind: Kind
    created_ns: int
    updated_ns: int
    labels: Mapping[str, str] = field(hash=False)
    layer_id: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a snapshot takes of the disk, without what is below it."""

    size_bytes: int = 0
    inodes: int = 0


@dataclass(frozen=True, slots=True)
class Mount:
    """How to mount a snapshot: containerd or its shim does it."""

    type: str
    source: str
    options: tuple[str, ...]
