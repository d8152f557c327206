"""Everything that a user decides with, one benchmark after the other: both charts, with the peers of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from bench import layers, limit, preflight, pull, swarm
from bench.contestant import Contestant
from bench.machine import described
from bench.result import Contestant as Measured
from bench.result import ImageFacts, Keep, Result
from bench.session import Settings
from bench.unpack import named
from imagedist.errors import ImagedistError

LINES = ("serial", "staged-disk", "staged", "docker", "cri", "cri-imagedist", "podman")
"""Of the unpack chart, beside imagedist."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        cuts: numbers of layers.
        bursts: of nodes.
        urls: other systems' endpoints, by name.
    """

    settings: Settings
    cuts: Sequence[int]
    bursts: swarm.Scale
    urls: Mapping[str, str]

    def pulling(self) -> list[Contestant]:
        return [*pull.contestants(), *pull.mirrors(self.settings, dict(self.urls))]

    def beside(self) -> list[Contestant]:
        return [named(name) for name in LINES]


Part = Callable[[Plan, Keep], Result]


def _swarm(plan: Plan, keep: Keep) -> Result:
    return swarm.run(plan.bursts, plan.settings.say, keep)


def _layers(plan: Plan, keep: Keep) -> Result:
    return layers.run(replace(plan.settings, keep=keep), plan.cuts, plan.beside(), layers.FORMS)


def _limit(plan: Plan, keep: Keep) -> Result:
    return limit.run(replace(plan.settings, keep=keep))


def _pull(plan: Plan, keep: Keep) -> Result:
    return pull.run(replace(plan.settings, keep=keep), plan.pulling())


PARTS: Mapping[str, Part] = {"swarm": _swarm, "layers": _layers, "limit": _limit, "pull": _pull}


def check(plan: Plan, parts: Sequence[str]) -> None:
    """Everything that can be known before anything starts.

    Raises:
        InputError: too little memory or disk, no such image, or a program that ours cannot do without.
    """
    everybody = {one.name: one for one in (*plan.beside(), *plan.pulling())}
    images = len(plan.cuts) * (1 + len(layers.FORMS)) if "layers" in parts else 1
    preflight.check(plan.settings, list(everybody.values()), images)
    if "swarm" in parts:
        swarm.check(plan.bursts)


def run(plan: Plan, parts: Mapping[str, Part], keep: Keep) -> Result:
    """A part that fails is a row with the reason; the others go on."""
    done: list[Result] = []
    failed: list[Measured] = []

    def whole(parts: Sequence[Result]) -> Result:
        return described(
            "all",
            plan.settings.cache,
            ImageFacts(name=plan.settings.image, manifest_digest="", layers=0, compressed_bytes=0),
            {"rounds": str(plan.settings.rounds), "registry": "see the parts"},
            failed,
        ).model_copy(update={"parts": tuple(parts), "started": started})

    started = ""
    started = whole([]).started
    for name, part in parts.items():
        plan.settings.say(f"{name}:")
        try:
            done.append(part(plan, lambda known: keep(whole([*done, known]))))
        except ImagedistError as error:
            plan.settings.say(f"{name} failed: {error}")
            failed.append(Measured(name=name, not_run=str(error)))
        keep(whole(done))
    return whole(done)
