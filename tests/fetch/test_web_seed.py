"""A web seed that helps: put on when the site names one, renewed before it expires, off again at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from imagedist.errors import ChallengeError, ImagedistError, SourceError
from imagedist.fetch.web_seed import HelpingWebSeed
from imagedist.oci.digest import Digest
from imagedist.site.web_seeds import WebSeed

Answer = WebSeed | ImagedistError | None


class Helped:
    """A transfer and a site that gives one answer after the other."""

    digest = Digest.of(b"blob")

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = list(answers)
        self.urls: list[str | None] = []
        transfer: Any = self
        self.seed = HelpingWebSeed(transfer, self.ask)

    def set_web_seed(self, url: str | None) -> None:
        self.urls.append(url)

    async def ask(self) -> WebSeed | None:
        await asyncio.sleep(0)
        answer = self.answers.pop(0)
        if isinstance(answer, ImagedistError):
            raise answer
        return answer

    async def help(self, later_seconds: float = 0.0) -> None:
        """Once, and until the answer was heard."""
        self.seed.help(asyncio.get_running_loop().time() + later_seconds)
        for _ in range(5):
            await asyncio.sleep(0)


async def test_a_url_that_expires_is_renewed_before_and_one_that_does_not_is_not() -> None:
    helped = Helped([WebSeed("http://a", 100), WebSeed("http://b", None)])
    await helped.help()
    await helped.help(79)
    assert helped.urls == ["http://a"]
    await helped.help(81)
    await helped.help(1e9)
    assert helped.urls == ["http://a", "http://b"]
    helped.seed.end()
    assert helped.urls[-1] is None


async def test_a_site_that_does_not_say_is_asked_again_and_the_swarm_goes_on() -> None:
    helped = Helped([SourceError("no proxy answers"), WebSeed("http://a")])
    await helped.help()
    await helped.help(1)
    assert helped.urls == []
    await helped.help(6)
    assert helped.urls == ["http://a"]


@pytest.mark.parametrize(("answer", "says"), [(None, "it has no web seed"), (ChallengeError("log in"), "log in")])
async def test_a_blob_without_a_web_seed_for_this_asker_is_told(answer: Answer, says: str) -> None:
    helped = Helped([answer])
    await helped.help()
    with pytest.raises(SourceError, match=says):
        await helped.help(1)


async def test_an_answer_that_comes_too_late_changes_nothing() -> None:
    helped = Helped([WebSeed("http://a")])
    helped.seed.help(asyncio.get_running_loop().time())
    helped.seed.end()
    for _ in range(5):
        await asyncio.sleep(0)
    assert helped.urls == [None]
    await helped.help()
    assert helped.urls == [None, "http://a"]
