"""Extracts one layer into a private directory while its tar arrives; runs in a worker process.

Files are made as they come, long before the tar is whole, and what was read is not needed any more: what comes takes
its place in the ramdisk. Only a layer in which an entry takes the place of an earlier one is different: from there on
everything waits for the end, when the plan says what is left.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from imagedist.errors import UnacceptableError
from imagedist.locking import remove_tree
from imagedist.unpack import tarsplit
from imagedist.unpack.entries import Entries, Entry
from imagedist.unpack.files import Files, Parts, explained
from imagedist.unpack.limits import DEFAULTS, Limits
from imagedist.unpack.ordinary import Job, PlainFiles
from imagedist.unpack.plan import LowerLink, Node, Placed, Planner, Whiteout
from imagedist.unpack.tarsplit import TarSplit
from imagedist.unpack.window import BUFFER_BYTES, NotYet, StagedTar, Window

_MAX_SHARED_BYTES = 8 << 20
"""Larger files are written by whoever reads the headers: nobody waits for the whole of them to arrive."""


@dataclass(frozen=True)
class ExtractedLayer:
    """A layer on disk that does not know its lower layers yet. Paths are from its root; the root is ``""``.

    Attributes:
        directory: holds ``diff/`` and ``tar-split.gz``.
        undescribed: directories no entry described, parents first: they take the lower layers' metadata at merge.
        whiteouts: in the order of the entries; nothing of them is on disk before the merge.
        no_symlinks: as of ``Plan``.
        opaque: directories in the place of a file of this layer.
        unmarked_opaque: of them, those without the mark, as the file system takes no such xattr: at merge each
            lower child gets a whiteout instead.
        lower_links: hard links to files of lower layers.
        skipped: what could not be had without root, by kind: ``owner``, ``device``, ``xattr``.
    """

    directory: Path
    tar_bytes: int
    undescribed: tuple[str, ...]
    whiteouts: tuple[Whiteout, ...]
    no_symlinks: tuple[str, ...]
    opaque: tuple[str, ...]
    unmarked_opaque: tuple[str, ...]
    lower_links: tuple[LowerLink, ...]
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    skipped: Mapping[str, int]


def extract_layer(tar_path: Path, directory: Path, limits: Limits = DEFAULTS) -> ExtractedLayer:
    """Extracts a whole tar into ``directory``, which is empty, in this process.

    Raises:
        UnacceptableError: the layer is unsafe or unsupported. StorageError: the disk failed.
    """
    extraction = Extraction(StagedTar(tar_path), directory, limits, memoryview(bytearray(BUFFER_BYTES)))
    try:
        extraction.advance(tar_path.stat().st_size, is_whole=True)
        return extraction.finish()
    finally:
        extraction.close()


def extract_jobs(tar: StagedTar, end: int, directory: Path, jobs: Sequence[Job], limits: Limits) -> Mapping[str, int]:
    """Makes files of a layer that another process leads. Returns what was skipped, by kind.

    Args:
        end: the jobs' content lies before it.
    """
    with (
        explained(directory),
        closing(Files(directory / "diff", limits.devices)) as files,
        closing(Window(tar, memoryview(bytearray(BUFFER_BYTES)))) as window,
    ):
        window.extend(end, is_whole=True)
        for path, entry in jobs:
            files.create(path, entry, window)
        return files.skipped


class _Unfinished:
    """A file whose content has not all arrived."""

    def __init__(self, entry: Entry, descriptor: int) -> None:
        self.entry = entry
        self.descriptor = descriptor
        self.position = entry.offset
        self.crc: int | None = None


class Extraction:
    """Leads one layer: reads its headers in order, plans, and makes the files or hands them to others.

    Attributes:
        position: what lies before is not needed any more, once the jobs handed out are done.
        is_ended: all was read; ``finish`` is next, when the jobs handed out are done.
    """

    def __init__(self, tar: StagedTar, directory: Path, limits: Limits, buffer: memoryview) -> None:
        self._directory = directory
        self.position = 0
        self.is_ended = False
        self._planner = Planner(limits)
        self._has_entries = True
        self._has_hard_links = False
        self._current: tuple[Entry, Placed | None] | None = None
        self._unfinished: _Unfinished | None = None
        self._later: list[tuple[Entry, Placed | None]] | None = None
        self._undescribed: list[str] = []
        self._opaque: list[str] = []
        self._unmarked_opaque: list[str] = []
        with explained(directory):
            (directory / "diff").mkdir(mode=0o755)
            self._files = Files(directory / "diff", limits.devices)
            self._split = TarSplit(directory / "tar-split.gz")
            self._tar = Window(tar, buffer)
        self._entries = Entries(self._tar, limits)
        self._plain_files = PlainFiles(self._tar, self._entries, self._planner, self._split, self._files)
        self._uids, self._gids = self._plain_files.uids, self._plain_files.gids

    @property
    def wants_whole(self) -> bool:
        """An entry took the place of an earlier one: nothing more is consumed before the tar is whole."""
        return self._later is not None

    def move(self, tar: StagedTar) -> None:
        """The tar goes on elsewhere, where everything from ``position`` on is."""
        with explained(self._directory):
            self._tar.move(tar)

    def advance(
        self, available_bytes: int, is_whole: bool, *, slice_bytes: int | None = None, jobs: list[Job] | None = None
    ) -> bool:
        """Goes on as far as the tar has arrived, or for about ``slice_bytes`` of it. Returns whether it wants more.

        Args:
            jobs: is given what others shall make; None: everything is made here.

        Raises:
            UnacceptableError: the layer is unsafe or unsupported. StorageError: the disk failed.
        """
        self._tar.extend(available_bytes, is_whole)
        stop = self._split.position + slice_bytes if slice_bytes is not None else sys.maxsize
        with explained(self._directory):
            try:
                while not self.is_ended and self._split.position < stop:
                    if self._is_between and self._plain_files.make(stop, jobs):
                        self.position = self._split.position
                    else:
                        self._step(jobs)
            except NotYet:
                return True
        return False

    @property
    def _is_between(self) -> bool:
        """Whether an entry is next, and may be made at once."""
        return self._unfinished is None and self._current is None and self._later is None and self._has_entries

    def _step(self, jobs: list[Job] | None) -> None:
        if self._unfinished is not None:
            self._continue(self._unfinished)
        elif self._current is not None:
            self._make(*self._current, jobs)
            self._current = None
        else:
            entry = next(self._entries, None) if self._has_entries else None
            if entry is None:
                self._end()
            else:
                placed = self._planner.add(entry)
                self._uids.add(entry.uid)
                self._gids.add(entry.gid)
                self._has_hard_links |= entry.is_hard_link
                if self._later is not None or self._planner.replaced:
                    self._later = self._later or []
                    self._later.append((entry, placed))
                elif placed is None or jobs is not None or not self._make_usual(entry, placed):
                    self._current = entry, placed
                    self._step(jobs)
                    return
        if self._later is None:
            self.position = self._split.position

    def _make_usual(self, entry: Entry, placed: Placed) -> bool:
        """A file of moderate size that has arrived, as most are. False: nothing was done."""
        end, split, tar = entry.offset + entry.size_bytes, self._split, self._tar
        if not _may_be_kept(entry, placed) or entry.size_bytes > BUFFER_BYTES or not tar.has(end) or end > len(tar):
            return False
        if entry.offset - split.position > tarsplit.SEGMENT_BYTES:
            return False
        header = bytes(tar[split.position : entry.offset])
        content = tar[entry.offset : end]
        split.header_and_kept(header, entry, tarsplit.crc(content))
        self._files.create_file(placed.path, entry, content)
        placed.node.is_made = True
        return True

    def _end(self) -> None:
        self._has_entries = False
        if self._later is None:
            self._tell_rest()
        elif not self._tar.has(len(self._tar)):
            raise NotYet
        self.is_ended = True

    def _make(self, entry: Entry, placed: Placed | None, jobs: list[Job] | None) -> None:
        """Tells the entry to the tar-split and makes its file. May be called again after ``NotYet``."""
        end = entry.offset + entry.size_bytes
        if placed is None or not entry.size_bytes:
            self._split.raw(self._tar, entry.offset)
        elif not _may_be_kept(entry, placed):
            self._need(end, entry)
            self._split.raw(self._tar, end)
        elif entry.size_bytes <= (BUFFER_BYTES if jobs is None else _MAX_SHARED_BYTES):
            self._split.raw(self._tar, entry.offset)
            self._need(end, entry)
            self._split.kept(entry, self._crc(entry))
        else:
            self._split.raw(self._tar, entry.offset)
            self._unfinished = _Unfinished(entry, self._files.open_file(placed.path, entry))
        if placed is None:
            return
        placed.node.is_made = True
        if self._unfinished is not None:
            return
        if jobs is None:
            self._files.create(placed.path, entry, self._tar)
        else:
            self._files.directory(placed.path[:-1])
            jobs.append((placed.path, entry))

    def _continue(self, file: _Unfinished) -> None:
        end = file.entry.offset + file.entry.size_bytes
        while file.position < end:
            stop = min(end, file.position + BUFFER_BYTES)
            if not self._tar.has(stop) and self._tar.available_bytes > file.position:
                stop = self._tar.available_bytes
            self._need(stop, file.entry)
            content = self._tar[file.position : stop]
            file.crc = tarsplit.crc(content, file.crc)
            written = 0
            while written < len(content):
                written += os.write(file.descriptor, content[written:])
            file.position = self.position = stop
        self._files.describe_file(file.descriptor, file.entry)
        os.close(file.descriptor)
        self._unfinished = None
        assert file.crc is not None
        self._split.kept(file.entry, file.crc)

    def _need(self, end: int, entry: Entry) -> None:
        if end > len(self._tar):
            raise UnacceptableError(f"malformed layer: its tar is cut off inside {entry.name!r}")
        if not self._tar.has(end):
            raise NotYet

    def _crc(self, entry: Entry) -> int:
        value: int | None = None
        end = entry.offset + entry.size_bytes
        for start in range(entry.offset, end, BUFFER_BYTES):
            value = tarsplit.crc(self._tar[start : min(start + BUFFER_BYTES, end)], value)
        assert value is not None
        return value

    def _tell_rest(self) -> None:
        """What follows the last entry: the archive's end, and maybe more than that."""
        while not self._tar.has(len(self._tar)):
            self._split.raw(self._tar, self._split.position + tarsplit.SEGMENT_BYTES)
            self.position = self._split.position
        self._split.raw(self._tar, len(self._tar))

    def finish(self) -> ExtractedLayer:
        """Makes what is left, describes the directories, and closes. The jobs handed out are done."""
        self._tar.extend(len(self._tar), is_whole=True)  # others have used the buffer meanwhile
        with explained(self._directory):
            plan = self._planner.finish()
            kept_aside = self._put_replaced_aside()
            self._tell_later()
            self._split.close()
            if kept_aside:
                tarsplit.embed(self._directory / "tar-split.gz", self._split.files, kept_aside)
            made = {entry.number: path for path, entry in _made(self._planner.root, ())} if self._has_hard_links else {}
            self._complete(plan.root, (), made, {number: path for number, (_, path) in kept_aside.items()})
            if self._planner.replaced:
                remove_tree(self._directory / "replaced")
        return ExtractedLayer(
            self._directory,
            len(self._tar),
            tuple(self._undescribed),
            plan.whiteouts,
            plan.no_symlinks,
            tuple(self._opaque),
            tuple(self._unmarked_opaque),
            plan.lower_links,
            tuple(sorted(self._uids)),
            tuple(sorted(self._gids)),
            self._files.skipped,
        )

    def _put_replaced_aside(self) -> dict[int, tuple[Entry, Path]]:
        """Moves what was made and then replaced; returns the files among it, by the numbers of their entries."""
        aside: dict[int, tuple[Entry, Path]] = {}
        if not self._planner.replaced:
            return aside
        directory = self._directory / "replaced"
        directory.mkdir(mode=0o700)
        self._files.forget()
        for number, (path, node) in enumerate(self._planner.replaced):
            place = directory / str(number)
            if self._files.move(path, place):
                files = [((), node.entry)] if node.entry and not node.is_directory else _made(node, ())
                aside |= {entry.number: (entry, place.joinpath(*below)) for below, entry in files if entry.is_regular}
        return aside

    def _tell_later(self) -> None:
        for entry, placed in self._later or ():
            if placed and _may_be_kept(entry, placed) and self._planner.has(placed.path, placed.node):
                self._split.raw(self._tar, entry.offset)
                self._split.kept(entry, self._crc(entry))
            else:
                self._split.raw(self._tar, entry.offset + entry.size_bytes)
        self._split.raw(self._tar, len(self._tar))

    def _complete(self, node: Node, path: Parts, made: dict[int, Parts], aside: Mapping[int, Path]) -> None:
        """One directory: what it still lacks, then its own metadata, its times last."""
        assert node.children is not None
        if node.takes_lower_metadata:
            self._undescribed.append("/".join(path))
        for name, child in node.children.items():
            place = (*path, name)
            if child.children is not None:
                self._files.directory(place)
                self._complete(child, place, made, aside)
                if child.is_opaque:
                    self._mark_opaque(place)
            elif child.entry is not None and child.lower_target is None and not child.is_made:
                self._make_late(child.entry, place, made, aside)
        if node.entry is not None:
            self._files.describe_directory(path, node.entry)

    def _make_late(self, entry: Entry, path: Parts, made: dict[int, Parts], aside: Mapping[int, Path]) -> None:
        if entry.is_device and not self._files.makes_devices and entry.number in made:
            return  # one more name of what was left out
        if entry.number in made:
            self._files.link(made[entry.number], path)
            return
        if entry.number in aside:
            self._files.link_from(aside[entry.number], path)
        else:
            self._files.create(path, entry, self._tar)
        made[entry.number] = path

    def _mark_opaque(self, path: Parts) -> None:
        self._opaque.append("/".join(path))
        if not self._files.mark_opaque(path):
            self._unmarked_opaque.append("/".join(path))

    def close(self) -> None:
        if self._unfinished is not None:
            os.close(self._unfinished.descriptor)
        self._tar.close()
        self._files.close()


def _may_be_kept(entry: Entry, placed: Placed) -> bool:
    """Whether tar-split finds the file's bytes, as they are in the tar, under the entry's own name."""
    return entry.size_bytes > 0 and placed.is_direct


def _made(node: Node, path: Parts) -> Iterator[tuple[Parts, Entry]]:
    """What of a directory's tree is on disk, but for directories."""
    for name, child in (node.children or {}).items():
        if child.children is not None:
            yield from _made(child, (*path, name))
        elif child.is_made and child.entry is not None:
            yield (*path, name), child.entry
