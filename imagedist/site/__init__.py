"""One site as a node sees it: its documents, blobs and torrents, by whichever of its proxies answers."""

from imagedist.site.answers import ACTION_HEADER, BLOB_TYPE, PRIVATE_HEADER, Arriving, FoundTorrent, Purged, SmallBlob
from imagedist.site.site import Site

__all__ = ["ACTION_HEADER", "BLOB_TYPE", "PRIVATE_HEADER", "Arriving", "FoundTorrent", "Purged", "Site", "SmallBlob"]
