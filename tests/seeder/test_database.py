"""Opening the seeder's database: what is wrong with it is named."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from imagedist.errors import ConfigError, StorageError
from seeder.database import Database
from seeder.tags import SCHEMA


@pytest.mark.parametrize("url", ["seeder.db", "mysql://x", "sqlite+aiosqlite:///x"])
async def test_an_unknown_database_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError, match=r"seeder\.database"):
        await Database.open(url)


@pytest.mark.skipif(importlib.util.find_spec("asyncpg") is not None, reason="the driver is installed")
async def test_a_missing_driver_names_the_extra_that_brings_it() -> None:
    with pytest.raises(ConfigError, match=r"asyncpg \(pip install 'imagedist\[postgres\]'\)"):
        await Database.open("postgresql://localhost/seeder")


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "seeder.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(StorageError, match=r"seeder\.db"):
        await Database.open(f"sqlite:///{tmp_path}/seeder.db", SCHEMA)
