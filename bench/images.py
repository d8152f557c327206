"""The images that are measured: the reference image, small ones, and others cut from the same files.

Each is an OCI layout in the cache directory, built once for its recipe, complete or not there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Sequence
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

_FORMAT = 1
"""Raise it when the same recipe would give another image."""
COMMAND = ("/bin/sh", "-c", "echo imagedist-bench")


def reference(cache: Path, say: Say = lambda line: None) -> BuiltImage:
    """The reference image of seven layers from Debian packages, ``gzip -6``.

    Where packages cannot be had (another system, no root, no network): a smaller one from this machine's own files.

    Raises:
        StorageError: neither could be built.
    """
    recipe = {
        "format": _FORMAT,
        "suite": debian.SUITE,
        "gzip": GZIP_LEVEL,
        "layers": [[layer.name, layer.packages, layer.without] for layer in REFERENCE],
    }
    if reason := debian.cannot():
        say(f"no reference image: {reason}; a smaller one from this machine's own files instead")
        return own(cache, OWN_FILES_BYTES)
    try:
        return built_once(cache / "reference", recipe, lambda fresh: _write_reference(fresh, cache / "debs", say))
    except ImagedistError as error:
        say(f"no reference image: {error}; a smaller one from this machine's own files instead")
        return own(cache, OWN_FILES_BYTES)


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


def _write_reference(fresh: Path, downloads: Path, say: Say) -> None:
    trees = fresh / "trees"
    base = trees / "base"
    say("reference image: bootstrapping the base layer")
    debian.make_base(base, downloads, MADE_AT)
    say("reference image: unpacking packages")
    made = [("minbase", base), *debian.make_layers(base, REFERENCE, trees, downloads)]
    say("reference image: compressing with gzip -6")
    jobs = [lambda tree=tree, name=name: write_tree(tree, fresh / f"{name}.layer", MADE_AT) for name, tree in made]
    written = in_parallel(jobs)
    debian.remove_tree(trees)
    history = [f"imagedist-bench: {name}" for name, _ in made]
    write_image(fresh, list(zip(history, written, strict=True)), "bench/reference:1", COMMAND)


def in_parallel(jobs: Sequence[Callable[[], WrittenLayer]]) -> list[WrittenLayer]:
    """Runs them, as many at once as there are CPUs; compression releases the GIL."""
    with ThreadPoolExecutor(os.cpu_count() or 1, initializer=os.nice, initargs=(10,)) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]
