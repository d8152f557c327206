"""The test network: sites of nodes, links between sites, all in namespaces of their own and gone with the block.

    with Network() as network:
        bj, internet = network.site("bj"), network.site("internet")
        uplink = network.link(bj, internet, bits_per_second=100_000_000)
        registry = internet.node("registry")
        nodes = [bj.node(f"n{number}", bits_per_second=32_000_000) for number in range(8)]
        nodes[0].run(["curl", f"http://{registry.address}:5000/v2/"])
        uplink.cut()

A site is a switch that is also its nodes' gateway; a site without a link to another cannot reach it. The machine's own
interfaces, addresses and routes are never touched, so nothing collides with them or with another network.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import socket
import subprocess
import sys
from types import TracebackType
from typing import Self

from bench.network import keeper
from bench.network.link import Direction, Link
from bench.network.namespace import Namespace
from bench.network.node import Node
from imagedist.errors import ImagedistError

_SITES = ipaddress.ip_network("10.0.0.0/8")
_LINKS = ipaddress.ip_network("172.31.0.0/16")
_END_SECONDS = 90.0
_SEGMENTS_AT_ONCE = 12
"""What a node's TCP hands on as one packet if its window allows (17.4 kB; a cap lets 20 kB through at once): a block
of BitTorrent. On a slow link Linux makes it two, and every program pays for each: an agent at 8 Mbit/s 0.05
CPU-seconds per MB. On the links of a data centre, which slow ones stand for here, as much is one packet (TSO, GRO)."""


class Site:
    """A router with a subnet of its own and a port for each node.

    Were nodes each other's neighbours on a switch, 64 would have 4,032 entries in the kernel's table of neighbours. All
    namespaces of a machine share one, of 1,024 (arp(7), ``gc_thresh3``), and what does not fit cannot connect. A bridge
    between ports and router costs a third of the kernel's part of a packet, and is left out.
    """

    def __init__(self, name: str, subnet: ipaddress.IPv4Network, network: Network) -> None:
        self.name = name
        self.subnet = subnet
        self.gateway = str(subnet[1])
        self.nodes: list[Node] = []
        self._network = network
        self.namespace = network.namespace()
        self.namespace.sysctl("net/ipv4/ip_forward", 1)
        self.namespace.ip(f"address add {self.gateway}/32 dev lo")

    def node(self, name: str, bits_per_second: int | None = None) -> Node:
        """A new machine on a port of its own, its link capped both ways.

        Raises:
            ImagedistError: the kernel refuses.
        """
        number = len(self.nodes)
        address = str(self.subnet[number + 2])
        port = f"port{number}"
        inside = self._network.namespace()
        self.namespace.ip(
            f"link add {port} type veth peer name eth0 netns {inside.path}",
            f"link set {port} up",
            f"route add {address} dev {port} src {self.gateway}",
        )
        inside.sysctl("net/ipv4/tcp_min_tso_segs", _SEGMENTS_AT_ONCE)
        control = f"congctl {self._network.congestion_control}"
        inside.ip(
            f"address add {address}/{self.subnet.prefixlen} dev eth0 noprefixroute",
            "link set eth0 up",
            f"route add {self.gateway} dev eth0 src {address} {control}",
            f"route add default via {self.gateway} src {address} {control}",
        )
        for end, interface in ((inside, "eth0"), (self.namespace, port)):
            end.wait_until_up(interface)
        up = Direction(inside, "eth0", bits_per_second)
        node = Node(name, address, inside, up, Direction(self.namespace, port, bits_per_second))
        self.nodes.append(node)
        return node


class Network:
    """Use as a context manager; what runs in it at the end is killed, and so it is when this process is.

    Args:
        congestion_control: of every node, whatever the machine's own is: Linux' default. With ``bbr`` 20 connections
            over one capped link carried 0.3 to 0.6 of what it could until the last was done, with ``cubic`` 0.95.
    """

    def __init__(self, congestion_control: str = "cubic") -> None:
        self.congestion_control = congestion_control
        self._namespaces: list[Namespace] = []
        self._sites = itertools.count(1)
        self._links = itertools.count()
        self._to_keeper, its_end = socket.socketpair()
        with its_end:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__, str(os.getpid()), str(its_end.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[its_end.fileno()],
                start_new_session=True,  # Ctrl-C is for us
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def site(self, name: str) -> Site:
        """A new site with no nodes and no links. Raises ImagedistError: the kernel refuses."""
        return Site(name, ipaddress.IPv4Network((int(_SITES[0]) + (next(self._sites) << 16), 16)), self)

    def link(self, site: Site, other: Site, bits_per_second: int | None = None) -> Link:
        """Connects two sites, capped both ways; ``there`` leads from the first to the other.

        Raises:
            ImagedistError: the kernel refuses, or they are connected already.
        """
        number = next(self._links)
        name = f"link{number}"
        near, far = (str(_LINKS[4 * number + host]) for host in (1, 2))
        site.namespace.ip(f"link add {name} type veth peer name {name} netns {other.namespace.path}")
        for here, own, gateway, beyond in ((site, near, far, other), (other, far, near, site)):
            here.namespace.ip(
                f"address add {own}/30 dev {name}",
                f"link set {name} up",
                f"route add {beyond.subnet} via {gateway}",
            )
        for end in (site, other):
            end.namespace.wait_until_up(name)
        there, back = (Direction(end.namespace, name, bits_per_second) for end in (site, other))
        return Link(there, back)

    def namespace(self) -> Namespace:
        """One more, whose processes end with the network."""
        made = Namespace()
        self._namespaces.append(made)
        socket.send_fds(self._to_keeper, [b"+"], [made.descriptor])
        return made

    @property
    def keeper_process(self) -> int:
        """Its id; it is gone when everything inside is."""
        return self._keeper.pid

    def close(self) -> None:
        """Kills what still runs inside, waits until it has ended, and lets the namespaces go.

        Raises:
            ImagedistError: something did not end.
        """
        self._to_keeper.close()
        try:
            left = self._keeper.wait(_END_SECONDS)
        finally:
            for namespace in self._namespaces:
                namespace.close()
            self._namespaces.clear()
        if left:
            raise ImagedistError("processes of the test network did not end on SIGKILL")
