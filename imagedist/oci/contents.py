"""What a manifest or an index of any kind refers to: images, artifacts, signatures. Pure; for who copies them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from imagedist.errors import NotFoundError, UnacceptableError
from imagedist.oci.fields import Fields, MalformedError
from imagedist.oci.manifest import MANIFEST_LIMIT_BYTES, Descriptor
from imagedist.oci.platform import Platform

_ABOUT = "vnd.docker.reference.digest"
"""BuildKit's annotation of an attestation within an index: the manifest that it is about."""


@dataclass(frozen=True, slots=True)
class Contents:
    """
    Attributes:
        children: manifests that an index names. blobs: config, layers and the like, each once, without those that
            lie elsewhere (``urls``) and are not distributed.
    """

    children: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]


class Choice(NamedTuple):
    """Children of an index: those that go along, and those left out."""

    taken: tuple[Descriptor, ...]
    skipped: tuple[Descriptor, ...]


def parse_contents(body: bytes, about: str) -> Contents:
    """
    Args:
        about: for messages.

    Raises:
        UnacceptableError: no manifest of a form that can be copied.
    """
    if len(body) > MANIFEST_LIMIT_BYTES:
        raise UnacceptableError(f"manifest {about} is larger than {MANIFEST_LIMIT_BYTES} bytes")
    try:
        fields = Fields.parse(body)
        if fields.count("schemaVersion", 2) == 1:
            raise UnacceptableError(f"{about} is a Docker schema 1 image, which is retired: push it again")
        children = tuple(map(Descriptor.read, fields.objects("manifests")))
        found = [*fields.objects("layers"), *fields.objects("blobs")]
        if "config" in fields:
            found.append(fields.object("config"))
        blobs = {(blob := Descriptor.read(each)).digest: blob for each in found if "urls" not in each}
    except MalformedError as error:
        raise UnacceptableError(f"malformed manifest {about}: {error}") from error
    return Contents(children, tuple(blobs.values()))


def choose_children(children: Sequence[Descriptor], platforms: Collection[Platform], about: str) -> Choice:
    """Those for the wanted platforms, what belongs to no platform, and attestations about what is taken.

    Args:
        platforms: empty: all.

    Raises:
        NotFoundError: nothing for any of them.
    """
    if not platforms:
        return Choice(tuple(children), ())
    fitting = {each.digest for each in children if _is_of_none(each) or _fits(each, platforms)}
    labelled = [each for each in children if not _is_of_none(each)]
    if labelled and not any(each.digest in fitting for each in labelled):
        there = ", ".join(sorted(str(each.platform) for each in labelled))
        wanted = ", ".join(sorted(map(str, platforms)))
        raise NotFoundError(f"{about} has nothing for {wanted}; it has: {there}", "MANIFEST_UNKNOWN")
    subjects = {str(digest) for digest in fitting}
    taken = tuple(each for each in children if each.digest in fitting and _is_about(each, subjects))
    return Choice(taken, tuple(each for each in children if each not in taken))


def _is_of_none(child: Descriptor) -> bool:
    return child.platform is None or child.platform.os == "unknown"


def _is_about(child: Descriptor, subjects: Collection[str]) -> bool:
    subject = child.annotations.get(_ABOUT)
    return subject is None or subject in subjects


def _fits(child: Descriptor, platforms: Collection[Platform]) -> bool:
    has = child.platform
    return has is not None and any(
        (has.os, has.architecture) == (wanted.os, wanted.architecture) and wanted.variant in (None, has.variant)
        for wanted in platforms
    )
