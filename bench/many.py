"""Many small torrents at once, and what torrents weigh: 32 nodes ask for 500 blobs, one node then seeds 200."""

from __future__ import annotations

import selectors
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from bench.account import descendants
from bench.directories import short_directory
from bench.in_turn import Say
from bench.load import Connection, Tally
from bench.machine import Start, described
from bench.network.deployment import MIRROR, Agent
from bench.peaks import anonymous_bytes
from bench.preflight import need
from bench.result import Contestant, ImageFacts, Keep, Result, Run, Verdict
from bench.swarm_network import AGENT_BYTES, Configuration, SwarmNetwork, swarm_network
from imagedist.service.running import raise_open_files_limit

_BITS_PER_SECOND = 100_000_000
_BLOB_BYTES = 20_000
_CONNECTIONS = 8
"""Of each node's client: a runtime has three to six downloads at a time."""
_STALL_SECONDS = 60.0
_SETTLE_SECONDS = 3.0
_SEED_SECONDS = 60.0
_EVERYTHING = Configuration(proxy="swarm_min_size = 1")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything. ``seeded``: by the node whose memory is read, after it had none."""

    nodes: int = 32
    torrents: int = 500
    seeded: int = 200


QUICK = Scale(4, 50, 20)


def run(scale: Scale, say: Say, keep: Keep) -> Result:
    """Some two minutes.

    Raises:
        InputError: this machine cannot have a test network, misses a program, or has too little memory.
        ImagedistError: something did not start, or nothing came.
    """
    memory_bytes = (scale.nodes + 1) * AGENT_BYTES
    need("many torrents", "docker-registry", is_network=True, memory_bytes=memory_bytes)
    raise_open_files_limit()
    start, image_bytes = Start.now(), scale.torrents * _BLOB_BYTES
    verdicts: list[Verdict] = []
    with short_directory() as directory:

        def known(*rows: Contestant, **more_settings: str) -> Result:
            return described(
                "many",
                directory,
                ImageFacts(
                    name="random bytes", manifest_digest="", layers=scale.torrents, compressed_bytes=image_bytes
                ),
                {
                    "rounds": "1",
                    "registry": f"links of {_BITS_PER_SECOND / 1e6:g} Mbit/s, the site's 10 times as wide",
                    "clients": f"{_CONNECTIONS} connections of each node, which ask for one blob after another",
                    **_EVERYTHING.facts(),
                    **more_settings,
                },
                rows,
                verdicts,
                start=start,
            )

        def read(what: str, agent: Agent, aim: str) -> None:
            taken = _anonymous_bytes(agent) / 1e6
            verdicts.append(Verdict(what=f"anonymous memory of an agent {what}", value=taken, unit="MB", aim=aim))
            keep(known())

        say(f"starting a registry, a site and {scale.nodes + 1} agents")
        with swarm_network(directory, scale.nodes + 1, _BITS_PER_SECOND, image_bytes, _EVERYTHING) as network:
            *nodes, alone = network.agents
            time.sleep(_SETTLE_SECONDS)
            read("at rest", alone, "at most 90")
            say(f"{scale.seeded} torrents for one node")
            network.offer([_BLOB_BYTES] * scale.seeded)
            _ask(network, [alone], [])
            read(f"that seeds {_wait_for_seeds(alone, scale.seeded)} torrents", alone, "at most 160")
            say(f"{scale.torrents} torrents for {scale.nodes} nodes")
            network.offer([_BLOB_BYTES] * scale.torrents)
            cpu, began = network.cpu_seconds(), time.perf_counter()
            failures: list[str] = []
            tally = _ask(network, nodes, failures)
            took, cpu = time.perf_counter() - began, network.cpu_seconds() - cpu
        what = f"{scale.torrents} torrents, {scale.nodes} nodes"
        figures: dict[str, float] = {"requests": tally.requests, "errors": tally.errors}
        share = 100 * tally.requests / (scale.nodes * scale.torrents)
        verdicts.insert(0, Verdict(what=f"{what}: requests answered whole", value=share, unit="%", aim="100"))
        row = Contestant(name=what, runs=(Run(round=0, seconds=took, cpu_seconds=cpu, figures=figures),))
        return known(row, **({"first_failure": failures[0]} if failures else {}))


def _wait_for_seeds(agent: Agent, wanted: int) -> int:
    """How many torrents it seeds in the end: those that were wanted, or what it has after some time."""
    deadline = time.monotonic() + _SEED_SECONDS
    while True:
        samples = [each for family in text_string_to_metric_families(agent.metrics()) for each in family.samples]
        seeds = round(sum(each.value for each in samples if each.name == "imagedist_seeds"))
        if seeds >= wanted or time.monotonic() > deadline:
            time.sleep(_SETTLE_SECONDS)
            return seeds
        time.sleep(0.2)


def _anonymous_bytes(agent: Agent) -> int:
    """Of the agent and its own processes."""
    return sum(anonymous_bytes(process) for process in (agent.process, *descendants(agent.process)))


def _ask(network: SwarmNetwork, agents: Sequence[Agent], failures: list[str]) -> Tally:
    """Every node asks for every blob, each of its connections for the next one. An answer that fails is counted."""
    tally = Tally()
    with selectors.DefaultSelector() as selector, ExitStack() as stack:

        def ask(agent: Agent, paths: list[str]) -> None:
            while paths:
                try:
                    with agent.node.namespace.entered():
                        connection = Connection(MIRROR + paths.pop(), tally)
                    stack.enter_context(connection.socket)
                    connection.start()
                except OSError as error:
                    tally.errors += 1
                    failures.append(f"{agent.node.name} did not let in: {error}")
                    continue
                selector.register(connection.socket, selectors.EVENT_READ, (agent, paths, connection))
                return

        for agent in agents:
            paths = list(network.paths)
            for _ in range(min(_CONNECTIONS, len(paths))):
                ask(agent, paths)
        while selector.get_map():
            ready = selector.select(_STALL_SECONDS)
            if not ready:
                tally.errors += len(selector.get_map())
                failures.append(f"nothing came for {_STALL_SECONDS:.0f} s")
                break
            for key, _ in ready:
                agent, paths, connection = key.data
                try:
                    is_over = connection.receive()
                except OSError as error:
                    tally.errors += 1
                    failures.append(f"{agent.node.name}: {error}")
                    is_over = True
                if is_over:
                    selector.unregister(key.fileobj)
                    connection.socket.close()
                    ask(agent, paths)
    return tally
