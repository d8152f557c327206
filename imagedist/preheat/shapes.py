"""What is said about preheats: the seeder's orders to a node, the node's reports, the status that commands show.

Unknown keys are ignored, so that a node one version ahead of its site, or behind, works.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from imagedist.oci.digest import Digest
from imagedist.preheat.rule import MAX_IMAGES, PreheatRule

MAX_MESSAGE = 500
MAX_RULES = 100
MAX_LAYERS = 200

_Text = Annotated[str, StringConstraints(max_length=512)]
Message = Annotated[str, StringConstraints(max_length=MAX_MESSAGE)]


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Wanted(_Shape):
    """An image, and what it meant when the run began: every node gets the same bytes."""

    reference: _Text
    digest: Digest
    """Of the manifest, or of the index of several."""


class Order(_Shape):
    """One rule as it concerns one node.

    Attributes:
        run: which of the rule's runs: what failed in an earlier one is tried again.
        may_work: now. Otherwise the node only keeps and reports what it has.
    """

    rule: str
    run: str
    images: tuple[Wanted, ...]
    into: tuple[str, ...]
    is_pinned: bool = True
    may_work: bool = False
    attempts: int = 3
    headroom_bytes: int = 0


class Orders(_Shape):
    """The answer of ``POST /site/v1/nodes/{id}/work``.

    Attributes:
        version: changes with what is ordered; the node says which it has.
        rate: bytes per second that the node may take while it preheats; None: no cap.
    """

    format: int = 1
    version: str = ""
    orders: tuple[Order, ...] = ()
    rate: int | None = None


class LayerReport(_Shape):
    """A layer on a node now."""

    digest: Digest
    size_bytes: int = Field(ge=0)
    is_cached: bool = False
    is_unpacked: bool = False


State = Literal["present", "missing", "working", "failed"]


class ImageReport(_Shape):
    """An image on a node now.

    Attributes:
        missing: the places of the rule's ``into`` that lack it.
        message: why it failed.
    """

    reference: _Text
    digest: Digest
    state: State
    missing: tuple[_Text, ...] = Field(default=(), max_length=8)
    layers: tuple[LayerReport, ...] = Field(default=(), max_length=MAX_LAYERS)
    message: Message = ""


class RuleReport(_Shape):
    """A rule on a node now. ``received_bytes``: what the node took while it worked for this run."""

    rule: _Text
    run: _Text
    images: tuple[ImageReport, ...] = Field(default=(), max_length=MAX_IMAGES)
    received_bytes: int = Field(default=0, ge=0)

    @property
    def state(self) -> State:
        """Of all its images: the first of these that one of them is in."""
        states = {image.state for image in self.images}
        order: tuple[State, ...] = ("working", "missing", "failed")
        return next((state for state in order if state in states), "present")


class Report(_Shape):
    """The body of ``POST /site/v1/nodes/{id}/work``. ``version``: of the orders that the node has."""

    format: int = 1
    version: _Text = ""
    wait_seconds: float = Field(default=0, ge=0, le=60)
    rules: tuple[RuleReport, ...] = Field(default=(), max_length=MAX_RULES)


NodeOutcome = Literal["done", "working", "waiting", "missing", "failed", "gone", "paused"]
RunState = Literal["running", "done", "incomplete", "stopped", "expired", "cancelled", "paused", "closed"]


class NodePreheat(_Shape):
    """One node of a rule.

    Attributes:
        outcome: ``done``: it confirmed all of it, verified; ``missing``: it was there and went away, and the rule says
            to report that.
        message: why it is not done.
    """

    id: str
    outcome: NodeOutcome
    message: str = ""
    received_bytes: int = 0
    images: tuple[ImageReport, ...] = ()


class PreheatStatus(_Shape):
    """``GET /site/v1/preheats/{name}``.

    Attributes:
        state: ``incomplete``: over, but not every node confirmed; ``stopped``: too many nodes failed; ``expired``: the
            deadline passed; ``closed``: outside the rule's windows.
        problems: images that could not be resolved, patterns that match nothing.
        is_over: nothing more happens by itself in this run.
        is_confirmed: every target node confirmed verified bytes of every image.
    """

    format: int = 1
    name: str
    run: int
    state: RunState
    started_at: float
    seconds: float
    is_over: bool
    is_confirmed: bool
    rule: PreheatRule
    images: tuple[Wanted, ...]
    problems: tuple[str, ...] = ()
    counts: dict[str, int] = {}
    received_bytes: int = 0
    nodes: tuple[NodePreheat, ...] = ()


class PreheatList(_Shape):
    """``GET /site/v1/preheats``: without nodes."""

    format: int = 1
    preheats: tuple[PreheatStatus, ...]


class PreheatOrder(_Shape):
    """``PATCH /site/v1/preheats/{name}``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    state: Literal["active", "paused", "cancelled"]


class KnownLayer(_Shape):
    digest: Digest
    size_bytes: int = Field(ge=0)


class KnownImage(_Shape):
    """An image that the site has pulled by its tag. ``layers``: base first; none: its manifest is not here any more."""

    reference: _Text
    digest: Digest
    layers: tuple[KnownLayer, ...] = ()


class KnownImages(_Shape):
    """``GET /site/v1/images`` of a proxy; those whose tags were asked about last, first."""

    format: int = 1
    images: tuple[KnownImage, ...]


class Suggestion(_Shape):
    """Layers, from the base on, that many of the site's images share.

    Attributes:
        layers: base first. images: how many have them; share: of all.
        carrier: the smallest image that has them, by which they can be preheated.
        is_exact: the carrier has nothing else.
    """

    layers: tuple[Digest, ...]
    size_bytes: int
    images: int
    share: float
    carrier: str
    is_exact: bool


class Suggestions(_Shape):
    """``GET /site/v1/preheats-suggested``. ``images``: how many were measured."""

    format: int = 1
    images: int
    suggestions: tuple[Suggestion, ...]
