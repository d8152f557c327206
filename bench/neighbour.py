"""What a web service on a node feels of the agent beside it: nginx's latencies alone, and while the node seeds at its
default cap and unpacks with default placement, both with the share of the CPUs that their systemd units have.

The node has one half of the CPUs, its packets' reception included; the service's clients, the peers and the site have
the other half, in all rows alike: they would be other machines, and what they do to each other is none of the agent's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import cpus
from bench.account import ProcessAccount
from bench.directories import short_directory
from bench.images import SMALL_BYTES, own
from bench.in_turn import Runs, Say, in_turn, ratio
from bench.machine import Start, describe_image, described
from bench.network import Network, Node, deployment
from bench.network.deployment import MIRROR, Agent
from bench.preflight import need
from bench.processes import environment
from bench.pulling import pull
from bench.result import Contestant, Keep, Result, Run, Verdict
from bench.serving import REPOSITORY, nginx_config, push
from bench.statistics import median
from bench.waiting import until
from bench.weights import AGENT_WEIGHT, SERVICE_WEIGHT, weighted
from imagedist.agent.line import UPLOAD_SHARE
from imagedist.errors import ImagedistError
from imagedist.oci.digest import Digest

_PAGE_BYTES = 10_000
_CLIENTS = 16
_THINK_MILLISECONDS = 40
"""Between an answer and a client's next question, on average: some 400 requests a second, a service with room."""
_LEECHERS = 4
_BLOB_BYTES = 64_000_000
_FLOWING_BYTES = 1_000_000
_IMAGE_TIMES = 8
"""Of its bytes: blobs in registry, site and node, and its files."""
_LATENCY = re.compile(r"^\s+(50|75|90|99)%\s+([0-9.]+)(us|ms|s)$", re.MULTILINE)
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_THINKING = f"function delay() return math.random(0, {2 * _THINK_MILLISECONDS}) end\n"

ALONE, SEEDING, UNPACKING, BOTH = "alone", "while seeding", "while unpacking", "while seeding and unpacking"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything. ``upload``: the node's cap, as in agent.toml; empty: half of the link."""

    rounds: int = 5
    seconds: int = 8
    link_bits_per_second: int = 1_000_000_000
    upload: str = ""
    image_bytes: int = SMALL_BYTES
    settle_seconds: float = 3.0


QUICK = Scale(rounds=2, seconds=4)


def run(scale: Scale, cache: Path, say: Say, keep: Keep) -> Result:
    """Some three minutes for the full scale.

    Raises:
        InputError: a program is missing, or this machine makes no namespaces. ImagedistError: something failed.
    """
    programs = ("nginx", "wrk", "docker-registry", "skopeo")
    need("the neighbour", *programs, is_network=True, memory_bytes=_IMAGE_TIMES * scale.image_bytes)
    start, image = Start.now(), own(cache, scale.image_bytes)
    upload = scale.upload or f"{int(scale.link_bits_per_second / 8 * UPLOAD_SHARE)}"
    node_cpus, other_cpus = cpus.halves()
    with cpus.on(other_cpus), short_directory() as directory, Network() as network, ExitStack() as stack:
        say("starting a registry, a site, a node and its peers")
        internet, site = network.site("internet"), network.site("site")
        network.link(internet, site)
        registry = stack.enter_context(deployment.registry(internet.node("registry"), directory / "registry"))
        reference = registry.add(image, "bench/image:1")
        host = stack.enter_context(deployment.site(site.node("host"), directory / "host", registry))
        node = site.node("node")
        _card(node, scale.link_bits_per_second)
        settings = f'[limits]\nupload = "{upload}"'
        node.up.receive_on(node_cpus)
        node.down.receive_on(other_cpus)
        with cpus.on(node_cpus):
            agent = stack.enter_context(deployment.agent(node, directory / "node", host, settings))
            page, web = stack.enter_context(_web(node, directory / "nginx"))
        others = [site.node(f"peer{number}") for number in range(_LEECHERS)]
        torrent = _seeded(registry, agent, directory)
        service = _Service(site.node("client"), page, scale.seconds, directory)
        service.ask()
        weights = ((agent.process, AGENT_WEIGHT), (web, SERVICE_WEIGHT))
        weighed = [stack.enter_context(weighted(process, weight)) for process, weight in weights]

        def known(runs: Runs) -> Result:
            return described(
                "neighbour",
                directory,
                describe_image(image, "own files"),
                {
                    "registry": "docker-registry",
                    "rounds": f"{scale.rounds} of {scale.seconds} s",
                    "service": f"nginx, one worker, pages of {_PAGE_BYTES} bytes; "
                    f"wrk, {_CLIENTS} clients that think for {_THINK_MILLISECONDS} ms on average",
                    "link": f"a card of {scale.link_bits_per_second / 1e6:.0f} Mbit/s with the kernel's pfifo_fast",
                    "upload": f"{int(upload) / 1e6:.1f} MB/s" if upload.isdigit() else upload,
                    "peers": f"{_LEECHERS}, which give way to wrk (SCHED_IDLE), as all commands do, that take "
                    f"{_BLOB_BYTES / 1e6:.0f} MB again and again",
                    "node's CPUs": f"{_listed(node_cpus)}: agent and service; all others, with the commands that "
                    f"ask for pulls and remove images: {_listed(other_cpus)}",
                    "weights": f"agent and service by the weights of their units, {AGENT_WEIGHT} and {SERVICE_WEIGHT}"
                    if all(weighed)
                    else "agent and service as equals: no cgroup with a weight can be made here",
                    "order": "rotated each round",
                },
                [_row(name, each) for name, each in runs.items()],
                _verdicts(runs),
                start=start,
            )

        def asked(name: str, number: int) -> Run:
            with ExitStack() as beside:
                if name in (SEEDING, BOTH):
                    for peer in others:
                        beside.enter_context(_leecher(peer, node, torrent, directory))
                    _wait_flowing(node)
                if name in (UNPACKING, BOTH):
                    beside.enter_context(_pulls(agent, reference))
                if name != ALONE:
                    threading.Event().wait(scale.settle_seconds)
                return _measured(number, service, agent)

        ways = {name: partial(asked, name) for name in (ALONE, SEEDING, UNPACKING, BOTH)}
        return known(in_turn(ways, scale.rounds, say, lambda runs: keep(known(runs))))


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _row(name: str, runs: Sequence[Run]) -> Contestant:
    titles = {"p50 ms": "p50_milliseconds", "p99 ms": "p99_milliseconds", "node sent MB/s": "sent_megabytes_per_second"}
    summary = {title: median([run.figures[figure] for run in runs]) or 0.0 for title, figure in titles.items()}
    return Contestant(name=name, runs=tuple(runs), summary=summary if runs else {})


def _verdicts(runs: Runs) -> tuple[Verdict, ...]:
    """p99 round by round."""
    found = []
    for name in (SEEDING, UNPACKING, BOTH):
        if times := ratio(runs[name], runs[ALONE], lambda run: run.figures["p99_milliseconds"]):
            aim = "at most 1.3" if name == BOTH else ""
            found.append(Verdict(what=f"p99 {name} ÷ alone", value=times, unit="×", aim=aim))
    return tuple(found)


class _Service:
    """The web service as its clients see it."""

    def __init__(self, client: Node, url: str, seconds: int, directory: Path) -> None:
        self._client = client
        self._script = directory / "thinking.lua"
        self._script.write_text(_THINKING)
        self._command = ["wrk", "-t1", f"-c{_CLIENTS}", f"-d{seconds}s", "--latency", "-s", str(self._script), url]

    def ask(self) -> dict[str, float]:
        """Seconds by percentile. Raises ImagedistError: no good answers."""
        return latencies(self._client.run(self._command))


def latencies(said: str) -> dict[str, float]:
    """Seconds by percentile, as ``wrk --latency`` says them. Raises ImagedistError: no good answers."""
    found = {f"p{percent}": float(number) * _UNITS[unit] for percent, number, unit in _LATENCY.findall(said)}
    if "p99" not in found or "Non-2xx" in said or "Socket errors" in said:
        raise ImagedistError(f"wrk got no good answers: {(said.strip().splitlines() or ['nothing'])[-1]}")
    return found


def _measured(number: int, service: _Service, agent: Agent) -> Run:
    """CPU seconds are the agent's."""
    account = ProcessAccount()
    account.roots.add(agent.process)
    sent_bytes, cpu_seconds, begun = agent.node.up.bytes, account.cpu_seconds(), time.monotonic()
    seconds = service.ask()
    took = time.monotonic() - begun
    figures = {f"{name}_milliseconds": value * 1000 for name, value in seconds.items()}
    figures["sent_megabytes_per_second"] = (agent.node.up.bytes - sent_bytes) / 1e6 / took
    return Run(round=number, seconds=took, cpu_seconds=account.cpu_seconds() - cpu_seconds, figures=figures)


def _card(node: Node, bits_per_second: int) -> None:
    """A network card at its line's speed, with the kernel's default queue before it: three bands by priority."""
    bytes_per_second = bits_per_second // 8
    burst_bytes = max(bytes_per_second // 1000, 16_000)
    rate = f"rate {bits_per_second}bit burst {burst_bytes} limit {bytes_per_second // 10}"
    node.namespace.tc(f"qdisc replace dev eth0 root handle 1: tbf {rate}")
    node.namespace.tc("qdisc replace dev eth0 parent 1:1 handle 10: pfifo_fast")


@contextmanager
def _web(node: Node, directory: Path) -> Iterator[tuple[str, int]]:
    """The page's URL, and nginx's process."""
    root = directory / "root"
    root.mkdir(parents=True)
    (root / "page").write_bytes(os.urandom(_PAGE_BYTES))
    address = f"{node.address}:80"
    config = nginx_config(directory, address, root)
    url = f"http://{address}/page"
    command = ["nginx", "-e", str(directory / "nginx.log"), "-c", str(config)]
    with node.daemon(command, directory / "out.log", url) as process:
        yield url, process


def _seeded(registry: deployment.Registry, agent: Agent, directory: Path) -> Path:
    """Has the node fetch a blob and seed it; the torrent's file."""
    with registry.node.namespace.entered():
        _, (digest,) = push(deployment.LOCAL_REGISTRY, [_BLOB_BYTES])
    pull([agent.node], [f"{MIRROR}/v2/{REPOSITORY}/blobs/{digest}?ns={registry.address}"], 120.0)
    return _kept(agent, digest)


def _wait_flowing(node: Node) -> None:
    """Returns once peers take something. Raises ImagedistError: they do not."""
    before = node.up.bytes
    until(lambda: node.up.bytes - before > _FLOWING_BYTES, "a peer to take something of what the node seeds")


def _kept(agent: Agent, digest: Digest) -> Path:
    path = agent.directory / "blobs" / "torrents" / f"{digest.hex}.torrent"
    until(path.exists, f"the node to seed {digest}")
    return path


@contextmanager
def _leecher(peer: Node, node: Node, torrent: Path, directory: Path) -> Iterator[None]:
    place = directory / peer.name
    place.mkdir(exist_ok=True)
    arguments = [str(torrent), peer.address, f"{node.address}:6882", str(place)]
    command = peer.command(["chrt", "--idle", "0", sys.executable, "-m", "bench.leeching", *arguments])
    with (directory / f"{peer.name}.log").open("ab") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *command], stdout=log, stderr=log, env=environment()
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()
        for left in place.iterdir():
            left.unlink()


@contextmanager
def _pulls(agent: Agent, reference: str) -> Iterator[None]:
    """One after the other: the image's compressed layers are cached, so it is the unpacking that is seen.

    The agent unpacks; who asks it to, and who removes the image for the next round, are not of the node's day.
    """
    is_over, failures = threading.Event(), []

    def pulls() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # as the peers: wrk is not kept waiting
        try:
            while not is_over.is_set():
                agent.imagedist("pull", reference)
                agent.imagedist("rm", reference, "--root", str(agent.storage))
        except ImagedistError as error:
            failures.append(error)

    thread = threading.Thread(target=pulls)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    if failures:
        raise failures[0]
