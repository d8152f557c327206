"""Plain files, many at a time, by the extension in C where it was compiled.

It reads, plans, tells and makes a file as ``Entries``, ``Planner``, ``TarSplit`` and ``Files`` would, which stay the
definition of the rules: whatever is not plain is theirs.
"""

from __future__ import annotations

from imagedist.unpack import extension
from imagedist.unpack.entries import BLANK, Entries, Entry
from imagedist.unpack.files import Files, Parts
from imagedist.unpack.limits import MAX_TEXT_BYTES
from imagedist.unpack.plan import Node, Planner
from imagedist.unpack.tarsplit import TarSplit, crc
from imagedist.unpack.window import Window

Job = tuple[Parts, Entry]
"""A file that another process shall make."""


class PlainFiles:
    """Works on the parts of one extraction, between two entries that are theirs.

    Attributes:
        uids / gids: owners of the files.
    """

    def __init__(self, tar: Window, entries: Entries, planner: Planner, split: TarSplit, files: Files) -> None:
        self._make = extension.compiled.files if extension.compiled else None
        self._tar = tar
        self._entries = entries
        self._planner = planner
        self._split = split
        self._files = files
        self.uids: set[int] = set()
        self.gids: set[int] = set()

    def make(self, stop: int, jobs: list[Job] | None) -> bool:
        """Makes what comes next of plain files. Returns whether there was any.

        Args:
            stop: once the tar is told to there, no other is begun.
            jobs: is given what others shall make; None: everything is made here.

        Raises:
            OSError: as from ``Files``.
        """
        if self._make is None:
            return False
        entries, split, planner, files = self._entries, self._split, self._planner, self._files
        first, is_fresh = entries.number, False
        while True:
            view = self._tar.at_hand(split.position, fresh=is_fresh)
            if entries.text_bytes + len(view) > MAX_TEXT_BYTES:
                break
            told, position, text_bytes, records, is_short = self._make(
                view,
                split.position,
                entries.position,
                stop,
                entries.number,
                entries.limits.entries,
                split.records,
                BLANK,
                Node,
                planner.known,
                files.directory,
                jobs,
                crc,
                self.uids,
                self.gids,
                files.owner,
                files.may_give_away,
            )
            if records:
                split.headers_and_kept(records, range(entries.number, entries.number + len(records)), told)
                entries.skip(position, len(records), entries.text_bytes + text_bytes)
            if not is_short or (is_fresh and not records):
                break
            is_fresh = True
        return entries.number > first
