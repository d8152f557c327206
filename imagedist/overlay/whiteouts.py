"""What the whiteouts of a layer leave of its lower layers. They mean the lower layers only, so they come before the
layer's own entries, and only lower symlinks lead them elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from imagedist.overlay.view import Found, View, child, prefixes


class Whiteout(Protocol):
    @property
    def path(self) -> str: ...
    @property
    def is_opaque(self) -> bool: ...


class Remaining(View):
    """The view of the lower layers without what the whiteouts hide.

    Args:
        lowers: their ``diff`` directories, base first.
        whiteouts: in the order of the entries.

    Attributes:
        hidden: paths that are gone, none of them below another or below an emptied directory.
        emptied: directories whose content is gone, likewise; ``""`` is the root.

    Raises:
        UnacceptableError: a whiteout below a lower symlink that leads nowhere but in circles.
    """

    def __init__(self, lowers: Sequence[Path], whiteouts: Iterable[Whiteout]) -> None:
        super().__init__(lowers)
        self._known: dict[str, Found | None] = {}
        self._hidden: set[str] = set()
        self._emptied: set[str] = set()
        resolved: dict[str, str] = {}  # most whiteouts share their directory with others
        for whiteout in whiteouts:
            head, _, name = (whiteout.path, "", "") if whiteout.is_opaque else whiteout.path.rpartition("/")
            if head not in resolved:
                resolved[head] = self.resolve(head)
            path = f"{resolved[head]}/{name}".strip("/")
            found = self.lookup(path)
            if found is None or (whiteout.is_opaque and not found.is_directory):
                continue
            (self._emptied if whiteout.is_opaque else self._hidden).add(path)
            if found.is_directory or found.is_symlink:
                resolved.clear()  # what led through it ends there now
        self.hidden = sorted(path for path in self._hidden if not self._is_covered(path))
        self.emptied = sorted(path for path in self._emptied - self._hidden if not self._is_covered(path))

    def lookup(self, path: str) -> Found | None:
        return None if path in self._hidden or self._is_covered(path) else self._lookup_lower(path)

    def _lookup_lower(self, path: str) -> Found | None:
        """Lower layers never change, so each of their directories is looked up once."""
        if not path:
            return self.root()
        head, _, name = path.rpartition("/")
        if head not in self._known:
            self._known[head] = self._lookup_lower(head)
        above = self._known[head]
        return child(above.paths, name) if above is not None and above.is_directory else None

    def _is_covered(self, path: str) -> bool:
        """Whether a directory above it is hidden or emptied."""
        if not path:
            return False
        above = path.rpartition("/")[0]
        return "" in self._emptied or any(one in self._hidden or one in self._emptied for one in prefixes(above))
