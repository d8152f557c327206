"""``/site/v1/images``: the tags that the site knows, with the layers of what they mean. Asks nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from aiohttp import web

from imagedist.errors import ImagedistError
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import Index, choose_platform, parse_document
from imagedist.oci.platform import Platform
from imagedist.preheat.shapes import MAX_LAYERS, KnownImage, KnownImages, KnownLayer
from registry_proxy.manifests import ManifestStore

MAX_KNOWN = 20_000
"""The images asked about last."""


def add_known_routes(app: web.Application, manifests: ManifestStore, hosts: Mapping[str, Sequence[str]]) -> None:
    """
    Args:
        hosts: of each upstream, the registry names it answers for.
    """

    async def get_images(request: web.Request) -> web.Response:
        known = await asyncio.to_thread(_known, manifests, hosts)
        return web.json_response(body=known.model_dump_json().encode())

    app.router.add_get("/images", get_images)


def _known(manifests: ManifestStore, hosts: Mapping[str, Sequence[str]]) -> KnownImages:
    registries = {upstream: _registry(upstream, names) for upstream, names in hosts.items()}
    files = sorted(manifests.tag_files(), key=lambda file: -file.checked_at)
    layers: dict[Digest, tuple[KnownLayer, ...]] = {}
    images: list[KnownImage] = []
    for file in files:
        registry = registries.get(file.upstream, file.upstream if "." in file.upstream else None)
        if registry is None or len(images) >= MAX_KNOWN:
            continue
        if file.digest not in layers:
            layers[file.digest] = _layers(manifests, file.digest)
        reference = f"{registry}/{file.repository}:{file.tag}"
        images.append(KnownImage(reference=reference, digest=file.digest, layers=layers[file.digest]))
    return KnownImages(images=tuple(images))


def _registry(upstream: str, names: Sequence[str]) -> str | None:
    """A name by which a reference means this upstream; None: only a path does."""
    return next((name for name in (upstream, *names) if "." in name or ":" in name or name == "localhost"), None)


def _layers(manifests: ManifestStore, digest: Digest) -> tuple[KnownLayer, ...]:
    """Of an index: those of this machine's platform. None: not here, or no image."""
    about = str(digest)
    try:
        body = manifests.body(digest)
        document = parse_document("", body, about) if body is not None else None
        if isinstance(document, Index):
            body = manifests.body(choose_platform(document, Platform.of_this_machine(), about).digest)
            document = parse_document("", body, about) if body is not None else None
    except ImagedistError:
        return ()
    if document is None or isinstance(document, Index):
        return ()
    return tuple(KnownLayer(digest=each.digest, size_bytes=each.size_bytes) for each in document.layers[:MAX_LAYERS])
