"""Keeps a store below its quota: images that nobody uses are evicted, those that were used longest ago first.

What counts is what the file system has allocated for the layers (``footprint``), each layer once however many images
have it; not the fill of the disk, which others share. *Used* is: pulled or mounted by us. A container of another store
protects its image for as long as it is there, but leaves no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imagedist.errors import StorageError
from imagedist.oci.image import Image, Layer
from imagedist.overlay.gc import Collected, collect
from imagedist.overlay.images import StoredImage
from imagedist.overlay.parts import Parts
from imagedist.overlay.removal import in_use, layers_of_others, take_out

_EXPANSION = 3
"""Unpacked over compressed bytes, before we know: 2.6 for Debian packages by gzip -6, more for text."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What makes room.

    Attributes:
        victims: images to evict, in order, with the layers that go with each.
        left_bytes: what the store takes then.
        users: why the other images stay, one line each.
    """

    victims: tuple[tuple[StoredImage, tuple[str, ...]], ...]
    left_bytes: int
    users: tuple[str, ...]


def used_bytes(parts: Parts) -> int:
    """What the layers take of the disk, each once."""
    return sum(parts.layers.size_bytes(str(record.get("id"))) for record in parts.layers.records.read())


def _collect_above(parts: Parts, limit_bytes: int) -> None:
    """What no image has goes before any image does."""
    if used_bytes(parts) > limit_bytes:
        collect(parts)


def plan(parts: Parts, limit_bytes: int, keep: Sequence[str] = ()) -> Plan:
    """Decides what to evict so that the store takes no more than ``limit_bytes``, as far as that goes.

    Args:
        keep: ids of images and layers that stay.
    """
    recorded = [str(record.get("id")) for record in parts.layers.records.read()]
    sizes = {layer_id: parts.layers.size_bytes(layer_id) for layer_id in recorded}
    left_bytes = sum(sizes.values())
    if left_bytes <= limit_bytes:
        return Plan((), left_bytes, ())
    images = sorted(parts.stored(), key=lambda image: (parts.last_use(image.id), image.created))
    usage, users, evictable = parts.usage(), list[str](), list[StoredImage]()
    for image in images:
        user = "being pulled" if image.id in keep else in_use(parts, image, image.layer_ids[-1:], usage)
        if user is None:
            evictable.append(image)
        else:
            users.append(f"{next(iter(image.names), image.id[:12])}: {user}")
    staying = {layer_id for image in images if image not in evictable for layer_id in image.layer_ids}
    staying.update(keep, parts.loans.lent())
    victims: list[tuple[StoredImage, tuple[str, ...]]] = []
    while evictable and left_bytes > limit_bytes:
        image = evictable.pop(0)
        others = staying.union(*(other.layer_ids for other in evictable))
        gone = tuple(layer_id for layer_id in image.layer_ids if layer_id not in others)
        if staying.issuperset(image.layer_ids):
            continue  # all of it is needed anyway
        victims.append((image, gone))
        left_bytes -= sum(sizes[layer_id] for layer_id in gone)
    return Plan(tuple(victims), left_bytes, tuple(users))


def evict(parts: Parts, limit_bytes: int, keep: Sequence[str] = (), *, dry_run: bool = False) -> list[Collected]:
    """Evicts until the store takes no more than ``limit_bytes``, as far as that goes."""
    collected: list[Collected] = []
    while True:
        stuck: list[str] = []
        for image, layer_ids in plan(parts, limit_bytes, keep).victims:
            size_bytes = sum(parts.layers.size_bytes(layer_id) for layer_id in layer_ids)
            if dry_run or _evict(parts, image, layer_ids):
                collected.append(Collected("image", next(iter(image.names), image.id), size_bytes))
            else:
                stuck.append(image.id)
        if not stuck:
            return collected
        keep = (*keep, *stuck)  # others go instead


def _evict(parts: Parts, image: StoredImage, layer_ids: Sequence[str]) -> bool:
    """False: a build began to use it meanwhile, or a container was started upon it."""
    with parts.locks() as locks, parts.trash() as trash:
        if not locks.try_remove(image.id) or in_use(parts, image, layer_ids, parts.usage()) is not None:
            return False
        unlocked = [layer_id for layer_id in layer_ids if locks.try_remove(layer_id)]
        kept = layers_of_others(parts, image.id)
        take_out(parts, image, [layer_id for layer_id in unlocked if layer_id not in kept], trash)
        return True


def make_room(parts: Parts, quota_bytes: int, image: Image, ids: Sequence[str], missing: Sequence[Layer]) -> None:
    """Before a build, of which only compressed sizes are known.

    Raises:
        StorageError: not even these fit, whatever is evicted. Nothing was evicted then.
    """
    least_bytes = sum(layer.descriptor.size_bytes for layer in missing)
    likely_bytes = sum(
        layer.descriptor.size_bytes * (1 if layer.descriptor.compression == "none" else _EXPANSION) for layer in missing
    )
    keep = (image.id.hex, *ids)
    with parts.evicting():
        _collect_above(parts, quota_bytes - likely_bytes)
        reachable = plan(parts, max(quota_bytes - least_bytes, 0), keep)
        if reachable.left_bytes + least_bytes > quota_bytes:
            raise _full(image, quota_bytes, reachable, least_bytes)
        evict(parts, max(quota_bytes - likely_bytes, 0), keep)


def hold(parts: Parts, quota_bytes: int, image: Image, ids: Sequence[str]) -> None:
    """After a build, before its image is recorded: now the bytes are known.

    Raises:
        StorageError: it does not fit, whatever is evicted. Nothing was evicted then.
    """
    keep = (image.id.hex, *ids)
    with parts.evicting():
        _collect_above(parts, quota_bytes)
        reachable = plan(parts, quota_bytes, keep)
        if reachable.left_bytes > quota_bytes:
            raise _full(image, quota_bytes, reachable, 0)
        evict(parts, quota_bytes, keep)


def _full(image: Image, quota_bytes: int, reachable: Plan, more_bytes: int) -> StorageError:
    needed = reachable.left_bytes + more_bytes
    in_use_by = f" ({'; '.join(reachable.users[:3])})" if reachable.users else ""
    return StorageError(
        f"cannot store {image.reference}: with what is in use{in_use_by} the store takes at least {needed} bytes "
        f"of a quota of {quota_bytes}; raise storage.quota, or stop what uses other images"
    )
