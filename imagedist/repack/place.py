"""Where images are read from and written to: a repository of a registry, or an OCI image layout."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

from imagedist.errors import InputError, IntegrityError, NotFoundError, storage_error
from imagedist.locking import PrivateDirectory
from imagedist.oci.credentials import LookedUp, find_credentials
from imagedist.oci.digest import Digest
from imagedist.oci.http_aiohttp import AiohttpClient
from imagedist.oci.layout import Layout
from imagedist.oci.manifest import MANIFEST_LIMIT_BYTES, Descriptor
from imagedist.oci.push import RegistryWriter
from imagedist.oci.reference import Reference, is_tag
from imagedist.oci.tls import TlsFiles
from imagedist.privileges import user_id
from imagedist.threads import settled

_LAYOUT_PREFIX = "oci:"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index as it is stored."""

    body: bytes
    media_type: str
    digest: Digest

    def descriptor(self) -> dict[str, Any]:
        """In wire form."""
        return {"mediaType": self.media_type, "digest": str(self.digest), "size": len(self.body)}


class Place(Protocol):
    """One image's place. ``put_…`` only ever add; ``finish`` gives the name, last."""

    async def document(self, digest: Digest | None = None) -> Document:
        """What the name means, or a manifest by its digest; checked."""

    async def small_blob(self, digest: Digest, limit_bytes: int) -> bytes:
        """A whole blob, checked."""

    def chunks(self, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """A layer's bytes; whoever reads checks them."""

    async def put_blob(self, digest: Digest, content: Path | bytes) -> None:
        """Adds a checked blob unless it is there. A file is used up; it lies in ``scratch``."""

    async def put_document(self, document: Document) -> None:
        """Adds a manifest whose blobs are there."""

    async def finish(self, document: Document) -> None:
        """Adds the manifest or index that the name shall mean, and names it."""

    def scratch(self) -> AbstractContextManager[Path]:
        """A directory for the files that ``put_blob`` gets, gone afterwards. Blocking."""

    async def close(self) -> None: ...


def parse_place(text: str, *, plain_http: bool = False, tls: TlsFiles | None = None) -> Place:
    """``oci:DIR[:NAME]`` or a registry reference.

    Args:
        tls: what a registry is trusted by, and shown, besides the system's authorities.

    Raises:
        InputError: neither. ConfigError: a file of ``tls`` cannot be read or used; names it.
    """
    if not text.startswith(_LAYOUT_PREFIX):
        return RegistryPlace(Reference.parse(text), plain_http=plain_http, tls=tls)
    directory, colon, name = text.removeprefix(_LAYOUT_PREFIX).partition(":")
    if not directory or (colon and not is_tag(name.replace("/", "_").replace(":", "_"))):
        raise InputError(f"invalid image layout {text!r}: expected oci:DIR or oci:DIR:NAME")
    return LayoutPlace(Layout(Path(directory).absolute()), name or None)


class LayoutPlace:
    """A ``Place`` in a layout. Without a name: its only image; when written, ``latest``."""

    def __init__(self, layout: Layout, name: str | None) -> None:
        self._layout = layout
        self._name = name

    def __str__(self) -> str:
        return f"{_LAYOUT_PREFIX}{self._layout.directory}{f':{self._name}' if self._name else ''}"

    async def document(self, digest: Digest | None = None) -> Document:
        media_type = ""
        if digest is None:
            found = await asyncio.to_thread(self._layout.find, self._name)
            digest, media_type = found.digest, found.media_type
        return Document(await self.small_blob(digest, MANIFEST_LIMIT_BYTES), media_type, digest)

    async def small_blob(self, digest: Digest, limit_bytes: int) -> bytes:
        return await asyncio.to_thread(self._layout.read, digest, limit_bytes)

    async def chunks(self, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        path = self._layout.blob_path(descriptor.digest)
        try:
            file = await settled(asyncio.to_thread(path.open, "rb", buffering=0), FileIO.close)
        except FileNotFoundError as error:
            raise NotFoundError(f"{self} has no layer {descriptor.digest}: copy the image again") from error
        except OSError as error:
            raise storage_error(f"read layer {descriptor.digest}", error) from error
        with file:
            while chunk := await settled(asyncio.to_thread(_read, file.fileno(), path)):
                yield chunk

    async def put_blob(self, digest: Digest, content: Path | bytes) -> None:
        await settled(asyncio.to_thread(self._layout.put, digest, content))

    async def put_document(self, document: Document) -> None:
        await self.put_blob(document.digest, document.body)

    async def finish(self, document: Document) -> None:
        await self.put_document(document)
        name = self._name or "latest"
        await settled(asyncio.to_thread(self._layout.name, name, document.descriptor()))

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """On the layout's own file system; what a killed process left there goes now."""
        private = PrivateDirectory(self._layout.directory / ".repacking")
        try:
            yield private.path
        finally:
            private.close()

    async def close(self) -> None:
        """Nothing is open."""


class RegistryPlace:
    """A ``Place`` in a registry, with the credentials that this user has for it."""

    def __init__(self, reference: Reference, *, plain_http: bool = False, tls: TlsFiles | None = None) -> None:
        self._reference = reference
        self._client = RegistryWriter.for_registry(
            reference.registry,
            plain_http=plain_http,
            credentials=LookedUp(partial(find_credentials, reference.registry)),
            http=AiohttpClient.with_files(tls, f"https://{reference.registry}"),
        )

    def __str__(self) -> str:
        return str(self._reference)

    async def document(self, digest: Digest | None = None) -> Document:
        target = str(digest) if digest else self._reference.target
        fetched = await self._client.manifest(self._reference.repository, target)
        return Document(fetched.body, fetched.media_type, fetched.digest)

    async def small_blob(self, digest: Digest, limit_bytes: int) -> bytes:
        return await self._client.blob_bytes(self._reference.repository, digest, limit_bytes)

    async def chunks(self, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        async with self._client.blob(self._reference.repository, descriptor.digest) as stream:
            async for chunk in stream:
                yield chunk

    async def put_blob(self, digest: Digest, content: Path | bytes) -> None:
        await self._client.push_blob(self._reference.repository, digest, content)

    async def put_document(self, document: Document) -> None:
        await self._push(document, str(document.digest))

    async def finish(self, document: Document) -> None:
        wanted = self._reference.digest
        if wanted is not None and wanted != document.digest:
            raise IntegrityError(f"the repacked image is {document.digest}: push it by tag, it cannot be {self}")
        await self._push(document, self._reference.target)

    async def _push(self, document: Document, target: str) -> None:
        await self._client.push_manifest(self._reference.repository, target, document.body, document.media_type)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Not in /tmp, which may be small and in memory. What a killed process left there goes now."""
        directory = Path(os.environ.get("TMPDIR") or "/var/tmp").absolute()
        private = PrivateDirectory(directory / f"imagedist-repack-{user_id()}")
        try:
            yield private.path
        finally:
            private.close()

    async def close(self) -> None:
        await self._client.close()


def _read(descriptor: int, path: Path) -> bytes:
    try:
        return os.read(descriptor, _CHUNK_BYTES)
    except OSError as error:
        raise storage_error(f"read {path}", error) from error
