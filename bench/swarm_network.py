"""A site with nodes on the test network, and one burst after another: blobs that nobody has, asked for at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from bench.account import ProcessAccount, descendants, threads
from bench.burst import Burst, burst_of
from bench.network import Link, Network, deployment
from bench.network.deployment import Agent, Registry, Site, check_settings
from bench.peaks import anonymous_bytes
from bench.pulling import Pulled, pull
from bench.serving import REPOSITORY, push
from imagedist.oci.digest import Digest

BLOBS = 2
"""Of each image."""
SITE_TIMES = 10
"""A site's host and its way to the upstream carry this many times what a node's link does."""

AGENT_BYTES = 130_000_000
"""Memory of one, with its libtorrent."""

_NICENESS = -10
STALL_SECONDS = 120.0
WARM_UP_BYTES = 3_000_000
"""Two blobs just above ``swarm_min_size``."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Lines for the first table of each program's configuration, TOML."""

    proxy: str = ""
    seeder: str = ""
    agent: str = ""

    def check(self) -> Self:
        """Raises ConfigError: a program would not start with them."""
        for name, lines in self.facts().items():
            check_settings(name, lines)
        return self

    def facts(self) -> dict[str, str]:
        """Those that there are, by program."""
        return {name: lines for name, lines in asdict(self).items() if lines}


class SwarmNetwork:
    """Everything runs; ``burst`` as often as wanted, with as many of the nodes as wanted."""

    def __init__(self, registry: Registry, uplink: Link, site: Site, agents: Sequence[Agent], image_bytes: int) -> None:
        self._registry = registry
        self._uplink = uplink
        self._site = site
        self._agents = agents
        self._image_bytes = image_bytes
        self.paths: list[str] = []
        self.manifest_digest: Digest | None = None

    @property
    def agents(self) -> Sequence[Agent]:
        return self._agents

    @property
    def registry(self) -> Registry:
        return self._registry

    def cpu_seconds(self) -> float:
        """Of the site's processes and all agents, so far."""
        account = ProcessAccount()
        account.roots = self._processes(self._agents)
        return account.cpu_seconds()

    def _processes(self, agents: Sequence[Agent]) -> set[int]:
        return {self._site.proxy_process, self._site.seeder_process, *(agent.process for agent in agents)}

    def warm_up(self) -> None:
        """Every agent has once done all it will do. Raises ImagedistError: one failed."""
        self.offer([WARM_UP_BYTES // BLOBS] * BLOBS)
        self.ask(self._agents)

    def offer(self, sizes_bytes: Sequence[int]) -> None:
        """A new image of random blobs is in the registry, and nowhere else; ``ask`` is for this one from now on."""
        self.manifest_digest, self.paths = offer(self._registry, sizes_bytes)

    def ask(self, agents: Sequence[Agent]) -> list[Pulled]:
        """Nodes ask their own agents for every blob at once. Raises ImagedistError: one did not get everything."""
        return pull([agent.node for agent in agents], self._urls(deployment.MIRROR), STALL_SECONDS)

    def ask_plainly(self, agents: Sequence[Agent]) -> list[Pulled]:
        """The same past their agents, from the site's proxy. Raises ImagedistError: one did not get everything."""
        return pull([agent.node for agent in agents], self._urls(self._site.proxy_url), STALL_SECONDS)

    def ask_straight(self, agents: Sequence[Agent]) -> list[Pulled]:
        """The same past their site, too, from the registry. Raises ImagedistError: one did not get everything."""
        return pull([agent.node for agent in agents], self._urls(f"http://{self._registry.address}"), STALL_SECONDS)

    def burst(self, count: int, *, is_straight: bool = False, is_warm: bool = False) -> Burst:
        """The first ``count`` nodes ask for a new image at once.

        Args:
            is_straight: from the registry, without agents and site.
            is_warm: the site has the image before.

        Raises:
            ImagedistError: a node did not get everything.
        """
        self.offer([self._image_bytes // BLOBS] * BLOBS)
        if is_warm:
            pull([self._site.node], self._urls(self._site.proxy_url), STALL_SECONDS)
        agents = self._agents[:count]
        received = received_bytes(agents)
        ask = partial(self.ask_straight if is_straight else self.ask, agents)
        burst = burst_of(ask, self._site.node, self._uplink, self._processes(agents))
        return replace(
            burst,
            received_bytes=received_bytes(agents) - received,
            agent_bytes=sum(anonymous_bytes(agent.process) for agent in agents) // count,
        )

    def plain_seconds(self) -> float:
        """The last image again, for one node past its agent: from the site's proxy, which has it, over idle links.

        Raises:
            ImagedistError: it did not come.
        """
        (one,) = self.ask_plainly(self._agents[:1])
        return one.seconds

    def _urls(self, server: str) -> list[str]:
        return [server + path for path in self.paths]


@contextmanager
def swarm_network(
    directory: Path, nodes: int, node_bits_per_second: int, image_bytes: int, configuration: Configuration
) -> Iterator[SwarmNetwork]:
    """A registry, a site's proxy and seeder on one host, and agents on nodes of their own.

    Raises:
        ImagedistError: something did not start.
    """
    wide = SITE_TIMES * node_bits_per_second
    quota_bytes = 3 * max(WARM_UP_BYTES, image_bytes)
    with Network() as network, ExitStack() as stack:
        bench, internet = network.site("bench"), network.site("internet")
        uplink = network.link(bench, internet, wide)
        registry = stack.enter_context(deployment.registry(internet.node("registry"), directory / "upstream"))
        host = deployment.site(
            bench.node("site", wide), directory / "site", registry, configuration.proxy, configuration.seeder
        )
        site = stack.enter_context(host)
        for process in (site.proxy_process, site.seeder_process):
            go_first(process)
        agents = []
        for number in range(nodes):
            node = bench.node(f"n{number}", node_bits_per_second)
            agents.append(
                stack.enter_context(
                    deployment.agent(node, directory / node.name, site, configuration.agent, quota_bytes)
                )
            )
        yield SwarmNetwork(registry, uplink, site, agents, image_bytes)
        for agent in agents:  # all at once: nothing of theirs is wanted any more
            os.kill(agent.process, signal.SIGKILL)


def offer(registry: Registry, sizes_bytes: Sequence[int]) -> tuple[Digest, list[str]]:
    """Pushes an image of random blobs. Its manifest's digest, and the blobs' paths at mirrors of the registry."""
    with registry.node.namespace.entered():
        manifest_digest, digests = push(deployment.LOCAL_REGISTRY, sizes_bytes)
    return manifest_digest, [f"/v2/{REPOSITORY}/blobs/{digest}?ns={registry.address}" for digest in digests]


def go_first(process: int) -> None:
    """The site's host has CPUs of its own. Here its programs, a fiftieth of the load, would wait behind all agents, and
    every agent for them: of a burst of 37 s the seeder waited 32.

    Where the kernel has a group for each session (sched(7), autogroup), a group's niceness counts, not a thread's.
    """
    for each in (process, *descendants(process)):
        with contextlib.suppress(OSError):
            Path(f"/proc/{each}/autogroup").write_text(str(_NICENESS))
        for thread in threads(each):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.setpriority(os.PRIO_PROCESS, thread, _NICENESS)


def received_bytes(agents: Sequence[Agent]) -> Counter[str]:
    """Of blobs, by all of them together since they began; by source."""
    received: Counter[str] = Counter()
    for agent in agents:
        for family in text_string_to_metric_families(agent.metrics()):
            for sample in family.samples:
                if sample.name == "imagedist_received_bytes_total":
                    received[sample.labels["source"]] += round(sample.value)
    return received
