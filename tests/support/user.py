"""An ordinary user of this machine, made for a test, with subordinate ids; root makes it and takes it away."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_REPOSITORY = Path(__file__).parents[2]

_IDS = "2000000-2065535"
"""Subordinate ones, of users and of groups."""

_HOME = "/dev/shm"  # takes overlay mounts

# crun refuses the hybrid cgroups of some machines.
_PRIVATE = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'

# A private view in which the interpreter and this repository can be reached even if they lie in root's closed home.
# Arguments: the closed directory, the trees in it to keep, --, the command.
_OPENED = """
closed=$1; shift; aside=$(mktemp -d /tmp/opened.XXXXXX); count=0; trees=
while [ "$1" != -- ]; do
    count=$((count + 1)); mkdir "$aside/$count"; mount --bind "$1" "$aside/$count"; trees="$trees $1"; shift
done
mount -t tmpfs -o mode=755 tmpfs "$closed"; count=0
for tree in $trees; do count=$((count + 1)); mkdir -p "$tree"; mount --move "$aside/$count" "$tree"; done
rm -r "$aside"; shift; exec "$@"
"""


@dataclass(frozen=True)
class OrdinaryUser:
    """Attributes: home: empty, on a file system that takes overlay mounts."""

    name: str
    uid: int
    gid: int
    home: Path

    def run(self, *command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end, as a login of this user would."""
        run = ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups", *command]
        run = ["unshare", "--mount", "sh", "-uc", _PRIVATE, "sh", *run]
        for closed, trees in _closed().items():
            run = ["unshare", "--mount", "sh", "-euc", _OPENED, "sh", closed, *trees, "--", *run]
        environment = {
            "HOME": str(self.home),
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "PYTHONPATH": str(_REPOSITORY),
            "XDG_RUNTIME_DIR": str(self.home / "run"),
            **(env or {}),
        }
        return subprocess.run(run, cwd=self.home, env=environment, capture_output=True, text=True, timeout=100)

    def imagedist(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(*self.command(*arguments))

    @staticmethod
    def command(*arguments: str) -> list[str]:
        """The words of an ``imagedist`` command."""
        return [sys.executable, "-m", "imagedist", *arguments]

    def drop_ids(self) -> None:
        """Takes the subordinate ids away."""
        self._modify("--del-subuids", _IDS, "--del-subgids", _IDS)

    def add_ids(self) -> None:
        """Gives the user subordinate ids."""
        self._modify("--add-subuids", _IDS, "--add-subgids", _IDS)

    def _modify(self, *options: str) -> None:
        """By the program, which takes the locks: another test may have its own user at the same time."""
        subprocess.run(["/usr/sbin/usermod", *options, self.name], check=True, capture_output=True)


def _closed() -> dict[str, list[str]]:
    """Directories that other users cannot enter, with the trees below them that a test needs."""
    closed: dict[str, list[str]] = {}
    for tree in dict.fromkeys(str(path) for path in (Path(sys.base_prefix), Path(sys.prefix), _REPOSITORY)):
        for above in reversed(Path(tree).parents):
            if not above.stat().st_mode & 0o001:
                closed.setdefault(str(above), []).append(tree)
                break
    return closed


@contextmanager
def ordinary_user() -> Iterator[OrdinaryUser]:
    """The user while it is needed."""
    name = f"imagedist-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="home-", dir=_HOME) as parent:
        Path(parent).chmod(0o755)
        home = Path(parent) / "h"
        options = ["--system", "--user-group", "--create-home", "--skel", "/nowhere"]
        subprocess.run(["/usr/sbin/useradd", *options, "--home-dir", str(home), name], check=True, capture_output=True)
        try:
            entry = pwd.getpwnam(name)
            (home / "run").mkdir(mode=0o700)
            os.chown(home / "run", entry.pw_uid, entry.pw_gid)
            user = OrdinaryUser(name, entry.pw_uid, entry.pw_gid, home)
            user.add_ids()
            yield user
            for process in _processes_of(entry.pw_uid):  # such as podman's, which holds its namespace
                with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                    os.kill(process, signal.SIGKILL)
        finally:
            subprocess.run(["/usr/sbin/userdel", "--force", name], check=True, capture_output=True)


def _processes_of(uid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if path.stat().st_uid == uid:
                found.append(int(path.name))
    return found
