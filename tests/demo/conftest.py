"""One small image of this machine's files for all tests of the demo."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from imagedist.demo.image import build
from imagedist.demo.layout import BuiltImage

SIZE_BYTES = 1_500_000


@pytest.fixture(scope="session")
def reported() -> list[tuple[int, int]]:
    """The progress that the build of ``built`` reported."""
    return []


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, reported: list[tuple[int, int]]) -> BuiltImage:
    layout = tmp_path_factory.mktemp("demo") / "layout"
    return build(layout, size_bytes=SIZE_BYTES, progress=lambda done, total: reported.append((done, total)))


@pytest.fixture
def copied(built: BuiltImage, tmp_path: Path) -> Path:
    """A copy of the layout that a test may damage."""
    return Path(shutil.copytree(built.layout, tmp_path / "layout"))
