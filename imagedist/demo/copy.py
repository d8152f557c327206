"""A real image, copied once into an OCI image layout, so that the demo's registry can serve it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from imagedist.demo.layout import blob_path, open_layout, write_index
from imagedist.errors import ImagedistError, IntegrityError, storage_error
from imagedist.fetch.registry import RegistrySource
from imagedist.oci.manifest import OCI_MANIFEST, Descriptor
from imagedist.oci.platform import Platform
from imagedist.oci.reference import Reference

_PARALLEL_BLOBS = 3


async def copy_image(reference: Reference, layout: Path, *, plain_http: bool = False) -> Path:
    """Copies this machine's platform of an image; blobs that are there already are not fetched again.

    Raises:
        NotFoundError, UnauthorizedError, SourceError, IntegrityError, StorageError: as the registry or disk failed.
    """
    source = RegistrySource(reference, plain_http=plain_http)
    try:
        image = await source.resolve(reference, Platform.of_this_machine())
        blob_path(layout, image.id).parent.mkdir(parents=True, exist_ok=True)
        blob_path(layout, image.id).write_bytes(image.config_bytes)
        blob_path(layout, image.manifest_digest).write_bytes(image.manifest_bytes)
        slots = asyncio.Semaphore(_PARALLEL_BLOBS)

        async def copy(descriptor: Descriptor) -> None:
            async with slots:
                await _copy_blob(source, reference, descriptor, blob_path(layout, descriptor.digest))

        async with asyncio.TaskGroup() as group:
            for descriptor in {layer.descriptor.digest: layer.descriptor for layer in image.layers}.values():
                group.create_task(copy(descriptor))
        manifest = {
            "mediaType": image.manifest.media_type or OCI_MANIFEST,
            "digest": str(image.manifest_digest),
            "size": len(image.manifest_bytes),
        }
        write_index(layout, manifest, str(reference))
        open_layout(layout)
    except OSError as error:
        raise storage_error(f"copy {reference} into {layout}", error) from error
    except BaseExceptionGroup as group_error:
        failures = group_error.subgroup(ImagedistError)
        raise (failures or group_error).exceptions[0] from None
    finally:
        await source.close()
    return layout


async def _copy_blob(source: RegistrySource, reference: Reference, descriptor: Descriptor, path: Path) -> None:
    if path.exists():
        return
    aside = path.with_name(f".{path.name}")
    hasher = descriptor.digest.hasher()
    async with source.blob(reference, descriptor) as chunks:
        with aside.open("wb") as file:
            async for chunk in chunks:
                hasher.update(chunk)
                await asyncio.to_thread(file.write, chunk)
    if not descriptor.digest.matches(hasher):
        aside.unlink()
        raise IntegrityError(f"{descriptor.digest} of {reference} arrived with wrong bytes")
    aside.rename(path)
