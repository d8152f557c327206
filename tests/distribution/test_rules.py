"""The pure rules of the surface: routes, ranges, rate."""

from __future__ import annotations

import asyncio

import pytest

from imagedist.distribution.admission import Admission
from imagedist.distribution.ranges import ByteRange, Unsatisfiable, parse_range
from imagedist.distribution.rate import TokenBucket
from imagedist.distribution.rendering import warning_header
from imagedist.distribution.routes import Refusal, Route, parse_route
from imagedist.errors import OverloadedError
from imagedist.oci.digest import Digest

DIGEST = Digest.of(b"")


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("", Route("base")),
        ("library/nginx/manifests/1.2", Route("manifest", "library/nginx", "1.2")),
        (f"a/manifests/{DIGEST}", Route("manifest", "a", str(DIGEST), DIGEST)),
        (f"docker.io/library/nginx/blobs/{DIGEST}", Route("blob", "docker.io/library/nginx", "", DIGEST)),
        ("team/manifests/tags/list", Route("tags", "team/manifests")),
        (f"blobs/blobs/referrers/{DIGEST}", Route("referrers", "blobs/blobs", "", DIGEST)),
    ],
)
def test_routes_are_read_by_the_spec(path: str, route: Route) -> None:
    assert parse_route(path) == route


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("Upper/manifests/1", 400, "NAME_INVALID"),
        ("../etc/manifests/1", 400, "NAME_INVALID"),
        ("a//b/manifests/1", 400, "NAME_INVALID"),
        ("a/manifests/.hidden", 404, "MANIFEST_UNKNOWN"),
        ("a/manifests/" + "t" * 129, 404, "MANIFEST_UNKNOWN"),
        ("a/manifests/sha256:12", 400, "DIGEST_INVALID"),
        ("a/blobs/latest", 400, "DIGEST_INVALID"),
        ("a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"),
        ("_catalog", 404, "UNSUPPORTED"),
    ],
)
def test_malformed_names_tags_and_digests_are_refused(path: str, status: int, code: str) -> None:
    refusal = parse_route(path)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (status, code)


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-", ByteRange(0, 10, 10)),
        ("bytes=3-5", ByteRange(3, 3, 10)),
        ("bytes=3-99", ByteRange(3, 7, 10)),
        ("bytes=-4", ByteRange(6, 4, 10)),
        ("bytes=-99", ByteRange(0, 10, 10)),
        (f"bytes=-{10**30}", ByteRange(0, 10, 10)),
        (f"bytes=3-{10**30}", ByteRange(3, 7, 10)),
        ("Bytes=9-9", ByteRange(9, 1, 10)),
    ],
)
def test_single_ranges_are_honoured(header: str, part: ByteRange) -> None:
    assert parse_range(header, 10) == part


@pytest.mark.parametrize(
    "header", [None, "", "bytes=-", "bytes=5-3", "bytes=0-1,4-5", "lines=1-2", "bytes=x-", "bytes=-1-2"]
)
def test_other_ranges_are_ignored(header: str | None) -> None:
    assert parse_range(header, 10) is None
    assert parse_range("bytes=0-", 0) is None


@pytest.mark.parametrize(
    ("header", "total_bytes"), [("bytes=10-", 10), (f"bytes={10**30}-", 10), ("bytes=-0", 10), ("bytes=-0", 4)]
)
def test_ranges_outside_are_unsatisfiable(header: str, total_bytes: int) -> None:
    assert isinstance(parse_range(header, total_bytes), Unsatisfiable)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


async def test_bucket_gives_its_rate_and_no_more() -> None:
    clock = Clock()
    bucket = TokenBucket(1000, clock=clock, sleep=clock.sleep)
    for _ in range(100):
        await bucket.take(100)
    assert clock.now == pytest.approx(110.0, abs=0.2)


async def test_pause_allows_a_burst_of_limited_size() -> None:
    clock = Clock()
    bucket = TokenBucket(1000, burst_bytes=500, clock=clock, sleep=clock.sleep)
    clock.now += 60
    await bucket.take(500)
    assert clock.now == 160.0
    await bucket.take(1000)
    assert clock.now == pytest.approx(161.0)


async def test_past_the_limit_requests_queue_and_past_the_queue_they_are_refused() -> None:
    admission = Admission(1, max_queued=1)
    order: list[str] = []

    async def second() -> None:
        async with admission:
            order.append("second")

    async with admission:
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            async with admission:
                pass
        order.append("first")
    await waiting
    assert order == ["first", "second"]


async def test_long_wait_in_the_queue_ends_in_overload() -> None:
    admission = Admission(1, max_wait_seconds=0.01)
    async with admission:
        with pytest.raises(OverloadedError):
            async with admission:
                pass
    async with admission:
        pass


def test_warning_cannot_break_out_of_its_header() -> None:
    assert warning_header('stale "x"\r\nSet-Cookie: é') == "299 - \"stale 'x'''Set-Cookie: '\""
