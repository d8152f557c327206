"""How the site's seeder gives blobs away: a BitTorrent seed of our own, which decides who gets which piece.

``wire`` knows the messages, ``offers`` decides for one torrent, ``window`` how much is under way, ``peer`` talks to
one peer, ``session`` puts them together.
"""

from seeder.uploads.offers import Pace, Part
from seeder.uploads.session import Upload, UploadSession

__all__ = ["Pace", "Part", "Upload", "UploadSession"]
