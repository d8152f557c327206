"""The crowd of simulated nodes is heard, and measured."""

from __future__ import annotations

import pytest

from bench import crowd


async def test_every_simulated_node_is_known_and_confirms_its_preheat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "_JOIN_SECONDS", 0.5)
    found = await crowd.measure(nodes=20, seconds=1.0, beat_seconds=0.5)
    assert found.confirmed == found.nodes == 20
    assert set(found.answered) <= {"heartbeat 204", "poll 200"}
    assert found.answered["heartbeat 204"] >= 20
    assert found.anonymous_bytes > 10 << 20
