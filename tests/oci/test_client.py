from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from imagedist.errors import (
    IntegrityError,
    NotFoundError,
    SourceError,
    UnacceptableError,
    UnauthorizedError,
)
from imagedist.oci import client as module
from imagedist.oci.auth import Credentials
from imagedist.oci.bulk import CHUNK_BYTES, FIRST_CHUNK_BYTES
from imagedist.oci.client import RegistryClient
from imagedist.oci.digest import Digest
from imagedist.oci.http import Http
from imagedist.oci.http_aiohttp import AiohttpClient
from imagedist.oci.http_threads import ThreadedClient
from imagedist.oci.images import resolve_image
from imagedist.oci.manifest import OCI_INDEX, OCI_MANIFEST
from imagedist.oci.platform import Platform
from imagedist.oci.reference import Reference
from imagedist.oci.retries import retry_after_seconds
from tests.support.registry import IDENTITY_TOKEN, PASSWORD, TOKEN, USERNAME, FaultyRegistry

CONTENT = os.urandom(3 * CHUNK_BYTES + 123)
AMD64 = Platform.parse("linux/amd64")


@pytest.fixture
async def registry() -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry() as registry:
        yield registry


class Naps:
    """Sleeps not at all, and remembers for how long."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture(params=[AiohttpClient, ThreadedClient])
async def http(request: pytest.FixtureRequest) -> Http:
    """Every test that asks a registry runs with both."""
    client: Http = request.param()
    return client


@pytest.fixture
async def client(registry: FaultyRegistry, naps: Naps, http: Http) -> AsyncIterator[RegistryClient]:
    async with RegistryClient(registry.url, http=http, sleep=naps) as client:
        yield client


async def read(client: RegistryClient, digest: Digest, offset: int = 0) -> bytes:
    async with client.blob("team/app", digest, offset) as stream:
        assert stream.size_bytes == len(CONTENT)
        return b"".join([chunk async for chunk in stream])


async def test_manifest_by_tag_and_by_digest(registry: FaultyRegistry, client: RegistryClient) -> None:
    digest = registry.add_manifest("team/app", "1", b"{}")
    for reference in ("1", str(digest)):
        fetched = await client.manifest("team/app", reference)
        assert fetched == (b"{}", OCI_MANIFEST, digest, None)
    assert await client.head_manifest("team/app", "1") == (digest, OCI_MANIFEST)


async def test_namespace_and_prefix_are_passed_to_a_mirror(registry: FaultyRegistry, http: Http) -> None:
    registry.add_manifest("docker.io/team/app", "1", b"{}")
    async with RegistryClient(registry.url, http=http, namespace="r.example", path_prefix="docker.io") as client:
        assert (await client.manifest("team/app", "1")).body == b"{}"
        with pytest.raises(NotFoundError, match=r"r\.example/team/app:2"):
            await client.manifest("team/app", "2")


async def test_unknown_tag_names_the_reference(registry: FaultyRegistry, client: RegistryClient) -> None:
    with pytest.raises(NotFoundError, match=r"has no 127\.0\.0\.1:.*/team/app:nope") as caught:
        await client.manifest("team/app", "nope")
    assert caught.value.code == "MANIFEST_UNKNOWN"


async def test_manifest_with_another_digest_is_refused(registry: FaultyRegistry, client: RegistryClient) -> None:
    digest = Digest.of(b"right")
    registry.manifests["team/app", str(digest)] = (OCI_MANIFEST, b"wrong")
    with pytest.raises(IntegrityError, match=str(digest)):
        await client.manifest("team/app", str(digest))


async def test_huge_manifest_is_not_read_to_its_end(registry: FaultyRegistry, client: RegistryClient) -> None:
    registry.add_manifest("team/app", "1", bytes(5 << 20))
    with pytest.raises(UnacceptableError, match="larger than"):
        await client.manifest("team/app", "1")


async def test_blob_arrives_at_once_and_then_in_large_chunks(registry: FaultyRegistry, client: RegistryClient) -> None:
    digest = registry.add_blob(CONTENT)
    async with client.blob("team/app", digest) as stream:
        chunks = [chunk async for chunk in stream]
    assert b"".join(chunks) == CONTENT
    first = [FIRST_CHUNK_BYTES, 2 * FIRST_CHUNK_BYTES, 4 * FIRST_CHUNK_BYTES]
    assert [len(chunk) for chunk in chunks] == [*first, CHUNK_BYTES, CHUNK_BYTES, FIRST_CHUNK_BYTES + 123]
    assert await client.blob_size("team/app", digest) == len(CONTENT)


@pytest.mark.parametrize("ignores_ranges", [False, True])
@pytest.mark.parametrize("offset", [1, len(CONTENT) - 1])
async def test_blob_from_an_offset(
    registry: FaultyRegistry, client: RegistryClient, ignores_ranges: bool, offset: int
) -> None:
    registry.ignores_ranges = ignores_ranges
    assert await read(client, registry.add_blob(CONTENT), offset) == CONTENT[offset:]


async def test_broken_body_is_resumed_where_it_broke(registry: FaultyRegistry, client: RegistryClient) -> None:
    digest = registry.add_blob(CONTENT)
    registry.cuts = [700_000, 300_000]
    assert await read(client, digest) == CONTENT
    assert registry.blob_gets[digest] == 3


async def test_body_that_keeps_breaking_is_given_up(registry: FaultyRegistry, client: RegistryClient) -> None:
    registry.cuts = [100, 0, 0]
    with pytest.raises(SourceError, match=r"broke off .* at byte 100"):
        await read(client, registry.add_blob(CONTENT))


async def test_registry_that_contradicts_itself_about_the_size_is_refused(
    registry: FaultyRegistry, client: RegistryClient
) -> None:
    digest = registry.add_blob(CONTENT)
    registry.lie_bytes = 7
    with pytest.raises(IntegrityError, match="before it was"):
        await client.blob_bytes("team/app", digest, 1 << 30)


async def test_small_blob_is_checked(registry: FaultyRegistry, client: RegistryClient) -> None:
    digest = registry.add_blob(b"config")
    assert await client.blob_bytes("team/app", digest, 6) == b"config"
    with pytest.raises(UnacceptableError):
        await client.blob_bytes("team/app", digest, 5)
    registry.corrupt = True
    with pytest.raises(IntegrityError, match="wrong bytes"):
        await client.blob_bytes("team/app", digest, 6)


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_credentials_are_given_when_asked_for(registry: FaultyRegistry, auth: str, http: Http) -> None:
    registry.auth = auth  # type: ignore[assignment]  # a parameter, not a literal
    digest = registry.add_manifest("team/app", "1", b"{}")
    blob = registry.add_blob(CONTENT)
    async with RegistryClient(registry.url, http=http, credentials=Credentials(USERNAME, PASSWORD)) as client:
        assert (await client.manifest("team/app", "1")).digest == digest
        assert await read(client, blob) == CONTENT
    assert registry.requests["GET /v2/team/app/manifests/1"] == 2
    assert registry.blob_gets[blob] == 1
    assert registry.tokens_given == (1 if auth == "bearer" else 0)


@pytest.mark.parametrize("auth", ["basic", "bearer"])
@pytest.mark.parametrize("credentials", [None, Credentials(USERNAME, "wrong")])
async def test_wrong_credentials_say_how_to_log_in(
    registry: FaultyRegistry, auth: str, credentials: Credentials | None, http: Http
) -> None:
    registry.auth = auth  # type: ignore[assignment]  # a parameter, not a literal
    async with RegistryClient(registry.url, http=http, credentials=credentials) as client:
        with pytest.raises(UnauthorizedError, match=r"check the credentials \(docker login 127.0.0.1:"):
            await client.manifest("team/app", "1")
        with pytest.raises(UnauthorizedError):
            await read(client, Digest.of(b""))


async def test_authorization_does_not_follow_a_redirect_to_another_host(registry: FaultyRegistry, http: Http) -> None:
    digest = registry.add_blob(CONTENT)
    async with FaultyRegistry() as cdn:
        cdn.refuses_authorization = True
        cdn.add_blob(CONTENT)
        registry.auth, registry.redirect_to = "bearer", cdn.url
        async with RegistryClient(registry.url, http=http, credentials=Credentials(USERNAME, PASSWORD)) as client:
            assert await read(client, digest) == CONTENT
            assert await client.blob_size("team/app", digest) == len(CONTENT)
        assert cdn.blob_gets[digest] == 1


async def test_resume_begins_at_the_registry_not_at_the_old_redirect(
    registry: FaultyRegistry, client: RegistryClient
) -> None:
    digest = registry.add_blob(CONTENT)
    async with FaultyRegistry() as cdn:
        cdn.add_blob(CONTENT)
        cdn.cuts = [1000]
        registry.redirect_to = cdn.url
        assert await read(client, digest) == CONTENT
    assert registry.requests[f"GET /v2/team/app/blobs/{digest}"] == 2


async def test_redirects_are_bounded(registry: FaultyRegistry, client: RegistryClient) -> None:
    registry.redirect_to = registry.url
    with pytest.raises(SourceError, match="more than 5 times"):
        await read(client, Digest.of(b""))


@pytest.mark.parametrize("target", ["file:///etc", "ftp://x", "http://[", "gopher://"])
async def test_redirects_to_other_schemes_are_refused(
    registry: FaultyRegistry, client: RegistryClient, target: str
) -> None:
    registry.redirect_to = target
    with pytest.raises(SourceError, match="refused"):
        await read(client, Digest.of(b""))


async def test_overloaded_registry_is_asked_again_when_it_said(
    registry: FaultyRegistry, client: RegistryClient, naps: Naps
) -> None:
    registry.add_manifest("team/app", "1", b"{}")
    registry.statuses, registry.retry_after = [429, 503], "7"
    assert (await client.manifest("team/app", "1")).body == b"{}"
    assert len(naps.seconds) == 2
    assert all(7.0 <= seconds <= 8.0 for seconds in naps.seconds)  # and not everyone at the same moment


async def test_registry_that_wants_to_be_left_alone_for_long_is_not_asked_again(
    registry: FaultyRegistry, client: RegistryClient, naps: Naps
) -> None:
    registry.statuses, registry.retry_after = [429], "100"
    with pytest.raises(SourceError, match=r"answered 429 .*; try again later \(in 100 s, it says\)"):
        await client.manifest("team/app", "1")
    registry.statuses = [503]
    with pytest.raises(SourceError, match="in 100 s"):
        await read(client, registry.add_blob(CONTENT))
    assert naps.seconds == []


@pytest.mark.parametrize("status", [400, 401, 403, 410])
async def test_expired_redirect_is_asked_for_again(
    registry: FaultyRegistry, client: RegistryClient, status: int
) -> None:
    async with FaultyRegistry() as storage:
        storage.blobs = registry.blobs
        registry.redirect_to = storage.url
        digest = registry.add_blob(CONTENT)
        storage.statuses = [status] * 2
        assert await read(client, digest) == CONTENT
        assert registry.requests[f"GET /v2/team/app/blobs/{digest}"] == 3
        storage.statuses = [status] * 9
        with pytest.raises(SourceError, match=f"redirects .* to 127.0.0.1:.*, which answered {status}"):
            await read(client, digest)


@pytest.mark.parametrize("status", [403, 405])
async def test_size_is_told_by_storage_that_takes_no_head(
    registry: FaultyRegistry, client: RegistryClient, naps: Naps, status: int
) -> None:
    async with FaultyRegistry() as storage:
        storage.blobs = registry.blobs
        registry.redirect_to = storage.url
        digest = registry.add_blob(CONTENT)
        storage.statuses = [status]
        assert await client.blob_size("team/app", digest) == len(CONTENT)
    assert naps.seconds == []


async def test_broken_body_of_a_redirect_is_resumed_by_the_registry_itself(
    registry: FaultyRegistry, client: RegistryClient
) -> None:
    async with FaultyRegistry() as storage:
        storage.blobs = registry.blobs
        registry.redirect_to = storage.url
        digest = registry.add_blob(CONTENT)
        storage.cuts = [700_000, 300_000]
        assert await read(client, digest) == CONTENT
    assert registry.requests[f"GET /v2/team/app/blobs/{digest}"] == 3
    assert storage.blob_gets[digest] == 3


async def test_failing_registry_is_given_up_after_some_attempts(
    registry: FaultyRegistry, client: RegistryClient, naps: Naps
) -> None:
    registry.statuses = [502] * 9
    with pytest.raises(SourceError, match="answered 502"):
        await client.manifest("team/app", "1")
    assert len(registry.statuses) == 5


async def test_unreachable_registry_says_what_to_check(naps: Naps, http: Http) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        async with RegistryClient(f"http://{address}", http=http, sleep=naps) as client:
            for ask in (client.manifest("a", "1"), client.blob_bytes("a", Digest.of(b""), 1)):
                with pytest.raises(SourceError, match=f"cannot reach registry {address}: .*--plain-http"):
                    await ask


async def test_plain_registry_asked_by_tls_says_plain_http_at_once(registry: FaultyRegistry, naps: Naps) -> None:
    address = registry.url.removeprefix("http://")
    async with RegistryClient.for_registry(address, sleep=naps) as client:
        for ask in (client.manifest("a", "1"), client.blob_bytes("a", Digest.of(b""), 1)):
            with pytest.raises(SourceError, match="--plain-http"):
                await ask
    assert naps.seconds == []


def test_docker_hub_lives_at_another_host() -> None:
    client = RegistryClient.for_registry("docker.io")
    assert (client.base_url, client.name) == ("https://registry-1.docker.io", "docker.io")


async def test_tags_are_passed_on(registry: FaultyRegistry, client: RegistryClient) -> None:
    page = await client.tags("team/app", {"n": "2"})
    assert json.loads(page.body)["tags"] == ["a", "b"]
    assert page.link is not None
    assert "n=2" in page.link


async def test_image_is_resolved_through_its_index(registry: FaultyRegistry, client: RegistryClient) -> None:
    manifest = registry.add_image("team/app", "single", b"layer")
    size_bytes = len(registry.manifests["team/app", str(manifest)][1])
    entry = {
        "mediaType": OCI_MANIFEST,
        "digest": str(manifest),
        "size": size_bytes,
        "platform": {"os": "linux", "architecture": "amd64"},
    }
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    index_digest = registry.add_manifest("team/app", "multi", index, OCI_INDEX)

    single = await resolve_image(client, Reference.parse("r.local/team/app:single"), AMD64)
    multi = await resolve_image(client, Reference.parse("r.local/team/app:multi"), AMD64)
    assert single.manifest_digest == multi.manifest_digest == manifest
    assert (single.index_digest, multi.index_digest) == (None, index_digest)
    assert [layer.diff_id for layer in multi.layers] == [Digest.of(b"layer")]
    with pytest.raises(NotFoundError, match="it has: linux/amd64"):
        await resolve_image(client, Reference.parse("r.local/team/app:multi"), Platform.parse("linux/s390x"))

    entry["size"] = size_bytes + 1
    registry.add_manifest(
        "team/app", "liar", json.dumps({"mediaType": OCI_INDEX, "manifests": [entry]}).encode(), OCI_INDEX
    )
    with pytest.raises(IntegrityError, match="its index says"):
        await resolve_image(client, Reference.parse("r.local/team/app:liar"), AMD64)


async def test_unsupported_media_type_is_unacceptable(registry: FaultyRegistry, client: RegistryClient) -> None:
    registry.add_manifest("team/app", "odd", b'{"schemaVersion": 2}', "application/vnd.example+json")
    with pytest.raises(UnacceptableError, match="unsupported media type"):
        await resolve_image(client, Reference.parse("r.local/team/app:odd"), AMD64)


async def test_registry_that_drips_its_answer_has_not_answered(
    naps: Naps, monkeypatch: pytest.MonkeyPatch, http: Http
) -> None:
    monkeypatch.setattr(module, "WHOLE_ANSWER_SECONDS", 0.1)

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 1_000_000
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.01)  # a slow registry, not a synchronisation

    app = web.Application()
    app.router.add_get("/v2/{path:.*}", drip)
    async with TestServer(app) as server, RegistryClient(str(server.make_url("")), http=http, sleep=naps) as client:
        with pytest.raises(SourceError, match="timed out"):
            await client.manifest("team/app", "1")


async def test_malformed_answer_is_one_readable_line(naps: Naps, http: Http) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n")
        request.transport.close()
        return web.Response()

    app = web.Application()
    app.router.add_get("/v2/{path:.*}", answer)
    async with TestServer(app) as server, RegistryClient(str(server.make_url("")), http=http, sleep=naps) as client:
        with pytest.raises(SourceError, match=r"Content-Length|the length") as caught:
            await read(client, Digest.of(CONTENT))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("header", ["\xb2", "nonsense", "-1", "9" * 500, "Fri, 99 Foo 99999 99:99:99 GMT", ""])
def test_nonsense_in_retry_after_is_no_error(header: str) -> None:
    assert 0 <= retry_after_seconds(header) <= 7 * 86400


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_another_user_is_asked_for_with_his_own_credentials(
    registry: FaultyRegistry, auth: str, http: Http
) -> None:
    registry.auth = auth  # type: ignore[assignment]
    registry.add_manifest("team/app", "1", b"{}")
    async with RegistryClient(registry.url, http=http) as client:
        right = client.with_authorization(Credentials(USERNAME, PASSWORD).basic())
        wrong = client.with_authorization(Credentials(USERNAME, "guess").basic())
        assert (await right.manifest("team/app", "1")).body == b"{}"
        for other in (wrong, client):
            with pytest.raises(UnauthorizedError):
                await other.manifest("team/app", "1")


async def test_token_of_another_user_is_passed_on(registry: FaultyRegistry, http: Http) -> None:
    registry.auth = "bearer"
    registry.add_manifest("team/app", "1", b"{}")
    async with RegistryClient(registry.url, http=http) as client:
        assert (await client.with_authorization(f"Bearer {TOKEN}").manifest("team/app", "1")).body == b"{}"
        with pytest.raises(UnauthorizedError):
            await client.with_authorization("Bearer wrong").manifest("team/app", "1")
    assert registry.tokens_given == 0


async def test_identity_token_is_sent_by_post(registry: FaultyRegistry, http: Http) -> None:
    registry.auth = "bearer"
    registry.add_manifest("team/app", "1", b"{}")
    async with RegistryClient(
        registry.url, http=http, credentials=Credentials("", "", identity_token=IDENTITY_TOKEN)
    ) as client:
        assert (await client.manifest("team/app", "1")).body == b"{}"
    async with RegistryClient(registry.url, credentials=Credentials("", "", identity_token="old")) as client:
        with pytest.raises(UnauthorizedError, match="denied the login"):
            await client.manifest("team/app", "1")
