"""What a pull tells whoever watches it: the events of the agent's socket, the bars and ``--json`` lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from imagedist.oci.digest import Digest


class LayerSize(BaseModel):
    model_config = ConfigDict(frozen=True)

    digest: Digest
    size_bytes: int
    is_present: bool = False


class Event(BaseModel):
    """One line of progress. Which fields are set follows from ``event``.

    ``resolved``: image, manifest, layers. ``fetched``: layer and bytes since the last such event.
    ``extracted``, ``merged``: layer. ``done``: image, seconds, bytes (compressed bytes that were fetched).
    With an agent, received_bytes: what the node received meanwhile, by source; pulls at the same time share it.
    ``error``: message, exit_code.
    """

    model_config = ConfigDict(frozen=True)

    event: Literal["resolved", "waiting", "fetched", "extracted", "merged", "note", "done", "error"]
    reference: str | None = None
    image: str | None = None
    manifest: Digest | None = None
    layers: tuple[LayerSize, ...] | None = None
    layer: Digest | None = None
    bytes: int | None = None
    seconds: float | None = None
    message: str | None = None
    exit_code: int | None = None
    received_bytes: dict[str, int] | None = None

    def line(self) -> str:
        return self.model_dump_json(exclude_none=True)


Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """An observer for those who only want the result."""
