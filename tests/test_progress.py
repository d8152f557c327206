"""Events on the wire: what is written is read, by older and newer neighbours too."""

from __future__ import annotations

import json

import pytest

from imagedist.errors import SourceError
from imagedist.oci.digest import Digest
from imagedist.progress import Event, LayerSize

LAYER = Digest.of(b"layer")

EVENTS = [
    Event(event="waiting", message="later"),
    Event(
        event="resolved",
        reference="registry.example/app:1",
        image="ab",
        manifest=Digest.of(b"manifest"),
        layers=(LayerSize(digest=LAYER, size_bytes=3, is_present=True), LayerSize(digest=LAYER, size_bytes=4)),
    ),
    Event(event="fetched", layer=LAYER, bytes=0),
    Event(event="extracted", layer=LAYER, bytes=9, is_complete=True),
    Event(event="done", bytes=3, decoded_bytes=9, seconds=0.5, stages={"fetch": 0.25}, received_bytes={"peer": 3}),
    Event(event="error", message="no\nluck", exit_code=2),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.event)
def test_an_event_is_one_line_and_is_read_as_it_was(event: Event) -> None:
    assert "\n" not in event.line()
    assert Event.parse(event.line()) == event


def test_what_is_not_set_is_not_written() -> None:
    assert json.loads(Event(event="merged", layer=LAYER).line()) == {"event": "merged", "layer": str(LAYER)}


def test_a_newer_agents_fields_and_kinds_are_left_out() -> None:
    assert Event.parse('{"event": "merged", "warp": 9, "layers": null}') == Event(event="merged")
    assert Event.parse('{"event": "teleported", "layer": 7}') is None


@pytest.mark.parametrize(
    "line",
    [
        *("", "[]", "{}", "nonsense"),
        *('{"event": "fetched", "bytes": "x"}', '{"event": "merged", "layer": "sha256:x"}'),
        *('{"event": "resolved", "layers": [{}]}', '{"event": "done", "stages": 3}', '{"event": "merged", "layer": 7}'),
    ],
)
def test_nonsense_is_a_source_that_failed(line: str) -> None:
    with pytest.raises(SourceError, match="malformed event"):
        Event.parse(line)
