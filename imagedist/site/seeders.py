"""The site's seeders: heartbeats go to all of them, questions and orders to the first that answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from imagedist.errors import InputError, SourceError
from imagedist.nodes import Heartbeat
from imagedist.site.questions import BadRequestError, Questions
from imagedist.site.scrape import Counts, parse_scrape

_MAX_SCRAPE_BYTES = 1000

ShapeT = TypeVar("ShapeT", bound=BaseModel)


class Seeders:
    """
    Args:
        urls: base URLs, asked in this order.
        node_id: who we are.
    """

    def __init__(self, urls: Sequence[str], questions: Questions, node_id: str) -> None:
        self.urls = tuple(urls)
        self.node_id = node_id
        self._questions = questions

    async def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Tells every seeder that this node lives, and what there is to it.

        Raises:
            SourceError: a seeder does not answer or refuses.
        """
        body = heartbeat.model_dump(mode="json")
        failure: SourceError | None = None
        for url in self.urls:
            try:
                async with self._questions.ask("PUT", f"{url}/site/v1/nodes/{self.node_id}", 0, {}, body):
                    pass
            except SourceError as error:
                failure = error  # the others want to hear of us, too
        if failure is not None:
            raise failure

    async def scrape(self, infohash: bytes) -> Counts:
        """How many are in a swarm, as the first tracker says that answers.

        Args:
            infohash: the short one, 20 bytes.

        Raises:
            SourceError: none answers.
        """
        failure: SourceError | None = None
        for url in self.urls:
            try:
                async with self._questions.ask("GET", f"{url}/scrape?info_hash={quote(infohash)}", 0, {}) as response:
                    return parse_scrape(await response.content.read(_MAX_SCRAPE_BYTES), infohash)
            except SourceError as error:
                failure = error
        raise failure or SourceError("no site seeder is configured")

    async def order(self, method: str, path: str, body: object = None) -> None:
        """``call`` without an answer."""
        await self._first(method, path, body, 0)

    async def call(
        self, method: str, path: str, shape: type[ShapeT], body: object = None, wait_seconds: float = 0
    ) -> ShapeT:
        """A question or an order, ``/site/v1/{path}``.

        Args:
            body: sent as JSON. wait_seconds: how long the seeder may hold the answer back.

        Raises:
            InputError: what was ordered is wrong. NotFoundError: it says so. SourceError: none answers, or it refuses.
        """
        url, content = await self._first(method, path, body, wait_seconds)
        try:
            return shape.model_validate_json(content)
        except ValidationError as error:
            raise SourceError(
                f"{url} answered nonsense to {method} {path}; is it an imagedist seeder of this version?"
            ) from error

    async def _first(self, method: str, path: str, body: object, wait_seconds: float) -> tuple[str, bytes]:
        failure: SourceError | None = None
        for url in self.urls:
            try:
                asking = self._questions.ask(method, f"{url}/site/v1/{path}", wait_seconds, {}, body, is_operator=True)
                async with asking as response:
                    return url, await response.read()
            except BadRequestError as error:
                raise InputError(str(error)) from error
            except SourceError as error:
                failure = failure or error  # that of the first one, which is the one to mend
        raise failure or SourceError("no site seeder is configured")
