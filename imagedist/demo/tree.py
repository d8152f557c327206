"""What an image must unpack to, and what a node's store shows: two trees to be compared by ``==``."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from imagedist.demo.layout import BuiltImage
from imagedist.errors import NotFoundError, StorageError, UnacceptableError, storage_error
from imagedist.oci.image import Layer
from imagedist.oci.reference import Reference
from imagedist.overlay.tree import TreeEntry, tree

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


def expected_tree(built: BuiltImage) -> dict[str, TreeEntry]:
    """Applies the layers one after the other (layer.md, "Applying Changesets"), by code of its own.

    Knows what common images hold: gzip layers of directories, files, symbolic and hard links, and whiteouts.

    Returns:
        Path without a leading slash → entry; the root itself is not in it. With ownership if we are root.

    Raises:
        UnacceptableError: a layer holds something else, so there is nothing to compare with.
    """
    merged: dict[str, TreeEntry] = {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for changes in pool.map(lambda layer: _read(built, layer), built.image.layers):
            _apply(merged, changes)
    return merged


def node_tree(store: Path, reference: Reference) -> dict[str, TreeEntry]:
    """The same of an image in a containers/storage store, from the store's own records, without mounting it.

    Raises:
        NotFoundError: no image of that name. StorageError: the store cannot be read.
    """
    try:
        images = json.loads((store / "overlay-images/images.json").read_text())
        layers = json.loads((store / "overlay-layers/layers.json").read_text())
    except OSError as error:
        raise storage_error(f"read the store {store}", error) from error
    except ValueError as error:
        raise StorageError(f"the store {store} has records that are not JSON: {error}") from error
    parents = {layer["id"]: layer.get("parent", "") for layer in layers}
    layer_id = next((image["layer"] for image in images if str(reference) in image.get("names", ())), None)
    if layer_id is None:
        raise NotFoundError(f"no image {reference} in {store}", "MANIFEST_UNKNOWN")
    directories: list[Path] = []
    while layer_id:
        directories.append(store / "overlay" / layer_id / "diff")
        layer_id = parents[layer_id]
    return tree(directories[::-1], with_owner=_is_root())


def _is_root() -> bool:
    return os.geteuid() == 0


@dataclass(frozen=True, slots=True)
class _HardLink:
    target: str


_Change = tuple[str, TreeEntry | _HardLink]


def _read(built: BuiltImage, layer: Layer) -> list[_Change]:
    """One layer's entries in archive order."""
    digest = layer.descriptor.digest
    if layer.descriptor.compression != "gzip":
        raise UnacceptableError(f"layer {digest} is not gzip: not known to the comparison")
    try:
        with gzip.open(built.blob(digest)) as content, tarfile.open(fileobj=content, mode="r|", bufsize=1 << 20) as tar:
            return [(member.name.removeprefix("./").strip("/"), _entry(tar, member)) for member in tar]
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UnacceptableError(f"cannot read layer {digest}: {error}") from error


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo) -> TreeEntry | _HardLink:
    owner = (member.uid, member.gid) if _is_root() else None
    if member.isdir():
        return TreeEntry("directory", member.mode, owner=owner)
    if member.issym():
        return TreeEntry("symlink", 0, target=member.linkname, owner=owner)
    if member.islnk():
        return _HardLink(member.linkname.removeprefix("./").strip("/"))
    content = archive.extractfile(member) if member.isreg() else None
    if content is None:
        raise UnacceptableError(f"{member.name!r} is of tar type {member.type!r}: not known to the comparison")
    digest = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]  # typeshed asks for readinto
    return TreeEntry("file", member.mode, member.size, digest, owner=owner)


def _apply(merged: dict[str, TreeEntry], changes: list[_Change]) -> None:
    """Whiteouts first: they hide what lies below, never what comes with them."""
    hidden: set[str] = set()
    emptied: set[str] = set()
    for name, change in changes:
        parent, _, base = name.rpartition("/")
        if base == _OPAQUE:
            emptied.add(parent)
        elif base.startswith(_WHITEOUT):
            hidden.add(f"{parent}/{base.removeprefix(_WHITEOUT)}".lstrip("/"))
        elif name in merged and merged[name].kind == "directory" and not _is_directory(change):
            hidden.add(name)  # with everything that was in the directory
    if hidden or emptied:
        for name in [name for name in merged if _is_gone(name, hidden, emptied)]:
            del merged[name]
    for name, change in changes:
        parent, _, base = name.rpartition("/")
        if not name or base.startswith(_WHITEOUT):
            continue
        if parent and (parent not in merged or merged[parent].kind != "directory"):
            raise UnacceptableError(f"{name!r} comes without its directory: not known to the comparison")
        merged[name] = merged[change.target] if isinstance(change, _HardLink) else change


def _is_directory(change: TreeEntry | _HardLink) -> bool:
    return isinstance(change, TreeEntry) and change.kind == "directory"


def _is_gone(name: str, hidden: set[str], emptied: set[str]) -> bool:
    parents = [name[:cut] for cut, letter in enumerate(name) if letter == "/"]
    return name in hidden or "" in emptied or any(parent in hidden or parent in emptied for parent in parents)
