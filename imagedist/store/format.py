"""Which format a blob store's directory has: ``root/format``. Blocking.

A newer minor version only adds what this one may ignore, so an older program runs on a newer store of the same major
version, and a rollback needs nothing. Directories without the file are of before versions were recorded: the same as
1.0, so they are taken over as they are.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from imagedist.errors import StorageError, storage_error
from imagedist.store.files import write_aside

VERSION = (1, 0)


_OURS = frozenset(
    (
        "agent.lock",
        "blobs",
        "format",
        "lost+found",
        "manifests",
        "partial",
        "pins",
        "preheat.json",
        "private",
        "scrub",
        "scrub.lock",
        "scrub.wanted",
        "seeds.json",
        "swarm",
        "synced",
        "tags",
        "torrents",
        "unfinished",
        "unsynced",
        "usage",
    )
)
"""What a store of before versions were recorded, or one that was never finished, may have."""


def refuse_foreign(root: Path) -> None:
    """A store removes what it does not know, so nobody else's files may lie where it begins.

    Raises:
        StorageError: this is no store, and not empty.
    """
    try:
        names = set(os.listdir(root))
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(f"look into blob store {root}", error) from error
    foreign = sorted(name for name in names - _OURS if not name.startswith("."))
    if "format" not in names and foreign:
        raise StorageError(f"{root} is no blob store: there is {foreign[0]} in it; give a directory of its own")


def claim_format(root: Path) -> None:
    """Checks the version, or records it.

    Raises:
        StorageError: written by a newer major version, or the file is damaged.
    """
    path = root / "format"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        write_aside(path, json.dumps({"version": f"{VERSION[0]}.{VERSION[1]}"}).encode(), durable=True)
        return
    except OSError as error:
        raise storage_error("read the store's format", error) from error
    try:
        text = str(json.loads(content)["version"])
        major, _ = (int(part) for part in text.split("."))
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path} is damaged: remove that file; the store's blobs are checked as ever") from error
    if major > VERSION[0]:
        raise StorageError(
            f"{path} says version {text}, this imagedist knows {VERSION[0]}.x: "
            "use a newer imagedist, or another directory"
        )
