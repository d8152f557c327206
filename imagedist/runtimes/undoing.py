"""``--undo``: what was there before ``--apply``, newest change first, all of what was asked for or nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from imagedist.errors import InputError, storage_error
from imagedist.runtimes.applying import Written, locked, need_root
from imagedist.runtimes.journal import Entry, digest
from imagedist.runtimes.restoring import beside, restore
from imagedist.runtimes.settings import Settings


def undo(settings: Settings, names: Sequence[str] = (), *, is_forced: bool = False) -> list[Written]:
    """Gives back what was there before, newest change first.

    Args:
        names: only what was written for these runtimes; empty: everything.
        is_forced: a file that somebody changed since is put beside and its former self comes back.

    Raises:
        InputError: not root; a file is another runtime's as well; a file was changed since.
        StorageError: a backup is gone, or a file cannot be written.
    """
    need_root(settings, "--undo")
    with locked(settings) as journal:
        entries = journal.entries()
        chosen = [entry for entry in entries if not names or set(entry.keys) & set(names)]
        _need_all(entries, {entry.path for entry in chosen}, names)
        changed = _changed(chosen)
        if changed and not is_forced:
            path, backup = next(iter(changed.items()))
            hint = f"compare `diff -u {backup} {path}`" if backup else "imagedist made it"
            raise InputError(
                f"{path} was changed since --apply ({hint}): take the changes back, or use --undo --force, "
                "which puts the changed file beside"
            )
        restored = []
        for entry in reversed(chosen):
            kept = _put_beside(Path(entry.path)) if entry.path in changed else None
            changed.pop(entry.path, None)
            restore(entry)
            entries.remove(entry)
            journal.write(entries)
            restored.append(Written(entry.path, kept, entry.keys))
    return restored


def _need_all(entries: Sequence[Entry], paths: set[str], names: Sequence[str]) -> None:
    """A file goes back to what it was as a whole, so everybody it was written for must be meant."""
    for path in sorted(paths) if names else ():
        keys = list(dict.fromkeys(key for entry in entries if entry.path == path for key in entry.keys))
        if not set(keys) <= set(names):
            raise InputError(f"{path} was written for {' and '.join(keys)}: name all of them")


def _changed(chosen: Sequence[Entry]) -> dict[str, str | None]:
    """Files that are neither as we left them nor as they were: path → the backup to compare with."""
    now: dict[str, str | None] = {}
    changed: dict[str, str | None] = {}
    for entry in reversed(chosen):
        if entry.after is None or entry.path in changed:
            continue
        content = now[entry.path] if entry.path in now else digest(Path(entry.path))
        if content not in (entry.after, entry.before):
            changed[entry.path] = entry.backup
        now[entry.path] = entry.before
    return changed


def _put_beside(path: Path) -> str | None:
    if not os.path.lexists(path):
        return None
    kept = beside(path, "changed")
    try:
        path.rename(kept)
    except OSError as error:
        raise storage_error(f"rename {path}", error) from error
    return str(kept)
