"""Scaling out onto a preheated base, measured small: only the application's layer moves."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import scaleout


@pytest.mark.e2e("docker-registry", "skopeo")
@pytest.mark.network
def test_preheated_nodes_move_only_the_applications_layer(tmp_path: Path) -> None:
    found = scaleout.measure(2, 400_000_000, 3_000_000, 1_000_000, tmp_path, lambda line: None)
    assert 2 * found.layer_bytes <= found.moved_bytes < 3 * found.layer_bytes
    assert len(found.cold_seconds) == len(found.preheated_seconds) == 2
    assert found.ratio == max(found.preheated_seconds) / max(found.cold_seconds)
