"""The site's proxies: tried in the order of the configuration, those that failed lately last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from imagedist.errors import ChallengeError, SourceError, UnauthorizedError

T = TypeVar("T")

_UNHEALTHY_SECONDS = 10.0
"""A proxy that failed is asked last for this long."""


@dataclass
class Proxy:
    url: str
    failed_at: float = float("-inf")

    def failed(self) -> None:
        self.failed_at = asyncio.get_running_loop().time()

    def answered(self) -> None:
        self.failed_at = float("-inf")


class Proxies:
    def __init__(self, urls: Sequence[str]) -> None:
        self._proxies = [Proxy(url) for url in urls]

    def by_health(self) -> list[Proxy]:
        since = asyncio.get_running_loop().time() - _UNHEALTHY_SECONDS
        return sorted(self._proxies, key=lambda proxy: proxy.failed_at > since)

    async def first(self, ask: Callable[[str], Awaitable[T]]) -> T:
        """The answer of the first proxy that gives one.

        Args:
            ask: is given a proxy's URL; a ``SourceError`` of it means the next one.

        Raises:
            SourceError: none answers. NotFoundError, UnauthorizedError: one of them says so.
        """
        failure: SourceError | None = None
        for proxy in self.by_health():
            try:
                answer = await ask(proxy.url)
            except UnauthorizedError as error:
                raise told(error) from error
            except SourceError as error:
                proxy.failed()
                failure = error
            else:
                proxy.answered()
                return answer
        raise SourceError(f"the site cannot answer: {failure or 'no proxy is configured'}") from failure


def told(error: UnauthorizedError) -> UnauthorizedError:
    """What the node's client is told: a proxy that challenges means him."""
    return ChallengeError(str(error), error.status) if error.status == 401 else error
