"""What ``--image`` says: which files, cut into how many layers, compressed how."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from bench import generated, images
from bench.recut import recut
from imagedist.config import parse_size
from imagedist.demo.layout import BuiltImage, built_once
from imagedist.errors import InputError
from imagedist.oci.reference import Reference
from imagedist.repack.image import repack
from imagedist.repack.place import parse_place
from imagedist.repack.recipe import Compression, Recipe

Say = Callable[[str], None]

SYNTAX = (
    "reference, medium or base (Debian packages), small, own-SIZE (this machine's files), files-SIZE (tiny ones), "
    "random-SIZE (incompressible), or registry/repository:tag; then ,layers=N and ,gzip=LEVEL ,pgzip or ,zstd"
)
_MADE = {"own": images.own, "files": generated.tiny_files, "random": generated.random_bytes}
_SIZED = re.compile(rf"({'|'.join(_MADE)})-(\d.*)")
_APPROXIMATE_BYTES = {
    "reference": 620_000_000,
    "medium": 350_000_000,
    "base": 40_000_000,
    "small": images.SMALL_BYTES,
}
_FORMAT = 1
_LAYERS = range(1, 128)
"""overlayfs, and docker with it, ends at 127."""


@dataclass(frozen=True, slots=True)
class ImageChoice:
    """An image's files and form.

    Attributes:
        base: see ``SYNTAX``.
        layers, recipe: None: as the base has them.
    """

    base: str
    layers: int | None = None
    recipe: Recipe | None = None

    @classmethod
    def parse(cls, text: str) -> ImageChoice:
        """Raises InputError: not of ``SYNTAX``."""
        base, *options = (part.strip() for part in text.split(","))
        if sized := _SIZED.fullmatch(base):
            if parse_size(sized[2]) == 0:
                raise InputError(f"no image {base!r}: expected a size above 0")
        elif base not in _APPROXIMATE_BYTES:
            if not set(base) & set("/:@"):  # rather one of ours, misspelt, than a repository of Docker Hub
                raise InputError(f"no image {base!r}: expected {SYNTAX}")
            Reference.parse(base)
        choice = cls(base)
        for option in options:
            name, _, value = option.partition("=")
            number = int(value) if value.isdecimal() else None
            if name == "layers" and number in _LAYERS:
                choice = replace(choice, layers=number)
            elif name in ("gzip", "pgzip", "zstd") and (number is not None or not value):
                choice = replace(choice, recipe=Recipe.of(cast(Compression, name), number))
            else:
                raise InputError(f"no image {text!r}: {option!r} is not understood; expected {SYNTAX}")
        return choice

    @property
    def registry_reference(self) -> str | None:
        """The whole reference, if it is a registry's image as that has it."""
        if self.base in _APPROXIMATE_BYTES or _SIZED.fullmatch(self.base) or self.layers or self.recipe:
            return None
        return str(Reference.parse(self.base))

    @property
    def approximate_bytes(self) -> int | None:
        """Of its compressed layers; None: only its registry knows."""
        if sized := _SIZED.fullmatch(self.base):
            return parse_size(sized[2])
        return _APPROXIMATE_BYTES.get(self.base)

    def build(self, cache: Path, say: Say) -> BuiltImage:
        """The image, built or copied into the cache.

        Raises:
            NotFoundError, SourceError: the registry failed. StorageError: no space.
            UnacceptableError: layers that cannot be cut.
        """
        built = self._base(cache, say)
        if self.layers is not None:
            say(f"cutting {self.base} into {self.layers} layers")
            built = recut(built, self.layers, cache)
        return built if self.recipe is None else recompressed(built, self.recipe, cache, say)

    def _base(self, cache: Path, say: Say) -> BuiltImage:
        if sized := _SIZED.fullmatch(self.base):
            return _MADE[sized[1]](cache, parse_size(sized[2]))
        if self.base == "small":
            return images.own(cache)
        if self.base in images.DEBIAN:
            return images.of_packages(self.base, cache, say)
        return images.copied(self.base, cache)


def recompressed(source: BuiltImage, recipe: Recipe, cache: Path, say: Say = lambda line: None) -> BuiltImage:
    """The same layers compressed another way, as ``imagedist repack`` does it."""
    form = f"{recipe.compression}-{recipe.level}"

    def write(fresh: Path) -> None:
        say(f"compressing {source.layout.name} with {form}")
        asyncio.run(repack(parse_place(f"oci:{source.layout}"), parse_place(f"oci:{fresh}:bench/{form}"), recipe))

    made = {"format": _FORMAT, "of": str(source.image.manifest_digest), "form": form, "block": recipe.block_bytes}
    return built_once(cache / f"{source.layout.name}-{form}", made, write)
