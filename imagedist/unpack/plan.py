"""What a layer directory must hold in the end, decided in memory before the disk is touched.

The rules are those of the OCI image specification (layer.md) as sequential application to one root file system gives
them (umoci): names are cleaned relative to the root, a parent that is a symlink is followed inside the root, the last
of several entries with one name wins, a whiteout hides only what lower layers have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from imagedist.errors import UnacceptableError
from imagedist.unpack.entries import Entry
from imagedist.unpack.limits import DEFAULTS, MAX_DEPTH, MAX_NAME_BYTES, MAX_PATH_BYTES, Limits

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_NO_NAMES = ("", ".", "..")
_MAX_LINKS = 40  # as the kernel: ELOOP after 40 symlinks
_MAX_PARTS = 4096  # of one path with the targets of its symlinks

Parts = tuple[str, ...]


@dataclass(slots=True)
class Node:
    """One name in the layer. A plain file or a directory with children.

    Attributes:
        entry: what describes it; None for a directory that no entry describes.
        children: None unless it is a directory.
        is_opaque: a directory in the place of a file of this layer, so nothing of lower layers shows through.
        lower_target: of a hard link to a file that only lower layers have.
        takes_lower_metadata: an undescribed directory, which is the lower layers' one if they have it.
        is_made: it is on disk already (whoever extracts sets that).
    """

    entry: Entry | None = None
    children: dict[str, Node] | None = None
    lower_target: Parts | None = None
    is_opaque: bool = False
    takes_lower_metadata: bool = False
    is_made: bool = False

    @property
    def is_directory(self) -> bool:
        return self.children is not None


@dataclass(frozen=True, slots=True)
class LowerLink:
    """A hard link to a file that only a lower layer has: made at merge. Paths from the root, no leading slash."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class Whiteout:
    """Hides what lower layers have at ``path``; if it is opaque, only what they have in the directory there.

    Only the lower layers tell where that is: the merge decides.
    """

    path: str
    is_opaque: bool


@dataclass(frozen=True)
class Plan:
    """The finished tree.

    Attributes:
        whiteouts: in the order of the entries; nothing of them is in the tree.
        no_symlinks: paths where lower layers must have no symlink, else the tree is wrong: undescribed directories that
            a later entry described or replaced, or that a symlink's ``..`` went up from.
    """

    root: Node
    whiteouts: tuple[Whiteout, ...]
    no_symlinks: tuple[str, ...]
    lower_links: tuple[LowerLink, ...]


class Placed(NamedTuple):
    """Where an entry that is no directory, hard link or whiteout was put.

    Attributes:
        is_direct: ``path`` is its own name as it stands, so that whoever puts the tar together again finds it there,
            byte for byte; a sparse file is not.
    """

    path: Parts
    node: Node
    is_direct: bool


def plan(entries: Iterable[Entry], limits: Limits = DEFAULTS) -> Plan:
    """Applies the entries in order.

    Raises:
        UnacceptableError: unsafe or meaningless: names too long or too deep, a hard link to a directory or outside, a
            whiteout of nothing, a symlink loop among parents, a device that overlayfs would read as a whiteout, or any
            device if ``limits`` say so.
    """
    planner = Planner(limits)
    for entry in entries:
        planner.add(entry)
    return planner.finish()


class Planner:
    """The tree as it grows, entry by entry.

    Attributes:
        root: the tree so far. Nodes stay as they are until something takes their place.
        replaced: paths and nodes whose place was taken, in order.
        known: directories by the text that named them: their paths and names, and whether the text is the path.
    """

    def __init__(self, limits: Limits = DEFAULTS) -> None:
        self._refuses_devices = limits.devices == "refuse"
        self.root = Node(children={}, takes_lower_metadata=True)
        self.replaced: list[tuple[Parts, Node]] = []
        self._whiteouts: list[Whiteout] = []
        self._no_symlinks: dict[str, None] = {}
        # Most entries share their parent's text with the one before: resolved once (a third of the time of a plan).
        self.known: dict[str, tuple[Parts, dict[str, Node], bool]] = {}

    def add(self, entry: Entry) -> Placed | None:
        """Applies the next entry. Returns None for directories, hard links and whiteouts."""
        head, _, name = entry.name.rstrip("/").rpartition("/")
        known = self.known.get(head)
        # A character has at most four bytes: what is short enough in characters needs no encoding to know.
        if (
            known is None
            or name in _NO_NAMES
            or name.startswith(_WHITEOUT)
            or len(name) > MAX_NAME_BYTES // 4
            or len(entry.name) > MAX_PATH_BYTES // 4
            or len(known[0]) >= MAX_DEPTH
        ):
            parts = _clean(entry.name)
            if not parts:
                if entry.is_directory:
                    self.root.entry, self.root.takes_lower_metadata = entry, False
                    return None
                raise UnacceptableError(f"unsafe layer: {entry.name!r} would replace the root directory")
            if parts[-1].startswith(_WHITEOUT):
                self._hide(parts, entry)
                return None
            directory_path, directory = self._directory(parts[:-1], entry.name)
            # Whoever puts the tar together again opens the name as it stands: no ".." may lead out of the layer.
            is_direct = directory_path == parts[:-1] and name == parts[-1] and ".." not in head.split("/")
            if name == parts[-1]:
                self.known[head] = directory_path, directory, is_direct
            name = parts[-1]
        else:
            directory_path, directory, is_direct = known
        path = (*directory_path, name)
        present = directory.get(name)
        if present is None and entry.is_regular:
            node = directory[name] = Node(entry)
            return Placed(path, node, is_direct and entry.sparse is None)
        if present is not None:
            self.known.clear()  # a parent that is known by its text may be what is replaced now
            self._supersede(present, path, entry)
        placed: Placed | None = None
        if entry.is_directory:
            names = self._put_directory(directory, name, entry)
            if is_direct:
                self.known[entry.name.rstrip("/")] = path, names, True
        elif entry.is_hard_link:
            self._put_hard_link(directory, path, entry)
        else:
            if entry.is_device:
                self._check_device(entry)
            node = directory[name] = Node(entry)
            placed = Placed(path, node, is_direct and entry.sparse is None)
        if present is not None and directory[name] is not present:
            self.replaced.append((path, present))
        return placed

    def _check_device(self, entry: Entry) -> None:
        if entry.is_character_device and entry.device == (0, 0):
            raise UnacceptableError(f"unsafe layer: {entry.name!r} is a device 0:0, overlayfs' own whiteout")
        if self._refuses_devices:
            raise UnacceptableError(
                f'unsafe layer: {entry.name!r} is a device node; devices = "keep" or "skip" of [unpack] accepts it'
            )

    def has(self, path: Parts, node: Node) -> bool:
        """Whether that very node is still in its place."""
        return self._find(path) is node

    def finish(self) -> Plan:
        """The entries ended here."""
        _settle(self.root, is_below_opaque=False)
        return Plan(self.root, tuple(self._whiteouts), tuple(self._no_symlinks), tuple(_lower_links(self.root, "")))

    def _supersede(self, node: Node, path: Parts, entry: Entry) -> None:
        if node.takes_lower_metadata:
            self._no_symlinks["/".join(path)] = None
        if not entry.is_directory:
            for name, child in (node.children or {}).items():
                self._supersede(child, (*path, name), entry)

    def _put_directory(self, directory: dict[str, Node], name: str, entry: Entry) -> dict[str, Node]:
        """Returns what is in it."""
        present = directory.get(name)
        if present is not None and present.children is not None:
            present.entry, present.takes_lower_metadata = entry, False
            return present.children
        children: dict[str, Node] = {}
        directory[name] = Node(entry, children, is_opaque=present is not None)
        return children

    def _put_hard_link(self, directory: dict[str, Node], path: Parts, entry: Entry) -> None:
        target = _clean(entry.link)
        if not target:
            raise UnacceptableError(f"unsafe layer: hard link {entry.name!r} to the root directory")
        target = (*self._resolve(target[:-1], entry.name), target[-1])
        found = self._find(target)
        if target == path and found:
            return
        # An undescribed directory may be a symlink of the lower layers, which the merge will see.
        if found and found.is_directory and not found.takes_lower_metadata:
            raise UnacceptableError(f"unsafe layer: hard link {entry.name!r} to directory {entry.link!r}")
        if found is None or found.is_directory:
            directory[path[-1]] = Node(lower_target=target)
        else:
            directory[path[-1]] = Node(found.entry, lower_target=found.lower_target)

    def _hide(self, parts: Parts, entry: Entry) -> None:
        """Whatever the entry's type: a whiteout is its name alone. It makes no directories."""
        name = parts[-1]
        hidden = name.removeprefix(_WHITEOUT)
        if name != _OPAQUE and hidden.startswith(_WHITEOUT):
            return  # aufs' own bookkeeping, as .wh..wh.plnk
        if hidden in ("", ".", ".."):
            raise UnacceptableError(f"malformed layer: whiteout {entry.name!r} names nothing")
        path = self._resolve(parts[:-1], entry.name)
        if name != _OPAQUE:
            path = (*path, hidden)
        self._whiteouts.append(Whiteout("/".join(path), name == _OPAQUE))

    def _directory(self, parts: Parts, about: str) -> tuple[Parts, dict[str, Node]]:
        """The directory at ``parts``, with symlinks followed and what is missing added."""
        path = self._resolve(parts, about)
        node = self.root
        for depth, name in enumerate(path, 1):
            assert node.children is not None  # _resolve stops at nothing but directories and new names
            child = node.children.get(name)
            if child is None:
                child = node.children[name] = Node(children={}, takes_lower_metadata=True)
            elif child.lower_target is not None:  # of a file or, who knows, of a symlink
                raise UnacceptableError(f"unsupported layer: {about!r} comes by two names, one of them a hard link")
            elif not child.is_directory:
                self.replaced.append((path[:depth], child))
                child = node.children[name] = Node(children={}, is_opaque=True)
            node = child
        assert node.children is not None
        return path, node.children

    def _resolve(self, parts: Parts, about: str) -> Parts:
        """Follows this layer's own symlinks; ``..`` never leaves the root."""
        path: list[str] = []
        nodes: list[Node | None] = [self.root]
        todo, links = list(reversed(parts)), 0
        for _ in range(_MAX_PARTS):
            if not todo:
                return tuple(path)
            name = todo.pop()
            if name == "..":
                if path:
                    left = nodes.pop()
                    if left is None or left.takes_lower_metadata:
                        self._no_symlinks["/".join(path)] = None
                    path.pop()
                continue
            above = nodes[-1]
            node = above.children.get(name) if above is not None and above.children is not None else None
            if node and node.entry and node.entry.is_symlink:
                links += 1
                if links > _MAX_LINKS:
                    raise UnacceptableError(f"unsafe layer: too many symlinks on the way to {about!r}")
                target = node.entry.link
                if target.startswith("/"):
                    path.clear()
                    del nodes[1:]
                todo.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
                continue
            path.append(name)
            nodes.append(node)
            if len(path) > MAX_DEPTH:
                raise UnacceptableError(f"unsafe layer: {about[:100]!r} is deeper than {MAX_DEPTH} directories")
        raise UnacceptableError(f"unsafe layer: more than {_MAX_PARTS} parts on the way to {about[:100]!r}")

    def _find(self, path: Parts) -> Node | None:
        node: Node | None = self.root
        for name in path:
            if node is None or node.children is None:
                return None
            node = node.children.get(name)
        return node


def _clean(name: str) -> Parts:
    """The name relative to the root: no empty parts, no ``.``, and ``..`` stops at the root (as containerd, umoci)."""
    if len(name.encode("utf-8", "surrogateescape")) > MAX_PATH_BYTES:
        raise UnacceptableError(f"unsafe layer: the name {name[:100]!r} is longer than {MAX_PATH_BYTES} bytes")
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if parts:
                parts.pop()
        elif part not in ("", "."):
            if len(part.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES:
                raise UnacceptableError(f"unsafe layer: the file name {part[:100]!r} is longer than 255 bytes")
            parts.append(part)
    if len(parts) > MAX_DEPTH:
        raise UnacceptableError(f"unsafe layer: {name[:100]!r} is deeper than {MAX_DEPTH} directories")
    return tuple(parts)


def _settle(node: Node, is_below_opaque: bool) -> None:
    """Below an opaque directory nothing of lower layers is left, no metadata to take."""
    for child in (node.children or {}).values():
        if not child.is_directory:
            continue
        if is_below_opaque:
            child.takes_lower_metadata = False
        _settle(child, is_below_opaque or child.is_opaque)


def _lower_links(node: Node, prefix: str) -> Iterator[LowerLink]:
    for name, child in (node.children or {}).items():
        if child.lower_target is not None:
            yield LowerLink(prefix + name, "/".join(child.lower_target))
        yield from _lower_links(child, f"{prefix}{name}/")
