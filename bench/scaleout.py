"""Scaling out onto a preheated base: many nodes pull an application at once, beside the same with nothing on them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.directories import short_directory
from bench.images import own
from bench.in_turn import Say
from bench.machine import Start, describe_image, described
from bench.network import Network, deployment
from bench.network.deployment import Agent, Registry, Site
from bench.preflight import need
from bench.recut import with_application
from bench.result import Contestant, Keep, Result, Run, Verdict
from bench.swarm_network import AGENT_BYTES, SITE_TIMES, received_bytes
from imagedist.demo.layout import BuiltImage
from imagedist.service import raise_open_files_limit

_UNPACKED_TIMES = 4
"""Compressed blobs, and files that are three times as large."""
_RULE = """\
name = "base"
images = ["{reference}"]
[limits]
headroom = "1MiB"
"""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything: compressed bytes of the base and of the application's layer, and a node's link."""

    nodes: int = 16
    base_bytes: int = 200_000_000
    layer_bytes: int = 20_000_000
    bits_per_second: int = 100_000_000

    @property
    def memory_bytes(self) -> int:
        """Blobs and unpacked files of every node, and blobs of registry and site."""
        return self.nodes * AGENT_BYTES + (_UNPACKED_TIMES * self.nodes + 2) * (self.base_bytes + self.layer_bytes)


QUICK = Scale(4, 60_000_000, 6_000_000)


def run(scale: Scale, cache: Path, say: Say, keep: Keep) -> Result:
    """Twice a new site with new nodes: seconds until an application image was unpacked and recorded, of each node; a
    command of its own on each.

    Raises:
        InputError: this machine cannot have a test network, misses a program, or has too little memory.
        ImagedistError: something did not start, or a node did not get its image.
    """
    need("scaling out", "docker-registry", "skopeo", is_network=True, memory_bytes=scale.memory_bytes)
    raise_open_files_limit()
    start = Start.now()
    say("building the images")
    base = own(cache, scale.base_bytes)
    application = with_application(base, scale.layer_bytes, cache)
    layer_bytes = application.image.layers[-1].descriptor.size_bytes + len(application.image.config_bytes)
    rows: list[Contestant] = []
    verdicts: list[Verdict] = []

    def known() -> Result:
        return described(
            "scaleout",
            cache,
            describe_image(application, "own files"),
            {
                "registry": f"links of {scale.bits_per_second / 1e6:g} Mbit/s, the site's {SITE_TIMES} times as wide",
                "rows": f"a run is the last of {scale.nodes} nodes; the others are figures",
                "application_layer": f"{layer_bytes} bytes",
            },
            rows,
            verdicts,
            start=start,
        )

    def found(what: str, value: float, unit: str, aim: str) -> None:
        verdicts.append(Verdict(what=what, value=value, unit=unit, aim=aim))
        keep(known())

    say(f"{scale.nodes} nodes with nothing")
    with _running(scale, application) as (registry, _, agents):
        rows.append(_pull("nothing there", agents, registry.add(application, "bench/application:1")))
        keep(known())
    say(f"{scale.nodes} nodes, preheated")
    with _running(scale, application) as (registry, site, agents):
        rule = site.token_file.with_name("base.toml")
        rule.write_text(_RULE.format(reference=registry.add(base, "bench/base:1")))
        seeder = ("--seeder", site.seeder_urls[0], "--token-file", str(site.token_file))
        begun = time.monotonic()
        agents[0].imagedist("preheat", "run", str(rule), "--wait", *seeder)
        found("preheat, until every node had confirmed", time.monotonic() - begun, "s", "")
        reference = registry.add(application, "bench/application:1")
        before = received_bytes(agents).total()
        rows.append(_pull("base preheated", agents, reference))
        moved = (received_bytes(agents).total() - before) / layer_bytes / scale.nodes
    cold, preheated = (row.runs[0].seconds for row in rows)
    found("preheated ÷ nothing there, the last node", preheated / cold, "×", "at most 0.15")
    found("moved ÷ the application's layer and config, a node", moved, "×", "1")
    return known()


@contextmanager
def _running(scale: Scale, image: BuiltImage) -> Iterator[tuple[Registry, Site, Sequence[Agent]]]:
    wide = SITE_TIMES * scale.bits_per_second
    with short_directory() as directory, Network() as network, ExitStack() as stack:
        bench, internet = network.site("bench"), network.site("internet")
        network.link(bench, internet, wide)
        registry = stack.enter_context(deployment.registry(internet.node("registry"), directory / "upstream"))
        site = stack.enter_context(deployment.site(bench.node("site", wide), directory / "site", registry))
        agents = []
        for number in range(scale.nodes):
            node = bench.node(f"n{number}", scale.bits_per_second)
            place = directory / node.name
            agents.append(stack.enter_context(deployment.agent(node, place, site, quota_bytes=2 * image.size_bytes)))
        yield registry, site, agents
        for agent in agents:  # all at once: nothing of theirs is wanted any more
            os.kill(agent.process, signal.SIGKILL)


def _pull(name: str, agents: Sequence[Agent], reference: str) -> Contestant:
    def one(agent: Agent) -> float:
        agent.imagedist("pull", reference)
        return time.monotonic() - begun

    with ThreadPoolExecutor(len(agents)) as threads:
        begun = time.monotonic()
        seconds = list(threads.map(one, agents))
    figures = {f"node_{number}_seconds": each for number, each in enumerate(seconds)}
    return Contestant(name=name, runs=(Run(round=0, seconds=max(seconds), figures=figures),))
