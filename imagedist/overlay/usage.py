"""Who uses a layer: mounts in every mount namespace, and containers of other stores that stack upon ours."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_CONTAINER_LISTS = ("containers.json", "volatile-containers.json")
_WORDS = re.compile(r"[ ,=:]+")  # between the paths of a line of mountinfo, those of overlay's options included
_outside: list[Callable[[], Iterable[str]]] = []


class Usage:
    """What was mounted and stacked when this was made: read once, asked for many layers.

    Args:
        root: our store's directory.
        stores: other containers/storage stores that have ours as an additional image store.
    """

    def __init__(self, root: Path, stores: Sequence[Path]) -> None:
        self._root = root
        tables = list(_mount_tables())
        self._views = [Path("/"), *(Path("/proc") / process / "root" for process, _ in tables)]
        self._mounts = [(f"process {process}", line) for process, text in tables for line in text.splitlines()]
        self._mounts += [("another namespace", line) for ask in _outside for line in ask()]
        self._stores = [_Store(path) for path in stores]

    def by(self, image_id: str, marks: Collection[str]) -> str | None:
        """Who needs an image or its layers, in one line; None: nobody.

        Args:
            marks: the ids and short links of its layers, as a mount's options and ``lower`` files name them.
        """
        return self.mounted_by(marks) or next(filter(None, (one.needs(image_id, marks) for one in self._stores)), None)

    def mounted_by(self, marks: Collection[str]) -> str | None:
        """Finds a mount whose source, target or options contain one of ``marks``, and are not of another store.

        Layers have the same names in every store of ours.
        """
        for where, line in self._mounts:
            if any(mark in line for mark in marks) and not self._is_elsewhere(line, marks):
                return f"mounted at {line.split(' ')[4]} (seen by {where})"
        return None

    def _is_elsewhere(self, line: str, marks: Collection[str]) -> bool:
        """Whether a mount's paths with one of ``marks`` name layers of another store.

        For sure, that is: a path that is nowhere to be seen may be another name of ours, a relative one says nothing,
        and a bind mount's source (proc(5): the fourth field) is of its file system's root.
        """
        if any(mark in line.split(" ")[3] for mark in marks):
            return False
        named = [word for word in _WORDS.split(line) if word.startswith("/") and any(mark in word for mark in marks)]
        return bool(named) and all(self._is_of_another(word, marks) for word in named)

    def _is_of_another(self, path: str, marks: Collection[str]) -> bool:
        """Whether it is there in some mount namespace, and in none a part of our store.

        Of a container's root only the namespace of who started it knows the layers (a container engine inside of a
        container, for one), and the same path may be another directory in each.
        """
        seen = [identities for view in self._views if (identities := _upwards(view, path))]
        parts = (self._root, *(self._root / "overlay" / mark for mark in ("", *marks)))
        ours = {found for part in parts if (found := _identity(part)) is not None}
        return bool(seen) and not any(ours & identities for identities in seen)


def ask_outside(mount_lines: Callable[[], Iterable[str]]) -> None:
    """From inside of a user namespace, others' mounts cannot be seen: from now on ``Usage`` asks this for them, too."""
    _outside.append(mount_lines)


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


def _upwards(view: Path, path: str) -> set[tuple[int, int]]:
    """What a directory and those above it are, by a path as a namespace has it; empty: it is not there.

    Args:
        view: the root directory of the namespace. Links of layers are relative; another, absolute one leads into ours.
    """
    found: set[tuple[int, int]] = set()
    descriptor = -1
    try:
        descriptor = os.open(f"{view}/{path}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        while (here := _of(os.fstat(descriptor))) not in found:
            found.add(here)
            above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = above
    except OSError:
        return set()
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return found


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        return _of(path.stat())
    except OSError:
        return None


def _of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class _Store:
    """Another store: its containers, its own images (``podman tag`` and ``commit`` make them) and its layers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._containers = [one for name in _CONTAINER_LISTS for one in _records(path / "overlay-containers" / name)]
        self._images = list(_records(path / "overlay-images" / "images.json"))
        self._lowers: list[tuple[str, str]] = []
        for lower in sorted(path.glob("overlay/*/lower")):
            with contextlib.suppress(OSError):
                self._lowers.append((lower.parent.name, lower.read_text(errors="surrogateescape")))

    def needs(self, image_id: str, marks: Collection[str]) -> str | None:
        for container in self._containers:
            if image_id and container.get("image") == image_id:
                return f"container {str(container.get('id'))[:12]} of {self._path}"
        for image in self._images:
            layer_id = str(image.get("layer"))
            is_upon_ours = layer_id in marks and not (self._path / "overlay" / layer_id).exists()
            lacks_manifest = not (self._path / "overlay-images" / image_id / "manifest").exists()
            if is_upon_ours or (image.get("id") == image_id and lacks_manifest):
                name = next(iter(image.get("names") or ()), str(image.get("id"))[:12])
                return f"image {name} of {self._path}"
        for layer_id, text in self._lowers:
            if any(mark in text for mark in marks):
                return f"layer {layer_id[:12]} of {self._path}"
        return None


def container_layers(root: Path, layers: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Layers of a store's own containers, with those below them: podman may run containers in any store.

    Args:
        layers: the store's layer records, by id.
    """
    needed: set[str] = set()
    for name in _CONTAINER_LISTS:
        for container in _records(root / "overlay-containers" / name):
            layer_id = str(container.get("layer"))
            while layer_id in layers and layer_id not in needed:
                needed.add(layer_id)
                layer_id = str(layers[layer_id].get("parent"))
    return needed


def _records(path: Path) -> Iterable[dict[str, Any]]:
    with contextlib.suppress(OSError, ValueError):
        yield from (record for record in json.loads(path.read_bytes()) if isinstance(record, dict))
