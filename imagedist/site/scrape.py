"""A tracker's answer to a scrape (BEP 48). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from imagedist.errors import IntegrityError, SourceError
from imagedist.swarm import bencode


class Counts(NamedTuple):
    """Of a swarm: who has all of it, the site's seeder among them, and who wants the rest."""

    seeds: int = 0
    leechers: int = 0


def parse_scrape(answer: bytes, infohash: bytes) -> Counts:
    """
    Raises:
        SourceError: not an answer to a scrape.
    """
    try:
        document = bencode.decode(answer)
    except IntegrityError as error:
        raise SourceError(f"the tracker's answer to a scrape is not bencoded: {error}") from error
    files = document.get(b"files") if isinstance(document, Mapping) else None
    if not isinstance(files, Mapping):
        raise SourceError("the tracker's answer to a scrape names no files; is it an imagedist seeder?")
    counts = files.get(infohash)
    return Counts(_number(counts, b"complete"), _number(counts, b"incomplete"))


def _number(counts: bencode.Value | None, name: bytes) -> int:
    count = counts.get(name, 0) if isinstance(counts, Mapping) else 0
    return count if isinstance(count, int) else 0
