"""What a /v2 URL asks for, by the distribution spec's grammar. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from imagedist.errors import InputError
from imagedist.oci.digest import Digest
from imagedist.oci.reference import is_name, is_tag

Kind = Literal["base", "manifest", "blob", "tags", "referrers"]

_ROUTE = re.compile(
    r"(?P<name>.+)/(?:manifests/(?P<manifest>[^/]*)|blobs/(?P<blob>[^/]*)|tags/(?P<tags>list)|"
    r"referrers/(?P<referrers>[^/]*))\Z",
    re.DOTALL,
)
_PUSH = re.compile(r"(?P<name>.+)/(?:manifests|blobs|tags|referrers)/", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Route:
    """A well-formed request. ``reference`` is a tag or a digest of a manifest, else empty."""

    kind: Kind
    name: str = ""
    reference: str = ""
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is answered without asking anybody: HTTP status, the spec's error code, one line."""

    status: int
    code: str
    message: str


def parse_route(path: str) -> Route | Refusal:
    """Reads the decoded path behind ``/v2/``."""
    if path == "":
        return Route("base")
    if path == "_catalog":
        return Refusal(404, "UNSUPPORTED", "a mirror has no catalog: ask the registry itself for its repositories")
    match = _ROUTE.match(path)
    if match is None or match.lastgroup is None:
        return Refusal(404, "UNSUPPORTED", f"no such route below /v2/: {path[:200]!r}")
    name = match["name"]
    if not is_name(name):
        return Refusal(
            400,
            "NAME_INVALID",
            f"invalid repository name {name[:200]!r}: expected lower-case letters, digits, '.', '_', '-', "
            "parts separated by '/', at most 255 characters",
        )
    if match["tags"] is not None:
        return Route("tags", name)
    reference = next(text for text in match.group("manifest", "blob", "referrers") if text is not None)
    if match["manifest"] is not None and ":" not in reference:
        if not is_tag(reference):  # 404, as the spec's conformance test wants it: there cannot be such a manifest
            return Refusal(404, "MANIFEST_UNKNOWN", f"invalid tag {reference[:200]!r}: there is no such manifest")
        return Route("manifest", name, reference)
    try:
        digest = Digest.parse(reference)
    except InputError as error:
        return Refusal(400, "DIGEST_INVALID", str(error))
    if match["manifest"] is not None:
        return Route("manifest", name, reference, digest)
    return Route("blob" if match["blob"] is not None else "referrers", name, "", digest)


def pushed_name(path: str) -> str | None:
    """The repository that somebody tries to push to, or to delete from."""
    match = _PUSH.match(path)
    name = match["name"].removesuffix("/blobs") if match else ""
    return name if is_name(name) else None
