"""A snapshotter in this process, on a file system that overlay mounts accept, dialled through its real socket."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagedist.config import AgentConfig
from imagedist.snapshotter.app import serving
from imagedist.snapshotter.listening import bound
from imagedist.snapshotter.opening import Opening
from imagedist.snapshotter.relay import Relay
from tests.snapshotter.client import Client


@pytest.fixture
def base() -> Iterator[Path]:
    """A short path (a Unix socket's has 107 characters), in RAM if there is some."""
    shm = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="sn-", dir=shm if shm.is_dir() else None))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def config(base: Path) -> AgentConfig:
    return AgentConfig.model_validate(
        {
            "agent": {"site_proxies": ["http://127.0.0.1:1"], "socket": base / "agent.sock"},
            "storage": {"root": base / "storage", "used_by": [], "durability": "none"},
            "snapshotter": {"socket": base / "snapshotter.sock"},
        }
    )


@pytest.fixture
def opening(config: AgentConfig) -> Iterator[Opening]:
    opened = Opening(lambda: config)
    yield opened
    opened.close()


@pytest.fixture
def client(config: AgentConfig, opening: Opening) -> Iterator[Client]:
    assert config.snapshotter is not None
    with bound(config.snapshotter.socket) as listener, serving(opening.node, Relay(listener).start()):
        made = Client(config.snapshotter.socket)
        yield made
        made.channel.close()
