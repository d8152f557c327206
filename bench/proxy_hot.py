"""What the site has already: a blob's bytes against nginx, manifests against docker-registry, one core each."""

from __future__ import annotations

import json
import re
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.account import ProcessAccount
from bench.in_turn import Say, in_turn, ratio, rows_of
from bench.processes import missing, run
from bench.result import Contestant, Run, Verdict
from bench.serving import Server, docker_registry, nginx, pinned, proxy, push, upstream_path
from imagedist.errors import ImagedistError
from imagedist.oci.manifest import OCI_MANIFEST

PROXY = "imagedist-proxy"
_CONNECTIONS_FOR_MANIFESTS = 16
_MANIFESTS = 10_000
"""A row's seconds are for so many."""
_RATE = re.compile(r"Requests/sec:\s+([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Cores:
    """Servers run on the first, one at a time; whoever asks them on the others."""

    server: tuple[int, ...]
    load: tuple[int, ...]

    @classmethod
    def of(cls, cpus: Sequence[int]) -> Cores:
        return cls((cpus[0],), tuple(cpus[1:]) or (cpus[0],))


@dataclass(frozen=True, slots=True)
class Measured:
    """Rows of the table, and what they say."""

    rows: tuple[Contestant, ...]
    verdicts: tuple[Verdict, ...]


def measure(directory: Path, cores: Cores, rounds: int, size_bytes: int, seconds: int, say: Say) -> Iterator[Measured]:
    """Blobs to 1, 16 and 64 clients, then manifests.

    Args:
        size_bytes: of the blob. seconds: of each run of manifests.

    Raises:
        ImagedistError: ours failed, or docker-registry, which both stand before.
    """
    with docker_registry(directory / "upstream", cores.server) as upstream:
        manifest, (blob,) = push(upstream.url, [size_bytes])
        with proxy(directory / "proxy", upstream.url, cores.server) as ours:
            whole = f"{ours.url}{upstream_path('blobs', blob)}"
            _ask(whole)
            file = directory / "proxy" / "store" / "blobs" / blob.algorithm / blob.hex
            if (reason := missing("nginx")) is None:
                with nginx(directory / "nginx", file, cores.server) as other:
                    ways = {"nginx": (other, f"{other.url}/blob"), PROXY: (ours, whole)}
                    for clients, each in ((1, 20), (16, 2), (64, 1)):
                        what = f"{size_bytes / 1e6:.0f} MB cached, {clients} client{'s' if clients > 1 else ''}"
                        asks = {
                            name: partial(_run, server, partial(_download, url, clients, each, cores, size_bytes), None)
                            for name, (server, url) in ways.items()
                        }
                        yield _compared(asks, rounds, say, what, "bytes/s ÷ nginx", "at least 0.9")
            else:
                yield Measured((Contestant(name="blob: nginx", not_run=reason),), ())
            if (reason := missing("wrk")) is not None:
                yield Measured((Contestant(name="manifests", not_run=reason),), ())
                return
            for kind, reference in (("tag", "1"), ("digest", str(manifest))):
                path = upstream_path("manifests", reference)
                urls = {
                    "docker-registry": (upstream, f"{upstream.url}/v2/{path.split('/', 3)[3]}"),
                    PROXY: (ours, f"{ours.url}{path}"),
                }
                _ask(urls[PROXY][1])
                asks = {
                    name: partial(_run, server, partial(_requests, url, seconds, cores), seconds)
                    for name, (server, url) in urls.items()
                }
                what = f"{_MANIFESTS} manifests by {kind}"
                yield _compared(asks, rounds, say, what, "requests/s ÷ docker-registry", "at least 1.0")


def _compared(
    ways: Mapping[str, Callable[[int], Run]], rounds: int, say: Say, what: str, figure: str, aim: str
) -> Measured:
    """The peer's seconds by ours, pair by pair: row by row the same is asked for, so they compare as speeds do."""
    runs = in_turn(ways, rounds, say, what=f"{what}, ")
    theirs, ours = runs.values()
    return Measured(
        rows_of(runs, f"{what}: "),
        (Verdict(what=f"{what}: {figure}", value=ratio(theirs, ours), unit="×", aim=aim),),
    )


def _run(server: Server, ask: Callable[[], tuple[float, dict[str, float]]], took: float | None, number: int) -> Run:
    """CPU seconds are for the row's seconds, also where more was asked for than the row tells."""
    account = ProcessAccount()
    account.roots.add(server.process)
    before = account.cpu_seconds()
    seconds, figures = ask()
    cpu_seconds = account.cpu_seconds() - before
    return Run(
        round=number,
        seconds=seconds,
        cpu_seconds=cpu_seconds * (seconds / took if took else 1.0),
        figures=figures,
    )


def _download(
    url: str, clients: int, requests_each: int, cores: Cores, size_bytes: int
) -> tuple[float, dict[str, float]]:
    told = load(url, clients, requests_each, cores.load)
    expected = clients * requests_each * size_bytes
    if told["errors"] or told["body_bytes"] != expected:
        raise ImagedistError(f"{url} sent {told['body_bytes']:.0f} of {expected} bytes, {told['errors']:.0f} errors")
    return told["seconds"], {"bytes_per_second": told["body_bytes"] / told["seconds"]}


def _requests(url: str, seconds: int, cores: Cores) -> tuple[float, dict[str, float]]:
    flags = ["-t1", f"-c{_CONNECTIONS_FOR_MANIFESTS}", f"-d{seconds}s", "-H", f"Accept: {OCI_MANIFEST}"]
    said = run(pinned(["wrk", *flags, url], cores.load))
    rate = _RATE.search(said)
    if rate is None or "Non-2xx" in said or float(rate[1]) <= 0:
        raise ImagedistError(f"wrk got no good answers from {url}: {said.strip().splitlines()[-1]}")
    return _MANIFESTS / float(rate[1]), {"requests_per_second": float(rate[1])}


def load(url: str, clients: int, requests_each: int, cpus: Sequence[int] | None) -> dict[str, float]:
    """What ``bench.load`` saw, in a process of its own."""
    command = [sys.executable, "-m", "bench.load", url, "--connections", str(clients)]
    told: dict[str, float] = json.loads(run(pinned([*command, "--requests", str(requests_each)], cpus)))
    return told


def _ask(url: str) -> None:
    try:
        with urllib.request.urlopen(url) as answer:
            while answer.read(1 << 20):
                pass
    except OSError as error:
        raise ImagedistError(f"{url} does not answer: {error}") from error
