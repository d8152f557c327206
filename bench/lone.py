"""One node, and two, on wide links: whether the way through an agent is ever slower than a plain download.

All of it on 1 Gbit/s, the site's host and the registry on ten times that. What the site has already is warm; a small
layer and ``skopeo copy`` are, too.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.directories import short_directory
from bench.in_turn import Runs, Say, in_turn, ratio, rows_of
from bench.machine import Start, described
from bench.network.deployment import MIRROR, Agent
from bench.preflight import need
from bench.result import ImageFacts, Keep, Result, Run, Verdict
from bench.serving import REPOSITORY
from bench.statistics import median
from bench.swarm_network import BLOBS, Configuration, SwarmNetwork, swarm_network

_BITS_PER_SECOND = 1_000_000_000
_SMALL_BYTES = 100_000
_SMALL_TIMES = 10
"""A small layer is over in milliseconds: the median of so many is a round's."""
_DEFAULTS = Configuration()


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything."""

    image_bytes: int = 100_000_000
    rounds: int = 5
    configuration: Configuration = _DEFAULTS


QUICK = Scale(20_000_000, 2)

PAIRS = {
    "1 node": ("1 node, plain", 1.05),
    "2 nodes": ("2 nodes, plain", 1.05),
    "1 node, cold": ("1 node, cold, plain", 1.05),
    "skopeo through an agent": ("skopeo from the registry", 1.05),
}
"""A way through agents, the plain one it is held against, and how many times longer it may take at most."""
_SMALL = ("100 kB", "100 kB, plain")


def run(scale: Scale, say: Say, keep: Keep) -> Result:
    """About a minute.

    Raises:
        InputError: this machine cannot have a test network, misses a program, or has too little memory.
        ImagedistError: something failed.
    """
    # Registry and site keep every image.
    need("lone nodes", "docker-registry", "skopeo", is_network=True, memory_bytes=16 * scale.rounds * scale.image_bytes)
    start = Start.now()
    with short_directory() as directory:

        def known(runs: Runs) -> Result:
            return described(
                "lone",
                directory,
                ImageFacts(name="random bytes", manifest_digest="", layers=BLOBS, compressed_bytes=scale.image_bytes),
                {
                    "rounds": str(scale.rounds),
                    "order": "rotated each round; every row has an image of its own",
                    "registry": f"links of {_BITS_PER_SECOND / 1e6:g} Mbit/s, "
                    "the site's and the registry's 10 times as wide",
                    **scale.configuration.facts(),
                },
                rows_of(runs),
                verdicts_of(runs),
                start=start,
            )

        say("starting a registry, a site and 3 agents")
        with swarm_network(directory, 3, _BITS_PER_SECOND, scale.image_bytes, scale.configuration) as network:
            network.warm_up()

            def timed(way: Callable[[], float], number: int) -> Run:
                cpu = network.cpu_seconds()
                return Run(round=number, seconds=way(), cpu_seconds=network.cpu_seconds() - cpu)

            ways = {name: partial(timed, way) for name, way in _ways(network, scale.image_bytes, directory).items()}
            return known(in_turn(ways, scale.rounds, say, lambda runs: keep(known(runs))))


def _ways(network: SwarmNetwork, image_bytes: int, directory: Path) -> dict[str, Callable[[], float]]:
    first, second, other = network.agents
    halves = [image_bytes // BLOBS] * BLOBS

    def last(count: int, *, plain: bool, warm: bool = True) -> float:
        network.offer(halves)
        if warm:
            network.ask_plainly([other])
        ask = network.ask_plainly if plain else network.ask
        return max(one.seconds for one in ask([first, second][:count]))

    def small(*, plain: bool) -> float:
        seconds = []
        for _ in range(_SMALL_TIMES):
            network.offer([_SMALL_BYTES])
            network.ask_plainly([other])
            seconds += [one.seconds for one in (network.ask_plainly if plain else network.ask)([first])]
        return median(seconds) or 0.0

    def skopeo(*, plain: bool) -> float:
        network.offer(halves)
        name = f"{REPOSITORY}@{network.manifest_digest}"  # the tag moves from image to image, and proxies remember it
        straight, through = f"{network.registry.address}/{name}", f"{MIRROR.removeprefix('http://')}/registry/{name}"
        _skopeo(other, through, directory / "warm")
        return _skopeo(first, straight if plain else through, directory / "copy")

    return {
        "1 node, plain": lambda: last(1, plain=True),
        "1 node": lambda: last(1, plain=False),
        "2 nodes, plain": lambda: last(2, plain=True),
        "2 nodes": lambda: last(2, plain=False),
        "1 node, cold, plain": lambda: last(1, plain=True, warm=False),
        "1 node, cold": lambda: last(1, plain=False, warm=False),
        _SMALL[1]: lambda: small(plain=True),
        _SMALL[0]: lambda: small(plain=False),
        "skopeo from the registry": lambda: skopeo(plain=True),
        "skopeo through an agent": lambda: skopeo(plain=False),
    }


def _skopeo(agent: Agent, reference: str, into: Path) -> float:
    flags = ["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]
    began = time.perf_counter()
    agent.node.run(["skopeo", *flags, f"docker://{reference}", f"dir:{into}"])
    took = time.perf_counter() - began
    shutil.rmtree(into)
    return took


def verdicts_of(runs: Runs) -> tuple[Verdict, ...]:
    """Of the pairs that were measured."""
    found = [
        Verdict(what=f"{name} ÷ {plain}", value=ratio(runs[name], runs[plain]), unit="×", aim=f"at most {aim}")
        for name, (plain, aim) in PAIRS.items()
    ]
    small, plain = (median([run.seconds for run in runs[name]]) for name in _SMALL)
    if small is not None and plain is not None:
        more = 1000 * (small - plain)
        found.append(Verdict(what="a layer of 100 kB: longer by", value=more, unit="ms", aim="at most 5"))
    return tuple(one for one in found if one.value)
