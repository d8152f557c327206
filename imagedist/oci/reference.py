"""Image references as users type them, normalised the way Docker does (distribution/reference)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from imagedist.errors import InputError
from imagedist.oci.digest import Digest

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_REGISTRY = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
    r"|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?\Z"
)
_NAME_LENGTH = 255


def is_name(text: str) -> bool:
    """Whether this is a repository name by the distribution spec."""
    return len(text) <= _NAME_LENGTH and _NAME.match(text) is not None


def is_tag(text: str) -> bool:
    """Whether this is a tag by the distribution spec (at most 128 characters)."""
    return _TAG.match(text) is not None


@dataclass(frozen=True, slots=True)
class Reference:
    """``registry/repository[:tag][@digest]`` with nothing left implicit.

    ``docker.io`` is the registry's name even though its API lives at another host.
    """

    registry: str
    repository: str
    tag: str | None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Reads what a user typed; ``python`` means ``docker.io/library/python:latest``.

        Raises:
            InputError: the text is not a reference; the message says which part.
        """
        rest, at, digest_text = text.partition("@")
        digest = Digest.parse(digest_text) if at else None
        first, slash, remainder = rest.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first):
            registry, path = first, remainder
        else:
            registry, path = "docker.io", rest
        if registry == "index.docker.io":
            registry = "docker.io"
        path, colon, tag_text = path.partition(":")
        if not _REGISTRY.match(registry):
            raise InputError(f"invalid reference {text!r}: {registry!r} is not a registry host")
        if registry == "docker.io" and "/" not in path:
            path = f"library/{path}"
        if not is_name(path):
            raise InputError(
                f"invalid reference {text!r}: {path!r} is not a repository name "
                "(lower-case letters, digits, '.', '_', '-', parts separated by '/')"
            )
        if colon and not is_tag(tag_text):
            raise InputError(f"invalid reference {text!r}: {tag_text!r} is not a tag")
        tag = tag_text if colon else (None if digest else "latest")
        return cls(registry, path, tag, digest)

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}"

    @property
    def target(self) -> str:
        """What a registry is asked for: the digest if there is one, else the tag."""
        return str(self.digest) if self.digest else (self.tag or "latest")

    def at(self, digest: Digest) -> Reference:
        """The same repository, pinned to a digest (the tag goes)."""
        return replace(self, tag=None, digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"
