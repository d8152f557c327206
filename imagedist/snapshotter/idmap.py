"""User namespaces: the mapping of a container's users that containerd asks for in a snapshot's labels. Pure.

Who maps? containerd 2 leaves it to a snapshotter of the capability ``remap-ids``: the mounts then say the mapping, and
containerd makes id-mapped mounts of the lower directories (core/mount/mount_linux.go). Without the capability, and in
1.7, it changes the owners of all files in a snapshot between (client/snapshotter_opts_unix.go). The labels are equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from imagedist.errors import InputError

UID_LABEL = "containerd.io/snapshot/uidmapping"
GID_LABEL = "containerd.io/snapshot/gidmapping"
"""``CONTAINER:HOST:LENGTH``, several with commas between (internal/userns/idmap.go)."""

_RANGE = re.compile(r"(\d+):(\d+):(\d+)", re.ASCII)
_IDS = (1 << 32) - 1
"""The last one means "none"."""


@dataclass(frozen=True, slots=True)
class IdMapping:
    """A mapping of users and groups.

    Attributes:
        root_uid, root_gid: who the container's root is on the node.
        options: for containerd's mounts.
    """

    root_uid: int
    root_gid: int
    options: tuple[str, ...]


def id_mapping(labels: Mapping[str, str]) -> IdMapping | None:
    """What a snapshot's labels ask for; None: nothing, its users are the node's.

    Raises:
        InputError: no mapping of both, or none in which the container has a root.
    """
    users, groups = labels.get(UID_LABEL, ""), labels.get(GID_LABEL, "")
    if not users and not groups:
        return None
    return IdMapping(_root(users, UID_LABEL), _root(groups, GID_LABEL), (f"uidmap={users}", f"gidmap={groups}"))


def _root(mapping: str, label: str) -> int:
    root = None
    for text in mapping.split(","):
        found = _RANGE.fullmatch(text)
        container, host, length = map(int, found.groups()) if found else (0, 0, 0)
        if not length or max(container, host) + length > _IDS:
            raise InputError(
                f"{label} is {mapping[:100]!r}: expected CONTAINER:HOST:LENGTH, several with commas between"
            )
        if container == 0:
            root = host
    if root is None:
        raise InputError(f"{label} is {mapping[:100]!r}: it maps no root of the container")
    return root
