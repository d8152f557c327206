"""The site's proxy as clients meet it: warm beside nginx and docker-registry, cold beside its upstream; its memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from bench.directories import remove_abandoned, short_directory
from bench.machine import described
from bench.processes import run as run_program
from bench.proxy_cold import crowd, memory, over_a_link
from bench.proxy_hot import Cores, Measured, Say, measure, missing
from bench.result import ImageFacts, Keep, Result, forget
from imagedist.errors import InputError
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


def run(scale: Scale, say: Say, keep: Keep = forget) -> Result:
    """About five minutes for the full scale, one for the quick.

    Raises:
        InputError: docker-registry, the upstream of everything, is not installed. ImagedistError: a server failed.
    """
    if (reason := missing("docker-registry")) is not None:
        raise InputError(f"cannot measure the proxy: {reason} (apt-get install docker-registry)")
    raise_open_files_limit()
    remove_abandoned()
    cpus = sorted(os.sched_getaffinity(0))
    cores, load = Cores.of(cpus), os.getloadavg()[0]
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
                    "load_at_start": f"{load:.2f}",
                },
                [row for one in measured for row in one.rows],
                [verdict for one in measured for verdict in one.verdicts],
                {"docker-registry": run_program(["docker-registry", "--version"]).strip()},
            )

        parts: tuple[Callable[[], list[Measured]], ...] = (
            lambda: measure(directory / "hot", cores, scale.rounds, scale.blob_bytes, scale.manifest_seconds, say),
            lambda: [over_a_link(directory / "link", scale.rounds, scale.blob_bytes, say)],
            lambda: [crowd(directory / "crowd", scale.crowd, scale.crowd_bytes, say)],
            lambda: [memory(directory / "memory", scale.downloads, scale.blob_bytes, say)],
        )
        for part in parts:
            measured += part()
            keep(known())
        return known()
