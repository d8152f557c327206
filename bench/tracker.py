"""The site's tracker under announces: how many a second on one core, how long they take, what its peers weigh.

The seeder runs as a site's does, on a CPU of its own, and has one torrent; peers are a program on the other CPUs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.account import ProcessAccount
from bench.directories import short_directory
from bench.in_turn import Runs, Say, in_turn
from bench.machine import Start, described
from bench.peaks import anonymous_bytes
from bench.preflight import need
from bench.processes import daemon, missing, succeeds
from bench.processes import run as run_program
from bench.proxy_hot import Cores
from bench.registry import answers, free_port
from bench.result import Contestant, ImageFacts, Keep, Result, Run, Verdict
from bench.serving import pinned
from bench.statistics import median
from imagedist.errors import ImagedistError
from imagedist.oci.digest import Digest
from imagedist.service.running import raise_open_files_limit
from imagedist.swarm import torrent as rules

_BLOB_BYTES = 1 << 20
_ANNOUNCES = 10_000
"""A row's seconds are for so many."""
_CONNECTIONS = 32
_SEEDER = """\
[seeder]
site = "bench"
listen = "127.0.0.1:{port}"
bittorrent = "127.0.0.1:0"
site_blobs = "{directory}/site"
database = "sqlite:///{directory}/seeder.db"
[tracker]
peers = "{peers}"
"""
KEPT, EACH, REDIS = "connections kept", "a connection each", "a connection each, peers in Redis"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything: ``seconds`` is of each run."""

    peers: int
    rounds: int
    seconds: float


FULL = Scale(10_000, 5, 5)
QUICK = Scale(1_000, 2, 1)


@dataclass(frozen=True, slots=True)
class Seeder:
    """One that runs, with a torrent."""

    port: int
    process: int
    infohash: bytes

    def announce(self, load: Sequence[int], peers: int, *arguments: str) -> dict[str, float]:
        """
        Raises:
            ImagedistError: an announce was refused or got no answer.
        """
        program = [sys.executable, "-m", "bench.announcing", str(self.port), self.infohash.hex()]
        command = [*program, "--peers", str(peers), "--connections", str(_CONNECTIONS), *arguments]
        told: dict[str, float] = json.loads(run_program(pinned(command, load)))
        if told["refused"] or told["failed"]:
            raise ImagedistError(f"{told['refused']:.0f} announces were refused, {told['failed']:.0f} not answered")
        return told


def run(scale: Scale, say: Say, keep: Keep) -> Result:
    """Two minutes for the full scale.

    Raises:
        InputError: too little memory. ImagedistError: the seeder did not start, or an announce was not answered.
    """
    need("the tracker")
    raise_open_files_limit()
    cores, start, no_redis = Cores.of(sorted(os.sched_getaffinity(0))), Start.now(), missing("redis-server")
    with short_directory() as directory, ExitStack() as stack:
        say(f"a seeder with one torrent and {scale.peers} peers")
        seeder = stack.enter_context(_seeder(directory / "memory", "memory", cores))
        before = anonymous_bytes(seeder.process)
        seeder.announce(cores.load, scale.peers, "--kept")
        bytes_per_thousand = (anonymous_bytes(seeder.process) - before) / scale.peers * 1000
        ways = {
            KEPT: partial(_measure, seeder, cores, scale, ["--kept"]),
            EACH: partial(_measure, seeder, cores, scale, []),
        }
        if no_redis is None:
            shared = stack.enter_context(_seeder(directory / "redis", _redis(stack, directory, cores), cores))
            shared.announce(cores.load, scale.peers, "--kept")
            ways[REDIS] = partial(_measure, shared, cores, scale, [])

        def known(runs: Runs) -> Result:
            rows = [_row(name, each) for name, each in runs.items()]
            if no_redis is not None:
                rows.append(Contestant(name=REDIS, not_run=no_redis))
            return described(
                "tracker",
                directory,
                ImageFacts(name="one torrent", manifest_digest="", layers=1, compressed_bytes=_BLOB_BYTES),
                {
                    "rounds": str(scale.rounds),
                    "order": "rotated each round",
                    "registry": "none",
                    "peers": f"{scale.peers} in one torrent, half of them seeds; {_CONNECTIONS} announce at a time",
                    "cores": f"the seeder, and Redis, on CPU {cores.server}; the peers on {cores.load}",
                    "seconds": f"for {_ANNOUNCES} announces, of runs of {scale.seconds:g} s",
                },
                rows,
                _verdicts(rows, bytes_per_thousand),
                start=start,
            )

        return known(in_turn(ways, scale.rounds, say, lambda runs: keep(known(runs))))


def _measure(seeder: Seeder, cores: Cores, scale: Scale, arguments: Sequence[str], number: int) -> Run:
    account = ProcessAccount()
    account.roots = {seeder.process}
    before = account.cpu_seconds()
    told = seeder.announce(cores.load, scale.peers, "--seconds", str(scale.seconds), *arguments)
    used = account.cpu_seconds() - before
    figures = {
        "announces_per_second": told["answered"] / told["seconds"],
        "announces_per_cpu_second": told["answered"] / max(used, 0.01),
        "p50_seconds": told["p50"],
        "p99_seconds": told["p99"],
    }
    share = _ANNOUNCES / told["answered"]
    return Run(round=number, seconds=told["seconds"] * share, cpu_seconds=used * share, figures=figures)


def _row(name: str, runs: Sequence[Run]) -> Contestant:
    def middle(figure: str) -> float:
        return median([run.figures[figure] for run in runs]) or 0.0

    summary = {
        "announces/s": middle("announces_per_second"),
        "announces/CPU s": middle("announces_per_cpu_second"),
        "p50 ms": 1000 * middle("p50_seconds"),
        "p99 ms": 1000 * middle("p99_seconds"),
    }
    return Contestant(name=name, runs=tuple(runs), summary=summary)


def _verdicts(rows: Sequence[Contestant], bytes_per_thousand: float) -> tuple[Verdict, ...]:
    """A second of the seeder's CPU is what one core does: whatever else runs on the machine slows the rest down."""
    found = [
        Verdict(
            what=f"announces in a second of one core: {row.name}",
            value=row.summary["announces/CPU s"],
            unit="/s",
            aim="at least 4000" if row.name != REDIS else "",
        )
        for row in rows
        if row.runs
    ]
    weight = Verdict(what="memory of 1,000 peers", value=bytes_per_thousand / 1e6, unit="MB", aim="at most 2")
    return (*found, weight)


@contextmanager
def _seeder(directory: Path, peers: str, cores: Cores) -> Iterator[Seeder]:
    blobs, torrents = directory / "site/blobs/sha256", directory / "site/torrents"
    for folder in (blobs, torrents):
        folder.mkdir(parents=True)
    content = os.urandom(_BLOB_BYTES)
    digest = Digest.of(content)
    (blobs / digest.hex).write_bytes(content)
    torrent = rules.build(blobs / digest.hex, digest)
    (torrents / f"{digest.hex}.torrent").write_bytes(torrent)
    port = free_port()
    config = directory / "seeder.toml"
    config.write_text(_SEEDER.format(port=port, directory=directory, peers=peers))
    command = pinned([sys.executable, "-m", "seeder", "--config", str(config)], cores.server)
    with daemon(command, directory / "seeder.log", lambda: answers(f"http://127.0.0.1:{port}/readyz")) as process:
        yield Seeder(port, process, rules.parse(torrent).short_infohash)


def _redis(stack: ExitStack, directory: Path, cores: Cores) -> str:
    socket = directory / "redis.sock"
    command = pinned(
        ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(directory)],
        cores.server,
    )
    is_ready = ["redis-cli", "-s", str(socket), "ping"]
    stack.enter_context(daemon(command, directory / "redis.log", lambda: socket.exists() and succeeds(is_ready)))
    return f"unix://{socket}"
