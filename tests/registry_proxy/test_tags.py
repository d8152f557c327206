"""Tags: what the rules of an upstream say about how long, and when, and whether at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from imagedist.config import ProxyConfig, Upstream
from imagedist.distribution.backend import Target
from imagedist.errors import NotFoundError, SourceError
from imagedist.oci.digest import Digest
from imagedist.store.ledger import Ledger
from registry_proxy.access import Access
from registry_proxy.failures import SOURCE_SECONDS, RecentFailures
from registry_proxy.manifests import ManifestStore
from registry_proxy.policy import TagPolicy, tag_policy
from registry_proxy.tags import Manifests
from registry_proxy.turns import Turns
from registry_proxy.upstream import UpstreamRepository, Upstreams
from tests.support.registry import FaultyRegistry

DOWN = [400] * 100
FOREVER = float("inf")


class Site:
    """The manifests of one site as several processes have them, a clock, and the registry behind."""

    def __init__(self, upstream: FaultyRegistry, root: Path, settings: dict[str, Any]) -> None:
        table = {"url": upstream.url, "negative_ttl": "5s"} | settings
        proxy = {"listen": "127.0.0.1:0", "site_blobs": str(root)}
        self.upstreams = Upstreams(ProxyConfig.model_validate({"proxy": proxy, "upstreams": {"up": table}}))
        self.upstream = upstream
        self.now = 1_000_000.0
        self.processes = [self._start(ManifestStore(root, Ledger(root / "usage")), root) for _ in range(3)]

    def _start(self, store: ManifestStore, root: Path) -> Manifests:
        access = Access(lambda place: store.generation(place.upstream, place.repository), lambda: self.now)
        failures, turns = RecentFailures(lambda: self.now), Turns(root / "tags" / ".turns")
        return Manifests(store, access, failures, turns, clock=lambda: self.now)

    @property
    def place(self) -> UpstreamRepository:
        return self.upstreams.resolve(Target("up", "team/app"))

    async def ask(self, tag: str = "1", process: int = 0) -> Digest:
        return (await self.processes[process].by_tag(self.place, tag)).digest

    def push(self, content: bytes, tag: str = "1") -> Digest:
        return self.upstream.add_image("team/app", tag, content)

    def asked(self, tag: str = "1") -> tuple[int, int]:
        """How often upstream was asked about the tag since the last look: by HEAD, by GET."""
        counts = [self.upstream.requests.pop(f"{method} /v2/team/app/manifests/{tag}", 0) for method in ("HEAD", "GET")]
        return counts[0], counts[1]

    async def close(self) -> None:
        for process in self.processes:
            await process.close()
        await self.upstreams.close()


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Site]]:
    sites: list[Site] = []
    async with FaultyRegistry() as upstream:

        def start(*rules: dict[str, Any], **settings: Any) -> Site:
            sites.append(Site(upstream, tmp_path, settings | {"tags": list(rules)}))
            return sites[-1]

        yield start
        for site in sites:
            await site.close()


def policy(repository: str, tag: str, *rules: dict[str, Any]) -> TagPolicy:
    settings = {"url": "http://r.example", "tag_ttl": "60s", "stale_if_error": "2h", "tags": rules}
    return tag_policy(Upstream.model_validate(settings), repository, tag)


@pytest.mark.parametrize(
    ("repository", "tag", "expected"),
    [
        ("team/app", "v1.2.3", TagPolicy(True, FOREVER, 7200)),
        ("team/app", "v1.2.3-rc1", TagPolicy(True, 0, 0)),
        ("team/deep/app", "latest", TagPolicy(True, 0, 0)),
        ("ci/app", "v1.2.3", TagPolicy(False, 60, 7200)),
        ("other", "latest", TagPolicy(True, 5, 7200)),
        ("other", "v1", TagPolicy(True, 60, 7200)),
    ],
)
def test_first_rule_that_matches_decides_and_the_upstream_fills_in(
    repository: str, tag: str, expected: TagPolicy
) -> None:
    rules: list[dict[str, Any]] = [
        {"repositories": ["ci/*"], "policy": "never"},
        {"tags": [r"/v\d+\.\d+\.\d+/"], "policy": "pin"},
        {"repositories": ["team/*"], "policy": "revalidate", "stale_if_error": False},
        {"tags": ["latest", "edge"], "ttl": "5s"},
    ]
    assert policy(repository, tag, *rules) == expected


@pytest.mark.parametrize("rule", [{"tags": ["/v(/"]}, {"policy": "always"}, {"ttl": "soon"}, {"age": "1s"}])
def test_rule_that_means_nothing_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        policy("a", "b", rule)


async def test_tag_is_asked_about_again_only_after_its_own_ttl(start: Callable[..., Site]) -> None:
    site = start({"tags": ["slow"], "ttl": "1h"}, tag_ttl="10s")
    for tag in ("slow", "quick"):
        site.push(b"layer", tag)
        await site.ask(tag)
    assert (site.asked("slow"), site.asked("quick")) == ((0, 1), (0, 1))
    site.now += 11
    await site.ask("slow")
    await site.ask("quick")
    assert (site.asked("slow"), site.asked("quick")) == ((0, 0), (1, 0))


async def test_revalidated_tag_is_asked_about_every_time_and_fetched_when_it_moved(start: Callable[..., Site]) -> None:
    site = start({"policy": "revalidate"})
    first = site.push(b"one")
    assert [await site.ask(), await site.ask()] == [first, first]
    assert site.asked() == (1, 1)
    second = site.push(b"two")
    assert await site.ask() == second
    assert site.asked() == (1, 1)


async def test_pinned_tag_is_resolved_once_until_it_is_purged(start: Callable[..., Site], tmp_path: Path) -> None:
    site = start({"policy": "pin"})
    first = site.push(b"one")
    await site.ask()
    second = site.push(b"two")
    site.now += 1e9
    assert await site.ask() == first
    assert site.asked() == (0, 1)
    (tmp_path / "manifests" / "sha256" / first.hex).unlink()  # the record alone still says what it was pinned to
    assert await site.ask() == first
    assert site.asked() == (0, 0)
    assert await site.processes[1].purge(site.place, "1") == 1
    assert await site.ask() == second


async def test_tag_that_is_never_kept_is_fetched_every_time_and_never_stale(start: Callable[..., Site]) -> None:
    site = start({"policy": "never"})
    site.push(b"one")
    await site.ask()
    await site.ask()
    assert site.asked() == (0, 2)
    site.upstream.statuses = list(DOWN)
    with pytest.raises(SourceError):
        await site.ask()


async def test_stale_answer_has_a_longest_age_and_says_how_old_it_is(start: Callable[..., Site]) -> None:
    site = start(tag_ttl="10s", stale_if_error="1h")
    wanted = site.push(b"one")
    await site.ask()
    site.upstream.statuses = list(DOWN)
    site.now += 3600
    answer = await site.processes[0].by_tag(site.place, "1")
    assert answer.digest == wanted
    assert answer.warning is not None
    assert "stale, last checked 3600 s ago" in answer.warning
    site.now += SOURCE_SECONDS
    with pytest.raises(SourceError):
        await site.ask()


async def test_tag_is_asked_about_once_by_all_processes_of_a_site(start: Callable[..., Site]) -> None:
    site = start(tag_ttl="10s")
    wanted = site.push(b"one")
    for expected in ((0, 1), (1, 0)):
        digests = await asyncio.gather(*(site.ask(process=number % 3) for number in range(30)))
        assert set(digests) == {wanted}
        assert site.asked() == expected
        site.now += 11


async def test_absent_tag_is_asked_about_again_after_the_configured_time_and_at_once_after_a_purge(
    start: Callable[..., Site],
) -> None:
    site = start(negative_ttl="30s")
    for _ in range(3):
        with pytest.raises(NotFoundError):
            await site.ask()
    assert site.asked() == (0, 1)
    wanted = site.push(b"one")
    site.now += 29
    with pytest.raises(NotFoundError):
        await site.ask()
    await site.processes[1].purge(site.place, None)  # in another process
    assert await site.ask() == wanted
    with pytest.raises(NotFoundError):
        await site.ask("2")
    site.push(b"two", "2")
    site.now += 30
    await site.ask("2")


async def test_tag_that_is_gone_upstream_is_not_given_as_stale_later(start: Callable[..., Site]) -> None:
    site = start(tag_ttl="0s")
    site.push(b"one")
    await site.ask()
    kept = dict(site.upstream.manifests)
    site.upstream.manifests.clear()
    with pytest.raises(NotFoundError):
        await site.ask()
    site.upstream.manifests = kept
    site.upstream.statuses = list(DOWN)
    site.now += 10
    with pytest.raises(SourceError):
        await site.ask()


async def test_answer_that_was_on_its_way_when_its_tag_was_purged_is_not_kept(start: Callable[..., Site]) -> None:
    site = start(tag_ttl="1h")
    first = site.push(b"one")
    site.upstream.manifest_gate = asyncio.Event()
    early = asyncio.create_task(site.ask())
    await site.upstream.asked.wait()
    await site.processes[1].purge(site.place, "1")
    second = site.push(b"two")
    late = asyncio.create_task(site.ask())
    await asyncio.sleep(0)
    site.upstream.manifest_gate.set()
    assert (await early, await late) == (first, second)
    assert await site.ask() == second
