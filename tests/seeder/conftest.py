"""The databases that the seeder's rows are tested on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import Cluster, running_cluster


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.e2e("postgresql"))])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a new database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/seeder.db"
    cluster: Cluster = request.getfixturevalue("postgres")
    return cluster.database()
