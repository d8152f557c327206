"""Who uses a layer: mounts in every mount namespace, and containers of other stores that stack upon ours."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path


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
    """Finds a container of another containers/storage store that runs on the image or stacks upon one of its layers."""
    for store in stores:
        for container in _containers(store):
            if container.get("image") == image_id:
                return f"container {str(container.get('id'))[:12]} of {store}"
        for lower in sorted(store.glob("overlay/*/lower")):
            with contextlib.suppress(OSError):
                text = lower.read_text(errors="surrogateescape")
                if any(mark in text for mark in marks):
                    return f"layer {lower.parent.name[:12]} of {store}"
    return None


def _containers(store: Path) -> Iterable[dict[str, object]]:
    for name in ("containers.json", "volatile-containers.json"):
        with contextlib.suppress(OSError, ValueError):
            records = json.loads((store / "overlay-containers" / name).read_bytes())
            yield from (record for record in records if isinstance(record, dict))
