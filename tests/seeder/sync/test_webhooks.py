"""What registries notify, in both formats; what is malformed is refused, and what is no news left out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from imagedist.errors import InputError
from seeder.sync.webhooks import Hint, parse_webhook

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def event(action: str, **target: Any) -> dict[str, Any]:
    return {"id": "1", "action": action, "target": {"mediaType": MANIFEST, "repository": "team/app", **target}}


def parsed(document: Any) -> list[Hint]:
    return parse_webhook(json.dumps(document).encode())


def test_docker_registrys_pushes_and_deletions_say_where_to_look_each_place_once() -> None:
    events = [
        event("push", tag="1", digest="sha256:0"),
        event("push", tag="1"),
        event("push", mediaType="application/octet-stream"),  # a layer
        event("push"),  # a manifest by digest
        event("pull", tag="2"),
        event("delete", tag="3"),
        event("delete", digest="sha256:0", mediaType=""),
    ]
    app = "team/app"
    assert parsed({"events": events}) == [Hint(app, "1"), Hint(app, None), Hint(app, "3")]


def test_harbors_pushes_and_deletions_do_so_too() -> None:
    data = {
        "resources": [{"digest": "sha256:0", "tag": "1"}, {"digest": "sha256:0", "tag": "sha256:0"}],
        "repository": {"name": "app", "namespace": "team", "repo_full_name": "team/app", "repo_type": "private"},
    }
    for kind in ("PUSH_ARTIFACT", "DELETE_ARTIFACT"):
        hints = parsed({"type": kind, "occur_at": 1, "operator": "admin", "event_data": data})
        assert hints == [Hint("team/app", "1"), Hint("team/app", None)]
    assert parsed({"type": "PULL_ARTIFACT", "event_data": data}) == []


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"\xff", b'{"events": [1]}', b'{"events": [{"action": "push"}]}', b'{"event_data": 1}'],
)
def test_what_is_no_notification_is_refused(body: bytes) -> None:
    with pytest.raises(InputError, match="bad notification"):
        parse_webhook(body)


def test_names_that_are_none_are_left_out() -> None:
    assert parsed({"events": [event("push", repository="../etc", tag="1"), event("push", repository=5, tag="1")]}) == []
    assert parsed({"events": [event("push", tag="-bad")]}) == [Hint("team/app", None)]
