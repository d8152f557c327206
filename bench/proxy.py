"""The site's proxy as clients meet it: warm beside nginx and docker-registry, cold beside its upstream; its memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench.directories import short_directory
from bench.in_turn import Say
from bench.machine import Start, described
from bench.preflight import need
from bench.processes import run as run_program
from bench.proxy_cold import crowd, memory, over_a_link
from bench.proxy_hot import Cores, Measured, measure
from bench.result import ImageFacts, Keep, Result
from imagedist.service.running import raise_open_files_limit

MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything."""

    rounds: int
    blob_bytes: int
    manifest_seconds: int
    crowd: int
    crowd_bytes: int
    downloads: int


FULL = Scale(5, 100 * MEGABYTE, 3, 500, 200 * MEGABYTE, 1000)
QUICK = Scale(3, 100 * MEGABYTE, 1, 100, 20 * MEGABYTE, 200)


def run(scale: Scale, say: Say, keep: Keep) -> Result:
    """About five minutes for the full scale, one for the quick.

    Raises:
        InputError: docker-registry, the upstream of everything, is not installed, or there is too little memory.
        ImagedistError: a server failed.
    """
    # Registry and site keep every blob, and there are four of each; a fresh site in each round.
    need("the proxy", "docker-registry", memory_bytes=(8 + scale.rounds) * scale.blob_bytes + 2 * scale.crowd_bytes)
    raise_open_files_limit()
    cores, start = Cores.of(sorted(os.sched_getaffinity(0))), Start.now()
    measured: list[Measured] = []
    with short_directory() as directory:

        def known() -> Result:
            return described(
                "proxy",
                directory,
                ImageFacts(name="random bytes", manifest_digest="", layers=1, compressed_bytes=scale.blob_bytes),
                {
                    "rounds": str(scale.rounds),
                    "order": "rotated each round",
                    "registry": "docker-registry on loopback",
                    "cores": f"warm: servers on CPU {cores.server}, one at a time, clients on {cores.load}; cold: all",
                    "clients": "wrk for manifests; for blobs a client that lets the kernel discard what arrives",
                },
                [row for one in measured for row in one.rows],
                [verdict for one in measured for verdict in one.verdicts],
                {"docker-registry": run_program(["docker-registry", "--version"]).strip()},
                start,
            )

        parts: tuple[Callable[[], Iterable[Measured]], ...] = (
            lambda: measure(directory / "hot", cores, scale.rounds, scale.blob_bytes, scale.manifest_seconds, say),
            lambda: [over_a_link(directory / "link", scale.rounds, scale.blob_bytes, say)],
            lambda: [crowd(directory / "crowd", scale.crowd, scale.crowd_bytes, say)],
            lambda: [memory(directory / "memory", scale.downloads, scale.blob_bytes, say)],
        )
        for part in parts:
            for one in part():
                measured.append(one)
                keep(known())
        return known()
