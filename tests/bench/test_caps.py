"""The caps benchmark measures every way; what it finds is for its reader."""

from __future__ import annotations

from pathlib import Path

from bench.caps import Scale, run
from bench.result import Result


def test_every_way_moves_bytes(tmp_path: Path) -> None:
    kept: list[Result] = []
    found = run(Scale(4 << 20, 4 << 20, 2.0, settle_seconds=0.5), tmp_path / "stores", lambda line: None, kept.append)
    assert [len(each.verdicts) for each in kept] == [1, 2, 3, 5]
    assert not (tmp_path / "stores").exists()
    assert [verdict.what for verdict in found.verdicts] == [
        "to peers",
        "from peers",
        "by HTTP",
        "to peers beside a download",
        "from peers and by HTTP together",
    ]
    assert all(verdict.value > 0 for verdict in found.verdicts)
