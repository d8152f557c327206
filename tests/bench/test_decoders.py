from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.decoders import ways
from tests.support import layers

CONTENT = os.urandom(2_000_000) + bytes(2_000_000)


@pytest.mark.parametrize(
    ("way", "made"),
    [("engine", "gzip"), ("engine+", "gzip"), ("engine+", "indexed gzip"), ("engine+", "zstd"), ("zlib", "gzip")],
)
def test_each_way_gives_the_same_bytes_and_says_what_it_took(tmp_path: Path, way: str, made: str) -> None:
    (tmp_path / "in").write_bytes(layers.compress(CONTENT, made))
    compression = made.removeprefix("indexed ")
    command = [sys.executable, "-m", "bench.decoding", way, compression, str(tmp_path / "in"), str(tmp_path / "out")]
    told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert told["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert told["seconds"] > 0
    assert told["cpu_seconds"] > 0


def test_the_engine_is_measured_on_every_form_and_rapidgzip_with_every_cpu() -> None:
    names = [way.name for way in ways(8)]
    assert names[:6] == [f"{form}, {cpus}" for form in ("gzip", "pgzip", "zstd") for cpus in ("one CPU", "idle CPUs")]
    assert names[-1] == "gzip, rapidgzip with 8"
    assert len(set(names)) == len(names)
