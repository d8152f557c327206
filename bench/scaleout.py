"""Scaling out onto a preheated base: many nodes pull an application at once, beside the same with nothing on them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.directories import remove_abandoned, short_directory
from bench.images import own
from bench.machine import described
from bench.network import Network, deployment, why_not
from bench.network.deployment import Agent, Registry, Site
from bench.peers import missing
from bench.recut import with_application
from bench.result import Contestant, ImageFacts, Result, Run, Verdict
from bench.swarm_network import SITE_TIMES
from imagedist.demo.layout import BuiltImage
from imagedist.errors import InputError
from imagedist.service import raise_open_files_limit

_RULE = """\
name = "base"
images = ["{reference}"]
[limits]
headroom = "1MiB"
"""


@dataclass(frozen=True, slots=True)
class ScaleOut:
    """Seconds until an application image was unpacked and recorded, of each node; a command of its own on each.

    Attributes:
        preheat_seconds: the whole ``preheat run --wait`` of the base.
        moved_bytes: of blobs, by the preheated nodes together. layer_bytes: of the application's own layer and config.
    """

    cold_seconds: tuple[float, ...]
    preheated_seconds: tuple[float, ...]
    preheat_seconds: float
    moved_bytes: int
    layer_bytes: int
    image_bytes: int

    @property
    def ratio(self) -> float:
        return max(self.preheated_seconds) / max(self.cold_seconds)


def measure(
    nodes: int, bits_per_second: int, base_bytes: int, layer_bytes: int, cache: Path, say: Callable[[str], None]
) -> ScaleOut:
    """Twice a new site with new nodes, on links of so many bits per second each; the site's is ten times as wide.

    Raises:
        InputError: this machine cannot have a test network, or has no docker-registry.
        ImagedistError: something did not start, or a node did not get its image.
    """
    if (reason := why_not() or missing("docker-registry", "skopeo")) is not None:
        raise InputError(f"cannot measure scaling out: {reason}")
    raise_open_files_limit()
    remove_abandoned()
    say("building the images")
    base = own(cache, base_bytes)
    application = with_application(base, layer_bytes, cache)
    say(f"{nodes} nodes with nothing")
    with _running(nodes, bits_per_second, application) as (registry, _, agents):
        reference = registry.add(application, "bench/application:1")
        cold = _pull(agents, reference)
    say(f"{nodes} nodes, preheated")
    with _running(nodes, bits_per_second, application) as (registry, site, agents):
        rule = site.token_file.with_name("base.toml")
        rule.write_text(_RULE.format(reference=registry.add(base, "bench/base:1")))
        seeder = ("--seeder", site.seeder_urls[0], "--token-file", str(site.token_file))
        begun = time.monotonic()
        agents[0].imagedist("preheat", "run", str(rule), "--wait", *seeder)
        preheat_seconds = time.monotonic() - begun
        reference = registry.add(application, "bench/application:1")
        before = _received_bytes(agents)
        preheated = _pull(agents, reference)
        moved_bytes = _received_bytes(agents) - before
    layer = application.image.layers[-1].descriptor.size_bytes + len(application.image.config_bytes)
    return ScaleOut(cold, preheated, preheat_seconds, moved_bytes, layer, application.size_bytes)


def run(
    nodes: int,
    base_bytes: int,
    layer_bytes: int,
    bits_per_second: int,
    cache: Path,
    say: Callable[[str], None],
) -> Result:
    """``measure`` as a result. Raises as that."""
    load = os.getloadavg()[0]
    found = measure(nodes, bits_per_second, base_bytes, layer_bytes, cache, say)
    each = (("nothing there", found.cold_seconds), ("base preheated", found.preheated_seconds))
    moved = found.moved_bytes / found.layer_bytes / nodes
    return described(
        "scaleout",
        cache,
        ImageFacts(name="own files", manifest_digest="", layers=0, compressed_bytes=found.image_bytes),
        {
            "registry": f"links of {bits_per_second / 1e6:g} Mbit/s, the site's {SITE_TIMES} times as wide",
            "rows": f"a run is the last of {nodes} nodes; the others are figures",
            "application_layer": f"{found.layer_bytes} bytes",
            "load_at_start": f"{load:.2f}",
        },
        [
            Contestant(name=name, runs=(Run(round=0, seconds=max(seconds), cpu_seconds=0.0, figures=_each(seconds)),))
            for name, seconds in each
        ],
        [
            Verdict(what="preheated ÷ nothing there, the last node", value=found.ratio, unit="×", aim="at most 0.15"),
            Verdict(what="moved ÷ the application's layer and config, a node", value=moved, unit="×", aim="1"),
            Verdict(what="preheat, until every node had confirmed", value=found.preheat_seconds, unit="s", aim=""),
        ],
    )


def _each(seconds: Sequence[float]) -> dict[str, float]:
    return {f"node_{number}_seconds": one for number, one in enumerate(seconds)}


@contextmanager
def _running(nodes: int, bits_per_second: int, image: BuiltImage) -> Iterator[tuple[Registry, Site, Sequence[Agent]]]:
    wide = SITE_TIMES * bits_per_second
    with short_directory() as directory, Network() as network, ExitStack() as stack:
        bench, internet = network.site("bench"), network.site("internet")
        network.link(bench, internet, wide)
        registry = stack.enter_context(deployment.registry(internet.node("registry"), directory / "upstream"))
        site = stack.enter_context(deployment.site(bench.node("site", wide), directory / "site", registry))
        agents = []
        for number in range(nodes):
            node = bench.node(f"n{number}", bits_per_second)
            place = directory / node.name
            agents.append(stack.enter_context(deployment.agent(node, place, site, quota_bytes=2 * image.size_bytes)))
        yield registry, site, agents
        for agent in agents:  # all at once: nothing of theirs is wanted any more
            os.kill(agent.process, signal.SIGKILL)


def _pull(agents: Sequence[Agent], reference: str) -> tuple[float, ...]:
    def one(agent: Agent) -> float:
        agent.imagedist("pull", reference)
        return time.monotonic() - begun

    with ThreadPoolExecutor(len(agents)) as threads:
        begun = time.monotonic()
        return tuple(threads.map(one, agents))


def _received_bytes(agents: Sequence[Agent]) -> int:
    total = 0
    for agent in agents:
        lines = agent.metrics().splitlines()
        total += sum(
            int(float(line.split()[-1])) for line in lines if line.startswith("imagedist_received_bytes_total")
        )
    return total
