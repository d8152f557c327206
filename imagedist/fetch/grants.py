"""Whom the site lately let have a private blob of this node's cache: in memory, by a salted hash of the credentials."""

from __future__ import annotations

import hmac
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from imagedist.distribution.backend import Target
from imagedist.errors import NotFoundError, SourceError, UnauthorizedError
from imagedist.oci.digest import Digest

LIFE_SECONDS = 30.0
"""Beside the site's own ``grant_ttl``: one layer is often asked for in several ranges."""
LIFE_IF_ERROR_SECONDS = 3600.0
"""While no proxy answers."""
_LIMIT = 16_384

_LOG = logging.getLogger(__name__)


class Grants:
    """
    Args:
        ask: asks the site on behalf of the target's own credentials; raises what it says.
    """

    def __init__(
        self, ask: Callable[[Target, Digest], Awaitable[object]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._salt = os.urandom(32)
        self._given: OrderedDict[bytes, float] = OrderedDict()

    async def check(self, target: Target, digest: Digest) -> None:
        """
        Raises:
            ChallengeError, NotFoundError: the site does not let this asker have it. SourceError: it does not answer.
        """
        key = self._key(target, digest)
        age_seconds = self._clock() - self._given.get(key, float("-inf"))
        if age_seconds < LIFE_SECONDS:
            return
        try:
            await self._ask(target, digest)
        except (UnauthorizedError, NotFoundError):
            self._given.pop(key, None)
            raise
        except SourceError as error:
            if age_seconds >= LIFE_IF_ERROR_SECONDS:
                raise
            _LOG.warning("giving %s of %s unasked: %s", digest, target.name, error)
            return
        self.note(target, digest)

    def note(self, target: Target, digest: Digest) -> None:
        """The site gave it to this asker."""
        key = self._key(target, digest)
        self._given[key] = self._clock()
        self._given.move_to_end(key)
        while len(self._given) > _LIMIT:
            self._given.popitem(last=False)

    def _key(self, target: Target, digest: Digest) -> bytes:
        what = repr((target.namespace, target.name, target.authorization, str(digest)))
        return hmac.digest(self._salt, what.encode("utf-8", "surrogateescape"), "sha256")
