"""Pushing to a registry: blobs that are not there, then manifests (distribution spec, "Push").

A blob goes in one request, or in chunks after which a broken upload goes on, as far as the registry keeps what came:
docker-registry does after a whole chunk, and begins anew after half of one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlencode, urljoin, urlsplit

import aiohttp

from imagedist.errors import IntegrityError, NotFoundError, SourceError, UnauthorizedError, storage_error
from imagedist.oci.client import RegistryClient
from imagedist.oci.digest import Digest
from imagedist.oci.exchange import Exchange
from imagedist.oci.http import unreachable
from imagedist.oci.http_aiohttp import AiohttpClient, Body
from imagedist.oci.retries import ATTEMPTS, TransientError, retrying
from imagedist.threads import settled

CHUNK_BYTES = 16 << 20
_READ_BYTES = 256 << 10
_ACCEPTED, _CREATED = frozenset({202}), frozenset({200, 201, 202, 204})
_COMMIT_SECONDS = 300.0
"""A registry may copy an upload into an object store before it answers."""
_SLOWEST_BYTES_PER_SECOND = 100_000
_SLOWEST_PACED_BYTES_PER_SECOND = 10_000
"""Somebody caps what is sent."""
_SAID_BYTES = 4096
_OCTETS = {"Content-Type": "application/octet-stream"}

Pace = Callable[[int], Awaitable[object]]
"""Returns when so many bytes may be sent."""


async def _unpaced(size_bytes: int) -> None:
    """At once."""


async def _unnoted(upload: str) -> None:
    """Nobody goes on with it."""


@dataclass(frozen=True, slots=True)
class _Part:
    """So much of a file, read as it is sent."""

    path: Path
    offset: int
    size_bytes: int
    pace: Pace

    async def read(self, file: BinaryIO) -> AsyncIterator[bytes]:
        """Ends early where the file does; what is missing breaks the request off."""
        offset, end = self.offset, self.offset + self.size_bytes
        while offset < end:
            size_bytes = min(_READ_BYTES, end - offset)
            content = await settled(asyncio.to_thread(os.pread, file.fileno(), size_bytes, offset))
            if not content:
                return
            await self.pace(len(content))
            yield content
            offset += len(content)


class RegistryWriter(RegistryClient):
    """A registry client that may also push; it asks for tokens with that right only when it does."""

    async def has_blob(self, repository: str, digest: Digest) -> bool:
        """Raises UnauthorizedError, SourceError."""
        try:
            await self.blob_size(repository, digest)
        except NotFoundError:
            return False
        return True

    async def push_blob(self, repository: str, digest: Digest, content: Path | bytes) -> None:
        """Uploads a blob that is not there; the registry checks its digest. A broken upload begins anew, boundedly.

        Raises:
            UnauthorizedError, SourceError: the registry refused or failed. StorageError: the file cannot be read.
        """
        if await self.has_blob(repository, digest):
            return
        await retrying(self._sleep)(self._push_at_once, repository, digest, content)

    async def push_file(
        self,
        repository: str,
        digest: Digest,
        path: Path,
        *,
        pace: Pace = _unpaced,
        begun: str = "",
        note: Callable[[str], Awaitable[None]] = _unnoted,
    ) -> None:
        """Uploads a file that is not there, however large, in chunks if it is more than one.

        Args:
            begun: an upload that another process had begun; empty: none.
            note: told where it can be gone on with, after each chunk.

        Raises:
            UnauthorizedError, SourceError: the registry refused or failed. StorageError: the file cannot be read.
        """
        try:
            size_bytes = path.stat().st_size
        except OSError as error:
            raise storage_error("read what is to be pushed", error) from error
        if size_bytes > CHUNK_BYTES:
            try:
                await self._push_chunks(repository, digest, _Part(path, 0, size_bytes, pace), begun, note)
                return
            except (TransientError, UnauthorizedError):
                raise
            except SourceError:
                pass  # it takes no chunks, or not these: all of it in one request then
        await retrying(self._sleep)(self._push_at_once, repository, digest, _Part(path, 0, size_bytes, pace))

    async def mount_blob(self, repository: str, digest: Digest, source: str) -> bool:
        """Whether the registry gives a blob of one of its repositories to another without a byte being sent.

        Raises:
            SourceError: it fails. One that will not is no error.
        """
        query = urlencode({"mount": str(digest), "from": source})
        begin = self._pushing(f"{repository}/blobs/uploads/?{query}", repository, str(digest))
        begun = ""

        async def attempt() -> bool:
            nonlocal begun
            exchange = begin(answers=_CREATED)
            status, headers = await self._deliver_status("POST", exchange, b"", {})
            begun = urljoin(exchange.url, headers.get("Location", ""))
            return status == 201

        try:
            if await retrying(self._sleep)(attempt):
                return True
        except (UnauthorizedError, NotFoundError):
            return False
        await self._cancel(repository, digest, begun)
        return False

    async def delete_manifest(self, repository: str, reference: str) -> None:
        """By tag or digest; none there is fine. Raises UnauthorizedError, SourceError: the registry does not do it."""
        begin = self._pushing(f"{repository}/manifests/{reference}", repository, reference, "pull,push,delete")

        async def attempt() -> None:
            await self._deliver("DELETE", begin(answers=_CREATED), b"", {})

        try:
            await retrying(self._sleep)(attempt)
        except NotFoundError:
            return

    async def push_manifest(self, repository: str, reference: str, body: bytes, media_type: str) -> None:
        """Puts a manifest or index, by tag or digest; what it refers to must be there already.

        Raises:
            UnauthorizedError, SourceError. IntegrityError: the registry stored other bytes.
        """
        begin = self._pushing(f"{repository}/manifests/{reference}", repository, reference)

        async def attempt() -> None:
            headers = await self._deliver("PUT", begin(answers=_CREATED), body, {"Content-Type": media_type})
            stored, sent = headers.get("Docker-Content-Digest"), Digest.of(body)
            if stored is not None and stored.startswith("sha256:") and stored != str(sent):
                raise IntegrityError(f"registry {self.name} stored {stored}: expected {sent}; push again")

        await retrying(self._sleep)(attempt)

    async def _push_at_once(self, repository: str, digest: Digest, content: Path | bytes | _Part) -> None:
        begin = self._uploading(repository, digest)
        await self._commit(begin, await self._begun(begin), digest, content)

    async def _push_chunks(
        self, repository: str, digest: Digest, whole: _Part, upload: str, note: Callable[[str], Awaitable[None]]
    ) -> None:
        begin = self._uploading(repository, digest)
        failures, offset, is_known = 0, 0, False
        while True:
            try:
                if not is_known:
                    upload, offset = await self._state(begin, upload)
                    is_known = True
                while offset < whole.size_bytes:
                    size_bytes = min(CHUNK_BYTES, whole.size_bytes - offset)
                    exchange = begin(answers=_ACCEPTED)
                    exchange.follow(upload)
                    headers = _OCTETS | {"Content-Range": f"{offset}-{offset + size_bytes - 1}"}
                    part = _Part(whole.path, offset, size_bytes, whole.pace)
                    answered = await self._deliver("PATCH", exchange, part, headers)
                    upload, offset = urljoin(exchange.url, answered.get("Location", "")), offset + size_bytes
                    await note(upload)
                await self._commit(begin, upload, digest, b"")
                return
            except TransientError as error:
                failures, is_known = failures + 1, False
                if failures == ATTEMPTS:
                    raise
                await self._sleep(max(error.retry_after_seconds, 0.25 * 2**failures))

    async def _state(self, begin: Callable[..., Exchange], upload: str) -> tuple[str, int]:
        """Where an upload goes on, and how many bytes the registry has of it; a new one if it has none."""
        if upload:
            exchange = begin(answers=_CREATED)
            try:
                exchange.follow(upload)
                headers = await self._deliver("GET", exchange, b"", {})
                last = headers.get("Range", "").removeprefix("bytes=").removeprefix("0-")
                if last.isdigit() and headers.get("Location"):
                    return urljoin(exchange.url, headers["Location"]), int(last) + 1 if int(last) else 0
            except TransientError:
                raise
            except (NotFoundError, SourceError):
                pass  # it has dropped it
        return await self._begun(begin), 0

    async def _begun(self, begin: Callable[..., Exchange]) -> str:
        exchange = begin(answers=_ACCEPTED)
        started = await self._deliver("POST", exchange, b"", {})
        return urljoin(exchange.url, started.get("Location", ""))

    async def _commit(
        self, begin: Callable[..., Exchange], location: str, digest: Digest, content: Path | bytes | _Part
    ) -> None:
        upload = begin(answers=_CREATED)
        separator = "&" if urlsplit(location).query else "?"
        upload.follow(f"{location}{separator}{urlencode({'digest': str(digest)})}")
        await self._deliver("PUT", upload, content, _OCTETS)

    async def _cancel(self, repository: str, digest: Digest, upload: str) -> None:
        """An upload that nobody will go on with; a registry that does not care drops it some day."""
        exchange = self._uploading(repository, digest)(answers=_CREATED)
        try:
            exchange.follow(upload)
            await self._deliver("DELETE", exchange, b"", {})
        except (NotFoundError, SourceError):
            return

    def _uploading(self, repository: str, digest: Digest) -> Callable[..., Exchange]:
        return self._pushing(f"{repository}/blobs/uploads/", repository, str(digest))

    def _pushing(
        self, path: str, repository: str, reference: str, actions: str = "pull,push"
    ) -> Callable[..., Exchange]:
        about = self._about(repository, reference)
        scope = f"repository:{repository}:{actions}"
        return self._exchange_at(f"/v2/{self._path_prefix}{path}", {}, scope, about, "NAME_UNKNOWN")

    async def _deliver(
        self, method: str, exchange: Exchange, content: Path | bytes | _Part, headers: dict[str, str]
    ) -> Mapping[str, str]:
        """Sends a body, again where the answer says so; returns the headers of the answer that counts."""
        return (await self._deliver_status(method, exchange, content, headers))[1]

    async def _deliver_status(
        self, method: str, exchange: Exchange, content: Path | bytes | _Part, headers: dict[str, str]
    ) -> tuple[int, Mapping[str, str]]:
        while True:
            try:
                status, answered, said = await self._open_and_write(method, exchange, content, headers)
            except OSError as error:
                raise storage_error("read what is to be pushed", error) from error
            if not await exchange.again(status, answered, said):
                return status, answered

    async def _open_and_write(
        self, method: str, exchange: Exchange, content: Path | bytes | _Part, headers: dict[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        if isinstance(content, _Part):
            with content.path.open("rb") as file:
                seconds = content.size_bytes / _SLOWEST_PACED_BYTES_PER_SECOND
                body = content.read(file)
                return await self._write(method, exchange, body, content.size_bytes, seconds, headers)
        with content.open("rb") if isinstance(content, Path) else nullcontext(content) as plain:
            size_bytes = len(plain) if isinstance(plain, bytes) else os.fstat(plain.fileno()).st_size
            seconds = size_bytes / _SLOWEST_BYTES_PER_SECOND
            return await self._write(method, exchange, plain, size_bytes, seconds, headers)

    async def _write(
        self,
        method: str,
        exchange: Exchange,
        body: Body,
        size_bytes: int,
        seconds: float,
        headers: dict[str, str],
    ) -> tuple[int, Mapping[str, str], bytes]:
        headers = exchange.headers | headers | {"Content-Length": str(size_bytes)}
        assert isinstance(self._http, AiohttpClient), "the other client only pulls"
        try:
            async with asyncio.timeout(_COMMIT_SECONDS + seconds):
                async with await self._http.request(
                    method, exchange.url, headers, body, self.name, _COMMIT_SECONDS
                ) as response:
                    said = await response.content.read(_SAID_BYTES)
                    return response.status, response.headers, said
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TransientError(unreachable(self.name, error)) from error
