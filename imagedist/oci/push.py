"""Pushing to a registry: blobs that are not there, each in one upload, then manifests (distribution spec, "Push")."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlencode, urljoin, urlsplit

import aiohttp

from imagedist.errors import IntegrityError, NotFoundError, storage_error
from imagedist.oci.client import RegistryClient
from imagedist.oci.digest import Digest
from imagedist.oci.exchange import Exchange
from imagedist.oci.http import unreachable
from imagedist.oci.http_aiohttp import AiohttpClient
from imagedist.oci.retries import TransientError, retrying

_ACCEPTED, _CREATED = frozenset({202}), frozenset({200, 201, 202, 204})
_COMMIT_SECONDS = 300.0
"""A registry may copy an upload into an object store before it answers."""
_SLOWEST_BYTES_PER_SECOND = 100_000
_SAID_BYTES = 4096


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
        begin = self._pushing(f"{repository}/blobs/uploads/", repository, str(digest))

        async def attempt() -> None:
            started = await self._deliver("POST", begin(answers=_ACCEPTED), b"", {})
            upload = begin(answers=_CREATED)
            location = urljoin(upload.url, started.get("Location", ""))
            separator = "&" if urlsplit(location).query else "?"
            upload.follow(f"{location}{separator}{urlencode({'digest': str(digest)})}")
            await self._deliver("PUT", upload, content, {"Content-Type": "application/octet-stream"})

        await retrying(self._sleep)(attempt)

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

    def _pushing(self, path: str, repository: str, reference: str) -> Callable[..., Exchange]:
        about = self._about(repository, reference)
        scope = f"repository:{repository}:pull,push"
        return self._exchange_at(f"/v2/{self._path_prefix}{path}", {}, scope, about, "NAME_UNKNOWN")

    async def _deliver(
        self, method: str, exchange: Exchange, content: Path | bytes, headers: dict[str, str]
    ) -> Mapping[str, str]:
        """Sends a body, again where the answer says so; returns the headers of the answer that counts."""
        while True:
            try:
                with content.open("rb") if isinstance(content, Path) else nullcontext(content) as body:
                    status, answered, said = await self._write(method, exchange, body, headers)
            except OSError as error:
                raise storage_error("read what is to be pushed", error) from error
            if not await exchange.again(status, answered, said):
                return answered

    async def _write(
        self, method: str, exchange: Exchange, body: BinaryIO | bytes, headers: dict[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        size_bytes = len(body) if isinstance(body, bytes) else Path(body.name).stat().st_size
        headers = exchange.headers | headers | {"Content-Length": str(size_bytes)}
        assert isinstance(self._http, AiohttpClient), "the other client only pulls"
        try:
            async with asyncio.timeout(_COMMIT_SECONDS + size_bytes / _SLOWEST_BYTES_PER_SECOND):
                async with await self._http.request(
                    method, exchange.url, headers, body, self.name, _COMMIT_SECONDS
                ) as response:
                    said = await response.content.read(_SAID_BYTES)
                    return response.status, response.headers, said
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TransientError(unreachable(self.name, error)) from error
