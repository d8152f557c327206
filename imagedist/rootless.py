"""An ordinary user's own store: a user namespace in which files get the owners that layers say, exactly podman's.

The mapping is podman's (pkg/rootless, containers/storage pkg/idtools): 0 is the user; from 1 on come the ranges of
/etc/subuid and /etc/subgid, lowest first. So rootless podman reads the same owners in the same layer directories.
"""

from __future__ import annotations

import ctypes
import logging
import os
import pwd
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from imagedist.errors import StorageError
from imagedist.overlay import usage
from imagedist.overlay.format import Format

_LOG = logging.getLogger(__name__)

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_SUBUID = Path("/etc/subuid")
_SUBGID = Path("/etc/subgid")
_FIRST_ID, _IDS = 100_000, 65_536  # as useradd(8) gives them
_asking = threading.Lock()

# Stays outside of the namespace. Maps its ids when it is there: set-uid programs gain nothing inside. Then tells, line
# by line of its input, what is mounted in the user's other namespaces: only from outside they can be looked into.
_OUTSIDE = """
read -r _ || exit 0
newuidmap "$1" $2 && newgidmap "$1" $3 || exit 1
echo mapped; echo
while read -r _; do cat /proc/[0-9]*/mountinfo 2>/dev/null; echo; done
"""


def enter(root: Path) -> None:
    """Makes this process root of a user namespace of its own, if it is an ordinary user's with subordinate ids.

    To be called before there are threads. Root stays as it is; a store whose files have one owner stays so; so does a
    user who has no subordinate ids, with a warning.

    Args:
        root: the store that is going to be used.

    Raises:
        StorageError: the store needs the namespace, which cannot be had; or newuidmap refuses.
    """
    if os.geteuid() == 0:
        return
    owners = Format(root / "imagedist").owners()
    if owners == "one":
        return
    obstacle = why_not() or _enter(id_map(_SUBUID, os.geteuid()), id_map(_SUBGID, os.getegid()))
    if obstacle is None:
        return
    if owners == "namespace":
        raise StorageError(f"the store {root} has owners in its user's namespace, and {obstacle}")
    _LOG.warning("files will belong to you, whatever their layers say: %s", obstacle)


def why_not() -> str | None:
    """What is missing for a user namespace with several ids, and the remedy; None: nothing."""
    for program in ("newuidmap", "newgidmap"):
        if shutil.which(program) is None:
            return f"{program} is missing: install the package uidmap"
    for path in (_SUBUID, _SUBGID):
        if not subordinate_ids(path):
            ids = ids_to_give(_SUBUID, _SUBGID)
            give = f"usermod --add-subuids {ids} --add-subgids {ids} {_name() or 'YOUR-NAME'}"
            return f"you have no ids in {path}: root can give you some, {give}"
    return None


def subordinate_ids(path: Path) -> list[tuple[int, int]]:
    """This user's ranges in /etc/subuid or /etc/subgid (both by user name or id): first id and length, lowest first."""
    names = {str(os.geteuid()), _name()}
    return sorted((first, length) for name, first, length in _all_ids(path) if name in names)


def _all_ids(path: Path) -> Iterator[tuple[str, int, int]]:
    """Everybody's ranges: name or id of the user, first id, length."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        name, first, length = (*line.strip().split(":"), "", "", "")[:3]
        if first.isdigit() and length.isdigit():
            yield name, int(first), int(length)


def ids_to_give(*paths: Path) -> str:
    """As usermod(8) wants them; above all ranges in these files, as two users of one could write each other's files."""
    first = max((_FIRST_ID, *(start + length for path in paths for _, start, length in _all_ids(path))))
    return f"{first}-{first + _IDS - 1}"


def _name() -> str | None:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return None  # such a user may still be listed by id


def id_map(path: Path, own_id: int) -> list[tuple[int, int, int]]:
    """Rows of first id inside, first id outside, length."""
    rows = [(0, own_id, 1)]
    inside = 1
    for first, length in subordinate_ids(path):
        rows.append((inside, first, length))
        inside += length
    return rows


def _enter(uids: list[tuple[int, int, int]], gids: list[tuple[int, int, int]]) -> str | None:
    """Returns what the kernel has against it; then nothing has changed."""
    arguments = [" ".join(str(number) for row in rows for number in row) for rows in (uids, gids)]
    outside = subprocess.Popen(
        ["sh", "-c", _OUTSIDE, "sh", str(os.getpid()), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
        start_new_session=True,  # Ctrl-C is for us, not for it; it ends with its standard input
    )
    libc = ctypes.CDLL(None, use_errno=True)
    # The mount namespace, too: only mounts in one of its own are its root's to make.
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) != 0:
        reason = os.strerror(ctypes.get_errno())
        outside.communicate()
        return (
            f"the kernel refuses a user namespace ({reason}): see sysctl user.max_user_namespaces, "
            "kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns"
        )
    if _answer(outside) is None:
        _, complaint = outside.communicate()
        raise StorageError(f"cannot map your ids: {complaint.strip()}; check /etc/subuid and /etc/subgid")
    usage.ask_outside(lambda: _mounts(outside))
    return None


def _mounts(outside: subprocess.Popen[str]) -> list[str]:
    """The mount tables of the user's other namespaces, line by line."""
    with _asking:
        lines = _answer(outside)
    if lines is None:
        raise StorageError("cannot see what is mounted in other namespaces: our process outside was killed; try again")
    return lines


def _answer(outside: subprocess.Popen[str]) -> list[str] | None:
    """The lines of its next answer; None: it has ended."""
    assert outside.stdin
    assert outside.stdout
    try:
        print(file=outside.stdin, flush=True)
    except BrokenPipeError:
        return None
    lines: list[str] = []
    for line in outside.stdout:
        if line == "\n":
            return lines
        lines.append(line)
    return None
