"""An upstream registry for the demonstration: one layout behind the /v2 surface, one capped link, every GET counted."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from imagedist.config import Address, Rate, parse_address
from imagedist.demo.image import NAME
from imagedist.demo.layout import BuiltImage, open_layout
from imagedist.distribution.backend import ManifestAnswer, Page, Target
from imagedist.distribution.paging import no_referrers, tags_page
from imagedist.distribution.rate import TokenBucket
from imagedist.distribution.surface import add_registry_routes
from imagedist.errors import ImagedistError, InputError, NotFoundError, storage_error
from imagedist.oci.digest import Digest
from imagedist.oci.reference import is_name, is_tag
from imagedist.service import serving, stop_signals
from imagedist.store.reading import OpenBlob, Span


class LayoutBackend:
    """A ``RegistryBackend`` of one image in one repository, under one tag.

    Args:
        name: ``repository:tag``.
        rate: the link: caps the bytes of everything sent, together.

    Raises:
        InputError: the name is no repository and tag.
    """

    def __init__(self, built: BuiltImage, name: str, rate: TokenBucket | None = None) -> None:
        self._repository, _, self._tag = name.partition(":")
        if not is_name(self._repository) or not is_tag(self._tag):
            raise InputError(f"invalid name {name!r}: expected repository:tag, for example {NAME}")
        self._built = built
        self._rate = rate
        image = built.image
        self._sizes = {layer.descriptor.digest: layer.descriptor.size_bytes for layer in image.layers}
        self._sizes[image.id] = image.manifest.config.size_bytes
        self.gets: Counter[str] = Counter()
        self.sent_bytes: Counter[str] = Counter()

    async def manifest(self, target: Target, reference: str) -> ManifestAnswer:
        self._check(target)
        image = self._built.image
        if reference not in (self._tag, str(image.manifest_digest)):
            raise NotFoundError(f"{target.name} has no manifest {reference} here", "MANIFEST_UNKNOWN")
        if self._rate:
            await self._rate.take(len(image.manifest_bytes))
        return ManifestAnswer(image.manifest_digest, image.manifest.media_type, image.manifest_bytes)

    async def blob_size(self, target: Target, digest: Digest) -> int:
        self._check(target)
        if digest not in self._sizes:
            raise NotFoundError(f"{target.name} has no blob {digest} here")
        return self._sizes[digest]

    async def open_blob(self, target: Target, digest: Digest) -> OpenBlob:
        size_bytes = await self.blob_size(target, digest)
        self.gets[str(digest)] += 1
        try:
            file = os.open(self._built.blob(digest), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise storage_error(f"read blob {digest}", error) from error
        return _CountedBlob(file, size_bytes, str(digest), self.sent_bytes)

    async def tags(self, target: Target, query: Mapping[str, str]) -> Page:
        self._check(target)
        whole = Page(json.dumps({"name": self._repository, "tags": [self._tag]}).encode(), "application/json")
        return tags_page(whole, target, query)

    async def referrers(self, target: Target, digest: Digest, query: Mapping[str, str]) -> Page:
        self._check(target)
        return no_referrers(query)

    def _check(self, target: Target) -> None:
        if target.name != self._repository:
            raise NotFoundError(f"no repository {target.name} here; there is {self._repository}", "NAME_UNKNOWN")


class _CountedBlob:
    """Never shown as a file to ``sendfile``: each byte goes through the count and the rate."""

    is_verified = True

    def __init__(self, file: int, size_bytes: int, digest: str, sent_bytes: Counter[str]) -> None:
        self._file = file
        self.size_bytes = size_bytes
        self._digest = digest
        self._sent_bytes = sent_bytes

    async def span(self, offset: int) -> Span | None:
        return None

    async def wait_verified(self) -> None:
        pass

    async def read(self, offset: int, limit_bytes: int) -> bytes:
        try:
            chunk = await asyncio.to_thread(os.pread, self._file, limit_bytes, offset)
        except OSError as error:
            raise storage_error(f"read blob {self._digest}", error) from error
        self._sent_bytes[self._digest] += len(chunk)
        return chunk

    async def close(self) -> None:
        os.close(self._file)


def create_app(backend: LayoutBackend, rate: TokenBucket | None = None) -> web.Application:
    """The registry, and its counts: ``GET /stats``, ``POST /stats/reset``.

    The counts are ``{"bytes": N, "blobs": {digest: {"gets": N, "bytes": N}}}``, of blobs only.
    """
    app = web.Application()
    add_registry_routes(app, backend, rate=rate)

    async def stats(request: web.Request) -> web.Response:
        blobs = {digest: {"gets": count, "bytes": backend.sent_bytes[digest]} for digest, count in backend.gets.items()}
        return web.json_response({"bytes": sum(backend.sent_bytes.values()), "blobs": blobs})

    async def reset(request: web.Request) -> web.Response:
        backend.gets.clear()
        backend.sent_bytes.clear()
        return web.Response(status=204)

    app.add_routes([web.get("/stats", stats), web.post("/stats/reset", reset)])
    return app


async def serve(layout: Path, listen: Address, rate_bytes_per_second: int | None, name: str) -> None:
    """Serves until SIGTERM or SIGINT; prints the address once it listens."""
    rate = TokenBucket(rate_bytes_per_second) if rate_bytes_per_second else None
    app = create_app(LayoutBackend(open_layout(layout), name, rate), rate)
    with stop_signals() as stop:
        async with serving(app, listen) as bound:
            print(bound, flush=True)
            await stop.wait()


def main(
    layout: Annotated[Path, typer.Option(help="The OCI image layout to serve.")],
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 takes a free one.")] = "127.0.0.1:0",
    rate: Annotated[str, typer.Option(help='A cap for all bytes sent, such as "50MB/s", or "none".')] = "none",
    name: Annotated[str, typer.Option(help="repository:tag of the image.")] = NAME,
) -> None:
    """Serve one image as a registry would."""
    try:
        capped: int | None = TypeAdapter(Rate).validate_python(rate)
        asyncio.run(serve(layout, parse_address(listen), capped, name))
    except (ImagedistError, ValidationError, ValueError) as error:
        message = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        print(f"imagedist demo registry: {message}", file=sys.stderr)
        raise typer.Exit(error.exit_code if isinstance(error, ImagedistError) else 2) from error


if __name__ == "__main__":
    typer.run(main)
