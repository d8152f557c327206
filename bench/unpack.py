"""Registry to ready root filesystem on one node: our strategies beside the runtimes of this machine, cold stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.contestant import Contestant, Imagedist
from bench.machine import describe_image
from bench.peers import Containerd, Docker, Podman
from bench.result import Result, comparisons
from bench.rounds import Job
from bench.session import Settings, image_of, session
from bench.site import Agent
from imagedist.errors import InputError

OURS = "imagedist"

CONTESTANTS: Mapping[str, Contestant] = {
    contestant.name: contestant
    for contestant in (
        Imagedist(OURS),
        Imagedist("serial", ("--strategy", "serial")),
        Imagedist("staged", ("--strategy", "staged")),
        Imagedist("disk", ("--scratch", "disk")),
        Agent("agent"),
        Docker(),
        Containerd(),
        Podman(),
    )
}
"""``serial``, ``staged`` and ``disk`` are imagedist told to work as others do; ``agent`` is its agent, in a site."""

DEFAULT = (OURS, "serial", "docker", "containerd", "podman")


def run(settings: Settings, names: Sequence[str] = DEFAULT) -> Result:
    """Pulls one image into an empty store with each of the named contestants, round by round.

    Raises:
        InputError: no contestant of that name. ImagedistError: one of our own commands failed.
    """
    chosen = [named(name) for name in names]
    built = image_of(settings)
    with session(settings) as under_way:
        reference = under_way.registry.add(built, "bench/image:1")
        measured = under_way.measure([Job(contestant.name, contestant, reference) for contestant in chosen])
        return under_way.result(
            "unpack", describe_image(built, settings.image), chosen, measured, comparisons(measured, OURS)
        )


def named(name: str) -> Contestant:
    """Raises InputError: nobody is called so."""
    try:
        return CONTESTANTS[name]
    except KeyError:
        raise InputError(f"no contestant {name!r}: there are {', '.join(CONTESTANTS)}") from None
