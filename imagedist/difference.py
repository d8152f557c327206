"""Two root file systems compared: in everything an image can say of a file, in a fixed order, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from imagedist.errors import InputError, storage_error
from imagedist.overlay.tree import Describer, Root, TreeEntry, open_file, walk
from imagedist.overlay.view import Found

_COMPARED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which two root file systems differ.

    Attributes:
        path: from the root, without a leading slash; ``""`` is the root itself.
        aspect: one of ``ASPECTS``. What is there on one side only, or of another kind, is told once, not what is
            below it.
        left / right: the two values, for people.
    """

    path: str
    aspect: str
    left: str
    right: str

    def line(self) -> str:
        """One printable line, whatever the names."""
        return f"{printable('/' + self.path)}  {self.aspect}: {printable(self.left)} | {printable(self.right)}"


_VALUES: dict[str, Callable[[TreeEntry], str]] = {
    "mode": lambda entry: f"{entry.mode:04o}",
    "owner": lambda entry: "{}:{}".format(*(entry.owner or ())),
    "size": lambda entry: str(entry.size_bytes),
    "target": lambda entry: entry.target,
    "links": lambda entry: entry.linked_to and f"is /{entry.linked_to}",
    "device": lambda entry: "{}:{}".format(*entry.device) if entry.device else "",
    "xattrs": lambda entry: " ".join(f"{name}={value.hex()}" for name, value in entry.xattrs),
    "mtime": lambda entry: _seconds(entry.mtime_ns or 0),
}
ASPECTS = ("presence", "kind", *_VALUES, "content")
IGNORABLE = (*_VALUES, "content", "root-mode", "root-owner", "root-mtime", "directory-mtime")
"""What ``compare`` can leave out: an aspect everywhere, of the root directory, or the times of all directories."""


def parse_ignored(text: str) -> frozenset[str]:
    """``root-mode,mtime`` → a set for ``compare``.

    Raises:
        InputError: not one of ``IGNORABLE``.
    """
    ignored = frozenset(word.strip() for word in text.split(",") if word.strip())
    unknown = sorted(ignored.difference(IGNORABLE))
    if unknown:
        raise InputError(f"cannot ignore {', '.join(unknown)}: expected some of {', '.join(IGNORABLE)}")
    return ignored


def compare(left: Root, right: Root, ignored: Collection[str] = frozenset()) -> Iterator[Difference]:
    """The differences, sorted by path.

    Memory grows with the widest directory and the number of files with several names, not with the content.

    Raises:
        StorageError: something cannot be read.
    """
    lefts, rights = _Side(left), _Side(right)
    while lefts.found is not None or rights.found is not None:
        if rights.found is None or (lefts.found is not None and lefts.key < rights.key):
            yield Difference(lefts.path, "presence", lefts.entry.kind, "absent")
            lefts.skip()
        elif lefts.found is None or rights.key < lefts.key:
            yield Difference(rights.path, "presence", "absent", rights.entry.kind)
            rights.skip()
        elif lefts.entry.kind != rights.entry.kind:
            yield Difference(lefts.path, "kind", lefts.entry.kind, rights.entry.kind)
            lefts.skip()
            rights.skip()
        else:
            yield from _of_one_kind(lefts, rights, ignored)
            lefts.next()
            rights.next()


class _Side:
    """One of the two walks, and where it is."""

    path: str
    found: Found | None
    entry: TreeEntry
    key: list[str]
    """The path's parts: as text "a-b" comes before "a/c", but a walk goes through "a" first."""

    def __init__(self, root: Root) -> None:
        self._walk = walk(root)
        self._describer = Describer()
        self.next()

    def next(self) -> None:
        self.path, self.found = next(self._walk, ("", None))
        self.key = self.path.split("/") if self.path else []
        if self.found is not None:
            self.entry = self._describer.describe(self.path, self.found)

    def skip(self) -> None:
        """To what comes after everything below here."""
        below = f"{self.path}/"
        self.next()
        while self.found is not None and self.path.startswith(below):
            self.next()


def _of_one_kind(left: _Side, right: _Side, ignored: Collection[str]) -> Iterator[Difference]:
    path, is_equal_size = left.path, left.entry.size_bytes == right.entry.size_bytes
    if left.entry != right.entry:
        for aspect, value in _VALUES.items():
            if aspect in ignored or (not path and f"root-{aspect}" in ignored):
                continue
            if aspect == "mtime" and left.entry.kind == "directory" and "directory-mtime" in ignored:
                continue
            here, there = value(left.entry), value(right.entry)
            if here != there:
                yield Difference(path, aspect, here, there)
    if left.entry.kind == "file" and is_equal_size and "content" not in ignored:
        assert left.found is not None
        assert right.found is not None
        position = _first_difference(left.found, right.found)
        if position is not None:
            yield Difference(path, "content", f"differs from byte {position} on", f"of {left.entry.size_bytes}")


def _first_difference(left: Found, right: Found) -> int | None:
    if os.path.samestat(left.stat, right.stat):
        return None
    with open_file(left) as lefts, open_file(right) as rights:
        position = 0
        try:
            while True:
                here, there = lefts.read(_COMPARED_BYTES), rights.read(_COMPARED_BYTES)
                if here != there:
                    pairs = zip(here, there, strict=False)
                    same = next((number for number, (one, other) in enumerate(pairs) if one != other), None)
                    return position + (min(len(here), len(there)) if same is None else same)
                if not here:
                    return None
                position += len(here)
        except OSError as error:
            raise storage_error("compare two files", error) from error


def _seconds(nanoseconds: int) -> str:
    seconds, fraction = divmod(abs(nanoseconds), 10**9)
    return f"{'-' if nanoseconds < 0 else ''}{seconds}.{fraction:09d}"


def printable(text: str) -> str:
    """Names of hostile images on a terminal: control characters, undecodable bytes and backslashes are escaped."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    if letter.isprintable() and letter != "\\":
        return letter
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()
