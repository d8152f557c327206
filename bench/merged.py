"""An image's merged tree as a table of tar entries: no directory, no root, the same on every machine."""

from __future__ import annotations

import gzip
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path

from bench.layer import LayerTar
from imagedist.demo.layer import WrittenLayer
from imagedist.demo.layout import BuiltImage
from imagedist.errors import UnacceptableError

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Inode:
    """A file, directory or link of the merged tree: its entry and which layer's tar has its content."""

    entry: tarfile.TarInfo
    tar: Path


@dataclass(slots=True)
class MergedTree:
    """Name → inode; several names of one inode are hard links."""

    inodes: dict[str, Inode] = field(default_factory=dict)
    _above: set[str] = field(default_factory=set)
    """Every name that something lay below of once."""

    def apply(self, tar: Path) -> None:
        """Applies one layer's tar over what is there.

        Raises:
            UnacceptableError: an entry that such a table cannot follow (through a link, to an unknown target).
        """
        with tarfile.open(tar, "r:", errorlevel=2) as archive:
            entries = [(entry.name.removeprefix("./").strip("/"), entry) for entry in archive]
        for name, _ in entries:
            self._hide(name)
        for name, entry in entries:
            if name not in ("", ".") and not _base(name).startswith(_WHITEOUT):
                self._put(name, entry, tar)

    def _hide(self, name: str) -> None:
        """Whiteouts act on the layers below only, wherever they stand in their own layer."""
        base, parent = _base(name), _parent(name)
        if base == _OPAQUE:
            self._remove_below(parent)
        elif base.startswith(_WHITEOUT):
            hidden = f"{parent}/{base.removeprefix(_WHITEOUT)}".lstrip("/")
            self.inodes.pop(hidden, None)
            self._remove_below(hidden)

    def _put(self, name: str, entry: tarfile.TarInfo, tar: Path) -> None:
        if entry.issparse():
            raise UnacceptableError(f"cannot recut: {name!r} is a sparse file")
        above = self.inodes.get(_parent(name))
        if above is not None and not above.entry.isdir():
            raise UnacceptableError(f"cannot recut: {name!r} lies below {_parent(name)!r}, which is no directory")
        if not entry.isdir():
            self._remove_below(name)
        if entry.islnk():
            target = entry.linkname.removeprefix("./").strip("/")
            if target not in self.inodes:
                raise UnacceptableError(f"cannot recut: {name!r} is a hard link to {target!r}, which is not there")
            self.inodes[name] = self.inodes[target]
        else:
            self.inodes[name] = Inode(entry, tar)
        parts = name.split("/")
        self._above.update("/".join(parts[:depth]) for depth in range(1, len(parts)))

    def _remove_below(self, name: str) -> None:
        prefix = f"{name}/" if name else ""
        if not name or name in self._above:
            for inner in [inner for inner in self.inodes if inner.startswith(prefix)]:
                del self.inodes[inner]

    def cut(self, count: int) -> list[list[str]]:
        """Names in ``count`` runs of about the same bytes; all names of one inode in one run, directories in none."""
        first: dict[Inode, str] = {}
        units: dict[str, list[str]] = {}
        for name in sorted(self.inodes, key=lambda name: name.split("/")):
            inode = self.inodes[name]
            if not inode.entry.isdir():
                units.setdefault(first.setdefault(inode, name), []).append(name)
        sizes = {unit: self.inodes[unit].entry.size + tarfile.BLOCKSIZE for unit in units}
        runs: list[list[str]] = [[]]
        filled, left = 0, sum(sizes.values())
        for unit, names in units.items():
            # A large file takes what the layers after it would have had; no layer stays empty for it.
            if len(runs) < count and runs[-1] and filled + sizes[unit] / 2 > (filled + left) / (count - len(runs) + 1):
                runs.append([])
                filled = 0
            runs[-1] += names
            filled += sizes[unit]
            left -= sizes[unit]
        return runs

    def parents(self, name: str) -> Iterator[str]:
        """The directories above a name that the tree describes, outermost first."""
        parts = name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            if (directory := "/".join(parts[:depth])) in self.inodes:
                yield directory

    def write(self, names: Sequence[str], path: Path) -> WrittenLayer:
        """Writes a layer of these names and the directories above them.

        Raises:
            OSError: a tar could not be read, or the layer not written.
        """
        wanted = {directory for name in names for directory in self.parents(name)} | set(names)
        written: dict[Inode, str] = {}
        with LayerTar(path) as layer, ExitStack() as stack:
            tars = {tar: stack.enter_context(tar.open("rb")) for tar in {self.inodes[name].tar for name in wanted}}
            for name in sorted(wanted, key=lambda name: name.split("/")):
                inode = self.inodes[name]
                entry = copy(inode.entry)
                entry.name, entry.pax_headers = name, _kept(entry)
                if inode in written and not entry.isdir():
                    entry.type, entry.linkname, entry.size = tarfile.LNKTYPE, written[inode], 0
                written[inode] = name
                if entry.isreg():
                    tars[inode.tar].seek(inode.entry.offset_data)
                    layer.add(entry, tars[inode.tar])
                else:
                    layer.add(entry)
            return layer.finish()


def _kept(entry: tarfile.TarInfo) -> dict[str, str]:
    """Records that are no field of the entry (xattrs above all); the fields write their own."""
    return {key: value for key, value in entry.pax_headers.items() if key.startswith("SCHILY.xattr.")}


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


@contextmanager
def merged(built: BuiltImage, scratch: Path) -> Iterator[MergedTree]:
    """The merged tree of an image, with its tars inflated below ``scratch`` while it is used."""
    tree = MergedTree()
    tars: list[Path] = []
    try:
        for number, layer in enumerate(built.image.layers):
            tars.append(scratch / f"{number}.tar")
            with gzip.open(built.blob(layer.descriptor.digest)) as plain, tars[-1].open("wb") as output:
                shutil.copyfileobj(plain, output, _COPY_BYTES)
            tree.apply(tars[-1])
        yield tree
    finally:
        for tar in tars:
            tar.unlink(missing_ok=True)
