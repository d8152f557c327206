"""Whom the site lately let have a private blob."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imagedist.distribution.backend import Target
from imagedist.errors import ChallengeError, ImagedistError, SourceError
from imagedist.fetch.grants import LIFE_IF_ERROR_SECONDS, LIFE_SECONDS, Grants
from imagedist.oci.digest import Digest

BLOB = Digest.of(b"blob")
ALICE = Target("registry.example", "team/app", "Basic YWxpY2U6cHc=")


class Asked:
    """A site that answers with ``failure``, and a clock."""

    def __init__(self) -> None:
        self.failure: ImagedistError | None = None
        self.count = 0
        self.now = 0.0
        self.grants = Grants(self._ask, lambda: self.now)

    async def _ask(self, target: Target, digest: Digest) -> None:
        self.count += 1
        if self.failure is not None:
            raise self.failure


async def test_grant_is_asked_for_again_when_it_is_old_and_for_everyone_on_his_own() -> None:
    site = Asked()
    for _ in range(3):
        await site.grants.check(ALICE, BLOB)
    assert site.count == 1
    site.now = LIFE_SECONDS
    await site.grants.check(ALICE, BLOB)
    assert site.count == 2
    others = [replace(ALICE, authorization=None), replace(ALICE, name="team/b"), replace(ALICE, namespace="r.example")]
    for other in others:
        await site.grants.check(other, BLOB)
    await site.grants.check(ALICE, Digest.of(b"another"))
    assert site.count == 6


async def test_grant_outlives_a_site_that_does_not_answer_but_not_one_that_says_no() -> None:
    site = Asked()
    site.grants.note(ALICE, BLOB)
    site.failure, site.now = SourceError("no proxy answers"), LIFE_SECONDS
    await site.grants.check(ALICE, BLOB)
    with pytest.raises(SourceError, match="no proxy answers"):
        await site.grants.check(replace(ALICE, authorization=None), BLOB)
    site.failure = ChallengeError("denied")
    with pytest.raises(ChallengeError):
        await site.grants.check(ALICE, BLOB)
    site.failure = SourceError("no proxy answers")
    with pytest.raises(SourceError, match="no proxy"):
        await site.grants.check(ALICE, BLOB)
    site.grants.note(ALICE, BLOB)
    site.now += LIFE_IF_ERROR_SECONDS
    with pytest.raises(SourceError, match="no proxy"):
        await site.grants.check(ALICE, BLOB)
