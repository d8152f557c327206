"""The same files cut into another number of layers, and an application layer on top of an image."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from copy import copy
from pathlib import Path

from bench.images import COMMAND, in_parallel
from bench.layer import GZIP_LEVEL, LayerTar
from bench.merged import MergedTree, merged
from imagedist.demo.layer import WrittenLayer
from imagedist.demo.layout import BuiltImage, built_once, write_image

_FORMAT = 1
_APPLICATION_FILE_BYTES = 4 << 20
"""Larger files would be most of the application layer."""
_SAMPLES = 64


def recut(source: BuiltImage, count: int, cache: Path) -> BuiltImage:
    """The files of an image in ``count`` layers (fewer if it has fewer files), balanced by bytes.

    Empty directories come with the last layer.

    Raises:
        UnacceptableError: the image has layers that only a file system could merge. StorageError: no space.
    """
    recipe = {"format": _FORMAT, "of": str(source.image.manifest_digest), "layers": count, "gzip": GZIP_LEVEL}

    def write(fresh: Path) -> None:
        with merged(source, fresh) as tree:
            runs = tree.cut(count)
            described = {directory for run in runs for name in run for directory in tree.parents(name)}
            runs[-1] += [name for name, inode in tree.inodes.items() if inode.entry.isdir() and name not in described]
            jobs = [
                lambda run=run, number=number: tree.write(run, fresh / f"{number}.layer")
                for number, run in enumerate(runs)
            ]
            layers = in_parallel(jobs)
        history = [f"imagedist-bench: part {number} of {len(layers)}" for number in range(1, len(layers) + 1)]
        write_image(fresh, list(zip(history, layers, strict=True)), f"bench/recut:{count}", COMMAND)

    return built_once(cache / f"{source.layout.name}-{count}", recipe, write)


def with_application(source: BuiltImage, size_bytes: int, cache: Path) -> BuiltImage:
    """An image with one more layer: a sample of its own files below ``opt/application``.

    Args:
        size_bytes: compressed bytes of that layer to aim at.
    """
    recipe = {
        "format": _FORMAT,
        "of": str(source.image.manifest_digest),
        "application_bytes": size_bytes,
        "gzip": GZIP_LEVEL,
    }

    def write(fresh: Path) -> None:
        with merged(source, fresh) as tree:
            application = _write_application(tree, fresh / "application.layer", size_bytes)
        layers = []
        for layer in source.image.layers:
            path = fresh / f"{layer.descriptor.digest.hex}.layer"
            path.hardlink_to(source.blob(layer.descriptor.digest))
            layers.append(WrittenLayer(path, layer.descriptor.digest, layer.diff_id, layer.descriptor.size_bytes))
        history = ["imagedist-bench: base"] * len(layers) + ["imagedist-bench: application"]
        write_image(fresh, list(zip(history, [*layers, application], strict=True)), "bench/update:1", COMMAND)

    return built_once(cache / f"{source.layout.name}-application-{size_bytes}", recipe, write)


def _write_application(tree: MergedTree, path: Path, size_bytes: int) -> WrittenLayer:
    """Takes files evenly from the whole image, so that their sizes and kinds are the image's own."""
    files = [
        name
        for name in sorted(tree.inodes)
        if tree.inodes[name].entry.isreg() and tree.inodes[name].entry.size <= _APPLICATION_FILE_BYTES
    ]
    spread = [name for start in range(_SAMPLES) for name in files[start::_SAMPLES]]
    with LayerTar(path) as layer, ExitStack() as stack:
        tars = {tar: stack.enter_context(tar.open("rb")) for tar in {inode.tar for inode in tree.inodes.values()}}
        directories: set[str] = set()
        for name in spread:
            if layer.size_bytes >= size_bytes:
                break
            inode = tree.inodes[name]
            new = f"opt/application/{name}"
            for directory in _missing(new, directories):
                layer.add(_directory(directory, inode.entry.mtime))
            entry = copy(inode.entry)
            entry.name, entry.pax_headers = new, {}
            tars[inode.tar].seek(inode.entry.offset_data)
            layer.add(entry, tars[inode.tar])
        return layer.finish()


def _missing(name: str, directories: set[str]) -> Iterator[str]:
    parts = name.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        if (directory := "/".join(parts[:depth])) not in directories:
            directories.add(directory)
            yield directory


def _directory(name: str, mtime: float) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, int(mtime)
    return entry
