"""The file of one preheat: which images, on which nodes, how far, how fast (docs/preheat.md)."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, PlainSerializer, model_validator

from imagedist.config.values import Duration, Rate, Table
from imagedist.errors import InputError
from imagedist.oci.reference import Reference
from imagedist.preheat.windows import TimeWindow

Place = Literal["blobs", "storage", "docker", "containerd", "podman"]
RUNTIMES: tuple[Place, ...] = ("docker", "containerd", "podman")
MAX_IMAGES = 200
"""Of one rule, patterns expanded."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?\Z")
_WILD = frozenset("*?[")


def is_pattern(image: str) -> bool:
    return not _WILD.isdisjoint(image)


def _check_name(text: str) -> str:
    if not _NAME.match(text):
        raise ValueError(f"expected up to 64 lower-case letters, digits, '.', '_', '-', got {text!r}")
    return text


def _check_image(text: str) -> str:
    if is_pattern(text):
        head = text.rpartition("/")[0]
        if not head or ":" not in text.rpartition("/")[2]:
            raise ValueError(f"expected a pattern REGISTRY/REPOSITORY:TAG, got {text!r}")
        return text
    try:
        return str(Reference.parse(text))
    except InputError as error:
        raise ValueError(str(error)) from error


def _check_labels(value: Any) -> Any:
    """``zone = "a"`` is ``zone = ["a"]``."""
    if isinstance(value, dict):
        return {name: [each] if isinstance(each, str) else each for name, each in value.items()}
    return value


def _parse_window(value: Any) -> TimeWindow:
    return value if isinstance(value, TimeWindow) else TimeWindow.parse(str(value))


def _above_zero(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("expected a duration above zero")
    return value


RuleName = Annotated[str, AfterValidator(_check_name)]
ImageName = Annotated[str, AfterValidator(_check_image)]
Labels = Annotated[dict[str, tuple[str, ...]], BeforeValidator(_check_labels)]
Window = Annotated[TimeWindow, BeforeValidator(_parse_window), PlainSerializer(str)]
Seconds = PlainSerializer(lambda value: f"{value.total_seconds():.0f}s" if value is not None else None)
RateText = Annotated[Rate, PlainSerializer(lambda rate: "none" if rate is None else str(rate))]


class MeasuredTable(Table):
    """The measured base layers: ``imagedist preheat suggest`` shows what these would be now."""

    share: float = Field(default=0.5, gt=0, le=1)
    """Of the site's images that must share them."""
    images: int = Field(default=5, ge=1, le=50)
    """At most so many images that carry them."""


class NodesTable(Table):
    labels: Labels = {}
    """A node must have one of the values of each; none: all nodes."""

    def match(self, labels: dict[str, str]) -> bool:
        return all(labels.get(name) in values for name, values in self.labels.items())


class WavesTable(Table):
    size: int | None = Field(default=None, ge=1)
    """Nodes that work at a time; the next ones begin when all of these are done. None: all at once."""
    failures: int | None = Field(default=None, ge=0)
    """After more failed nodes than that no further wave begins. None: nothing stops."""


class LimitsTable(Table):
    node: RateText = None
    """What a node takes at most while it preheats."""
    site: RateText = None
    """What all nodes together take at most."""
    headroom: ByteSize = ByteSize(1 << 30)
    """Stays free on a node's disks."""
    deadline: Annotated[Duration, AfterValidator(_above_zero), Seconds] | None = None
    """After so long nothing more is begun, and what is under way stops."""
    windows: tuple[Window, ...] = ()
    """When nodes may work, by the seeder's local time. None: always."""
    attempts: int = Field(default=3, ge=1, le=20)
    """Of each image on each node, with back-off between them."""


class PreheatRule(Table):
    """The whole file."""

    name: RuleName
    images: tuple[ImageName, ...] = Field(default=(), max_length=MAX_IMAGES)
    """References, and patterns over the tags that the site knows."""
    into: tuple[Place, ...] = Field(default=("storage",), min_length=1)
    """``blobs``: the node's cache; ``storage``: unpacked there; a runtime: until that lists it."""
    missing: Literal["repair", "report"] = "repair"
    """What is done about an image that went away after it was there."""
    pin: bool = True
    """Neither quota nor ``gc`` nor ``rm`` takes it from the node while the rule is there."""
    measured: MeasuredTable | None = None
    nodes: NodesTable = NodesTable()
    waves: WavesTable = WavesTable()
    limits: LimitsTable = LimitsTable()

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not self.images and self.measured is None:
            raise ValueError("names no images: give images = […], or [measured]")
        if set(self.into) & set(RUNTIMES):
            for image in self.images:
                if not is_pattern(image) and "@" in image:
                    raise ValueError(f"a runtime pulls by tag: {image} has a digest")
        return self
