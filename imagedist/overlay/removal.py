"""Removes images and layers that nobody needs: on request, or because a build or a machine died over them."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from imagedist.errors import InputError
from imagedist.overlay.images import StoredImage
from imagedist.overlay.parts import Parts
from imagedist.overlay.usage import Usage


def remove_image(parts: Parts, image: StoredImage) -> None:
    """Removes an image's record, and those of its layers that no other image needs.

    Raises:
        InputError: it is mounted or used; names by whom. StorageError: the disk failed.
    """
    with parts.locks() as locks, parts.trash() as trash:
        unlocked = [layer_id for layer_id in image.layer_ids if locks.try_remove(layer_id)]
        kept = layers_of_others(parts, image.id)
        ours = [layer_id for layer_id in unlocked if layer_id not in kept]
        # A second look leaves out what ended as the first one saw it: its mounts could be seen, and not whose they are.
        user = in_use(parts, image, ours, parts.usage()) and in_use(parts, image, ours, parts.usage())
        if user is not None:
            raise InputError(f"cannot remove {image.id[:12]}: it is in use, {user}; stop that first")
        take_out(parts, image, ours, trash)


def take_out(parts: Parts, image: StoredImage, layer_ids: Collection[str], trash: Path) -> None:
    """Removes an image's record and these of its layers. The caller has locked them, and nobody used them just now."""
    parts.images.remove(image.id, trash)
    parts.forget_use(image.id)
    # A container may have been started upon it this moment; without a record no other can be. What is in use now
    # stays, for the next collection.
    if in_use(parts, image, layer_ids, parts.usage()) is None:
        discard_unneeded(parts, layer_ids, trash)


def in_use(parts: Parts, image: StoredImage, layer_ids: Collection[str], usage: Usage) -> str | None:
    """Who mounts, pins or uses an image whose removal would take these layers; None: nobody."""
    if os.path.ismount(parts.mount_point(image.id)):
        return "mounted by imagedist mount (imagedist umount undoes it)"
    if (reason := parts.pins.reason(image.id)) is not None:
        return reason
    return usage.by(image.id, {image.id, *parts.marks(layer_ids)})


def layers_of_others(parts: Parts, image_id: str) -> set[str]:
    """Layers that other images of the store have."""
    return {layer_id for other in parts.stored() if other.id != image_id for layer_id in other.layer_ids}


def discard_unneeded(parts: Parts, layer_ids: Collection[str], trash: Path) -> list[str]:
    """Removes layers, uppermost first, but those that another layer stands upon, or that are lent. The caller has
    locked them.

    Returns:
        What is gone.
    """
    records = [*parts.layers.records.read(), *parts.layers.volatile().values()]
    parents = {str(record.get("id")): record.get("parent") for record in records}
    gone: list[str] = []
    waiting = set(layer_ids) - parts.loans.lent()
    while leaves := waiting.difference(filter(None, parents.values())):
        for layer_id in sorted(leaves):
            parts.layers.discard(layer_id, trash)
            parents.pop(layer_id, None)
            gone.append(layer_id)
        waiting -= leaves
    return gone


def distrust_lost(parts: Parts) -> None:
    """Removes layers that were merged before the machine went down and never synced: their files may be empty.

    Raises:
        StorageError: the disk failed.
    """
    for note, layer_ids in parts.unsynced.before_this_boot().items():
        with parts.locks() as locks, parts.trash() as trash:
            unused = [layer_id for layer_id in layer_ids if locks.try_remove(layer_id)]
            # One that an image has was synced before the image was recorded, maybe just now.
            # Likewise one that is lent.
            needed = {layer_id for image in parts.stored() for layer_id in image.layer_ids} | parts.loans.lent()
            for layer_id in reversed(unused):
                if layer_id not in needed:
                    parts.layers.discard(layer_id, trash)
            if len(unused) == len(layer_ids):  # else another process is at it, and may be killed over it
                note.unlink(missing_ok=True)
