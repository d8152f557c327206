"""Pushing to a registry: blobs that are not there, then manifests (distribution spec, "Push").

A blob goes in one request, or in chunks after which a broken upload goes on, as far as the registry keeps what came:
docker-registry does after a whole chunk, and begins anew after half of one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from urllib.parse import urlencode, urljoin, urlsplit

from imagedist.errors import IntegrityError, NotFoundError, SourceError, UnauthorizedError, storage_error
from imagedist.oci.client import RegistryClient
from imagedist.oci.digest import Digest
from imagedist.oci.exchange import Exchange
from imagedist.oci.http_aiohttp import AiohttpClient
from imagedist.oci.retries import ATTEMPTS, TransientError, retrying
from imagedist.oci.sending import Content, Pace, Part, send

CHUNK_BYTES = 16 << 20
_ACCEPTED, _CREATED = frozenset({202}), frozenset({200, 201, 202, 204})
_OCTETS = {"Content-Type": "application/octet-stream"}


async def _unpaced(size_bytes: int) -> None:
    """At once."""


async def _unnoted(upload: str) -> None:
    """Nobody goes on with it."""


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
                await self._push_chunks(repository, digest, Part(path, 0, size_bytes, pace), begun, note)
                return
            except (TransientError, UnauthorizedError):
                raise
            except SourceError:
                pass  # it takes no chunks, or not these: all of it in one request then
        await retrying(self._sleep)(self._push_at_once, repository, digest, Part(path, 0, size_bytes, pace))

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

    async def _push_at_once(self, repository: str, digest: Digest, content: Content) -> None:
        begin = self._uploading(repository, digest)
        await self._commit(begin, await self._begun(begin), digest, content)

    async def _push_chunks(
        self, repository: str, digest: Digest, whole: Part, upload: str, note: Callable[[str], Awaitable[None]]
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
                    part = Part(whole.path, offset, size_bytes, whole.pace)
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

    async def _commit(self, begin: Callable[..., Exchange], location: str, digest: Digest, content: Content) -> None:
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
        self, method: str, exchange: Exchange, content: Content, headers: dict[str, str]
    ) -> Mapping[str, str]:
        """The headers of the answer."""
        return (await self._deliver_status(method, exchange, content, headers))[1]

    async def _deliver_status(
        self, method: str, exchange: Exchange, content: Content, headers: dict[str, str]
    ) -> tuple[int, Mapping[str, str]]:
        assert isinstance(self._http, AiohttpClient), "the other client only pulls"
        return await send(self._http, self.name, method, exchange, content, headers)
