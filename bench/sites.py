"""Two sites: an image over a capped link beside one curl of its bytes, a webhook's way to the other site, 10,000 tags.

Each site's host has a registry of its own beside it, and both sites' links inside are wide.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

from bench.directories import short_directory
from bench.in_turn import Runs, Say, in_turn, ratio, rows_of
from bench.machine import Start, described
from bench.network import Network, deployment
from bench.network.deployment import Registry, Site
from bench.preflight import need
from bench.result import ImageFacts, Keep, Result, Run, Verdict
from bench.serving import REPOSITORY, push
from bench.sites_tags import TagsTimes, time_tags
from bench.waiting import until
from imagedist.oci.digest import Digest
from imagedist.site_sync import SyncStatus

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


def check(scale: Scale) -> None:
    """Raises InputError: this machine cannot have a test network, misses a program, or has too little memory."""
    # Two registries and two sites keep every image and blob.
    memory_bytes = 8 * scale.rounds * scale.image_bytes
    need("sites", "docker-registry", "curl", is_network=True, memory_bytes=memory_bytes)


def run(scale: Scale, say: Say, keep: Keep) -> Result:
    """Two minutes.

    Raises:
        InputError: this machine cannot have a test network, misses a program, or has too little memory.
        ImagedistError: something failed.
    """
    check(scale)
    start = Start.now()
    runs: Runs = {}
    with short_directory() as directory:

        def known(tags: TagsTimes | None = None) -> Result:
            return described(
                "sites",
                directory,
                ImageFacts(name="random bytes", manifest_digest="", layers=_LAYERS, compressed_bytes=scale.image_bytes),
                {
                    "rounds": str(scale.rounds),
                    "registry": f"one at each site, {scale.bits_per_second / 1e6:g} Mbit/s between the sites",
                    "tags": str(scale.tags),
                },
                rows_of({**runs, **_rows(tags)}),
                verdicts_of(runs, tags),
                start=start,
            )

        def kept(so_far: Runs, before: Runs) -> None:
            nonlocal runs
            runs = {**before, **so_far}
            keep(known())

        say("starting two sites")
        with _running(directory, scale.bits_per_second) as pair:
            sizes = [scale.image_bytes // _LAYERS] * _LAYERS
            pair.sync([100_000] * _LAYERS)  # everybody has once done all it will do
            ways = {
                _CURL: lambda number: _run(number, pair.curl(scale.image_bytes)),
                _SYNC: lambda number: _run(number, pair.sync(sizes)),
            }
            copied = in_turn(ways, scale.rounds, say, lambda runs: kept(runs, {}))
            again = {_WEBHOOK: lambda number: _run(number, pair.retag(number))}
            in_turn(again, scale.webhooks, say, lambda runs: kept(runs, copied))
        return known(time_tags(directory / "tags", scale.tags, say) if scale.tags else None)


def _run(number: int, seconds: float) -> Run:
    return Run(round=number, seconds=seconds)


def verdicts_of(runs: Runs, tags: TagsTimes | None) -> tuple[Verdict, ...]:
    """Of what was measured."""
    found = []
    if times := ratio(runs.get(_SYNC, ()), runs.get(_CURL, ())):
        found.append(Verdict(what="sync of one image ÷ one curl", value=times, unit="×", aim="at most 1.1"))
    if runs.get(_WEBHOOK):
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


def _rows(tags: TagsTimes | None) -> Runs:
    return (
        {} if tags is None else {_JOURNAL: [_run(0, tags.journal_seconds)], _REGISTRY: [_run(0, tags.registry_seconds)]}
    )


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

        until(is_ready, "the sites to come to rest", _PATIENCE_SECONDS, _POLL_SECONDS)

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

        until(is_there, f"{REPOSITORY}:{tag} at the other site", _PATIENCE_SECONDS, _POLL_SECONDS)
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
