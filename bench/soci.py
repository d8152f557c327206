"""SOCI's snapshotter in its parallel mode: all layers fetched in ranges and unpacked at once, whole, nothing lazily."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.account import Account
from bench.processes import daemon, run, search_path

PROGRAM = "soci-snapshotter-grpc"
LAYERS = "soci/snapshotter/snapshots"
"""Where it has them, below a store: ``N/fs``."""

_CONFIG = """\
[content_store]
type = "containerd"
containerd_address = "{directory}/containerd.sock"
[pull_modes.soci_v2]
enable = false
[pull_modes.parallel_pull_unpack]
enable = true
max_concurrent_downloads = 50
max_concurrent_downloads_per_image = 10
concurrent_download_chunk_size = "8mb"
max_concurrent_unpacks = 20
max_concurrent_unpacks_per_image = 10
discard_unpacked_layers = true
[[resolver.host."{registry}".mirrors]]
host = "http://{registry}"
insecure = true
"""
_UNPIGZ = """\
[pull_modes.parallel_pull_unpack.decompress_streams."gzip"]
path = "{path}"
args = ["-d", "-c"]
"""


def version() -> str:
    """Its own words, and what inflates for it."""
    return f"{run([PROGRAM, '--version']).strip()}, {'with' if _unpigz() else 'without'} unpigz"


def _unpigz() -> str | None:
    return shutil.which("unpigz", path=search_path())


@contextmanager
def snapshotter(store: Path, directory: Path, account: Account, registry: str) -> Iterator[Path]:
    """Its process; its socket. The settings are those of its docs/parallel-mode.md, for CPUs that are not scarce.

    Args:
        directory: has the socket of its containerd, which may start later.
    """
    socket, config = directory / "soci.sock", directory / "soci.toml"
    unpigz = _unpigz()
    config.write_text(
        _CONFIG.format(directory=directory, registry=registry) + (_UNPIGZ.format(path=unpigz) if unpigz else "")
    )
    (store / "soci").mkdir()
    command = [PROGRAM, "--address", str(socket), "--root", str(store / "soci"), "--config", str(config)]
    with daemon(command, directory / "soci.log", socket.exists, account):
        yield socket
