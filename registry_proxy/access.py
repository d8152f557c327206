"""Who may have what of an upstream whose users bring their own credentials (``mode = "passthrough"``).

Knowing a digest is not a grant: upstream itself says, for each user and repository, who may read there. Its answer is
kept for ``grant_ttl``, under a salted hash of the credentials, in memory only. A repository that upstream gives to
anonymous askers is open to everyone. While upstream cannot be asked, a grant goes on for ``grant_if_error``.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from imagedist.errors import ChallengeError, NotFoundError, SourceError, UnauthorizedError
from registry_proxy.flights import Flights
from registry_proxy.manifests import Generation
from registry_proxy.upstream import UpstreamRepository

_LOG = logging.getLogger(__name__)

_LIMIT = 65_536
_ANONYMOUS = ""

Ask = Callable[[UpstreamRepository], Awaitable[object]]


class _Key(NamedTuple):
    """``generation``: a purge of the repository takes the grants with it."""

    asker: str
    repository: str
    generation: Generation


class _Said(NamedTuple):
    may_read: bool
    at: float


class Access:
    """What upstreams said lately of who may read which repository.

    Args:
        generation: of a repository's last purge.
    """

    def __init__(
        self, generation: Callable[[UpstreamRepository], Generation], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.generation = generation
        self._clock = clock
        self._said: OrderedDict[_Key, _Said] = OrderedDict()
        self._probes: Flights[_Key, bool | None] = Flights()

    def may_read(self, place: UpstreamRepository, *, has_failed: bool = False) -> bool:
        """Whether the asker may have what is known to be in this repository, without asking upstream.

        Args:
            has_failed: upstream cannot be asked.
        """
        if not place.needs_grant:
            return True
        settings = place.settings
        life_seconds = (settings.grant_if_error if has_failed else settings.grant_ttl).total_seconds()
        return any(self._last(place, asker, life_seconds) for asker in {place.asker, _ANONYMOUS})

    def note(self, place: UpstreamRepository, *, may_read: bool) -> None:
        """Upstream gave the asker something of this repository, or denied it."""
        if place.needs_grant:
            self._note(self._key(place, place.asker), may_read)

    async def settled(self, place: UpstreamRepository, ask: Ask) -> UpstreamRepository:
        """The same, knowing whether the repository is open to anonymous askers: if need be upstream is asked.

        Args:
            ask: something that upstream refuses to those who may not read there, by HEAD.
        """
        if not place.needs_grant or place.asker == _ANONYMOUS:
            return place
        is_open = self._last(place, _ANONYMOUS, place.settings.grant_ttl.total_seconds())
        if is_open is None:
            key = self._key(place, _ANONYMOUS)
            is_open = await self._probes.run(key, lambda: self._probe(key, place, ask))
        return replace(place, is_open=bool(is_open))

    @contextlib.contextmanager
    def asking(self, place: UpstreamRepository) -> Iterator[None]:
        """Around a question to upstream: notes that it denied the asker.

        Raises:
            ChallengeError: it did, and his own credentials decide.
        """
        try:
            yield
        except UnauthorizedError as error:
            self.note(place, may_read=False)
            if place.needs_grant and not isinstance(error, ChallengeError):
                raise ChallengeError(str(error)) from error
            raise

    async def close(self) -> None:
        await self._probes.close()

    async def _probe(self, key: _Key, place: UpstreamRepository, ask: Ask) -> bool | None:
        try:
            await ask(place.anonymously())
        except (UnauthorizedError, NotFoundError):
            self._note(key, may_read=False)
            return False
        except SourceError as error:
            _LOG.info("cannot tell whether %s is open to all: %s", place, error)
            return None
        self._note(key, may_read=True)
        return True

    def _last(self, place: UpstreamRepository, asker: str, life_seconds: float) -> bool | None:
        """What was said within so many seconds; None: nothing."""
        said = self._said.get(self._key(place, asker))
        return said.may_read if said is not None and self._clock() - said.at < life_seconds else None

    def _note(self, key: _Key, may_read: bool) -> None:
        self._said[key] = _Said(may_read, self._clock())
        self._said.move_to_end(key)
        while len(self._said) > _LIMIT:
            self._said.popitem(last=False)

    def _key(self, place: UpstreamRepository, asker: str) -> _Key:
        return _Key(asker, str(place), self.generation(place))
