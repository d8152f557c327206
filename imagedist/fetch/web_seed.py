"""A transfer's web seed while it is to help: asked for, put on, and renewed before its signature expires."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from imagedist.errors import ImagedistError, SourceError, UnauthorizedError
from imagedist.site.web_seeds import WebSeed
from imagedist.swarm.session import Transfer

_LOG = logging.getLogger(__name__)

_RENEWED_AT = 0.8
"""Of a URL's life: what is under way then still has the rest."""
_ASK_AGAIN_SECONDS = 5.0

Ask = Callable[[], Awaitable[WebSeed | None]]
"""Where this blob's web seed is; None: it has none. Raises SourceError: the site does not say."""


class HelpingWebSeed:
    """Nobody waits for the site: as long as it does not answer, the swarm goes on without help."""

    def __init__(self, transfer: Transfer, ask: Ask) -> None:
        self._transfer = transfer
        self._ask = ask
        self._asking: asyncio.Task[WebSeed | None] | None = None
        self._ask_at = 0.0
        self._refusal: SourceError | None = None

    def help(self, now: float) -> None:
        """Now, and every now and then while it is to.

        Raises:
            SourceError: this blob has no web seed, or not for this asker.
        """
        if self._refusal is not None:
            raise self._refusal
        if self._asking is None and now >= self._ask_at:
            self._asking = asyncio.ensure_future(self._ask())
            self._asking.add_done_callback(self._answered)

    def end(self) -> None:
        """Takes it off, if it is on."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None
        self._ask_at = 0.0
        self._transfer.set_web_seed(None)

    def _answered(self, asking: asyncio.Future[WebSeed | None]) -> None:
        if asking.cancelled() or asking is not self._asking:
            return
        self._asking = None
        now = asyncio.get_running_loop().time()
        try:
            seed = asking.result()
        except UnauthorizedError as error:
            self._refusal = error
        except ImagedistError as error:
            _LOG.info("no web seed for %s yet: %s", self._transfer.digest, error)
            self._ask_at = now + _ASK_AGAIN_SECONDS
        else:
            if seed is None:
                self._refusal = SourceError(f"nobody sends {self._transfer.digest}, and it has no web seed")
                return
            self._ask_at = now + seed.life_seconds * _RENEWED_AT if seed.life_seconds is not None else float("inf")
            self._transfer.set_web_seed(seed.url)
