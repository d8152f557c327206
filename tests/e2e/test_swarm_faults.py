"""What leaves, lies or slows down while all nodes of a site pull a blob: each still ends with the right bytes.

Reduced here; ``make prove`` has 16 nodes pull 100 MB. docs/test-network.md has what was broken on purpose, and figures.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest

from bench.network import Node
from imagedist.oci.digest import Digest
from imagedist.swarm.torrent import TorrentFacts
from tests.support import wire
from tests.support.bad_peer import Manner
from tests.support.counts import count
from tests.support.pulling import Pull
from tests.support.swarm_site import AGENT_PORT, PATIENCE_SECONDS, SEEDER_PORT, SwarmNode, SwarmSite, until
from tests.support.wire import Wire

pytestmark = [
    pytest.mark.e2e("docker-registry"),
    pytest.mark.network,
    pytest.mark.prove,
    pytest.mark.timeout(count(180, 600)),
]

NODES = count(5, 16)
BLOB_BYTES = count(9_000_000, 100_000_000)
NODE_LINK = count(28_000_000, 32_000_000)
HALFWAY = 0.3
"""Of the blob, when the fault comes: time enough to see it, and most is still to be fetched."""


@pytest.fixture(scope="module")
def running() -> Iterator[SwarmSite]:
    directory = Path(tempfile.mkdtemp(prefix="faults-", dir="/dev/shm"))
    try:
        with ExitStack() as stack:
            yield SwarmSite(stack, directory, NODES, NODE_LINK, BLOB_BYTES)
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def site(running: SwarmSite) -> Iterator[SwarmSite]:
    running.heal()
    yield running
    running.heal()


@pytest.fixture
def blob(site: SwarmSite) -> Iterator[Digest]:
    """New in the registry; at the end it was read there twice at most, whatever happened."""
    digest = site.push()
    yield digest
    assert 1 <= site.upstream_reads(digest) <= 2


def halfway(pull: Pull) -> None:
    pull.wait_carried(HALFWAY * BLOB_BYTES)


def assert_right(pull: Pull, digest: Digest, nodes: Sequence[SwarmNode] | None = None) -> None:
    """Each client of these nodes (None: of all) has the whole blob, by its one request."""
    done = pull.wait_done()
    for node in pull.nodes if nodes is None else [each.node for each in nodes]:
        assert done[node].digest == digest, f"{node.name}: {done[node]}"
    slowest, silence = max(one.seconds for one in done.values()), max(one.silence_seconds for one in done.values())
    print(f"{len(done)} nodes: the slowest took {slowest:.1f} s, the longest silence {silence:.1f} s")


def test_both_seeders_die_and_the_nodes_go_on_among_themselves(site: SwarmSite, blob: Digest) -> None:
    pull = site.pull(site.nodes, blob)
    halfway(pull)
    for seeder in site.seeders:
        seeder.kill()
    assert_right(pull, blob)


def test_one_tracker_of_two_dies_and_a_late_node_is_introduced_by_the_other(site: SwarmSite, blob: Digest) -> None:
    *early, late = site.nodes
    pull = site.pull(early, blob)
    halfway(pull)
    site.seeders[0].kill()
    before = late.received()
    late_pull = site.pull([late], blob)
    assert_right(pull, blob)
    assert_right(late_pull, blob)
    assert late.received()["peer"] > before["peer"], "nobody introduced it to a node"


def test_the_proxy_dies_after_the_torrent_is_out(site: SwarmSite, blob: Digest) -> None:
    site.torrent(blob)
    pull = site.pull(site.nodes, blob)
    halfway(pull)
    site.proxy.kill()
    assert_right(pull, blob)


def test_half_of_the_nodes_are_killed_and_come_back(site: SwarmSite, blob: Digest) -> None:
    survivors, victims = site.nodes[::2], site.nodes[1::2]
    pull, doomed = site.pull(survivors, blob), site.pull(victims, blob)
    halfway(pull)
    for each in victims:
        each.program.kill()
    doomed.wait_done()
    for each in victims:
        each.program.start()
    again = site.pull(victims, blob)
    assert_right(pull, blob)
    assert_right(again, blob)


@pytest.mark.parametrize("manner", ["corrupt", "silent", "stalling"])
def test_a_bad_peer_is_met_and_left(site: SwarmSite, blob: Digest, manner: Manner) -> None:
    before = refused(site.nodes)
    with site.bad_peer(site.torrent(blob), manner) as bad:
        pull = site.pull(site.nodes, blob)
        assert_right(pull, blob)
        assert bad.met > 0
        until(lambda: bad.is_alone, "nobody has anything to do with it any more")
        if manner == "corrupt":
            until(lambda: refused(site.nodes) > before, "who sends wrong bytes is banned")


def refused(nodes: Sequence[SwarmNode]) -> int:
    return sum(each.refused("corrupt") for each in nodes)


def test_a_seed_at_a_hundredth_of_the_speed_holds_nobody_up(site: SwarmSite, blob: Digest) -> None:
    slow, *others = site.nodes
    first = site.pull([slow], blob)
    assert_right(first, blob)
    slow.node.link.limit(NODE_LINK // 100)
    try:
        pull = site.pull(others, blob)
        assert_right(pull, blob)
    finally:
        slow.node.link.limit(NODE_LINK)


def test_a_disk_that_fills_ends_neither_its_agent_nor_any_pull(site: SwarmSite, blob: Digest) -> None:
    node = site.racks[0].node("full", NODE_LINK)
    directory = site.directory / node.name
    directory.mkdir()
    _mount_tmpfs(directory, 2 * BLOB_BYTES + (64 << 20))
    try:
        with ExitStack() as stack:
            full = site.add(stack, node, 2 * BLOB_BYTES)
            pull, its_pull = site.pull(site.nodes, blob), site.pull([full], blob)
            halfway(its_pull)
            _fill(directory / "others")
            assert_right(pull, blob)
            # What was given of pieces cannot be checked without room: it may break off, but never end with other bytes.
            ended = its_pull.wait_done()[node]
            assert ended.digest == blob or "broke off" in ended.failure, ended
            assert_right(site.pull([full], blob), blob)
            (directory / "others").unlink()
            assert_right(site.pull([full], blob), blob)
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def _mount_tmpfs(directory: Path, size_bytes: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(directory)], check=True)


def _fill(path: Path) -> None:
    """Until there is no room for a byte."""
    with path.open("wb", buffering=0) as file:
        for size_bytes in (1 << 20, 1):
            try:
                while True:
                    file.write(bytes(size_bytes))
            except OSError:
                continue


def test_a_site_cut_off_from_upstream_gives_what_it_has(site: SwarmSite, blob: Digest) -> None:
    site.torrent(blob)
    site.uplink.cut()
    assert_right(site.pull(site.nodes, blob), blob)


def test_a_cut_in_the_middle_of_the_only_read_is_gone_on_from(site: SwarmSite, blob: Digest) -> None:
    site.uplink.limit(NODE_LINK)
    try:
        pull = site.pull(site.nodes, blob)
        carried = site.uplink.back.bytes
        until(lambda: site.uplink.back.bytes - carried > HALFWAY * BLOB_BYTES, "the site reads the blob")
        site.uplink.cut()
        until(lambda: is_still(site.nodes), "the nodes have what the site has")
        site.uplink.heal()
        assert_right(pull, blob)
    finally:
        site.uplink.limit(10 * NODE_LINK)


def is_still(nodes: Sequence[SwarmNode]) -> bool:
    """Whether next to nothing comes to any node for a second."""
    counts = [each.node.down.bytes for each in nodes]
    time.sleep(1.0)
    return all(each.node.down.bytes - was < 100_000 for each, was in zip(nodes, counts, strict=True))


def test_half_of_the_nodes_let_nobody_in(site: SwarmSite, blob: Digest) -> None:
    for each in site.nodes[::2]:
        site.block(each.node, AGENT_PORT)
    assert_right(site.pull(site.nodes, blob), blob)


def test_without_a_single_open_peer_port_the_web_seed_serves_everybody(site: SwarmSite, blob: Digest) -> None:
    site.torrent(blob)
    before = received(site.nodes, "webseed")
    for each in site.nodes:
        site.block(each.node, AGENT_PORT)
    for seeder in site.site.seeders:
        site.block(seeder.node, SEEDER_PORT)
    assert_right(site.pull(site.nodes, blob), blob)
    assert received(site.nodes, "webseed") - before > BLOB_BYTES


def received(nodes: Sequence[SwarmNode], source: str) -> int:
    return sum(each.received()[source] for each in nodes)


def test_a_partition_of_the_racks_ends_and_all_is_well(site: SwarmSite, blob: Digest) -> None:
    here, there = site.nodes[::2], site.nodes[1::2]
    pull, far_pull = site.pull(here, blob), site.pull(there, blob)
    halfway(far_pull)
    site.between.cut()
    assert_right(pull, blob)  # on this side are proxy and seeders
    site.between.heal()
    assert_right(far_pull, blob)


def test_a_stranger_from_outside_the_sites_networks_gets_nothing_from_anybody(site: SwarmSite, blob: Digest) -> None:
    facts = site.torrent(blob)
    assert_right(site.pull(site.nodes[:1], blob), blob)
    stranger = site.internet.node("stranger")
    asked = f"announce?info_hash={quote_from_bytes(facts.short_infohash)}&port={AGENT_PORT}&left=9"
    for seeder, url in zip(site.site.seeders, site.site.seeder_urls, strict=True):
        assert b"tracker.networks" in stranger.get(f"{url}/{asked}")
        assert is_hung_up_on(stranger, seeder.node, SEEDER_PORT, facts)
    before = site.nodes[0].refused("foreign")
    assert is_hung_up_on(stranger, site.nodes[0].node, AGENT_PORT, facts)
    until(lambda: site.nodes[0].refused("foreign") == before + 1, "the stranger is counted")


def is_hung_up_on(stranger: Node, node: Node, port: int, facts: TorrentFacts) -> bool:
    with stranger.namespace.entered():
        line = Wire.to((node.address, port), timeout_seconds=PATIENCE_SECONDS)
    with line:
        try:
            line.say(wire.handshake(facts.short_infohash))
            return line.hear(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True
