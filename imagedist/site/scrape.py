"""A tracker's answer to a scrape (BEP 48). Pure."""

from __future__ import annotations

from collections.abc import Mapping

from imagedist.errors import IntegrityError, SourceError
from imagedist.swarm import bencode


def count_incomplete(answer: bytes, infohash: bytes) -> int:
    """Peers of a swarm that have not all of it; 0 when the tracker knows of none.

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
    count = counts.get(b"incomplete", 0) if isinstance(counts, Mapping) else 0
    return count if isinstance(count, int) else 0
