"""What the site has not yet: through the proxy against straight over a capped link; a crowd for one blob; memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.account import ProcessAccount
from bench.in_turn import Say, in_turn, rows_of
from bench.load import holding
from bench.network import Network, Node, why_not
from bench.peaks import Peaks, anonymous_bytes
from bench.proxy_hot import PROXY, Measured, load
from bench.result import Contestant, Run, Verdict
from bench.serving import (
    REPOSITORY,
    docker_registry,
    gets,
    proxy,
    proxy_command,
    proxy_config,
    push,
    registry_config,
    upstream_path,
)
from bench.statistics import median
from imagedist.errors import ImagedistError
from imagedist.oci.digest import Digest

_LINK_BITS_PER_SECOND = 1_000_000_000
_PORT = 5000
_SMALL_BYTES = 1000
_STRAIGHT = "straight from the registry"


def over_a_link(directory: Path, rounds: int, size_bytes: int, say: Say) -> Measured:
    """One client's cold blob: the registry's link carries 1 Gbit/s. A fresh store for each run.

    Raises:
        ImagedistError: registry or proxy failed.
    """
    what = f"{size_bytes / 1e6:.0f} MB cold, upstream at 1 Gbit/s"
    if (reason := why_not()) is not None:
        return Measured((Contestant(name=what, not_run=reason),), ())
    with docker_registry(directory / "upstream") as filled:
        _, (small, blob) = push(filled.url, [_SMALL_BYTES, size_bytes])
    with ExitStack() as stack:
        site = stack.enter_context(Network()).site("bench")
        registry, ours, client = site.node("registry", _LINK_BITS_PER_SECOND), site.node("proxy"), site.node("client")
        config = registry_config(directory / "upstream", f"{registry.address}:{_PORT}")
        upstream = f"http://{registry.address}:{_PORT}"
        command = ["docker-registry", "serve", str(config)]
        stack.enter_context(registry.daemon(command, directory / "upstream" / "node.log", f"{upstream}/v2/"))

        def straight(number: int) -> Run:
            return _download(client, number, f"{upstream}/v2/{REPOSITORY}/blobs/{small}", blob)

        def through(number: int) -> Run:
            with _fresh_proxy(ours, directory / f"proxy-{number}", upstream) as url:
                return _download(client, number, f"{url}{upstream_path('blobs', small)}", blob)

        rows = rows_of(in_turn({_STRAIGHT: straight, PROXY: through}, rounds, say, what=f"{what}, "), f"{what}: ")
    return Measured(rows, _cost(what, *rows))


def _cost(what: str, straight: Contestant, through: Contestant) -> tuple[Verdict, ...]:
    pairs = list(zip(straight.runs, through.runs, strict=True))
    first = median([(ours.figures["first_byte_seconds"] - its.figures["first_byte_seconds"]) for its, ours in pairs])
    whole = median([ours.seconds / its.seconds for its, ours in pairs])
    assert first is not None
    assert whole is not None
    return (
        Verdict(what=f"{what}: first byte later by", value=first * 1e3, unit="ms", aim="at most 10"),
        Verdict(what=f"{what}: whole ÷ straight", value=whole, unit="×", aim="at most 1.05"),
    )


def _download(client: Node, number: int, small_url: str, blob: Digest) -> Run:
    """A small blob first: no process starts and no name is looked up in the time that counts."""
    command = [sys.executable, "-m", "bench.load"]
    client.run([*command, small_url])
    told = json.loads(client.run([*command, f"{small_url.rpartition('/')[0]}/{blob}"]))
    if told["errors"]:
        raise ImagedistError(f"{small_url} did not send {blob}")
    figures = {"first_byte_seconds": told["first_byte_seconds"]}
    return Run(round=number, seconds=told["whole_seconds"], figures=figures)


@contextmanager
def _fresh_proxy(node: Node, directory: Path, upstream: str) -> Iterator[str]:
    url = f"http://{node.address}:{_PORT}"
    config = proxy_config(directory, f"{node.address}:{_PORT}", upstream)
    with node.daemon(proxy_command(config), directory / "proxy.log", f"{url}/readyz"):
        yield url


def crowd(directory: Path, clients: int, size_bytes: int, say: Say) -> Measured:
    """All of them at once for one blob that the site has not: how often upstream is asked, what it costs in memory.

    Raises:
        ImagedistError: a client did not get the whole blob.
    """
    what = f"{clients} clients at once, {size_bytes / 1e6:.0f} MB cold"
    say(what)
    with docker_registry(directory / "upstream", is_witness=True) as upstream:
        _, (blob,) = push(upstream.url, [size_bytes])
        with proxy(directory / "proxy", upstream.url) as ours:
            account = ProcessAccount()
            account.roots.add(ours.process)
            before = account.cpu_seconds()
            with Peaks(account, None) as peaks:
                told = load(f"{ours.url}{upstream_path('blobs', blob)}", clients, 1, None)
            cpu_seconds = account.cpu_seconds() - before
        if told["errors"] or told["body_bytes"] != clients * size_bytes:
            raise ImagedistError(f"{told['errors']:.0f} of {clients} clients did not get the whole blob")
        asked = gets(upstream.log, blob)
    figures = {**peaks.figures(), "upstream_gets": float(asked)}
    run = Run(round=0, seconds=told["seconds"], cpu_seconds=cpu_seconds, figures=figures)
    memory = figures["peak_anonymous_bytes"] / 1e6
    return Measured(
        (Contestant(name=f"{what}: {PROXY}", runs=(run,)),),
        (
            Verdict(what=f"{what}: upstream was asked", value=asked, unit="×", aim="exactly 1"),
            Verdict(what=f"{what}: anonymous memory, at most", value=memory, unit="MB", aim="at most 200"),
        ),
    )


def memory(directory: Path, downloads: int, size_bytes: int, say: Say) -> Measured:
    """At rest, and while so many downloads stand open and nobody reads.

    Raises:
        ImagedistError: the proxy failed. OSError: a download got no answer.
    """
    say(f"memory at rest and with {downloads} open downloads")
    with docker_registry(directory / "upstream") as upstream:
        _, (blob,) = push(upstream.url, [size_bytes])
        with proxy(directory / "proxy", upstream.url) as ours:
            at_rest = anonymous_bytes(ours.process)
            url = f"{ours.url}{upstream_path('blobs', blob)}"
            load(url, 1, 1, None)
            with holding(url, downloads):
                held = anonymous_bytes(ours.process)
    return Measured(
        (),
        (
            Verdict(what="anonymous memory at rest", value=at_rest / 1e6, unit="MB", aim="at most 80"),
            Verdict(
                what=f"anonymous memory with {downloads} open downloads", value=held / 1e6, unit="MB", aim="at most 250"
            ),
        ),
    )
