"""The directories of short-lived files, empty and for one test alone: what is left in them was left by it."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.account import CPU_V1, PREFIX, own_cgroup
from tests.support.holders import links

_EMPTY = ("/dev/shm", "/var/tmp", "/run")
_SCRIPT = f"for each in {' '.join(_EMPTY)}; do mount -t tmpfs tmpfs $each; done; echo ready; read -r line"
_OF_OTHERS = ("/run/mount", "/run/libpod", "/run/docker")
"""Made by mount(8), podman and dockerd, whatever directories they are given."""
_MARK = "IMAGEDIST_ROOM"


class Room:
    """A mount namespace; what runs in it has a mark in its environment.

    Attributes:
        networks: descriptors of the network namespaces of programs, by number, as ``look`` found them.
    """

    def __init__(self, holder: int) -> None:
        self._holder = holder
        self._mark = f"{_MARK}={uuid.uuid4()}"
        self._mounts = self._mounted()
        self.networks: dict[int, int] = {}

    def start(self, command: Sequence[str], directory: Path) -> subprocess.Popen[str]:
        """A program in the room, with a group of its own; what it says goes to ``said`` in the directory."""
        name, _, value = self._mark.partition("=")
        with (directory / "said").open("w") as said:
            return subprocess.Popen(
                ["nsenter", f"--mount=/proc/{self._holder}/ns/mnt", f"--wd={directory}", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**os.environ, name: value, "TMPDIR": "/var/tmp"},
                start_new_session=True,
                text=True,
            )

    def look(self) -> None:
        """Holds the network namespaces of what runs, so that no other can have their numbers."""
        ours = os.stat("/proc/self/ns/net").st_ino
        for process in self._processes():
            try:
                descriptor = os.open(f"/proc/{process}/ns/net", os.O_RDONLY)
            except OSError:
                continue
            number = os.fstat(descriptor).st_ino
            if number == ours or number in self.networks:
                os.close(descriptor)
            else:
                self.networks[number] = descriptor

    def left(self, owner: int) -> list[str]:
        """What is still there: processes, mounts, network namespaces, files, control groups of the benchmark."""
        found = [f"process {process}: {_line(process)}" for process in self._processes()]
        found += [f"mount {line}" for line in sorted(self._mounted() - self._mounts)]
        found += [f"network namespace {number}" for number in self._held_networks()]
        for each in _EMPTY:
            names = os.listdir(f"/proc/{self._holder}/root{each}")
            found += [f"file {each}/{name}" for name in names if f"{each}/{name}" not in _OF_OTHERS]
        groups = (own_cgroup(), CPU_V1)
        return found + [str(path) for each in groups if each for path in each.glob(f"{PREFIX}{owner}-*")]

    def close(self) -> None:
        for descriptor in self.networks.values():
            os.close(descriptor)
        self.networks.clear()

    def _processes(self) -> list[int]:
        mark, found = self._mark.encode(), []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (path / "environ").read_bytes().split(b"\0"):
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    def _mounted(self) -> set[str]:
        lines = Path(f"/proc/{self._holder}/mountinfo").read_text().splitlines()
        return {" ".join(line.split()[3:]) for line in lines}

    def _held_networks(self) -> list[int]:
        numbers = {f"net:[{number}]": number for number in self.networks}
        own = f"/proc/{os.getpid()}/"
        return sorted({numbers[held] for link, held in links() if held in numbers and not str(link).startswith(own)})


def _line(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except OSError:
        return "gone"


@contextmanager
def room() -> Iterator[Room]:
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-e", "-c", _SCRIPT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "ready\n"
            made = Room(holder.pid)
            try:
                yield made
            finally:
                made.close()
        finally:
            holder.stdin.close()
