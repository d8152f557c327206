"""The test network itself: who reaches whom, what a link carries, what is left behind."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.network import Network, Node
from bench.processes import environment
from imagedist.errors import ImagedistError
from tests.support.holders import links

pytestmark = pytest.mark.network

_PORT = 8000
_PATIENCE_SECONDS = 60.0
_IMPATIENCE_SECONDS = 0.3
"""Enough to see that nobody answers: a link that works takes a hundredth of it, on a busy machine, too."""
_GONE_SECONDS = 60.0
_PROJECT = Path(__file__).parents[3]

_OWNER = """
import os, subprocess, time
from bench.network import Network
network = Network()
node = network.site("one").node("n1")
inside = subprocess.Popen(node.command(["sleep", "1000"]), start_new_session=True)
number = str(os.fstat(node.namespace.descriptor).st_ino)
while number not in os.readlink(f"/proc/{inside.pid}/ns/net"):
    time.sleep(0.01)
print(inside.pid, network.keeper_process, number, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


def _serve(node: Node) -> socket.socket:
    """A listening socket of the node; what connects is never accepted, but connected all the same."""
    with node.namespace.entered():
        return socket.create_server((node.address, _PORT), backlog=64)


def _reaches(node: Node, other: Node, seconds: float = _PATIENCE_SECONDS) -> bool:
    with node.namespace.entered():
        try:
            socket.create_connection((other.address, _PORT), seconds).close()
        except OSError:
            return False
        return True


def _loses(node: Node, other: Node) -> bool:
    return not _reaches(node, other, _IMPATIENCE_SECONDS)


def _send(sender: Node, receiver: Node, size_bytes: int) -> float:
    """Sends bytes over one connection; seconds until the receiver has them."""
    with _serve(receiver) as listener:
        with sender.namespace.entered():
            connection = socket.create_connection((receiver.address, _PORT), 30)
        with connection, listener.accept()[0] as accepted:
            accepted.settimeout(30)
            connection.setblocking(False)
            started, left, pending = time.monotonic(), size_bytes, size_bytes
            while left:
                readable, writable, _ = select.select([accepted], [connection] if pending else [], [], 30)
                assert readable or writable, f"{left} bytes did not arrive within 30 s"
                if writable:
                    pending -= connection.send(bytes(min(pending, 65_536)))
                if readable:
                    left -= len(accepted.recv(1 << 20))
            return time.monotonic() - started


def test_nodes_of_a_site_reach_each_other_and_another_site_only_by_a_link(network: Network) -> None:
    here, there = network.site("here"), network.site("there")
    one, two, far = here.node("one"), here.node("two"), there.node("far")
    with _serve(two), _serve(far):
        assert _reaches(one, two)
        assert _loses(one, far)
        network.link(here, there)
        assert _reaches(one, far)


def test_more_nodes_than_the_machine_remembers_neighbours_reach_each_other_at_once(network: Network) -> None:
    site = network.site("one")
    nodes = [site.node(f"n{number}") for number in range(40)]  # 1,560 pairs; the kernel has room for 1,024
    with ExitStack() as stack:
        for node in nodes:
            stack.enter_context(_serve(node))
        for node in nodes:
            with node.namespace.entered():
                for other in nodes:
                    if other is not node:
                        socket.create_connection((other.address, _PORT), _PATIENCE_SECONDS).close()


def test_the_machine_itself_has_no_address_of_the_network(network: Network) -> None:
    site = network.site("here")
    for address in (site.node("one").address, site.gateway):
        with pytest.raises(OSError, match="assign requested address"):
            socket.create_server((address, _PORT))


def test_nodes_do_not_inherit_the_machines_congestion_control(network: Network) -> None:
    routes = network.site("here").node("one").run(["ip", "route"]).splitlines()
    assert len(routes) == 2
    assert all("congctl cubic" in route for route in routes)


def test_two_networks_have_the_same_addresses_and_do_not_meet(network: Network) -> None:
    with Network() as another:
        one, two = (each.site("here").node("one") for each in (network, another))
        assert one.address == two.address
        with _serve(one), _serve(two):
            pass


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_node_sends_and_receives_no_faster_than_its_link(network: Network, direction: str) -> None:
    site = network.site("here")
    capped, free = site.node("capped", bits_per_second=32_000_000), site.node("free")
    sender, receiver = (capped, free) if direction == "up" else (free, capped)

    seconds = _send(sender, receiver, 4_000_000)

    least_seconds = 4_000_000 * 8 / 32_000_000
    assert seconds > least_seconds * 0.95
    assert seconds < least_seconds * 20, "a link of 4 MB/s carried little of that"
    carried = capped.up.bytes if direction == "up" else capped.down.bytes
    assert 4_000_000 <= carried < 4_000_000 * 1.06


def test_the_nodes_of_a_site_share_the_links_between_sites(network: Network) -> None:
    here, there = network.site("here"), network.site("there")
    uplink = network.link(here, there, bits_per_second=32_000_000)
    near, far = here.node("near"), there.node("far")

    seconds = _send(far, near, 2_000_000)

    assert seconds > 0.95 * 2_000_000 * 8 / 32_000_000
    assert 2_000_000 <= uplink.back.bytes < 2_000_000 * 1.06
    assert uplink.there.bytes < 200_000


def test_a_link_is_slowed_while_it_runs(network: Network) -> None:
    site = network.site("here")
    one, two = site.node("one"), site.node("two")

    one.link.limit(8_000_000)

    assert _send(one, two, 500_000) > 0.95 * 500_000 * 8 / 8_000_000


def test_packets_that_come_to_an_end_are_handled_by_the_cpus_it_is_told(network: Network) -> None:
    node = network.site("one").node("n1")
    node.up.receive_on([0])
    read = "mount -t sysfs sysfs /sys && cat /sys/class/net/eth0/queues/rx-0/rps_cpus"
    assert int(node.run(["unshare", "--mount", "sh", "-ec", read]).replace(",", ""), 16) == 1


def test_a_cut_link_swallows_everything_and_carries_again_when_it_is_healed(network: Network) -> None:
    here, there = network.site("here"), network.site("there")
    uplink = network.link(here, there, bits_per_second=100_000_000)
    near, far = here.node("near"), there.node("far")
    with _serve(far):
        assert _reaches(near, far)

        uplink.cut()
        assert _loses(near, far)

        uplink.heal()
        assert _reaches(near, far)
    assert uplink.there.bits_per_second == 100_000_000


def test_one_direction_alone_is_cut(network: Network) -> None:
    site = network.site("here")
    one, two = site.node("one"), site.node("two")
    with _serve(two):
        assert _reaches(one, two)
        one.down.cut()
        before = two.down.bytes
        assert _loses(one, two)
        assert two.down.bytes > before, "what it asked did not arrive, either"


def test_a_blocked_port_lets_nobody_in_and_its_node_out(network: Network) -> None:
    site = network.site("here")
    one, two = site.node("one"), site.node("two")
    with _serve(one), _serve(two):
        two.block(_PORT)
        assert _loses(one, two)
        assert _reaches(two, one)
        two.unblock(_PORT)
        assert _reaches(one, two)


def test_a_program_on_a_node_has_the_process_id_it_was_started_with(network: Network) -> None:
    node = network.site("here").node("one")

    assert node.run(["sh", "-c", "hostname -I"]).split() == [node.address]
    process = subprocess.Popen(node.command(["sleep", "1000"]))
    process.terminate()
    assert process.wait(_GONE_SECONDS) == -signal.SIGTERM


def test_a_program_that_fails_is_an_error_with_its_last_line(network: Network) -> None:
    node = network.site("here").node("one")
    with pytest.raises(ImagedistError, match="no such thing"):
        node.run(["sh", "-c", "echo no such thing >&2; exit 3"])


def test_what_runs_in_the_network_ends_with_it() -> None:
    with Network() as network:
        node = network.site("here").node("one")
        process = subprocess.Popen(
            node.command(["sh", "-c", "trap '' TERM HUP; echo inside; sleep 1000 & wait"]), stdout=-1
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"inside\n"
            network.close()
            assert process.wait(_GONE_SECONDS) == -signal.SIGKILL


def test_nothing_is_left_when_its_owner_is_killed() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER],
        stdout=subprocess.PIPE,
        text=True,
        env=environment({"PYTHONPATH": str(_PROJECT)}),
    )
    with owner:
        assert owner.stdout is not None
        inside, keeper, number = map(int, owner.stdout.readline().split())
        ends = [os.pidfd_open(process) for process in (inside, keeper)]
        held = os.open(f"/proc/{inside}/ns/net", os.O_RDONLY)  # or the next namespace of the machine has its number
        owner.kill()
    for end in ends:
        assert select.select([end], [], [], _GONE_SECONDS)[0], "it still runs"
        os.close(end)
    assert os.fstat(held).st_ino == number
    assert _holders(number) == [Path(f"/proc/{os.getpid()}/fd/{held}")], "the namespace is still there"
    os.close(held)


def _holders(number: int) -> list[Path]:
    """Processes in a network namespace, and descriptors of it."""
    return [link for link, held in links() if held == f"net:[{number}]"]
