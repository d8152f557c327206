"""Lists as the distribution spec has them ("Listing Tags", "Listing Referrers"), whatever an upstream can do. Pure.

Older registries know no ``n`` and ``last`` (docker-registry 2.8 sends all tags, in any order), and some registries do
not filter referrers. What the upstream did not do is done here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from imagedist.distribution.backend import Page, Target
from imagedist.errors import SourceError
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_INDEX

_JSON = "application/json"
_LINK = re.compile(r"\s*<([^<>]{1,4096})>\s*((?:;[^,]{0,256})?)(?:,|\Z)")
_NEXT = re.compile(r";\s*rel\s*=\s*(?:next|\"(?:[^\"]*\s)?next(?:\s[^\"]*)?\")\s*(?:;|\Z)", re.IGNORECASE)


def tags_page(upstream: Page, target: Target, query: Mapping[str, str]) -> Page:
    """One page of tags for who asked for ``n`` of them behind ``last``.

    An upstream that pages keeps its own order, whatever that is, and its link is taken over. One that sent more than
    ``n``, or ``last`` itself, knows no pages: its list is sorted and cut here.

    Raises:
        SourceError: the upstream did not send a list of tags.
    """
    tags = _tags(upstream.body, target)
    count, last = int(query["n"]) if "n" in query else None, query.get("last")
    link = relinked(upstream.link, _tags_path(target), target)
    is_whole = last in tags if last is not None else link is None and (count is None or len(tags) < count)
    if count == 0:
        tags, link = [], None
    elif is_whole or (count is not None and len(tags) > count):
        return _cut(tags, target, query)
    return Page(_listed(tags, target), _JSON, link)


def whole_page(upstream: Page | None, more: Sequence[str], target: Target, query: Mapping[str, str]) -> Page:
    """One page of all the tags of an upstream that sent them at once, and of ``more``.

    Args:
        upstream: asked without ``n`` and ``last``, and without a link. None: it does not know the repository.

    Raises:
        SourceError: the upstream did not send a list of tags.
    """
    return _cut({*(_tags(upstream.body, target) if upstream is not None else ()), *more}, target, query)


def referrers_page(upstream: Page, target: Target, digest: Digest, query: Mapping[str, str]) -> Page | None:
    """One page of referrers, filtered if that was asked for; None when the upstream's answer is no image index."""
    artifact_type = query.get("artifactType")
    index = index_of(upstream.body)
    if index is None:
        return None
    link = relinked(
        upstream.link,
        f"/v2/{target.name}/referrers/{digest}",
        target,
        {"artifactType": artifact_type} if artifact_type else {},
    )
    body, applied = upstream.body, upstream.filters_applied
    if artifact_type and "artifactType" not in _words(applied):
        wanted = [one for one in index["manifests"] if one.get("artifactType") == artifact_type]
        body = json.dumps({**index, "manifests": wanted}).encode()
        applied = ", ".join([*_words(applied), "artifactType"])
    return Page(body, OCI_INDEX, link, applied)


def no_referrers(query: Mapping[str, str]) -> Page:
    """Nobody refers to it: an empty index, never a 404 ("Listing Referrers")."""
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    return Page(body, OCI_INDEX, filters_applied="artifactType" if query.get("artifactType") else None)


def relinked(link: str | None, path: str, target: Target, more: dict[str, str] | None = None) -> str | None:
    """Upstream's ``Link`` to the next page, as a link of ours: only its query is taken over.

    Args:
        more: what the query must have besides.
    """
    query = next_query(link)
    return _link(path, {**(more or {}), **query}, target) if query is not None else None


def next_query(link: str | None) -> dict[str, str] | None:
    """The query by which the next page is asked for; None: this was the last one."""
    at, url = 0, None
    while url is None and link and (match := _LINK.match(link, at)):
        at = match.end()
        url = match[1] if _NEXT.search(match[2]) else None
    return dict(parse_qsl(urlsplit(url).query)) if url is not None else None


def _cut(tags: Iterable[str], target: Target, query: Mapping[str, str]) -> Page:
    """Of all tags those that were asked for, in ASCII order."""
    count, last = int(query["n"]) if "n" in query else None, query.get("last")
    wanted = [tag for tag in sorted(tags) if last is None or tag > last]
    shown, link = wanted[:count], None
    if count and len(wanted) > count:
        link = _link(_tags_path(target), {"n": str(count), "last": shown[-1]}, target)
    return Page(_listed(shown, target), _JSON, link)


def _listed(tags: Sequence[str], target: Target) -> bytes:
    return json.dumps({"name": target.name, "tags": tags}).encode()


def _tags_path(target: Target) -> str:
    return f"/v2/{target.name}/tags/list"


def _link(path: str, query: dict[str, str], target: Target) -> str:
    query.pop("ns", None)
    if target.namespace is not None:
        query["ns"] = target.namespace
    return f'<{path}?{urlencode(query, errors="replace")}>; rel="next"'


def _tags(body: bytes, target: Target) -> list[str]:
    document = _json(body)
    tags = document.get("tags", False) if isinstance(document, dict) else False
    if tags is None:  # a repository without tags, as Go writes it
        return []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise SourceError(f'upstream sent no list of tags of {target.name}: expected JSON with "tags"')
    return tags


def with_more(page: Page, more: bytes) -> Page:
    """The last page of referrers with those that another index names besides; each once."""
    mine, others = index_of(page.body), index_of(more)
    if page.link is not None or mine is None or others is None:
        return page
    known = {one.get("digest") for one in mine["manifests"]}
    added = [one for one in others["manifests"] if one.get("digest") not in known]
    return replace(page, body=json.dumps({**mine, "manifests": mine["manifests"] + added}).encode()) if added else page


def index_of(body: bytes) -> dict[str, Any] | None:
    """An image index, with its ``manifests`` as a list of objects; None: it is none."""
    document = _json(body)
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:
        return None
    manifests = document.get("manifests")
    if not isinstance(manifests, list) or not all(isinstance(one, dict) for one in manifests):
        return None
    return document


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _words(header: str | None) -> list[str]:
    return [word.strip() for word in (header or "").split(",") if word.strip()]
