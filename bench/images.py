"""The images that are measured: the reference image, small ones, and others cut from the same files.

Each is an OCI layout in the cache directory, built once for its recipe, complete or not there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import debian
from bench.debian import Packages
from bench.layer import GZIP_LEVEL, write_tree
from imagedist.demo import image as own_files
from imagedist.demo.copy import copy_image
from imagedist.demo.layer import WrittenLayer
from imagedist.demo.layout import BuiltImage, built_once, open_layout, write_image
from imagedist.errors import ImagedistError
from imagedist.oci.digest import Digest
from imagedist.oci.reference import Reference

Say = Callable[[str], None]
"""Told what is going on, one short line at a time."""

MADE_AT = 1_750_000_000
"""What files of an installation's own say when they were made; those of packages keep their times."""

SMALL_BYTES = 60_000_000
OWN_FILES_BYTES = 300_000_000
"""Compressed size of the image that replaces the reference where packages cannot be had."""

REFERENCE = (
    Packages("gcc", ("gcc", "g++")),
    # The libraries, without what SciPy's own build needs (C++ templates, static libraries).
    Packages("scipy", ("python3", "python3-scipy"), without=("libboost1.74-dev", "libopenblas-pthread-dev")),
    Packages("java", ("openjdk-17-jre-headless",)),
    Packages("node", ("nodejs",)),
    # A headless browser renders without the drivers of Mesa.
    Packages("chromium", ("chromium",), without=("libgl1-mesa-dri", "libllvm15", "libz3-4")),
    Packages("tools", ("perl", "git", "vim", "golang-1.19-src")),
)
"""The six layers above a bookworm minbase. About 0.6 GB compressed, 1.6 GB unpacked, 44,000 files."""

DEBIAN: Mapping[str, tuple[Packages, ...]] = {
    "reference": REFERENCE,
    "medium": tuple(layer for layer in REFERENCE if layer.name in ("scipy", "java", "tools")),
    "base": (),
}
"""Images from Debian packages at several sizes: the layers above the minbase."""

_FORMAT = 1
"""Raise it when the same recipe would give another image."""
COMMAND = ("/bin/sh", "-c", "echo imagedist-bench")


def of_packages(name: str, cache: Path, say: Say = lambda line: None) -> BuiltImage:
    """An image of ``DEBIAN``, ``gzip -6``.

    Where packages cannot be had (another system, no root, no network): a smaller one from this machine's own files.

    Raises:
        StorageError: neither could be built.
    """
    layers = DEBIAN[name]
    recipe = {
        "format": _FORMAT,
        "suite": debian.SUITE,
        "gzip": GZIP_LEVEL,
        "layers": [[layer.name, layer.packages, layer.without] for layer in layers],
    }
    own_bytes = OWN_FILES_BYTES if name == "reference" else SMALL_BYTES
    if reason := debian.cannot():
        say(f"no {name} image: {reason}; a smaller one from this machine's own files instead")
        return own(cache, own_bytes)
    try:
        return built_once(cache / name, recipe, lambda fresh: _write_packages(name, layers, fresh, cache / "debs", say))
    except ImagedistError as error:
        say(f"no {name} image: {error}; a smaller one from this machine's own files instead")
        return own(cache, own_bytes)


def own(cache: Path, size_bytes: int = SMALL_BYTES) -> BuiltImage:
    """An image of seven layers from this machine's own files: no network, no root.

    Args:
        size_bytes: compressed bytes to aim at.
    """
    return own_files.build(cache / f"own-{size_bytes}", size_bytes=size_bytes)


def tiny(cache: Path) -> BuiltImage:
    """Two layers of a few bytes: to see that something works, and to warm it up."""

    def write(fresh: Path) -> None:
        layers = []
        for number in (1, 2):
            tree = fresh / f"tree{number}"
            (tree / "opt/tiny").mkdir(parents=True)
            (tree / f"opt/tiny/{number}").write_text(f"layer {number}\n")
            layers.append((f"imagedist-bench: tiny {number}", write_tree(tree, fresh / f"{number}.layer", MADE_AT)))
            shutil.rmtree(tree)
        write_image(fresh, layers, "bench/tiny:1", COMMAND)

    return built_once(cache / "tiny", {"format": _FORMAT, "tiny": True}, write)


def copied(reference: str, cache: Path) -> BuiltImage:
    """A registry's image, copied once into the cache.

    Raises:
        InputError: not a reference. NotFoundError, SourceError, IntegrityError, StorageError: as copying failed.
    """
    parsed = Reference.parse(reference)
    layout = cache / Digest.of(str(parsed).encode()).hex[:16]
    return open_layout(asyncio.run(copy_image(parsed, layout, plain_http=parsed.registry.startswith("127."))))


def _write_packages(name: str, layers: Sequence[Packages], fresh: Path, downloads: Path, say: Say) -> None:
    trees = fresh / "trees"
    base = trees / "base"
    say(f"{name} image: bootstrapping the base layer")
    debian.make_base(base, downloads, MADE_AT)
    say(f"{name} image: unpacking packages")
    made = [("minbase", base), *debian.make_layers(base, layers, trees, downloads)]
    say(f"{name} image: compressing with gzip -{GZIP_LEVEL}")
    jobs = [lambda tree=tree, part=part: write_tree(tree, fresh / f"{part}.layer", MADE_AT) for part, tree in made]
    written = in_parallel(jobs)
    debian.remove_tree(trees)
    history = [f"imagedist-bench: {part}" for part, _ in made]
    write_image(fresh, list(zip(history, written, strict=True)), f"bench/{name}:1", COMMAND)


def in_parallel(jobs: Sequence[Callable[[], WrittenLayer]]) -> list[WrittenLayer]:
    """Runs them, as many at once as there are CPUs; compression releases the GIL."""
    with ThreadPoolExecutor(os.cpu_count() or 1, initializer=os.nice, initargs=(10,)) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]
