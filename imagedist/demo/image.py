"""Builds a real image from real files of this machine: no network, no root, the same bytes for the same files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from imagedist.demo import sources
from imagedist.demo.layer import LayerWriter, WrittenLayer
from imagedist.demo.layout import BuiltImage, built_once, write_image
from imagedist.demo.sources import Source

DEFAULT_SIZE_BYTES = 150_000_000
NAME = "team/demo:1"
GREETING = "imagedist demo: every layer of this image was unpacked at the same time"
"""What a container of the image prints: a line of the uppermost layer, over another in the base layer."""
COMMAND = ("/bin/sh", "-c", "cat /etc/imagedist-demo")

_PROGRAMS = ("sh", "cat", "ls")
_BULK_LAYERS = 4
_ENOUGH = 5
"""Files of at least this many times the wanted size compress to no less than it."""
_RECIPE: dict[str, int | str] = {"format": 2, "bulk_layers": _BULK_LAYERS}
"""Raise ``format`` when the same files would give another image."""

Progress = Callable[[int, int], None]
"""Called from several threads with compressed bytes so far and the bytes aimed at."""


@dataclass(slots=True)
class _Shared:
    """What the layers being written have in common: the image's name and the compressed bytes so far, by layer."""

    name: str
    progress: Progress
    total_bytes: int
    by_layer: dict[Path, int]

    def report(self, writer: Path, written_bytes: int) -> None:
        self.by_layer[writer] = written_bytes
        self.progress(min(sum(list(self.by_layer.values())), self.total_bytes), self.total_bytes)


def build(
    directory: Path,
    *,
    size_bytes: int = DEFAULT_SIZE_BYTES,
    name: str = NAME,
    progress: Progress = lambda done, total: None,
) -> BuiltImage:
    """Builds the image as an OCI image layout, or reuses the complete one that is there.

    The layers, base first: a shell with its libraries; the running Python's library; four (five on a machine whose
    files compress unevenly) of /usr; one of whiteouts, replaced files and a hard link.

    Args:
        directory: the layout; replaced if it holds another image. Its parent must be writable.
        size_bytes: compressed bytes of the layers to aim at; reached if the machine has enough files.
        name: ``repository:tag``; images of different names share their base layer only.

    Raises:
        StorageError: no space, no permission, or no shell on this machine.
    """
    recipe = _RECIPE | {"size_bytes": size_bytes, "name": name}
    return built_once(directory, recipe, lambda fresh: _write_image(fresh, size_bytes, name, progress))


def _write_image(layout: Path, size_bytes: int, name: str, progress: Progress) -> None:
    base = sources.programs(_PROGRAMS)
    taken = {source.name for source in base} | set(sources.merged_links())
    limit_bytes = 2 * size_bytes // (2 * _BULK_LAYERS + 1)  # the Python layer has half a share
    files = [source for source in sources.usr_files() if source.name not in taken and source.size_bytes <= limit_bytes]
    if sum(source.size_bytes for source in files) < _ENOUGH * size_bytes:
        files += sources.environment_files()
    slices = _cut(files, _BULK_LAYERS)
    shared = _Shared(name, progress, size_bytes, {})
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        base_layer = pool.submit(_write_base, layout / "base", base)
        python = pool.submit(_fill, layout / "python", sources.python_files(), limit_bytes // 2, shared)
        bulk = [
            pool.submit(_fill, layout / f"usr{number}", files, limit_bytes, shared)
            for number, files in enumerate(slices)
        ]
        parts = [("shell", base_layer.result()), ("python", python.result()[0])]
        parts += [(f"usr, part {number}", part.result()[0]) for number, part in enumerate(bulk, 1)]
        left_over = [source for part in bulk for source in part.result()[1]]
    missing_bytes = size_bytes - sum(layer.size_bytes for _, layer in parts)
    if missing_bytes > 0 and left_over:
        parts.append(("usr, the rest", _fill(layout / "rest", left_over, missing_bytes, shared)[0]))
    parts.append(("changes", _write_changes(layout / "changes", name)))
    write_image(layout, [(f"imagedist demo: {about}", layer) for about, layer in parts], name, COMMAND)


def _cut(files: Sequence[Source], count: int) -> list[list[Source]]:
    """Cuts a list into ``count`` runs of about the same number of bytes."""
    total = sum(source.size_bytes for source in files) or 1
    runs: list[list[Source]] = [[] for _ in range(count)]
    before = 0
    for source in files:
        runs[min(before * count // total, count - 1)].append(source)
        before += source.size_bytes
    return runs


def _fill(path: Path, files: Sequence[Source], limit_bytes: int, shared: _Shared) -> tuple[WrittenLayer, list[Source]]:
    """Writes files with their directories until the layer has ``limit_bytes``; returns it and the files not used."""
    with LayerWriter(path) as writer:
        writer.add_bytes(f"opt/demo/layers/{path.name}", f"{shared.name}\n".encode())
        used = 0
        for used, source in enumerate(files, 1):
            if writer.size_bytes >= limit_bytes:
                used -= 1
                break
            _add_directories(writer, source)
            writer.add_path(source.path, source.name)
            shared.report(path, writer.size_bytes)
        return writer.finish(), list(files[used:])


def _add_directories(writer: LayerWriter, source: Source) -> None:
    """The directories above a file, with the modes and times they have here where they are the same ones."""
    name, here = os.path.dirname(source.name), os.path.dirname(source.path)
    missing: list[tuple[str, str]] = []
    while name and not writer.has_directory(name):
        missing.append((here, name))
        name, here = os.path.dirname(name), os.path.dirname(here)
    for here, name in reversed(missing):
        if os.path.basename(here) != os.path.basename(name) or not writer.add_path(here, name):
            writer.add_directory(name)


def _write_base(path: Path, programs: Sequence[Source]) -> WrittenLayer:
    links = sources.merged_links()
    with LayerWriter(path) as writer:
        for name in ("dev", "etc", "opt", "proc", "run", "sys", "usr"):
            writer.add_directory(name)
        writer.add_directory("tmp", 0o1777)
        for name, target in sorted(links.items()):
            writer.add_directory(target)
            writer.add_symlink(name, target)
        for source in programs:
            _add_directories(writer, source)
            writer.add_bytes(source.name, Path(source.path).read_bytes(), 0o755)
        writer.add_bytes("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        writer.add_bytes("etc/imagedist-demo", b"the base layer's line: the uppermost layer replaces it\n")
        writer.add_directory("opt/demo")
        writer.add_directory("opt/demo/layers")
        writer.add_bytes("opt/demo/removed", b"a whiteout hides this\n")
        writer.add_bytes("opt/demo/replaced", b"old\n")
        writer.add_symlink("opt/demo/was-a-link", "removed")
        for directory in ("opt/demo/opaque", "opt/demo/removed-directory", "opt/demo/kept"):
            writer.add_directory(directory)
            writer.add_bytes(f"{directory}/old", b"from the base layer\n")
        return writer.finish()


def _write_changes(path: Path, name: str) -> WrittenLayer:
    """The layer that makes order matter (layer.md, whiteouts)."""
    with LayerWriter(path) as writer:
        for directory in ("etc", "opt", "opt/demo", "opt/demo/layers"):
            writer.add_directory(directory)
        writer.add_bytes("opt/demo/layers/changes", f"{name}\n".encode())
        writer.add_bytes("etc/imagedist-demo", GREETING.encode() + b"\n")
        writer.add_bytes("opt/demo/.wh.removed", b"")
        writer.add_bytes("opt/demo/.wh.removed-directory", b"")
        writer.add_bytes("opt/demo/replaced", b"new\n", 0o600)
        writer.add_directory("opt/demo/was-a-link")
        writer.add_bytes("opt/demo/was-a-link/file", b"in a directory now\n")
        writer.add_directory("opt/demo/opaque", 0o750)
        writer.add_bytes("opt/demo/opaque/.wh..wh..opq", b"")
        writer.add_bytes("opt/demo/opaque/new", b"alone here\n")
        writer.add_directory("opt/demo/kept")
        writer.add_bytes("opt/demo/kept/new", b"beside the old one\n")
        writer.add_hard_link("opt/demo/kept/same", "opt/demo/kept/new")
        return writer.finish()
