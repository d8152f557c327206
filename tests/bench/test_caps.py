"""The caps benchmark measures every way; what it finds is for its reader."""

from __future__ import annotations

from pathlib import Path

from bench.caps import measure


async def test_every_way_moves_bytes(tmp_path: Path) -> None:
    found = await measure(4 << 20, 4 << 20, 2.0, tmp_path, settle_seconds=0.5)
    assert [kept.way for kept in found] == [
        "to peers",
        "from peers",
        "by HTTP",
        "to peers beside a download",
        "from peers and by HTTP together",
    ]
    assert all(kept.measured > 0 for kept in found)
