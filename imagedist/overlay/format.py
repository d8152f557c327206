"""Which format a store's own files have, and whose ids its layers' files carry: ``root/imagedist/format``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from imagedist.errors import StorageError, storage_error
from imagedist.locking import locked
from imagedist.overlay.records import write_aside
from imagedist.privileges import is_machine_root, may_give_away

VERSION = (1, 0)
"""Major, minor. A newer minor version only adds what this one may ignore."""

Owners = Literal["machine", "namespace", "one"]
"""``machine``: as the layers say. ``namespace``: likewise, shifted by the user namespace of the store's owner.
``one``: every file belongs to whoever unpacked it."""


def owners_here() -> Owners:
    """What this process can write."""
    return "machine" if is_machine_root() else "namespace" if may_give_away() else "one"


class Format:
    """The format file of one store. Absent until the first image is built there.

    Args:
        own: the store's ``imagedist`` directory.
    """

    def __init__(self, own: Path) -> None:
        self._path = own / "format"
        self._lock = own / "locks" / "format"

    def owners(self) -> Owners | None:
        """Whose ids the store's files carry; None: nothing was stored yet.

        Raises:
            StorageError: the store was written by a newer major version, or the file is not what we wrote.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error("read the store's format", error) from error
        try:
            document = json.loads(content)
            major, _ = (int(part) for part in str(document["version"]).split("."))
            owners: Owners = document["owners"]
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{self._path} is damaged: restore it, or remove the store's root") from error
        if major > VERSION[0]:
            raise StorageError(
                f"{self._path} says version {document['version']}, this imagedist knows {VERSION[0]}.x: "
                "use a newer imagedist, or another --root"
            )
        return owners

    def claim(self) -> None:
        """Before the first image is built: the store is of this process's kind. Later ones must be of the same.

        Raises:
            StorageError: it is of another kind: its layers would have owners of two kinds.
        """
        ours = owners_here()
        found = self.owners()
        if found is None:
            with locked(self._lock):
                found = self.owners()
                if found is None:
                    version = f"{VERSION[0]}.{VERSION[1]}"
                    content = json.dumps({"version": version, "owners": ours}).encode()
                    write_aside(self._path, content, is_durable=True)
                    return
        if found != ours:
            raise StorageError(
                f"the store's files have {_WHOSE[found]}, and this process would give them {_WHOSE[ours]}: "
                "run as the user who made it, or choose another --root"
            )


_WHOSE: dict[Owners, str] = {
    "machine": "the owners that the layers say",
    "namespace": "owners in its user's namespace (/etc/subuid)",
    "one": "one owner, an ordinary user",
}
