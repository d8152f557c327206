"""Everything that a user decides with, one benchmark after the other: both charts, with the peers of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from bench import layers, limit, preflight, proxy, pull, runtimes, sites, swarm, update
from bench.contestant import Contestant
from bench.machine import Start, described
from bench.result import Contestant as Measured
from bench.result import ImageFacts, Keep, Result
from bench.session import Settings
from bench.simulate import run as simulation
from bench.simulate.known import KRAKEN, known_of
from bench.simulate.scenario import NodeClass, Scenario
from bench.swarm_network import BLOBS, SITE_TIMES
from bench.unpack import named
from imagedist.errors import ImagedistError

LINES = (
    "serial",
    "staged-disk",
    "staged",
    "docker",
    "containerd-parallel",
    "cri",
    "cri-imagedist",
    "soci",
    "podman",
)
"""Of the unpack chart, beside imagedist."""
_TORRENTS = 20
"""That a node seeds at rest: for the table of what a site needs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        cuts: numbers of layers.
        bursts: of nodes.
        simulated: numbers of nodes beyond those.
        urls: other systems' endpoints, by name.
    """

    settings: Settings
    cuts: Sequence[int]
    bursts: swarm.Scale
    simulated: Sequence[int]
    urls: Mapping[str, str]

    def pulling(self) -> list[Contestant]:
        return [*pull.contestants(), *pull.mirrors(self.settings, dict(self.urls))]

    def beside(self) -> list[Contestant]:
        return [named(name) for name in LINES]


Part = Callable[[Plan, Sequence[Result], Keep], Result]
"""The plan, what was measured before → a result."""


def _swarm(plan: Plan, done: Sequence[Result], keep: Keep) -> Result:
    return swarm.run(plan.bursts, plan.settings.say, keep)


def _simulate(plan: Plan, done: Sequence[Result], keep: Keep) -> Result:
    """The bursts' links and image for more nodes, and the model beside what was measured and published."""
    bursts = plan.bursts
    rate = bursts.node_bits_per_second / 8
    measured = [known for part in done if part.benchmark == "swarm" for known in known_of(part, "this run")]
    scenarios = [
        Scenario(
            nodes=count,
            size=bursts.image_bytes,
            layers=BLOBS,
            classes=(NodeClass(up=rate, down=rate),),
            site_egress=SITE_TIMES * rate,
            upstream=SITE_TIMES * rate,
        )
        for count in (max(bursts.nodes), *(count for count in plan.simulated if count > max(bursts.nodes)))
    ]
    # Kraken's run takes a minute: it is simulated where as many nodes are anyway.
    published = [KRAKEN] if max(plan.simulated, default=0) >= KRAKEN.scenario.nodes else []
    model = simulation.Plan(scenarios, known=[*measured, *published], torrents=_TORRENTS)
    return simulation.run(model, plan.settings.say, keep)


def _layers(plan: Plan, done: Sequence[Result], keep: Keep) -> Result:
    return layers.run(replace(plan.settings, keep=keep), plan.cuts, plan.beside(), layers.FORMS)


def _limit(plan: Plan, done: Sequence[Result], keep: Keep) -> Result:
    return limit.run(replace(plan.settings, keep=keep))


def _pull(plan: Plan, done: Sequence[Result], keep: Keep) -> Result:
    return pull.run(replace(plan.settings, keep=keep), plan.pulling())


def _update(plan: Plan, done: Sequence[Result], keep: Keep) -> Result:
    chosen = [named(name) for name in update.DEFAULT]
    return update.run(replace(plan.settings, keep=keep), chosen, update.DEFAULT[0])


def _runtimes(plan: Plan, done: Sequence[Result], keep: Keep) -> Result:
    return runtimes.run(replace(plan.settings, keep=keep))


def _proxy(plan: Plan, done: Sequence[Result], keep: Keep) -> Result:
    return proxy.run(replace(proxy.QUICK, rounds=plan.settings.rounds), plan.settings.say, keep)


def _sites(plan: Plan, done: Sequence[Result], keep: Keep) -> Result:
    return sites.run(replace(sites.QUICK, rounds=plan.settings.rounds), plan.settings.say, keep)


CHARTS: Mapping[str, Part] = {"swarm": _swarm, "simulate": _simulate, "layers": _layers, "limit": _limit, "pull": _pull}
"""What both charts are made of."""
PARTS: Mapping[str, Part] = {**CHARTS, "update": _update, "runtimes": _runtimes, "proxy": _proxy, "sites": _sites}


def check(plan: Plan, parts: Sequence[str]) -> None:
    """Everything that can be known before anything starts.

    Raises:
        InputError: too little memory or disk, no such image, or a program that ours cannot do without.
    """
    of_part = {
        "layers": plan.beside(),
        "pull": plan.pulling(),
        "update": [named(name) for name in update.DEFAULT],
        "runtimes": [named(name) for name in ("cri", "cri-imagedist")],
    }
    everybody = {one.name: one for part in parts for one in of_part.get(part, ())}
    images = len(plan.cuts) * (1 + len(layers.FORMS)) if "layers" in parts else 2
    preflight.check(plan.settings, list(everybody.values()), images)
    if "swarm" in parts:
        swarm.check(plan.bursts)
    if "sites" in parts:
        sites.check(sites.QUICK)


def run(plan: Plan, parts: Mapping[str, Part], keep: Keep) -> Result:
    """A part that fails is a row with the reason, and keeps what it had measured; the others go on."""
    done: list[Result] = []
    failed: list[Measured] = []
    unfinished: list[Result] = []

    def whole(parts: Sequence[Result]) -> Result:
        image = ImageFacts(name=plan.settings.image, manifest_digest="", layers=0, compressed_bytes=0)
        facts = {"rounds": str(plan.settings.rounds), "registry": "see the parts"}
        found = described("all", plan.settings.cache, image, facts, failed)
        return found.model_copy(update={"parts": tuple(parts), "started": started or found.started})

    def quiet(part: Result) -> Result:
        """As busy as the machine was when all began: later its load is that of the parts before."""
        if "load_at_start" not in part.settings:
            return part
        return part.model_copy(update={"settings": {**part.settings, "load_at_start": f"{load:.2f}"}})

    load = Start.now().load
    started = ""
    started = whole([]).started

    def keep_part(known: Result) -> None:
        unfinished[:] = [quiet(known)]
        keep(whole([*done, *unfinished]))

    for name, part in parts.items():
        plan.settings.say(f"{name}:")
        try:
            done.append(quiet(part(plan, tuple(done), keep_part)))
        except ImagedistError as error:
            plan.settings.say(f"{name} failed: {error}")
            failed.append(Measured(name=name, not_run=str(error)))
            done += [known.model_copy(update={"partial": True, "stopped": str(error)}) for known in unfinished]
        unfinished.clear()
        keep(whole(done))
    return whole(done)
