"""Scaling out onto a preheated base, measured small: only the application's layer moves."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import scaleout
from bench.result import Result


@pytest.mark.e2e("docker-registry", "skopeo")
@pytest.mark.network
def test_preheated_nodes_move_only_the_applications_layer(tmp_path: Path) -> None:
    kept: list[Result] = []
    scale = scaleout.Scale(2, 3_000_000, 1_000_000, bits_per_second=400_000_000)
    found = scaleout.run(scale, tmp_path, lambda line: None, kept.append)
    (moved,) = (verdict.value for verdict in found.verdicts if verdict.what.startswith("moved"))
    assert 1 <= moved < 1.5
    cold, preheated = (row.runs[0] for row in found.contestants)
    assert cold.figures.keys() == preheated.figures.keys() == {"node_0_seconds", "node_1_seconds"}
    assert found.verdicts[1].value == preheated.seconds / cold.seconds
    assert [row.name for row in kept[0].contestants] == ["nothing there"], "kept before the second half begins"
