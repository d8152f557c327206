"""``fallback``: what clients are told when they cannot be served now, and for how long they are held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from imagedist.distribution.backend import ManifestAnswer, Page, RegistryBackend, Target
from imagedist.distribution.holding import HOLD_SECONDS, Holding
from imagedist.distribution.surface import add_registry_routes
from imagedist.errors import (
    ImagedistError,
    IntegrityError,
    NotFoundError,
    OverloadedError,
    SourceError,
    StorageError,
    UnauthorizedError,
)
from imagedist.oci.digest import Digest

MANIFEST = b"{}"
BLOB = Digest.of(b"blob")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def holding(clock: Clock) -> Holding:
    return Holding(clock=clock, sleep=clock.sleep)


def failing(*errors: ImagedistError | None) -> Callable[[], object]:
    """Raises one after the other, the last one again and again; None: it succeeds."""
    left = list(errors)

    async def attempt() -> str:
        error = left.pop(0) if len(left) > 1 else left[0]
        if error is not None:
            raise error
        return "done"

    return attempt


async def test_a_request_is_held_until_a_source_is_back(holding: Holding, clock: Clock) -> None:
    answer = await holding.run(failing(SourceError("down"), StorageError("full"), None), lambda: True)
    assert answer == "done"
    assert 1.0 < clock.now - 100.0 < 5.0


async def test_it_is_held_for_less_than_the_minute_after_which_clients_give_up(holding: Holding, clock: Clock) -> None:
    with pytest.raises(SourceError, match="down"):
        await holding.run(failing(SourceError("down")), lambda: True)
    assert HOLD_SECONDS * 0.6 < clock.now - 100.0 < 60.0


@pytest.mark.parametrize(
    "error", [NotFoundError("x"), UnauthorizedError("x"), IntegrityError("x"), OverloadedError("x")], ids=repr
)
async def test_what_waiting_does_not_mend_is_said_at_once(
    holding: Holding, clock: Clock, error: ImagedistError
) -> None:
    with pytest.raises(type(error)):
        await holding.run(failing(error), lambda: True)
    assert clock.now == 100.0


async def test_nobody_is_held_who_has_gone(holding: Holding, clock: Clock) -> None:
    with pytest.raises(SourceError):
        await holding.run(failing(SourceError("down")), lambda: False)
    assert clock.now == 100.0


class Backend:
    """Answers manifests with an error while there is one; blobs never come."""

    def __init__(self) -> None:
        self.error: ImagedistError | None = None
        self.asked = asyncio.Event()
        self.never = asyncio.Event()

    async def manifest(self, target: Target, reference: str) -> ManifestAnswer:
        if self.error is not None:
            raise self.error
        return ManifestAnswer(Digest.of(MANIFEST), "application/json", MANIFEST)

    async def blob_size(self, target: Target, digest: Digest) -> int:
        return 4

    async def open_blob(self, target: Target, digest: Digest) -> object:
        self.asked.set()
        await self.never.wait()
        raise NotFoundError("gone")

    async def tags(self, target: Target, query: object) -> Page:
        return Page(b"{}", "application/json", None)

    async def referrers(self, target: Target, digest: Digest, query: object) -> Page:
        return Page(b"{}", "application/json", None)


@pytest.fixture
def backend() -> Backend:
    return Backend()


async def served(backend: RegistryBackend, **settings: object) -> TestClient[web.Request, web.Application]:
    app = web.Application()
    add_registry_routes(app, backend, **settings)  # type: ignore[arg-type]
    client = TestClient(TestServer(app))
    await client.start_server()
    return client


async def test_downloads_that_take_long_lock_nobody_else_out(backend: Backend) -> None:
    client = await served(backend, max_requests=1, max_downloads=2)  # type: ignore[arg-type]
    downloads = [asyncio.create_task(client.get(f"/v2/team/app/blobs/{BLOB}")) for _ in range(3)]
    await backend.asked.wait()
    for path in ("manifests/1", "tags/list", f"referrers/{BLOB}"):
        assert (await client.get(f"/v2/team/app/{path}")).status == 200
    assert (await client.head(f"/v2/team/app/blobs/{BLOB}")).status == 200
    backend.never.set()
    assert [response.status for response in await asyncio.gather(*downloads)] == [404, 404, 404]
    await client.close()


@pytest.mark.parametrize(
    ("fallback", "error", "status"),
    [
        ("upstream", IntegrityError("wrong bytes"), 502),
        ("never", IntegrityError("wrong bytes"), 429),
        ("never", NotFoundError("no such manifest", "MANIFEST_UNKNOWN"), 404),
        ("never", UnauthorizedError("no"), 403),
    ],
)
async def test_what_would_send_a_client_on_to_the_upstream_is_429_if_it_must_not_go_there(
    backend: Backend, fallback: str, error: ImagedistError, status: int
) -> None:
    backend.error = error
    client = await served(backend, fallback=fallback)  # type: ignore[arg-type]
    response = await client.get("/v2/team/app/manifests/1")
    assert response.status == status
    assert ("Retry-After" in response.headers) == (status == 429)
    assert (await response.json())["errors"][0]["message"] == str(error)
    await client.close()


async def test_held_clients_get_their_answer_when_the_site_is_back(backend: Backend) -> None:
    backend.error = SourceError("no proxy answers")
    client = await served(backend, fallback="never")  # type: ignore[arg-type]
    asking = asyncio.create_task(client.get("/v2/team/app/manifests/1"))
    done, _ = await asyncio.wait([asking], timeout=0.2)
    assert not done
    backend.error = None
    assert (await asking).status == 200
    await client.close()
