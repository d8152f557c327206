"""When the proxy's web seed helps a swarm, when it goes again, and when the swarm is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from imagedist.errors import SourceError
from imagedist.fetch.received import Received
from imagedist.fetch.watch import Patience, Watch
from imagedist.oci.digest import Digest
from imagedist.site.web_seeds import WebSeed
from imagedist.swarm.session import TransferStatus

BLOB = Digest.of(b"blob")
SIZE_BYTES = 1_000_000
PATIENCE = Patience(stalled=0.4, alone=0.1, hold=0.05, give_up=0.4, tick=0.01)


class ScriptedTransfer:
    """A transfer whose bytes come as ``step`` says, at every look of the watch.

    Attributes:
        web_seeds: what was put on and taken off, in order.
    """

    digest = BLOB
    size_bytes = SIZE_BYTES

    def __init__(self, step: Callable[[ScriptedTransfer], None], peers: int = 1) -> None:
        self._step = step
        self._done = asyncio.Event()
        self.peers = peers
        self.wasted_bytes = 0
        self.present_bytes = 0
        self.received = {"peer": 0, "seeder": 0, "webseed": 0}
        self.web_seeds: list[str | None] = []

    @property
    def has_web_seed(self) -> bool:
        return bool(self.web_seeds) and self.web_seeds[-1] is not None

    def bring(self, count_bytes: int, source: str) -> None:
        self.received[source] += count_bytes
        self.present_bytes += count_bytes

    def finish(self) -> None:
        self._done.set()

    def status(self) -> TransferStatus:
        self._step(self)
        return TransferStatus(
            digest=BLOB,
            size_bytes=SIZE_BYTES,
            present_bytes=self.present_bytes,
            is_complete=self._done.is_set(),
            peers=self.peers,
            seeds=0,
            download_rate=1000,  # as libtorrent's, long after the last byte
            upload_rate=0,
            uploaded_bytes=0,
            received_bytes=dict(self.received),
            downloaded_bytes=self.present_bytes + self.wasted_bytes,
        )

    def set_web_seed(self, url: str | None) -> None:
        self.web_seeds.append(url)

    async def wait_complete(self) -> None:
        await self._done.wait()


async def watched(transfer: ScriptedTransfer, url: str | None = "http://proxy/blob") -> Received:
    received, as_transfer = Received(), transfer
    scripted: Any = as_transfer

    async def web_seed() -> WebSeed | None:
        return WebSeed(url) if url is not None else None

    async with asyncio.timeout(60):
        await Watch(PATIENCE, received, web_seed).completion(scripted)
    return received


async def test_a_swarm_that_moves_needs_no_help() -> None:
    def step(transfer: ScriptedTransfer) -> None:
        transfer.bring(1000, "peer")
        if transfer.present_bytes >= 60_000:
            transfer.finish()

    transfer = ScriptedTransfer(step)
    received = await watched(transfer)
    assert set(transfer.web_seeds) == {None}
    assert received.by_source["peer"] == transfer.received["peer"]


async def test_help_goes_as_soon_as_peers_bring_as_much() -> None:
    def step(transfer: ScriptedTransfer) -> None:
        if transfer.has_web_seed:
            transfer.bring(1000, "webseed")
            transfer.bring(1000, "seeder")
        elif transfer.web_seeds:
            transfer.finish()

    transfer = ScriptedTransfer(step, peers=0)
    await watched(transfer)
    assert transfer.web_seeds[:2] == ["http://proxy/blob", None]


async def test_help_stays_while_peers_bring_less() -> None:
    def step(transfer: ScriptedTransfer) -> None:
        if transfer.has_web_seed:
            transfer.bring(10_000, "webseed")
            transfer.bring(100, "peer")
            if transfer.present_bytes >= 500_000:
                transfer.finish()

    transfer = ScriptedTransfer(step, peers=0)
    await watched(transfer)
    assert transfer.web_seeds == ["http://proxy/blob", None]  # taken off in the end


def test_bytes_that_make_no_piece_are_waited_for_longer_but_not_for_ever() -> None:
    transfer = ScriptedTransfer(lambda transfer: None)
    assert PATIENCE.with_nothing_from(transfer.status(), is_coming=False) == PATIENCE.stalled
    assert PATIENCE.with_nothing_from(transfer.status(), is_coming=True) == 4 * PATIENCE.stalled
    transfer.peers = 0
    assert PATIENCE.with_nothing_from(transfer.status(), is_coming=True) == PATIENCE.alone


def test_who_was_not_introduced_yet_or_still_dials_is_not_alone() -> None:
    lone = ScriptedTransfer(lambda transfer: None, peers=0).status()
    for waiting in (replace(lone, is_introduced=False), replace(lone, known_peers=1)):
        assert PATIENCE.with_nothing_from(waiting, is_coming=True) == PATIENCE.stalled
        assert PATIENCE.with_nothing_from(waiting, is_coming=False, is_busy=True) == 4 * PATIENCE.stalled
    assert PATIENCE.with_nothing_from(lone, is_coming=False, is_busy=True) == PATIENCE.stalled


async def test_while_other_blobs_come_a_stalled_one_is_helped_only_later() -> None:
    received = Received()

    def step(transfer: ScriptedTransfer) -> None:
        received.count("peer", 1000)
        if transfer.has_web_seed:
            transfer.finish()

    async def web_seed() -> WebSeed | None:
        return WebSeed("http://proxy/blob")

    scripted: Any = ScriptedTransfer(step)
    begun_at = asyncio.get_running_loop().time()
    async with asyncio.timeout(60):
        await Watch(PATIENCE, received, web_seed).completion(scripted)
    assert asyncio.get_running_loop().time() - begun_at >= 4 * PATIENCE.stalled
    assert scripted.web_seeds == ["http://proxy/blob", None]


async def test_bytes_that_never_make_a_piece_are_helped_by_the_web_seed() -> None:
    def step(transfer: ScriptedTransfer) -> None:
        transfer.wasted_bytes += 100
        if transfer.has_web_seed:
            transfer.finish()

    transfer = ScriptedTransfer(step)
    await watched(transfer)
    assert transfer.web_seeds == ["http://proxy/blob", None]


async def test_a_swarm_in_which_nothing_comes_by_any_way_is_given_up() -> None:
    with pytest.raises(SourceError, match="no byte"):
        await watched(ScriptedTransfer(lambda transfer: None))


async def test_what_may_have_no_web_seed_is_given_up_at_once() -> None:
    with pytest.raises(SourceError, match="no web seed"):
        await watched(ScriptedTransfer(lambda transfer: None, peers=0), None)
