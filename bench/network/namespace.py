"""One network namespace without a name: it is gone when its last process and its last descriptor are."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.processes import environment, run
from imagedist.errors import ImagedistError

_CLONE_NEWNET = 0x40000000
_BATCH_SECONDS = 60.0
_UP_SECONDS = 60.0
_SIOCGIFFLAGS = 0x8913
_IFF_RUNNING = 0x40
"""netdevice(7)"""
_OWN = "/proc/thread-self/ns/net"


class Namespace:
    """Made empty, with its loopback interface up.

    Raises:
        ImagedistError: the kernel refuses.
    """

    def __init__(self) -> None:
        with _returning():
            _call("unshare", _CLONE_NEWNET)
            self.descriptor = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        self.path = f"/proc/{os.getpid()}/fd/{self.descriptor}"
        """For ``nsenter --net=`` and ``ip … netns``, as long as this process lives."""
        with contextlib.suppress(ImagedistError):  # a kernel without it
            self.sysctl("net/ipv6/conf/all/disable_ipv6", 1)
        self.ip("link set lo up")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is inside until the block ends: sockets it makes there stay there. Never await in the block."""
        with _returning():
            _call("setns", self.descriptor, _CLONE_NEWNET)
            yield

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs ``argv`` inside. It is replaced by it, so its process id is the program's."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def ip(self, *lines: str) -> None:
        """Runs ``ip`` inside, a line of arguments each. Raises ImagedistError: one failed."""
        self._batch("ip", lines)

    def tc(self, *lines: str) -> None:
        """Runs ``tc`` inside, a line of arguments each. Raises ImagedistError: one failed."""
        self._batch("tc", lines)

    def _batch(self, program: str, lines: Sequence[str]) -> None:
        with self.entered():
            done = subprocess.run(
                [program, "-batch", "-"],
                input="\n".join(lines),
                capture_output=True,
                text=True,
                env=environment(),
                timeout=_BATCH_SECONDS,
                check=False,
            )
        if done.returncode:
            raise ImagedistError(f"`{program}` failed on {'; '.join(lines)}: {done.stderr.strip() or 'no message'}")

    def sysctl(self, name: str, value: int) -> None:
        """Sets ``/proc/sys/<name>`` of this namespace. Raises ImagedistError: it cannot be set."""
        try:
            with self.entered():
                Path(f"/proc/sys/{name}").write_text(str(value))
        except OSError as error:
            raise ImagedistError(f"cannot set {name} to {value}: {error.strerror}") from error

    def receive_on(self, interface: str, cpus: Iterable[int]) -> None:
        """Has packets that come by an interface handled by these CPUs instead of the sender's
        (Documentation/networking/scaling.rst, RPS). Raises ImagedistError: the kernel refuses.
        """
        bits = sum(1 << cpu for cpu in cpus)
        mask = ",".join(f"{bits >> shift & 0xFFFFFFFF:08x}" for shift in reversed(range(0, bits.bit_length(), 32)))
        write = f"mount -t sysfs sysfs /sys && echo {mask} > /sys/class/net/{interface}/queues/rx-0/rps_cpus"
        run(self.command(["unshare", "--mount", "sh", "-ec", write]))

    def wait_until_up(self, interface: str) -> None:
        """Returns when the kernel carries packets over an interface, which it does a little after ``link set up``.

        Raises:
            ImagedistError: it does not within some seconds.
        """
        request = struct.pack("16sh14x", interface.encode(), 0)
        deadline = time.monotonic() + _UP_SECONDS
        with self.entered():
            asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with asking:
            while not struct.unpack_from("16xh", fcntl.ioctl(asking, _SIOCGIFFLAGS, request))[0] & _IFF_RUNNING:
                if time.monotonic() > deadline:
                    raise ImagedistError(f"{interface} did not come up within {_UP_SECONDS:.0f} s")
                time.sleep(0.001)

    def counters(self) -> Mapping[str, tuple[int, int]]:
        """Interface → bytes received and sent so far (proc(5), ``/proc/net/dev``)."""
        with self.entered():
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
        rows = ((name.strip(), fields.split()) for name, _, fields in (line.partition(":") for line in lines))
        return {name: (int(fields[0]), int(fields[8])) for name, fields in rows}

    def close(self) -> None:
        os.close(self.descriptor)


@contextmanager
def _returning() -> Iterator[None]:
    """Brings this thread back to the namespace in which the block began."""
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            yield
        finally:
            _call("setns", own, _CLONE_NEWNET)
    finally:
        os.close(own)


def _call(name: str, *arguments: int) -> None:
    """Python has ``os.setns`` and ``os.unshare`` from 3.12 on."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        raise ImagedistError(f"{name}(2) of a network namespace failed: {os.strerror(ctypes.get_errno())}")
