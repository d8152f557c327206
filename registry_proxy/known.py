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
from registry_proxy.synced import SyncedTags

MAX_KNOWN = 20_000
"""The images asked about last."""

_Tag = tuple[str, str, str]
"""Upstream, repository, tag."""


def add_known_routes(
    app: web.Application, manifests: ManifestStore, synced: SyncedTags, hosts: Mapping[str, Sequence[str]]
) -> None:
    """
    Args:
        synced: known as well, whether anybody has pulled them here or not.
        hosts: of each upstream, the registry names it answers for.
    """

    async def get_images(request: web.Request) -> web.Response:
        known = await asyncio.to_thread(_known, manifests, synced, hosts)
        return web.json_response(body=known.model_dump_json().encode())

    app.router.add_get("/images", get_images)


def _known(manifests: ManifestStore, synced: SyncedTags, hosts: Mapping[str, Sequence[str]]) -> KnownImages:
    registries = {upstream: _registry(upstream, names) for upstream, names in hosts.items()}
    layers: dict[Digest, tuple[KnownLayer, ...]] = {}
    images: list[KnownImage] = []
    for (upstream, repository, tag), digest in _meant(manifests, synced).items():
        registry = registries.get(upstream, upstream if "." in upstream else None)
        if registry is None or len(images) >= MAX_KNOWN:
            continue
        if digest not in layers:
            layers[digest] = _layers(manifests, digest)
        images.append(KnownImage(reference=f"{registry}/{repository}:{tag}", digest=digest, layers=layers[digest]))
    return KnownImages(images=tuple(images))


def _meant(manifests: ManifestStore, synced: SyncedTags) -> dict[_Tag, Digest]:
    """What pullers are told; those asked about last come first."""
    files = sorted(manifests.tag_files(), key=lambda file: -file.checked_at)
    meant = {(file.upstream, file.repository, file.tag): file.digest for file in files}
    for kept in synced.all():
        name = (kept.upstream, kept.repository, kept.tag)
        if kept.is_answer or name not in meant:
            meant[name] = kept.digest
    return meant


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
