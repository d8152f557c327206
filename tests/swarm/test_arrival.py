"""Bytes by source count what was verified, once; waits end with what happened."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from imagedist.errors import SourceError
from imagedist.swarm import torrent
from imagedist.swarm.arrival import Arrival
from tests.swarm.blobs import make_blob

KIB = 1 << 10


@pytest.fixture
def arrival(tmp_path: Path) -> Arrival:
    return Arrival(torrent.parse(make_blob(tmp_path, 64 * KIB + 100).torrent))  # pieces of 4 blocks and of 100 bytes


async def test_a_block_counts_only_when_its_piece_was_verified(arrival: Arrival) -> None:
    arrival.add_block(0, 0, "peer")
    assert arrival.received_bytes["peer"] == 0
    arrival.add_piece(0)
    assert arrival.received_bytes["peer"] == 16 * KIB


async def test_the_last_source_of_a_block_counts(arrival: Arrival) -> None:
    for source in ("peer", "seeder"):
        arrival.add_block(1, 0, source)
    arrival.add_piece(1)
    assert arrival.received_bytes == {"peer": 0, "seeder": 100, "webseed": 0}
    assert arrival.present_bytes == 100


async def test_a_piece_counts_once(arrival: Arrival) -> None:
    arrival.add_piece(0)
    arrival.add_block(0, 0, "peer")
    arrival.add_piece(0)
    arrival.complete()
    assert arrival.present_bytes == 64 * KIB + 100
    assert sum(arrival.received_bytes.values()) == 0


async def test_the_first_failure_ends_waits_now_and_later(arrival: Arrival) -> None:
    waiting = asyncio.create_task(arrival.wait_piece(0))
    await asyncio.sleep(0)
    arrival.fail(SourceError("first"))
    arrival.fail(SourceError("second"))
    for wait in (waiting, arrival.wait_complete(), arrival.wait_piece(1)):
        with pytest.raises(SourceError, match="first"):
            await wait
    arrival.complete()
    assert not arrival.is_complete
