"""The site's backups, as its seeder names them: read when siblings and the registry cannot give something.

The seeder gives their logins with them, for the site token. A backup that does not answer is left alone at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from urllib.parse import urlsplit

from pydantic import ValidationError

from imagedist.errors import ConfigError, NotFoundError, SourceError, UnauthorizedError
from imagedist.oci.auth import Credentials
from imagedist.oci.client import RegistryClient
from imagedist.oci.http_aiohttp import AiohttpClient
from imagedist.oci.tls import Tls, trusting
from imagedist.service import kept_up
from imagedist.site.questions import Questions
from imagedist.site_sync import BackupList, BackupSource
from registry_proxy.siblings import breaker_of, keep_asking
from registry_proxy.upstream_client import Source

_LOG = logging.getLogger(__name__)

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 10.0
_STALL_SECONDS = 15.0


class Backups:
    """The sources, cheapest first; called, it gives those there are now (``fetching.Nearby``).

    Args:
        seeders: this site's; the first that answers is believed. What is known stays while none does.
        token: the site's. tls: for https URLs of seeders, if the system's authorities are not enough.
    """

    def __init__(self, seeders: Sequence[str], token: str | None, tls: Tls | None = None) -> None:
        self._seeders = tuple(seeders)
        self._questions = Questions("proxy", token, tls)
        self._known: dict[BackupSource, Source] = {}
        self._asking: asyncio.Task[None] | None = None
        self._said = ""

    def __call__(self) -> Sequence[Source]:
        return [self._known[each] for each in sorted(self._known, key=lambda each: (each.cost, each.name))]

    def start(self) -> None:
        """Asks the seeders now and then, in the background."""
        if self._seeders:
            self._asking = asyncio.create_task(kept_up(partial(keep_asking, self.refresh), "backups"))

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        for source in self._known.values():
            await source.client.close()
        await self._questions.close()

    async def refresh(self) -> bool:
        """Learns from the first seeder that answers; whether one did."""
        for seeder in self._seeders:
            try:
                url = f"{seeder}/site/v1/backups"
                async with self._questions.ask("GET", url, 0, {}, is_operator=True) as answer:
                    told = BackupList.model_validate_json(await answer.read()).backups
                known = self._known
                self._known = {each: known.get(each) or _source(each) for each in told}
            except NotFoundError:
                return True  # an older seeder
            except (SourceError, ConfigError, ValidationError) as error:
                if str(error) != self._said:
                    is_starting = isinstance(error, SourceError) and not isinstance(error, UnauthorizedError)
                    level = logging.INFO if is_starting else logging.WARNING
                    _LOG.log(level, "seeder %s does not name the backups: %s", seeder, error)
                self._said = str(error)
                continue
            self._said = ""
            for each, source in known.items():
                if each not in self._known:
                    await source.client.close()
            return True
        return False


def _source(backup: BackupSource) -> Source:
    """Raises ConfigError: its authorities are none."""
    label = f"backup {backup.name}"
    login = Credentials(backup.username, backup.password or "") if backup.username is not None else None
    tls = trusting(backup.ca, label) if backup.ca is not None else None
    client = RegistryClient(
        backup.registry,
        name=f"of {label} ({urlsplit(backup.registry).netloc})",
        credentials=login,
        http=AiohttpClient(tls=tls, connect_seconds=_CONNECT_SECONDS),
        answer_seconds=_ANSWER_SECONDS,
        first_byte_seconds=2 * _ANSWER_SECONDS,
        stall_seconds=_STALL_SECONDS,
        breaker=breaker_of(label, label),
    )
    return Source("backup", client, f"{backup.prefix}/" if backup.prefix else "")
