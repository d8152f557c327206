"""A node as its runtimes see it: own /run, /var/lib and /etc files, in a mount namespace for each command."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess

from tests.e2e import processes
from tests.e2e.processes import Process

# Mounted in a namespace of its own, everything here is gone with the command. Debian's crun refuses the hybrid cgroup
# layout, so the unified half is hidden where there is one. The open-files limit is what crun may set at most.
_ENTER = """
set -e
if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
base=$1; shift
for etc in "$base"/etc/*; do # directories that this machine lacks appear, empty
    if [ -d "$etc" ] && [ ! -d "/etc/${etc##*/}" ]; then mount -t overlay -o "ro,lowerdir=$base/etc:/etc" etc /etc; fi
done
mount --bind "$base/hosts" /etc/hosts
mount --bind "$base/run" /run
mount --bind "$base/lib" /var/lib
for etc in "$base"/etc/*; do if [ -d "$etc" ]; then mount --bind "$etc" "/etc/${etc##*/}"; fi; done
if [ -n "$1" ]; then mount --rbind "$1" /var/lib/imagedist/storage; fi
if [ -n "$2" ]; then mount -t overlay -o "ro,lowerdir=$2:/usr" usr /usr; fi
shift 2
exec "$@"
"""


class Node:
    """Directories and name resolution of one machine; the shipped files name real paths, and here they are real.

    Args:
        base: a short path on a file system that overlay mounts accept (Unix socket paths have 107 characters).
        hosts: name → address. Names of the outside world go to an address where nothing listens.
        storage: what ``/var/lib/imagedist/storage`` shows: the storage root of an agent.
        usr: programs and libraries of a newer Debian, laid over this machine's.

    Attributes:
        etc: each directory in it is shown below ``/etc``, by its name.
        env: what all its commands have: a home without anybody's credentials, Debian's own programs first.
    """

    def __init__(
        self,
        base: Path,
        hosts: Mapping[str, str],
        storage: Path | None = None,
        usr: Path | None = None,
    ) -> None:
        self.base = base
        self.etc = base / "etc"
        self.run_directory = base / "run"
        self._arguments = [str(base), str(storage or ""), str(usr or "")]
        self.env = {
            "HOME": str(base / "home"),
            "PATH": f"/usr/bin:/usr/sbin:{os.environ['PATH']}",
            "LIBMOUNT_FORCE_MOUNT2": "always",  # the kernel's newer call takes no option of more than 255 characters
        }
        for directory in ("run/lock", "lib/imagedist/storage", "home", "etc"):
            (base / directory).mkdir(parents=True)
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in hosts.items())]
        (base / "hosts").write_text("\n".join(lines) + "\n")

    def wrap(self, argv: Sequence[str]) -> list[str]:
        return ["unshare", "--mount", "sh", "-c", _ENTER, "node", *self._arguments, *argv]

    def start(self, argv: Sequence[str], name: str) -> Process:
        return Process(self.wrap(argv), self.base / f"{name}.log", self.env)

    def start_beside(self, other: Process, argv: Sequence[str], name: str) -> Process:
        """Another daemon, in the mount namespace of one that runs: each sees what the other mounts."""
        entered = ["nsenter", f"--mount=/proc/{other.pid}/ns/mnt", *argv]
        return Process(entered, self.base / f"{name}.log", self.env)

    def run(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> CompletedProcess[str]:
        return processes.run(self.wrap(argv), {**self.env, **(env or {})})

    def succeed(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> CompletedProcess[str]:
        return processes.succeed(self.wrap(argv), {**self.env, **(env or {})})
