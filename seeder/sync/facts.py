"""What rules ask of an image's config, labels and its date, read once for each digest."""

from __future__ import annotations

import json
from collections import OrderedDict

from imagedist.errors import UnacceptableError
from imagedist.oci.contents import parse_contents
from imagedist.oci.digest import Digest
from imagedist.oci.fields import Fields, MalformedError
from seeder.sync.proxy import SiteProxy
from seeder.sync.rules import ImageFacts

_LIMIT = 20_000
_DEPTH = 3


class Facts:
    """By manifest digest; the latest are kept."""

    def __init__(self, proxy: SiteProxy) -> None:
        self._proxy = proxy
        self._kept: OrderedDict[Digest, ImageFacts] = OrderedDict()

    async def of(self, upstream: str, repository: str, digest: Digest) -> ImageFacts:
        """Of an index, those of its first image.

        Raises:
            NotFoundError, SourceError, IntegrityError: it cannot be read.
        """
        facts = self._kept.get(digest)
        if facts is None:
            facts = self._kept[digest] = await self._read(upstream, repository, digest)
            if len(self._kept) > _LIMIT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(digest)
        return facts

    async def _read(self, upstream: str, repository: str, digest: Digest) -> ImageFacts:
        """What is no image has no facts."""
        manifest = digest
        try:
            for _ in range(_DEPTH):
                body = await self._proxy.look(upstream, repository, manifest)
                contents = parse_contents(body, f"{repository}@{digest}")
                if not contents.children:
                    config = Fields.parse(body).object("config").digest("digest")
                    return _facts(await self._proxy.look(upstream, repository, config, is_config=True))
                manifest = contents.children[0].digest
        except (MalformedError, UnacceptableError):
            pass
        return ImageFacts()


def _facts(config: bytes) -> ImageFacts:
    try:
        document = json.loads(config)
        labels = (document.get("config") or {}).get("Labels") or {}
        return ImageFacts(str(document.get("created") or ""), {str(key): str(each) for key, each in labels.items()})
    except (ValueError, AttributeError):
        return ImageFacts()
