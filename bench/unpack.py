"""Registry to ready root filesystem on one node: our strategies beside the runtimes of this machine, cold stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.contestant import Contestant, Imagedist
from bench.kubelet import Kubelet
from bench.machine import describe_image
from bench.peers import Containerd, Docker, Nerdctl, ParallelContainerd, Podman, SkopeoUmoci
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
        Imagedist("staged-disk", ("--strategy", "staged", "--scratch", "disk")),
        Imagedist("disk", ("--scratch", "disk")),
        Agent("agent"),
        Docker(),
        Containerd(),
        ParallelContainerd(),
        Nerdctl(),
        Kubelet("cri", "overlayfs"),
        Kubelet("cri-imagedist", "imagedist"),
        Kubelet("soci", "soci"),
        Podman(),
        SkopeoUmoci(),
    )
}
"""``serial``, ``staged`` (on a ramdisk, or on the store's disk) and ``disk`` are imagedist told to work as others do;
``agent`` is its agent, in a site. ``cri``, ``cri-imagedist`` and ``soci`` are kubelet's way, by containerd's own
snapshotter, ours and SOCI's. ``containerd-parallel`` is a containerd told to unpack layers at once."""

DEFAULT = (OURS, "serial", "docker", "containerd", "podman")


def run(settings: Settings, chosen: Sequence[Contestant]) -> Result:
    """Pulls one image into an empty store with each of them, round by round.

    Raises:
        ImagedistError: one of our own commands failed.
    """
    built = image_of(settings)
    with session(settings) as under_way:
        reference = under_way.registry.add(built, "bench/image:1")
        jobs = [
            Job(one.name, one, reference, {"series": one.name, "layers": len(built.image.layers)}) for one in chosen
        ]
        image = describe_image(built, settings.image)
        return under_way.run(
            jobs, lambda rows: under_way.result("unpack", image, chosen, rows, comparisons(rows, OURS))
        )


def named(name: str) -> Contestant:
    """Raises InputError: nobody is called so."""
    try:
        return CONTESTANTS[name]
    except KeyError:
        raise InputError(f"no contestant {name!r}: there are {', '.join(CONTESTANTS)}") from None
