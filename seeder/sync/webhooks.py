"""What registries notify: docker-registry's event envelope, and Harbor's webhook. Pure.

A notification says where to look, and nothing more: what a tag means is asked of the registry itself, so that an event
that is late, repeated or made up sets no tag.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from imagedist.errors import InputError
from imagedist.oci.reference import is_name, is_tag

MAX_EVENTS = 1000


class Hint(NamedTuple):
    """``tag``: None: something of the repository."""

    repository: str
    tag: str | None


def parse_webhook(body: bytes) -> list[Hint]:
    """Where something was pushed or deleted, each place once; pulls are left out.

    Raises:
        InputError: neither of the two formats.
    """
    try:
        document = json.loads(body)
        if isinstance(document, dict) and isinstance(document.get("events"), list):
            hints = [_event(each) for each in document["events"][:MAX_EVENTS]]
        elif isinstance(document, dict) and isinstance(document.get("event_data"), dict):
            hints = _harbor(document)
        else:
            raise ValueError("no events")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            'bad notification: expected docker-registry\'s {"events": […]} or Harbor\'s {"type", "event_data"}'
        ) from error
    return list(dict.fromkeys(hint for hint in hints if hint is not None))


def _event(event: dict[str, Any]) -> Hint | None:
    """docs.docker.com/registry/notifications: pushes of blobs name no tag, of manifests they do, deletions may not."""
    if event["action"] not in ("push", "delete"):
        return None
    target = event["target"]
    media_type = str(target.get("mediaType") or "")
    if (
        event["action"] == "push"
        and not target.get("tag")
        and "manifest" not in media_type
        and "index" not in media_type
    ):
        return None
    return _hint(target["repository"], target.get("tag"))


def _harbor(document: dict[str, Any]) -> list[Hint | None]:
    """goharbor.io/docs, "Configure Webhook Notifications": of an artifact without a tag the digest is told instead."""
    if document.get("type") not in ("PUSH_ARTIFACT", "DELETE_ARTIFACT"):
        return []
    data = document["event_data"]
    repository = data["repository"]["repo_full_name"]
    return [_hint(repository, each.get("tag")) for each in data.get("resources", [])[:MAX_EVENTS]]


def _hint(repository: Any, tag: Any) -> Hint | None:
    if not isinstance(repository, str) or not is_name(repository):
        return None
    return Hint(repository, tag if isinstance(tag, str) and is_tag(tag) else None)
