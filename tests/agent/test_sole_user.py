"""One agent for one cache of blobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagedist.agent.sole_user import sole_user
from imagedist.errors import InputError, StorageError
from tests.support.site import Site


async def test_a_second_agent_with_other_ports_on_one_cache_does_not_start(tmp_path: Path) -> None:
    shared: dict[str, object] = {"node_blobs": tmp_path / "blobs"}
    async with Site(tmp_path / "site") as site, site.agent(agent=shared):
        with pytest.raises(InputError, match=r"another agent uses .*/blobs: stop it, or give this one its own"):
            async with site.agent(agent=shared):
                pass


async def test_the_next_agent_has_the_cache_when_the_first_one_has_ended(tmp_path: Path) -> None:
    for _ in range(2):
        async with sole_user(tmp_path / "blobs"):
            pass


async def test_nothing_is_put_into_a_directory_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(StorageError, match="is no blob store"):
        async with sole_user(tmp_path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
