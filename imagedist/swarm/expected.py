"""The torrent of one blob, as somebody sent it: checked against rules and digest, counted when it is refused."""

from __future__ import annotations

from imagedist.metrics import TORRENTS_REFUSED
from imagedist.oci.digest import Digest
from imagedist.swarm.torrent import TorrentError, TorrentFacts, parse


def expect_torrent(torrent: bytes, digest: Digest) -> TorrentFacts:
    """What the torrent says. Blocking, milliseconds for a large one.

    Raises:
        TorrentError: it breaks the rules, or is another blob's.
    """
    try:
        facts = parse(torrent)
        if facts.digest != digest:
            raise TorrentError(f"the torrent given for {digest} is that of {facts.digest}", "digest")
    except TorrentError as error:
        TORRENTS_REFUSED.labels(reason=error.reason).inc()
        raise
    return facts
