"""Two sites: an image over a capped link beside one curl of its bytes, a webhook's way to the other site, 10,000 tags.

Each site's host has a registry of its own beside it, and both sites' links inside are wide.
"""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

from bench.directories import remove_abandoned, short_directory
from bench.machine import describe_machine, versions
from bench.network import Network, deployment, why_not
from bench.network.deployment import Registry, Site
from bench.peers import missing
from bench.result import Contestant, ImageFacts, Keep, Result, Run, Verdict, forget
from bench.serving import REPOSITORY, push
from bench.sites_tags import TagsTimes, time_tags
from bench.statistics import median, pair_ratios
from imagedist.errors import ImagedistError, InputError
from imagedist.oci.digest import Digest
from imagedist.site_sync import SyncStatus

Say = Callable[[str], None]

_FROM, _TO = "bench-a", "bench-b"
_WIDE = 20
"""How many times the link between the sites what is inside of each carries."""
_LAYERS = 4
_PATIENCE_SECONDS = 180.0
_POLL_SECONDS = 0.01
_SYNC, _CURL, _WEBHOOK, _JOURNAL, _REGISTRY = (
    "sync of an image",
    "one curl of its bytes",
    "webhook to tag visible",
    "tags by the journal",
    "tags by a plain registry",
)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything. ``tags``: 0: that part is left out."""

    image_bytes: int = 40_000_000
    bits_per_second: int = 32_000_000
    rounds: int = 5
    webhooks: int = 20
    tags: int = 10_000


QUICK = Scale(12_000_000, 32_000_000, 2, 5, 1_000)


def check() -> None:
    """Raises InputError: this machine cannot have a test network, or misses a program."""
    if (reason := why_not() or missing("docker-registry", "curl")) is not None:
        raise InputError(f"cannot measure sites: {reason}")


def run(scale: Scale, say: Say, keep: Keep = forget) -> Result:
    """Two minutes.

    Raises:
        InputError: this machine cannot have a test network, or misses a program. ImagedistError: something failed.
    """
    check()
    remove_abandoned()
    load = os.getloadavg()[0]
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    runs: dict[str, list[Run]] = {_SYNC: [], _CURL: [], _WEBHOOK: []}
    with short_directory() as directory:
        machine = describe_machine(directory)

        def result(tags: TagsTimes | None) -> Result:
            return Result(
                benchmark="sites",
                started=started,
                machine=machine,
                versions=versions([]),
                image=ImageFacts(
                    name="random bytes", manifest_digest="", layers=_LAYERS, compressed_bytes=scale.image_bytes
                ),
                settings={
                    "rounds": str(scale.rounds),
                    "registry": f"one at each site, {scale.bits_per_second / 1e6:g} Mbit/s between the sites",
                    "tags": str(scale.tags),
                    "load_at_start": f"{load:.2f}",
                },
                contestants=tuple(
                    Contestant(name=name, runs=tuple(each)) for name, each in (runs | _rows(tags)).items() if each
                ),
                verdicts=verdicts_of(runs, tags),
            )

        say("starting two sites")
        with _running(directory, scale.bits_per_second) as pair:
            pair.sync([100_000] * _LAYERS)  # everybody has once done all it will do
            for number in range(scale.rounds):
                say(f"round {number + 1} of {scale.rounds}")
                sizes = [scale.image_bytes // _LAYERS] * _LAYERS
                order = (_SYNC, _CURL) if number % 2 else (_CURL, _SYNC)
                for name in order:
                    seconds = pair.sync(sizes) if name == _SYNC else pair.curl(scale.image_bytes)
                    runs[name].append(Run(round=number, seconds=seconds, cpu_seconds=0.0))
                keep(result(None))
            say(f"{scale.webhooks} webhooks with nothing to move")
            runs[_WEBHOOK] = [
                Run(round=number, seconds=pair.retag(number), cpu_seconds=0.0) for number in range(scale.webhooks)
            ]
            keep(result(None))
        tags = time_tags(directory / "tags", scale.tags, say) if scale.tags else None
        return result(tags)


def verdicts_of(runs: dict[str, list[Run]], tags: TagsTimes | None) -> tuple[Verdict, ...]:
    """Medians over rounds: a noisy round hits both of a pair."""

    def by_round(name: str) -> dict[int, float]:
        return {run.round: run.seconds for run in runs[name]}

    found = []
    if ratio := median(pair_ratios(by_round(_CURL), by_round(_SYNC))):
        found.append(Verdict(what="sync of one image ÷ one curl", value=ratio, unit="×", aim="at most 1.1"))
    if runs[_WEBHOOK]:
        slowest = max(run.seconds for run in runs[_WEBHOOK])
        found.append(Verdict(what=f"{_WEBHOOK}, the slowest", value=slowest, unit="s", aim="at most 1"))
    if tags is not None:
        told = f"{tags.count} tags unchanged"
        found += [
            Verdict(what=f"{told}, by the journal", value=tags.journal_seconds, unit="s", aim="at most 10"),
            Verdict(what=f"{told}, by a plain registry", value=tags.registry_seconds, unit="s", aim="at most 60"),
            Verdict(what=f"{told}, manifests fetched", value=tags.manifests, unit="", aim="0"),
        ]
    return tuple(found)


def _rows(tags: TagsTimes | None) -> dict[str, list[Run]]:
    if tags is None:
        return {}
    return {
        _JOURNAL: [Run(round=0, seconds=tags.journal_seconds, cpu_seconds=0.0)],
        _REGISTRY: [Run(round=0, seconds=tags.registry_seconds, cpu_seconds=0.0)],
    }


class _Pair:
    """What is pushed to the first site's registry appears at the other."""

    def __init__(self, registry: Registry, first: Site, other: Site) -> None:
        self._registry = registry
        self._first = first
        self._other = other

    def sync(self, sizes_bytes: list[int]) -> float:
        """A new image, from its notification until the other site tells its tag: seconds. Raises ImagedistError."""
        with self._registry.node.namespace.entered():
            digest, _ = push(deployment.LOCAL_REGISTRY, sizes_bytes)
        return self._notified("1", digest)

    def retag(self, number: int) -> float:
        """The last image under another tag: nothing to move."""
        with self._registry.node.namespace.entered():
            manifests = f"{deployment.LOCAL_REGISTRY}/v2/{REPOSITORY}/manifests"
            accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
            with urlopen(Request(f"{manifests}/1", headers=accept)) as answer:
                body, media_type = answer.read(), answer.headers["Content-Type"]
            headers = {"Content-Type": media_type}
            with urlopen(Request(f"{manifests}/r{number}", body, headers, method="PUT")):
                pass
        return self._notified(f"r{number}", Digest.of(body))

    def curl(self, size_bytes: int) -> float:
        """So many new bytes in one blob, over the same link, by one curl: seconds. Raises ImagedistError."""
        with self._registry.node.namespace.entered():
            _, (blob,) = push(deployment.LOCAL_REGISTRY, [size_bytes])
        url = f"http://{self._registry.address}/v2/{REPOSITORY}/blobs/{blob}"
        began = time.perf_counter()
        self._other.node.run(["curl", "--silent", "--fail", "--output", "/dev/null", url])
        return time.perf_counter() - began

    def wait_ready(self) -> None:
        """Both seeders have looked through their registries. Raises ImagedistError: they did not."""
        url = f"{self._first.seeder_urls[0]}/site/v1/syncs?destinations=1"

        def is_ready() -> bool:
            status = SyncStatus.model_validate_json(self._first.node.get(url))
            return not status.is_scanning and not any(each.is_behind for each in status.destinations)

        _until(is_ready, "the sites to come to rest")

    def _notified(self, tag: str, digest: Digest) -> float:
        target = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "repository": REPOSITORY, "tag": tag}
        body = json.dumps({"events": [{"action": "push", "target": target}]}).encode()
        token = self._first.token_file.read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        url = f"{self._first.seeder_urls[0]}/site/v1/syncs/webhook?from=registry"
        began = time.perf_counter()
        with self._first.node.namespace.entered(), urlopen(Request(url, body, headers)):
            pass
        there = f"{self._other.proxy_url}/site/v1/held/v2/registry/{REPOSITORY}/manifests/{tag}"

        def is_there() -> bool:
            return self._other.node.answers(there) and Digest.of(self._other.node.get(there)) == digest

        _until(is_there, f"{REPOSITORY}:{tag} at the other site")
        return time.perf_counter() - began


@contextmanager
def _running(directory: Path, bits_per_second: int) -> Iterator[_Pair]:
    wide = _WIDE * bits_per_second
    with Network() as network, ExitStack() as stack:
        sites = [network.site(name) for name in (_FROM, _TO)]
        network.link(sites[0], sites[1], bits_per_second)
        hosts = [site.node(site.name, wide) for site in sites]
        registries, deployed = [], []
        for number, (site, host) in enumerate(zip(sites, hosts, strict=True)):
            place = directory / site.name
            node = site.node("registry", wide)
            registries.append(stack.enter_context(deployment.registry(node, place / "registry")))
            other = hosts[1 - number]
            lines = (
                "open_reads = true\n"
                f'[sites.{other.name}]\nproxy = "http://{other.address}:5001"\nseeder = "http://{other.address}:5002"\n'
            )
            if number == 0:
                lines += f'[[sync]]\nfrom = "registry"\nrepositories = ["{REPOSITORY}"]\nto = ["{_TO}"]\n'
            deployed.append(stack.enter_context(deployment.site(host, place, registries[-1], seeder=lines)))
        pair = _Pair(registries[0], deployed[0], deployed[1])
        pair.wait_ready()
        yield pair


def _until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise ImagedistError(f"waited {_PATIENCE_SECONDS:.0f} s for {what}")
        time.sleep(_POLL_SECONDS)
