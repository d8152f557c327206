"""What a pull tells whoever watches it: the events of the agent's socket, the bars and ``--json`` lines.

Plain dataclasses: the command line reads them without importing more than the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from imagedist.errors import InputError, SourceError
from imagedist.oci.digest import Digest

Kind = Literal["resolved", "waiting", "fetched", "decoded", "extracted", "merged", "note", "done", "error"]
_KINDS = frozenset(get_args(Kind))

STAGES = ("fetch", "inflate", "hash", "stage", "extract", "merge")
"""What a layer goes through, in this order: the keys of ``Event.stages``. ``hash``: of blob and tar; ``stage``: writing
the tar to the ramdisk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSize:
    digest: Digest
    size_bytes: int
    is_present: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of progress. Which fields are set follows from ``event``.

    ``resolved``: reference, image, manifest, layers.
    ``fetched``: layer, bytes (compressed). ``decoded``: layer, bytes (plain). ``extracted``: layer, bytes (of tar
    consumed), is_complete with the layer's last one. Bytes count since the layer's last event of that kind.
    ``merged``: layer. ``waiting``, ``note``: message. ``error``: message, exit_code, and code if the user's own
    credentials are wanted (``ChallengeError.code``).
    ``done``: reference, image, seconds, bytes (compressed, fetched), decoded_bytes, and stages: the seconds that
    each of ``STAGES`` was busy, summed over layers, so they may exceed ``seconds``. With an agent also received_bytes:
    what the node received meanwhile, by source; pulls at the same time share it.
    """

    event: Kind
    reference: str | None = None
    image: str | None = None
    manifest: Digest | None = None
    layers: tuple[LayerSize, ...] | None = None
    layer: Digest | None = None
    bytes: int | None = None
    decoded_bytes: int | None = None
    is_complete: bool | None = None
    seconds: float | None = None
    stages: Mapping[str, float] | None = None
    message: str | None = None
    exit_code: int | None = None
    code: str | None = None
    received_bytes: Mapping[str, int] | None = None

    def line(self) -> str:
        """The event as one line of JSON, without the fields that are not set."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps({name: value for name, value in told.items() if value is not None}, default=_plain)

    @classmethod
    def parse(cls, line: str) -> Event | None:
        """Reads a line. None: a kind that only a newer agent knows; fields that only it knows are left out.

        Raises:
            SourceError: not an event.
        """
        try:
            told = json.loads(line)
            if told["event"] not in _KINDS:
                return None
            return cls(**{name: read(told[name]) for name, read in _READERS.items() if told.get(name) is not None})
        except (ValueError, TypeError, KeyError, AttributeError, InputError) as error:
            raise SourceError(f"malformed event {line[:200]!r}: is it an imagedist agent?") from error


def _plain(value: object) -> object:
    if isinstance(value, LayerSize):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return dict(value) if isinstance(value, Mapping) else str(value)


def _layers(told: list[dict[str, Any]]) -> tuple[LayerSize, ...]:
    return tuple(
        LayerSize(
            digest=Digest.parse(layer["digest"]),
            size_bytes=int(layer["size_bytes"]),
            is_present=bool(layer.get("is_present")),
        )
        for layer in told
    )


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "event": str,
    "reference": str,
    "image": str,
    "manifest": Digest.parse,
    "layers": _layers,
    "layer": Digest.parse,
    "bytes": int,
    "decoded_bytes": int,
    "is_complete": bool,
    "seconds": float,
    "stages": lambda told: {str(stage): float(seconds) for stage, seconds in told.items()},
    "message": str,
    "exit_code": int,
    "code": str,
    "received_bytes": lambda told: {str(source): int(count) for source, count in told.items()},
}


Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """An observer for those who only want the result."""
