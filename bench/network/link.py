"""A link between two namespaces: each direction capped, cut, healed and counted by itself."""

from __future__ import annotations

from collections.abc import Iterable

from bench.network.namespace import Namespace

_BURST_SECONDS = 0.01
_LEAST_BURST_BYTES = 20_000
_QUEUE_SECONDS = 0.1
_LEAST_QUEUE_BYTES = 150_000
"""A hundred full packets: a port of a cheap switch. Below that many connections lose more than they carry."""


class Direction:
    """Everything that leaves one end of a link.

    Args:
        namespace, interface: the sending end.
    """

    def __init__(self, namespace: Namespace, interface: str, bits_per_second: int | None) -> None:
        self._namespace = namespace
        self._interface = interface
        self.bits_per_second = bits_per_second
        self.is_cut = False
        if bits_per_second is not None:
            self._set()

    def limit(self, bits_per_second: int | None) -> None:
        """Carries no more from now on; None: as much as the machine can."""
        self.bits_per_second = bits_per_second
        self._set()

    def cut(self) -> None:
        """Drops every packet silently, as a pulled cable far away does: nobody is told."""
        self.is_cut = True
        self._set()

    def heal(self) -> None:
        """Carries again what it did before ``cut``."""
        self.is_cut = False
        self._set()

    @property
    def bytes(self) -> int:
        """Carried so far, with Ethernet's, IP's and TCP's headers; what a cap or a cut dropped is not in it.

        Packets that the kernel passes on as one (GSO) have one header; a cap counts one for each.
        """
        return self._namespace.counters()[self._interface][1]

    def receive_on(self, cpus: Iterable[int]) -> None:
        """What arrives at this end is handled by these CPUs, as that of a machine of its own is (RPS).

        Raises:
            ImagedistError: the kernel refuses.
        """
        self._namespace.receive_on(self._interface, cpus)

    def _set(self) -> None:
        device = f"dev {self._interface} root"
        if self.is_cut:
            self._namespace.tc(f"qdisc replace {device} pfifo limit 0")
        elif self.bits_per_second is None:
            self._namespace.tc(f"qdisc replace {device} pfifo limit 1000")
        else:
            bytes_per_second = self.bits_per_second / 8
            burst_bytes = max(round(bytes_per_second * _BURST_SECONDS), _LEAST_BURST_BYTES)
            queue_bytes = max(round(bytes_per_second * _QUEUE_SECONDS), _LEAST_QUEUE_BYTES)
            rate = f"rate {self.bits_per_second}bit burst {burst_bytes} limit {queue_bytes}"
            self._namespace.tc(f"qdisc replace {device} tbf {rate}")


class Link:
    """Two directions; what is done to the link is done to both."""

    def __init__(self, there: Direction, back: Direction) -> None:
        self.there = there
        self.back = back

    def limit(self, bits_per_second: int | None) -> None:
        for direction in (self.there, self.back):
            direction.limit(bits_per_second)

    def cut(self) -> None:
        for direction in (self.there, self.back):
            direction.cut()

    def heal(self) -> None:
        for direction in (self.there, self.back):
            direction.heal()
