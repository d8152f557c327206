"""One node, and two, on wide links: whether the way through an agent is ever slower than a plain download.

All of it on 1 Gbit/s, the site's host and the registry on ten times that. What the site has already is warm; a small
layer and ``skopeo copy`` are, too.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.directories import remove_abandoned, short_directory
from bench.machine import described
from bench.network import why_not
from bench.network.deployment import MIRROR, Agent
from bench.peers import missing
from bench.result import Contestant, ImageFacts, Keep, Result, Run, Verdict, forget
from bench.serving import REPOSITORY
from bench.statistics import median, pair_ratios, rotated
from bench.swarm_network import BLOBS, Configuration, SwarmNetwork, swarm_network
from imagedist.errors import InputError

Say = Callable[[str], None]

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


def run(scale: Scale, say: Say, keep: Keep = forget) -> Result:
    """About a minute.

    Raises:
        InputError: this machine cannot have a test network, or misses a program. ImagedistError: something failed.
    """
    if (reason := why_not() or missing("docker-registry", "skopeo")) is not None:
        raise InputError(f"cannot measure lone nodes: {reason}")
    remove_abandoned()
    load = os.getloadavg()[0]
    with short_directory() as directory:
        say("starting a registry, a site and 3 agents")
        with swarm_network(directory, 3, _BITS_PER_SECOND, scale.image_bytes, scale.configuration) as network:
            network.warm_up()
            ways = _ways(network, scale.image_bytes, directory)
            runs: dict[str, list[Run]] = {name: [] for name in ways}

            def known() -> Result:
                return described(
                    "lone",
                    directory,
                    ImageFacts(
                        name="random bytes", manifest_digest="", layers=BLOBS, compressed_bytes=scale.image_bytes
                    ),
                    {
                        "rounds": str(scale.rounds),
                        "order": "rotated each round; every row has an image of its own",
                        "registry": f"links of {_BITS_PER_SECOND / 1e6:g} Mbit/s, "
                        "the site's and the registry's 10 times as wide",
                        **scale.configuration.facts(),
                        "load_at_start": f"{load:.2f}",
                    },
                    tuple(Contestant(name=name, runs=tuple(each)) for name, each in runs.items()),
                    verdicts_of(runs),
                )

            for number in range(scale.rounds):
                say(f"round {number + 1} of {scale.rounds}")
                for name, way in rotated(list(ways.items()), number):
                    cpu = network.cpu_seconds()
                    runs[name].append(Run(round=number, seconds=way(), cpu_seconds=network.cpu_seconds() - cpu))
                keep(known())
            return known()


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


def verdicts_of(runs: dict[str, list[Run]]) -> tuple[Verdict, ...]:
    """Medians over rounds: a noisy round hits both of a pair."""

    def by_round(name: str) -> dict[int, float]:
        return {run.round: run.seconds for run in runs[name]}

    found = [
        Verdict(
            what=f"{name} ÷ {plain}",
            value=median(pair_ratios(by_round(plain), by_round(name))) or 0.0,
            unit="×",
            aim=f"at most {aim}",
        )
        for name, (plain, aim) in PAIRS.items()
    ]
    small, plain = (median([run.seconds for run in runs[name]]) or 0.0 for name in _SMALL)
    more = Verdict(what="a layer of 100 kB: longer by", value=1000 * (small - plain), unit="ms", aim="at most 5")
    return (*found, more)
