"""Who uses a layer: mounts in every mount namespace, and containers of other stores that stack upon ours."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any


def mounted_by(marks: Collection[str]) -> str | None:
    """Finds a mount whose source, target or options contain one of ``marks`` (layer ids, short links).

    Returns:
        One line that names the process and the mount point, or None.
    """
    for process, text in _mount_tables():
        for line in text.splitlines():
            if any(mark in line for mark in marks):
                return f"mounted at {line.split(' ')[4]} (seen by process {process})"
    return None


def _mount_tables() -> Iterator[tuple[str, str]]:
    """Each mount namespace once, by one of its processes. Processes come and go meanwhile."""
    seen: set[str] = set()
    for process in ["self", *filter(str.isdigit, os.listdir("/proc"))]:
        with contextlib.suppress(OSError):
            namespace = os.readlink(f"/proc/{process}/ns/mnt")
            if namespace not in seen:
                text = Path(f"/proc/{process}/mountinfo").read_text(errors="surrogateescape")
                seen.add(namespace)
                yield process, text


def referred_by(image_id: str, marks: Collection[str], stores: Sequence[Path]) -> str | None:
    """Finds what in another containers/storage store needs the image or its layers, to run or to be listed.

    That is a container, an image of its own (``podman tag`` and ``commit`` make one) or a layer.
    """
    for store in stores:
        for name in ("containers.json", "volatile-containers.json"):
            for container in _records(store / "overlay-containers" / name):
                if container.get("image") == image_id:
                    return f"container {str(container.get('id'))[:12]} of {store}"
        for image in _records(store / "overlay-images" / "images.json"):
            layer_id = str(image.get("layer"))
            is_upon_ours = layer_id in marks and not (store / "overlay" / layer_id).exists()
            lacks_manifest = not (store / "overlay-images" / image_id / "manifest").exists()
            if is_upon_ours or (image.get("id") == image_id and lacks_manifest):
                name = next(iter(image.get("names") or ()), str(image.get("id"))[:12])
                return f"image {name} of {store}"
        for lower in sorted(store.glob("overlay/*/lower")):
            with contextlib.suppress(OSError):
                text = lower.read_text(errors="surrogateescape")
                if any(mark in text for mark in marks):
                    return f"layer {lower.parent.name[:12]} of {store}"
    return None


def _records(path: Path) -> Iterable[dict[str, Any]]:
    with contextlib.suppress(OSError, ValueError):
        yield from (record for record in json.loads(path.read_bytes()) if isinstance(record, dict))
