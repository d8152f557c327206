"""One image onto this machine: by every runtime straight from the registry, and through imagedist on this node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from bench.account import Account
from bench.contestant import Contestant, Ready
from bench.directories import short_directory
from bench.image_choice import ImageChoice
from bench.machine import describe_image
from bench.peers import containerd, missing
from bench.processes import run as run_program
from bench.result import Contestant as Measured
from bench.result import Result, comparisons
from bench.rounds import Job
from bench.session import Settings, image_of, session
from bench.site import site
from bench.unpack import CONTESTANTS, OURS

_ENDPOINTS = (
    "containerd by an endpoint that ran already, from that one's own upstream and caches; everybody else from a "
    "registry on loopback with a cold site. What serves it is on no account: no ratio"
)

T = TypeVar("T")

STRAIGHT = (
    OURS,
    "docker",
    "containerd",
    "containerd-parallel",
    "nerdctl",
    "cri",
    "soci",
    "podman",
    "skopeo+umoci",
)
THROUGH = ("docker", "containerd", "cri", "podman")
"""Those whose pulls a node's agent serves as their mirror; ``imagedist pull`` has its own rows."""
_UPSTREAM = "registry"
"""The name that ``bench.site`` gives the registry in its proxy: what a path through the mirror begins with."""


@dataclass(frozen=True, slots=True)
class Through:
    """A runtime that pulls from this node's agent. A site runs on this machine; it has nothing of the image before."""

    runtime: Contestant
    is_ours: bool = False

    @property
    def name(self) -> str:
        return f"{self.runtime.name}, through imagedist"

    def cannot(self) -> str | None:
        return self.runtime.cannot()

    def version(self) -> str:
        return self.runtime.version()

    @contextmanager
    def ready(self, store: Path, account: Account, registry: str) -> Iterator[Ready]:
        with site(store, account, registry) as here:
            mirror = here.mirror.removeprefix("http://")
            with self.runtime.ready(store, account, mirror) as ready:

                def by_mirror(reference: str) -> str:
                    return f"{mirror}/{_UPSTREAM}/{reference.partition('/')[2]}"

                command, call = ready.command, ready.call
                yield replace(
                    ready,
                    command=_after(by_mirror, command) if command else None,
                    call=_after(by_mirror, call) if call else None,
                    site=here.account,
                )


def _after(by_mirror: Callable[[str], str], pull: Callable[[str], T]) -> Callable[[str], T]:
    return lambda reference: pull(by_mirror(reference))


@dataclass(frozen=True, slots=True)
class Mirror:
    """containerd's client with another system's endpoint as its mirror, and no other way to the registry.

    Only the client is on the account: what serves the endpoint runs already, and is the user's. It reads from its own
    upstream, where everybody else has a registry on loopback: its time is told, and held against nobody's.

    Args:
        reference: what is pulled: a registry's image that the endpoint can reach; None: it is none.
    """

    name: str
    url: str
    reference: str | None
    is_ours: bool = False

    def cannot(self) -> str | None:
        if self.reference is None:
            return "it can only pull what a registry it knows has: name such an image with --image"
        return missing("containerd", "ctr")

    def version(self) -> str:
        return f"at {self.url}, by {run_program(['containerd', '--version']).strip()}"

    @contextmanager
    def ready(self, store: Path, account: Account, registry: str) -> Iterator[Ready]:
        with short_directory() as directory, containerd(store, directory, account) as socket:
            host = (self.reference or "").partition("/")[0]
            hosts = directory / "certs.d" / host
            hosts.mkdir(parents=True)
            (hosts / "hosts.toml").write_text(
                f'server = "{self.url}"\n[host."{self.url}"]\ncapabilities = ["pull", "resolve"]\n'
            )
            client = ["ctr", "--address", str(socket), "images", "pull", "--snapshotter", "overlayfs"]
            yield Ready(lambda reference: [*client, "--hosts-dir", str(hosts.parent), self.reference or reference])


def contestants(names: Sequence[str] = STRAIGHT) -> list[Contestant]:
    """Those of these names straight, then through imagedist, then what imagedist does by itself."""
    straight = [CONTESTANTS[name] for name in names]
    through = [Through(CONTESTANTS[name]) for name in names if name in THROUGH]
    return [*straight, *through, CONTESTANTS["agent"], CONTESTANTS["cri-imagedist"]]


def mirrors(settings: Settings, urls: dict[str, str]) -> list[Contestant]:
    """Other systems' endpoints, by name."""
    choice = ImageChoice.parse(settings.image)
    return [Mirror(name, url, choice.registry_reference) for name, url in urls.items()]


def run(settings: Settings, chosen: Sequence[Contestant]) -> Result:
    """The whole time that a user waits for one image, by every way there is.

    Raises:
        ImagedistError: one of our own commands failed.
    """
    built = image_of(settings)
    with session(settings) as under_way:
        reference = under_way.registry.add(built, "bench/image:1")
        jobs = [Job(one.name, one, reference, is_warmed_up=not isinstance(one, Mirror)) for one in chosen]
        image = describe_image(built, settings.image)
        endpoints = [one.name for one in chosen if isinstance(one, Mirror)]
        told = {"endpoints": f"{', '.join(endpoints)}: {_ENDPOINTS}"} if endpoints else {}

        def result_of(rows: Sequence[Measured]) -> Result:
            return under_way.result(
                "pull",
                image,
                chosen,
                rows,
                comparisons([row for row in rows if row.name not in endpoints], OURS),
                (),
                through="agent, proxy and seeder on this machine; the site has nothing of the image before, and its "
                "CPU time has a column of its own",
                **told,
            )

        return under_way.run(jobs, result_of)
