"""The other sites, as the seeder names them: whoever of them holds a blob gives it before the upstream is asked.

A sibling is asked for what it holds (``registry_proxy.held``), so a question never travels on. It has little time, and
one that does not answer is left alone at once: a dead site costs one time-out, not one per blob.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imagedist.errors import SourceError
from imagedist.metrics import UPSTREAM_OPEN
from imagedist.oci.breaker import Breaker
from imagedist.oci.client import RegistryClient
from imagedist.oci.http_aiohttp import AiohttpClient
from imagedist.oci.retries import TransientError
from imagedist.oci.tls import Tls
from imagedist.service import kept_up
from registry_proxy.upstream_client import Source

_LOG = logging.getLogger(__name__)

REFRESH_SECONDS = 60.0
_FIRST_AGAIN_SECONDS, _AGAIN_SECONDS = 0.25, 5.0
"""After a seeder did not answer: soon at first, as both may be starting, then less and less often."""
_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 5.0
_STALL_SECONDS = 15.0
_FIRST_PAUSE_SECONDS = 30.0
_LIMIT_BYTES = 1 << 20
_MAX_SIBLINGS = 64


class _Sibling(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str = Field(max_length=100)
    proxy: str = Field(pattern=r"^https?://", max_length=1000)
    cost: int = Field(ge=0)


class _Sites(BaseModel):
    format: int
    siblings: tuple[_Sibling, ...] = Field(max_length=_MAX_SIBLINGS)


class Siblings:
    """The sources of other sites, nearest first; called, it gives those there are now (``fetching.Nearby``).

    Args:
        seeders: this site's; the first that answers is believed. What is known stays while none does.
        tls: for https URLs, if the system's authorities are not enough.
    """

    def __init__(self, seeders: Sequence[str], tls: Tls | None = None) -> None:
        self._seeders = tuple(seeders)
        self._tls = tls
        self._http = AiohttpClient(tls=tls, connect_seconds=_CONNECT_SECONDS, find_proxy=lambda url: None)
        self._known: dict[_Sibling, Source] = {}
        self._asking: asyncio.Task[None] | None = None

    def __call__(self) -> Sequence[Source]:
        return [self._known[each] for each in sorted(self._known, key=lambda each: (each.cost, each.name))]

    def start(self) -> None:
        """Asks the seeders now and then, in the background."""
        if self._seeders:
            self._asking = asyncio.create_task(kept_up(partial(keep_asking, self.refresh), "sibling sites"))

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        for source in self._known.values():
            await source.client.close()
        await self._http.close()

    async def refresh(self) -> bool:
        """Learns from the first seeder that answers; whether one did."""
        for seeder in self._seeders:
            try:
                sites = await self._ask(seeder)
            except (SourceError, OSError, TimeoutError, ValidationError) as error:
                _LOG.info("seeder %s does not name the sibling sites: %s", seeder, error)
                continue
            known = self._known
            self._known = {each: known.get(each) or _source(each, self._tls) for each in sites.siblings}
            for each, source in known.items():
                if each not in self._known:
                    await source.client.close()
            return True
        return False

    async def _ask(self, seeder: str) -> _Sites:
        async with asyncio.timeout(_ANSWER_SECONDS):
            answer = await self._http.send(
                "GET", f"{seeder}/site/v1/sites", {}, name="of the site's seeder", stall_seconds=_ANSWER_SECONDS
            )
            try:
                body = bytearray()
                while len(body) < _LIMIT_BYTES and (part := await answer.read(_LIMIT_BYTES - len(body))):
                    body += part
            finally:
                await answer.close()
        if answer.status != 200:
            raise TransientError(f"it answered {answer.status}")
        return _Sites.model_validate_json(bytes(body))


async def keep_asking(refresh: Callable[[], Awaitable[bool]]) -> None:
    """For ever: often until the seeder has answered, then now and then."""
    again_seconds = _FIRST_AGAIN_SECONDS
    while True:
        is_known = await refresh()
        await asyncio.sleep(REFRESH_SECONDS if is_known else again_seconds)
        again_seconds = _FIRST_AGAIN_SECONDS if is_known else min(2 * again_seconds, _AGAIN_SECONDS)


def breaker_of(name: str, label: str) -> Breaker:
    """Open after the first failure, for it is one place of several to ask. ``label``: in the metrics."""
    gauge = UPSTREAM_OPEN.labels(upstream=label)
    gauge.set(0)
    return Breaker(
        name,
        failures=1,
        span_seconds=0.0,
        first_pause_seconds=_FIRST_PAUSE_SECONDS,
        longest_pause_seconds=10 * _FIRST_PAUSE_SECONDS,
        changed=lambda is_open: gauge.set(1 if is_open else 0),
    )


def _source(sibling: _Sibling, tls: Tls | None) -> Source:
    name = f"of site {sibling.name}"
    breaker = breaker_of(name, f"site {sibling.name}")
    client = RegistryClient(
        f"{sibling.proxy.rstrip('/')}/site/v1/held",
        name=name,
        http=AiohttpClient(tls=tls, connect_seconds=_CONNECT_SECONDS),
        answer_seconds=_ANSWER_SECONDS,
        first_byte_seconds=_ANSWER_SECONDS,
        stall_seconds=_STALL_SECONDS,
        breaker=breaker,
    )
    return Source("sibling", client)
