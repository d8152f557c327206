from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from imagedist.distribution.backend import ManifestAnswer, Page, Target
from imagedist.distribution.rate import TokenBucket
from imagedist.distribution.surface import add_registry_routes
from imagedist.errors import (
    ImagedistError,
    IntegrityError,
    NotFoundError,
    OverloadedError,
    SourceError,
    StorageError,
    UnacceptableError,
    UnauthorizedError,
)
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_INDEX, OCI_MANIFEST
from imagedist.store.arrivals import Arrivals, Fetch
from imagedist.store.blobs import BlobStore
from imagedist.store.reading import OpenBlob
from imagedist.store.writer import BlobWriter

CONTENT = os.urandom(3 << 20)
BLOB = Digest.of(CONTENT)
MANIFEST = b'{"schemaVersion": 2}'
Client = TestClient[web.Request, web.Application]


class StoreBackend:
    """A backend over a real store: what is committed, and what arrives by a given fetch."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self.arrivals = Arrivals(store)
        self.fetch: Fetch | None = None
        self.failure: ImagedistError | None = None
        self.warning: str | None = None
        self.targets: list[Target] = []

    def _seen(self, target: Target) -> None:
        self.targets.append(target)
        if self.failure:
            raise self.failure

    async def manifest(self, target: Target, reference: str) -> ManifestAnswer:
        self._seen(target)
        return ManifestAnswer(Digest.of(MANIFEST), OCI_MANIFEST, MANIFEST, self.warning)

    async def blob_size(self, target: Target, digest: Digest) -> int:
        self._seen(target)
        return self.store.size_bytes(digest)

    async def open_blob(self, target: Target, digest: Digest) -> OpenBlob:
        self._seen(target)
        if self.fetch is None or self.store.has(digest):
            return await self.store.open(digest)
        return await (await self.arrivals.join(digest, None, self.fetch)).open()

    async def tags(self, target: Target, query: Mapping[str, str]) -> Page:
        self._seen(target)
        return Page(
            f"{query.get('n')} {query.get('last')}".encode(),
            "application/json",
            link='</v2/a/tags/list?last=b>; rel="next"',
        )

    async def referrers(self, target: Target, digest: Digest, query: Mapping[str, str]) -> Page:
        self._seen(target)
        return Page(b"{}", OCI_INDEX, filters_applied="artifactType" if "artifactType" in query else None)


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[StoreBackend]:
    backend = StoreBackend(BlobStore(tmp_path / "store"))
    yield backend
    await backend.arrivals.close()


@pytest.fixture
async def committed(backend: StoreBackend, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    await backend.store.adopt(tmp_path / "source", BLOB, len(CONTENT))


async def serve(backend: StoreBackend, rate: TokenBucket | None = None, max_requests: int = 8) -> Client:
    app = web.Application()
    add_registry_routes(app, backend, rate=rate, max_requests=max_requests)
    client: Client = TestClient(TestServer(app), auto_decompress=False)
    await client.start_server()
    return client


@pytest.fixture
async def client(backend: StoreBackend) -> AsyncIterator[Client]:
    client = await serve(backend)
    yield client
    await client.close()


async def test_base_says_which_api_this_is(client: Client) -> None:
    for path in ("/v2/", "/v2"):
        response = await client.get(path)
        assert response.status == 200
        assert response.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


async def test_manifest_head_and_get_agree(client: Client) -> None:
    head, get = await client.head("/v2/a/manifests/1"), await client.get("/v2/a/manifests/1")
    for name in ("Docker-Content-Digest", "Content-Length", "Content-Type", "ETag"):
        assert head.headers[name] == get.headers[name]
    assert (await head.read(), await get.read()) == (b"", MANIFEST)
    assert get.headers["Content-Type"] == OCI_MANIFEST
    assert get.headers["Docker-Content-Digest"] == str(Digest.of(MANIFEST))
    assert "OCI-Namespace" not in get.headers


async def test_accept_does_not_convert_and_nothing_is_compressed(client: Client, committed: None) -> None:
    wanted = {"Accept": "text/plain", "Accept-Encoding": "zstd, gzip, deflate"}
    for path in ("/v2/a/manifests/1", f"/v2/a/blobs/{BLOB}"):
        response = await client.get(path, headers=wanted)
        assert response.status == 200
        assert "Content-Encoding" not in response.headers


async def test_namespace_is_passed_on_and_acknowledged(client: Client, backend: StoreBackend) -> None:
    response = await client.get("/v2/a/manifests/1", params={"ns": "registry.local:5000"})
    assert response.headers["OCI-Namespace"] == "registry.local:5000"
    assert backend.targets == [Target("registry.local:5000", "a")]


async def test_authorization_of_the_client_reaches_the_backend_and_no_text_about_it(
    client: Client, backend: StoreBackend
) -> None:
    await client.get("/v2/a/manifests/1", headers={"Authorization": "Basic c2VjcmV0"})
    (target,) = backend.targets
    assert target.authorization == "Basic c2VjcmV0"
    assert "c2VjcmV0" not in repr(target)


async def test_stale_answer_carries_a_warning(client: Client, backend: StoreBackend) -> None:
    backend.warning = "stale"
    assert (await client.get("/v2/a/manifests/1")).headers["Warning"] == '299 - "stale"'


async def test_unchanged_manifest_is_not_sent_again(client: Client) -> None:
    etag = (await client.get("/v2/a/manifests/1")).headers["ETag"]
    assert (await client.get("/v2/a/manifests/1", headers={"If-None-Match": etag})).status == 304


async def test_committed_blob_is_sent_whole(client: Client, committed: None) -> None:
    head, get = await client.head(f"/v2/a/blobs/{BLOB}"), await client.get(f"/v2/a/blobs/{BLOB}")
    assert head.headers["Content-Length"] == get.headers["Content-Length"] == str(len(CONTENT))
    assert head.headers["Docker-Content-Digest"] == get.headers["Docker-Content-Digest"] == str(BLOB)
    assert await get.read() == CONTENT


@pytest.mark.parametrize(
    ("header", "part"), [("bytes=5-9", slice(5, 10)), ("bytes=9-", slice(9, None)), ("bytes=-7", slice(-7, None))]
)
@pytest.mark.parametrize("in_flight", [False, True])
async def test_ranges_of_blobs(
    client: Client, backend: StoreBackend, tmp_path: Path, header: str, part: slice, in_flight: bool
) -> None:
    if in_flight:
        backend.fetch = whole
    else:
        (tmp_path / "source").write_bytes(CONTENT)
        await backend.store.adopt(tmp_path / "source", BLOB, len(CONTENT))
    response = await client.get(f"/v2/a/blobs/{BLOB}", headers={"Range": header})
    assert response.status == 206
    assert await response.read() == CONTENT[part]
    start = part.indices(len(CONTENT))[0]
    assert response.headers["Content-Range"] == f"bytes {start}-{start + len(CONTENT[part]) - 1}/{len(CONTENT)}"


async def whole(writer: BlobWriter) -> None:
    await writer.begin(len(CONTENT))
    await writer.write(CONTENT)


async def test_range_outside_of_the_blob_is_416(client: Client, committed: None) -> None:
    response = await client.get(f"/v2/a/blobs/{BLOB}", headers={"Range": f"bytes={len(CONTENT)}-"})
    assert response.status == 416
    assert response.headers["Content-Range"] == f"bytes */{len(CONTENT)}"


async def test_range_of_another_version_gets_the_whole(client: Client, committed: None) -> None:
    response = await client.get(f"/v2/a/blobs/{BLOB}", headers={"Range": "bytes=1-2", "If-Range": '"other"'})
    assert (response.status, len(await response.read())) == (200, len(CONTENT))


async def test_arriving_blob_is_relayed_while_it_arrives(client: Client, backend: StoreBackend) -> None:
    proceed = asyncio.Event()

    async def fetch(writer: BlobWriter) -> None:
        await writer.begin(len(CONTENT))
        await writer.write(CONTENT[: 2 << 20])
        await proceed.wait()
        await writer.write(CONTENT[2 << 20 :])

    backend.fetch = fetch
    response = await client.get(f"/v2/a/blobs/{BLOB}")
    assert await response.content.readexactly(2 << 20) == CONTENT[: 2 << 20]
    proceed.set()
    assert await response.read() == CONTENT[2 << 20 :]


async def test_a_part_of_an_arriving_blob_ends_only_when_the_whole_was_verified(
    client: Client, backend: StoreBackend
) -> None:
    proceed = asyncio.Event()

    async def fetch(writer: BlobWriter) -> None:
        await writer.begin(len(CONTENT))
        await writer.write(CONTENT[: 2 << 20])
        await proceed.wait()
        await writer.write(CONTENT[2 << 20 :])

    backend.fetch = fetch
    response = await client.get(f"/v2/a/blobs/{BLOB}", headers={"Range": "bytes=10-1009"})
    assert await response.content.readexactly(999) == CONTENT[10:1009]
    last = asyncio.create_task(response.read())
    await client.get("/v2/")  # a turn of the server: it would have sent the last byte
    assert not last.done()
    proceed.set()
    assert await last == CONTENT[1009:1010]


async def test_body_with_wrong_bytes_is_broken_off_not_finished(client: Client, backend: StoreBackend) -> None:
    async def fetch(writer: BlobWriter) -> None:
        await writer.begin(len(CONTENT))
        await writer.write(b"x" * len(CONTENT))

    backend.fetch = fetch
    with pytest.raises(aiohttp.ClientError):
        await (await client.get(f"/v2/a/blobs/{BLOB}")).read()
    assert not backend.store.has(BLOB)


async def test_evicted_while_opened_is_still_sent(client: Client, backend: StoreBackend, committed: None) -> None:
    opened = backend.store.open

    async def open_then_evict(digest: Digest) -> OpenBlob:
        blob = await opened(digest)
        await backend.store.remove(digest)
        return blob

    class Evicting(StoreBackend):
        async def open_blob(self, target: Target, digest: Digest) -> OpenBlob:
            return await open_then_evict(digest)

    other = await serve(Evicting(backend.store))
    assert await (await other.get(f"/v2/a/blobs/{BLOB}")).read() == CONTENT
    await other.close()


async def test_rate_caps_all_bytes(backend: StoreBackend, committed: None) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    client = await serve(backend, TokenBucket(1 << 20, burst_bytes=0, clock=lambda: 0.0, sleep=sleep))
    assert await (await client.get(f"/v2/a/blobs/{BLOB}")).read() == CONTENT
    assert max(slept) == pytest.approx(3.0)
    await client.close()


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (NotFoundError("no", "MANIFEST_UNKNOWN"), 404, "MANIFEST_UNKNOWN"),
        (NotFoundError("no", "NAME_UNKNOWN"), 404, "NAME_UNKNOWN"),
        (UnauthorizedError("no"), 403, "DENIED"),
        (OverloadedError("no"), 503, "UNAVAILABLE"),
        (SourceError("no"), 502, "UNAVAILABLE"),
        (IntegrityError("no"), 502, "DIGEST_INVALID"),
        (UnacceptableError("no"), 502, "MANIFEST_INVALID"),
        (StorageError("no"), 500, "UNKNOWN"),
    ],
)
async def test_errors_are_rendered_as_the_spec_says(
    client: Client, backend: StoreBackend, failure: ImagedistError, status: int, code: str
) -> None:
    backend.failure = failure
    response = await client.get("/v2/a/manifests/1")
    assert response.status == status
    assert (await response.json())["errors"][0] == {"code": code, "message": "no", "detail": None}
    assert ("Retry-After" in response.headers) == (status == 503)
    assert (await client.head("/v2/a/manifests/1")).status == status


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_push_is_refused(client: Client, method: str) -> None:
    response = await client.request(method, "/v2/a/blobs/uploads/")
    assert response.status == 405
    assert response.headers["Allow"] == "GET, HEAD"
    assert (await response.json())["errors"][0]["code"] == "UNSUPPORTED"


@pytest.mark.parametrize("path", ["A/manifests/1", "a/blobs/sha256:1", "a%2F..%2Fb/manifests/1"])
async def test_malformed_requests_reach_no_backend(client: Client, backend: StoreBackend, path: str) -> None:
    assert (await client.get(f"/v2/{path}")).status == 400
    assert backend.targets == []


async def test_lists_are_passed_on(client: Client) -> None:
    tags = await client.get("/v2/a/tags/list?n=2&last=a")
    assert (await tags.text(), "next" in tags.headers["Link"]) == ("2 a", True)
    referrers = await client.get(f"/v2/a/referrers/{BLOB}?artifactType=x")
    assert referrers.headers["Content-Type"] == OCI_INDEX
    assert referrers.headers["OCI-Filters-Applied"] == "artifactType"


async def test_overload_is_503_never_429(backend: StoreBackend) -> None:
    proceed = asyncio.Event()
    first_in = asyncio.Event()

    class Slow(StoreBackend):
        async def manifest(self, target: Target, reference: str) -> ManifestAnswer:
            first_in.set()
            await proceed.wait()
            return await super().manifest(target, reference)

    client = await serve(Slow(backend.store), max_requests=1)
    requests = [asyncio.create_task(client.get("/v2/a/manifests/1")) for _ in range(8)]
    await first_in.wait()
    refused = await next(asyncio.as_completed(requests))
    assert refused.status == 503
    assert 1 <= int(refused.headers["Retry-After"]) <= 5
    proceed.set()
    statuses = [(await request).status for request in requests]
    assert sorted(statuses) == [200] * 5 + [503] * 3
    await client.close()


async def test_push_is_told_where_to_push(backend: StoreBackend, client: Client) -> None:
    app = web.Application()
    add_registry_routes(app, backend, upstream_name=lambda target: f"registry.example/{target.name}")
    async with TestClient(TestServer(app)) as named:
        for method, path in (("POST", "blobs/uploads/"), ("PUT", "manifests/1"), ("PATCH", "blobs/uploads/a-b")):
            message = (await (await named.request(method, f"/v2/team/app/{path}")).json())["errors"][0]["message"]
            assert message == "this is a mirror, for pulls only: push to registry.example/team/app itself"
    by_namespace = await client.put("/v2/app/manifests/1?ns=quay.io")
    assert "push to quay.io/app itself" in (await by_namespace.json())["errors"][0]["message"]


async def test_blob_that_is_not_here_is_not_unchanged(client: Client) -> None:
    """A client that names a digest learns nothing about what it may not have."""
    for value in (f'"{BLOB}"', "*"):
        assert (await client.get(f"/v2/a/blobs/{BLOB}", headers={"If-None-Match": value})).status == 404


async def test_conditions_hold_for_blobs_and_manifests(client: Client, committed: None) -> None:
    for path, digest in ((f"/v2/a/blobs/{BLOB}", BLOB), ("/v2/a/manifests/1", Digest.of(MANIFEST))):
        unchanged = await client.get(path, headers={"If-None-Match": f'"x", W/"{digest}"'})
        assert (unchanged.status, unchanged.headers["ETag"]) == (304, f'"{digest}"')
        assert (await client.get(path, headers={"If-Match": '"x"'})).status == 412
        assert (await client.head(path, headers={"If-Match": f'"{digest}"'})).status == 200


async def test_namespace_is_acknowledged_in_refusals_too_but_not_repeated_when_malformed(client: Client) -> None:
    response = await client.get("/v2/A/manifests/1?ns=quay.io")
    assert (response.status, response.headers["OCI-Namespace"]) == (400, "quay.io")
    malformed = await client.get("/v2/a/manifests/1", params={"ns": "a\r\nSet-Cookie: b"})
    assert (malformed.status, "OCI-Namespace" in malformed.headers) == (400, False)


@pytest.mark.parametrize("count", ["-1", "x", "1.5", "", "99999999999"])
async def test_number_of_tags_is_a_number(client: Client, backend: StoreBackend, count: str) -> None:
    assert (await client.get("/v2/a/tags/list", params={"n": count})).status == 400
    assert backend.targets == []
