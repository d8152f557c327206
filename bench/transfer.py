"""One to one on loopback without caps: a blob by swarm, from a node and from the seeder, against the file by aiohttp.

Both write to memory. The swarm checks every piece; plain HTTP checks nothing, so there is a row with SHA-256 as well.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.directories import short_directory
from bench.in_turn import Runs, Say, in_turn, ratio
from bench.machine import Start, described
from bench.preflight import need
from bench.processes import bound, daemon
from bench.processes import run as run_program
from bench.registry import free_port
from bench.result import Contestant, ImageFacts, Keep, Result, Run, Verdict
from bench.statistics import median
from imagedist.oci.digest import Digest
from imagedist.swarm import torrent as rules

NODE, SEEDER, HTTP, HASHED = "by swarm from a node", "by swarm from the seeder", "by HTTP", "by HTTP, hashed"
_WAYS = {
    NODE: ("swarm", "node"),
    SEEDER: ("swarm", "seeder"),
    HTTP: ("http", "serve"),
    HASHED: ("http-hashed", "serve"),
}
"""Name → what the leecher and the giver do (``one_to_one.py``)."""
_MOST_CPU, _LEAST_SPEED = 3.0, 0.35


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything."""

    size_bytes: int = 400_000_000
    rounds: int = 5


QUICK = Scale(40_000_000, 2)


def run(scale: Scale, say: Say, keep: Keep) -> Result:
    """Some seconds a round.

    Raises:
        InputError: too little memory. ImagedistError: an end did not start, or the file did not come.
    """
    need("a transfer", memory_bytes=3 * scale.size_bytes)
    start = Start.now()
    with short_directory() as directory, ExitStack() as stack:

        def known(runs: Runs) -> Result:
            return described(
                "transfer",
                directory,
                ImageFacts(name="random bytes", manifest_digest="", layers=1, compressed_bytes=scale.size_bytes),
                {
                    "rounds": str(scale.rounds),
                    "order": "rotated each round",
                    "registry": "loopback, without caps",
                    "cpu": "of the leecher alone",
                },
                [_row(what, each, scale.size_bytes) for what, each in runs.items()],
                verdicts_of(runs),
                start=start,
            )

        say(f"a blob of {scale.size_bytes / 1e6:g} MB, a seed and a server")
        file, torrent = _blob(directory / "seed", scale.size_bytes)
        ports = {giver: free_port() for _, giver in _WAYS.values()}
        for what, port in ports.items():
            command = [*_program(what, port, file), "--torrent", str(torrent)]
            stack.enter_context(daemon(command, directory / f"{what}.log", partial(_listens, port)))

        def leech(what: str, giver: str, number: int) -> Run:
            into = directory / "leecher"
            into.mkdir()
            command = [*_program(what, ports[giver], into / file.name), "--torrent", str(torrent)]
            told = json.loads(run_program(bound(command)))  # once the giver is gone it would wait for ever
            shutil.rmtree(into)
            return Run(round=number, **told)

        ways = {name: partial(leech, *way) for name, way in _WAYS.items()}
        return known(in_turn(ways, scale.rounds, say, lambda runs: keep(known(runs))))


def _row(what: str, runs: Sequence[Run], size_bytes: int) -> Contestant:
    seconds, cpu = (median([getattr(run, name) for run in runs]) for name in ("seconds", "cpu_seconds"))
    summary = {}
    if seconds and cpu is not None:
        summary = {"MB/s": size_bytes / seconds / 1e6, "CPU-s per GB": cpu / size_bytes * 1e9}
    return Contestant(name=what, runs=tuple(runs), summary=summary)


def verdicts_of(runs: Runs) -> tuple[Verdict, ...]:
    """Pair by pair, against HTTP that checks nothing, and that hashes."""
    found = []
    for name in (NODE, SEEDER):
        for beside in (HTTP, HASHED):
            speed = ratio(runs[beside], runs[name])
            cpu = ratio(runs[name], runs[beside], lambda run: run.cpu_seconds or 0.0)
            aims = (f"at least {_LEAST_SPEED}", f"at most {_MOST_CPU:g}") if beside == HTTP else ("", "")
            found.append(Verdict(what=f"speed: {name} ÷ {beside}", value=speed, unit="×", aim=aims[0]))
            found.append(Verdict(what=f"CPU of the leecher: {name} ÷ {beside}", value=cpu, unit="×", aim=aims[1]))
    return tuple(one for one in found if one.value)


def _blob(directory: Path, size_bytes: int) -> tuple[Path, Path]:
    directory.mkdir()
    content = os.urandom(size_bytes)
    digest = Digest.of(content)
    (directory / digest.hex).write_bytes(content)
    torrent = directory / "torrent"
    torrent.write_bytes(rules.build(directory / digest.hex, digest))
    return directory / digest.hex, torrent


def _program(what: str, port: int, file: Path) -> list[str]:
    return [sys.executable, "-m", "bench.one_to_one", what, str(port), "--file", str(file)]


def _listens(port: int) -> bool:
    with closing(socket.socket()) as trying:
        return trying.connect_ex(("127.0.0.1", port)) == 0
