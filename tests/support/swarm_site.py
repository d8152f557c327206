"""A site on the test network for faults: two racks of nodes, a proxy, two seeders, a registry, all real processes.

What was killed, cut or blocked is put right again by ``heal``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote_from_bytes

from prometheus_client.parser import text_string_to_metric_families

from bench.network import Link, Network, Node, deployment
from bench.network.deployment import Registry, Service, Site
from bench.serving import REPOSITORY, gets, push
from imagedist.agent.client import AgentClient
from imagedist.oci.digest import Digest
from imagedist.swarm.session import TransferStatus
from imagedist.swarm.torrent import TorrentFacts, parse
from tests.support.bad_peer import BadPeer, Manner
from tests.support.counts import count
from tests.support.pulling import Pull

AGENT_PORT, SEEDER_PORT = 6882, 6881
SITE_TIMES = 10
"""The site's host has so many times a node's link."""
PATIENCE_SECONDS = float(count(60, 120))
"""The longest that a client waits for a byte, and a test for what must come."""
_POLL_SECONDS = 0.02


class Program:
    """A process on a node that can be killed and started again, as often as wanted.

    Args:
        process: one that somebody else has started, and ends.
    """

    def __init__(self, start: Callable[[], AbstractContextManager[int]], process: int = 0) -> None:
        self._start = start
        self._running = ExitStack()
        self.process = process

    def start(self) -> None:
        if not self.process:
            self.process = self._running.enter_context(self._start())

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        if self.process:
            os.kill(self.process, signal.SIGKILL)
            os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOWAIT)
        self.stop()

    def stop(self) -> None:
        """SIGTERM; returns when it is gone."""
        self.process = 0
        self._running.close()


class SwarmNode:
    """A node and its agent."""

    def __init__(self, node: Node, directory: Path, site: Callable[[], Site], settings: str, quota_bytes: int) -> None:
        self.node = node
        self.directory = directory
        self.program = Program(lambda: self._agent(site(), settings, quota_bytes))

    @contextmanager
    def _agent(self, site: Site, settings: str, quota_bytes: int) -> Iterator[int]:
        with deployment.agent(self.node, self.directory, site, settings, quota_bytes) as agent:
            yield agent.process

    def received(self) -> Counter[str]:
        """Bytes by source since the agent's start."""
        return self.labelled("imagedist_received_bytes_total", "source")

    def refused(self, reason: str) -> int:
        """Peers that its session hung up on."""
        return self.labelled("imagedist_peers_refused_total", "reason")[reason]

    def transfers(self) -> Sequence[TransferStatus]:
        """Of its session."""
        return AgentClient(self.directory / "agent.sock").transfers().transfers

    def labelled(self, metric: str, label: str) -> Counter[str]:
        return _labelled(self.node.get(f"{deployment.MIRROR}/metrics").decode(), metric, label)


class SwarmSite:
    """Everything runs until the stack is unwound.

    Args:
        quota_blobs: so many blobs fit into a node's cache.

    Attributes:
        uplink: of the site to the registry. ``between``: of its two racks; proxy and first seeder are in the first.
    """

    def __init__(
        self,
        stack: ExitStack,
        directory: Path,
        nodes: int,
        node_bits_per_second: int,
        blob_bytes: int,
        quota_blobs: int = 3,
    ) -> None:
        self.blob_bytes = blob_bytes
        self.directory = directory
        wide = SITE_TIMES * node_bits_per_second
        network = stack.enter_context(Network())
        self.racks = [network.site("rack0"), network.site("rack1")]
        self.internet = network.site("internet")
        self.between = network.link(*self.racks)
        self.uplink = network.link(self.racks[0], self.internet, wide)
        self.links: list[Link] = [self.between, self.uplink]
        self.registry: Registry = stack.enter_context(
            deployment.registry(self.internet.node("registry"), directory / "upstream")
        )
        self.site: Site = stack.enter_context(
            deployment.site(
                self.racks[0].node("site", wide),
                directory / "site",
                self.registry,
                f'site_blobs_quota = {6 * blob_bytes}\nsite_blobs_headroom = "16MiB"',
                f'announce_interval = "5s"\n[tracker]\nnetworks = {self._networks()}',
                [self.racks[0].node("second-seeder", wide)],
            )
        )
        self.proxy = _program(deployment.proxy_of, self.site.proxy)
        self.seeders = [_program(deployment.seeder_of, seeder) for seeder in self.site.seeders]
        for program in (self.proxy, *self.seeders):
            stack.callback(program.stop)
        self.blocked: list[tuple[Node, int]] = []
        self.nodes = []
        for number in range(nodes):
            node = self.racks[number % 2].node(f"n{number}", node_bits_per_second)
            self.nodes.append(self.add(stack, node, quota_blobs * blob_bytes + (1 << 20)))
        stack.callback(self._kill_agents)

    def add(self, stack: ExitStack, node: Node, quota_bytes: int) -> SwarmNode:
        """An agent on a node, which runs until the stack is unwound."""
        made = SwarmNode(
            node, self.directory / node.name, lambda: self.site, f"peer_networks = {self._networks()}", quota_bytes
        )
        made.program.start()
        stack.callback(made.program.stop)
        return made

    def _networks(self) -> str:
        """Of its peers: no others are let in. TOML."""
        return json.dumps([str(rack.subnet) for rack in self.racks])

    def heal(self) -> None:
        """Everything runs and is connected as it was in the beginning."""
        for link in self.links:
            link.heal()
        for node, port in self.blocked:
            node.unblock(port)
        self.blocked.clear()
        for program in (self.proxy, *self.seeders, *(each.program for each in self.nodes)):
            program.start()

    def block(self, node: Node, port: int) -> None:
        node.block(port)
        self.blocked.append((node, port))

    def push(self) -> Digest:
        """A blob of random bytes, new in the registry."""
        with self.registry.node.namespace.entered():
            _, (digest,) = push(deployment.LOCAL_REGISTRY, [self.blob_bytes])
        return digest

    def torrent(self, digest: Digest) -> TorrentFacts:
        """Has the site fetch the blob; its torrent, once the seeders know it. Raises ImagedistError."""
        site = self.site
        query = f"ns={self.registry.address}&repo={REPOSITORY}&wait=8"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            body = self.nodes[0].node.get(f"{site.proxy_url}/site/v1/torrents/{digest}?{query}")
            if not body.startswith(b"{"):
                return parse(body)
            assert time.monotonic() < deadline, f"the site makes no torrent: {body!r}"

    def peers(self) -> int:
        """That the first tracker knows, over all torrents; nodes announce to every tracker."""
        text = self.site.seeders[0].node.get(f"{self.site.seeder_urls[0]}/metrics").decode()
        return _labelled(text, "imagedist_tracker_peers", "")[""]

    def pull(self, nodes: Sequence[SwarmNode], digest: Digest) -> Pull:
        path = f"/v2/{REPOSITORY}/blobs/{digest}?ns={self.registry.address}"
        return Pull([each.node for each in nodes], path, PATIENCE_SECONDS)

    def upstream_reads(self, digest: Digest) -> int:
        """How often the registry was asked for the blob's bytes."""
        return gets(self.registry.log, digest)

    @contextmanager
    def bad_peer(self, facts: TorrentFacts, manner: Manner) -> Iterator[BadPeer]:
        """A node of the first rack that has told both trackers that it is a seed."""
        node = self.racks[0].node(f"bad{len(self.racks[0].nodes)}")
        with node.namespace.entered():
            listening = socket.create_server((node.address, AGENT_PORT), backlog=64)
        with BadPeer(listening, facts, manner) as bad:
            query = f"info_hash={quote_from_bytes(facts.short_infohash)}&port={AGENT_PORT}&left=0"
            for url in self.site.seeder_urls:
                assert b"failure" not in node.get(f"{url}/announce?{query}")
            yield bad

    def _kill_agents(self) -> None:
        for each in self.nodes:
            each.program.kill()


def _program(start: Callable[[Node, Path], AbstractContextManager[int]], runs: Service) -> Program:
    return Program(lambda: start(runs.node, runs.config), runs.process)


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_SECONDS:.0f} s"
        time.sleep(_POLL_SECONDS)


def _labelled(text: str, metric: str, label: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == metric:
                found[sample.labels.get(label, "")] += round(sample.value)
    return found
