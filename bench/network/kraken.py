"""Uber's Kraken on a test network: origin, tracker, build-index and Redis on one host, an agent on each node.

Its programs come from ``deploy/peers.sh kraken``. Each one's nginx writes to fixed places below /tmp and /var, so each
program has a mount namespace where those are directories of its own.

What is set is what hosts and ports need, and no TLS inside the site. All else is Kraken's default, as in its
``config/*/base.yaml``: pieces of 4 MB, rarest first, 10 connections and 3 requests at a time for each torrent and peer,
announces every 3 s, and an agent's bandwidth limit, which no link here reaches.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from bench.network.deployment import MIRROR, Registry
from bench.network.node import Node
from bench.processes import daemon, missing, search_path, succeeds
from bench.waiting import until

PIECE = "4MB"
"""Of every torrent, by default."""
_PORTS = {"registry": 5050, "peer": 6882, "server": 5051}
_ORIGIN_PEER, _ORIGIN, _TRACKER, _BUILD_INDEX, _REDIS = 5001, 5002, 5003, 5004, 6379
_BRING_SECONDS, _POLL_SECONDS = 60.0, 0.5
_PROGRAMS = ("kraken-origin", "kraken-tracker", "kraken-build-index", "kraken-agent")
_DEBIAN = ("nginx", "redis-server", "redis-cli")
_PRIVATE = ("/tmp", "/var/log/nginx", "/var/lib/nginx", "/etc/nginx/conf.d")
_ENTER = """\
set -e
touch "$0/tmp/$1"
mount --bind "$(command -v "$1")" "$0/tmp/$1"
for place in {places}; do mount --rbind "$0$place" "$place"; done
program=$1
shift
exec "/tmp/$program" "$@"
""".format(places=" ".join(_PRIVATE))
"""In a mount namespace of its own: ``$0`` is the directory, ``$1`` the program, which may lie below /tmp itself."""
_EVERY = """\
zap:
  level: info
  encoding: console
  outputPaths: [stdout]
  errorOutputPaths: [stdout]
  encoderConfig:
    {{messageKey: message, timeKey: time, levelKey: level, levelEncoder: capital, timeEncoder: iso8601,
      durationEncoder: seconds}}
tls: {{server: {{disabled: true}}, client: {{disabled: true}}}}
nginx: {{name: {program}, cache_dir: /tmp/nginx-cache, log_dir: /tmp}}
"""
_TORRENTS = """\
peer_id_factory: addr_hash
scheduler:
  torrentlog: {disable: true}
"""
_BACKENDS = """\
backends:
- namespace: .*
  backend: {{{kind}: {{address: "{registry}", security: {{tls: {{client: {{disabled: true}}}}}}}}}}
"""
_ORIGIN_CONFIG = """\
metainfogen: {{piece_lengths: {{0: {piece}}}}}
cluster: {{static: ["{host}:{origin}"]}}
localdb: {{source: /tmp/origin.db}}
castore: {{upload_dir: /tmp/upload/, cache_dir: /tmp/cache/}}
blobserver: {{listener: {{net: unix, addr: /tmp/origin.sock}}}}
"""
_TRACKER_CONFIG = """\
peerstore: {{redis: {{addr: "127.0.0.1:{redis}"}}}}
origin: {{hosts: {{static: ["{host}:{origin}"]}}}}
peerhandoutpolicy: {{priority: completeness}}
trackerserver: {{listener: {{net: unix, addr: /tmp/tracker.sock}}}}
"""
_BUILD_INDEX_CONFIG = """\
origin: {{hosts: {{static: ["{host}:{origin}"]}}}}
cluster: {{hosts: {{static: ["{host}:{build_index}"]}}}}
localdb: {{source: /tmp/index.db}}
store: {{upload_dir: /tmp/upload/, cache_dir: /tmp/cache/}}
tag_store: {{write_through: false}}
tag_types: [{{namespace: .*, type: docker, root: tags}}]
tagserver: {{listener: {{net: unix, addr: /tmp/build-index.sock}}}}
"""
_AGENT_CONFIG = """\
  dispatch: {{piece_request_policy: rarest_first}}
  conn: {{bandwidth: {{enable: true}}}}
tracker: {{hosts: {{static: ["{host}:{tracker}"]}}}}
build_index: {{hosts: {{static: ["{host}:{build_index}"]}}}}
store: {{download_dir: /tmp/download/, cache_dir: /tmp/cache/}}
registry: {{docker: {{version: 0.1, log: {{level: error}}, http: {{net: unix, addr: /tmp/registry.sock}}}}}}
allowed_cidrs: [127.0.0.1]
"""


def kraken_missing() -> str | None:
    """Which of its programs this machine has not, and how to get them; None: it has all."""
    return missing(*_PROGRAMS, *_DEBIAN)


def kraken_version() -> str:
    """As ``deploy/peers.sh`` noted it: the programs do not know theirs."""
    found = shutil.which(_PROGRAMS[0], path=search_path())
    note = Path(found or "").parents[1] / "kraken.built" if found else Path()
    return note.read_text().strip() if note.is_file() else f"unknown, {found}"


@dataclass(frozen=True, slots=True)
class Service:
    """A program of it that runs."""

    node: Node
    process: int


@dataclass(frozen=True, slots=True)
class Kraken:
    """All of it, running; an agent's mirror is where ours is."""

    host: Node
    site: Sequence[int]
    agents: Sequence[Service]

    @property
    def mirror(self) -> str:
        return MIRROR

    def bring(self, paths: Sequence[str]) -> None:
        """Lets the origin read blobs from the registry, as the first agent's question would.

        Args:
            paths: of the mirror.

        Raises:
            ImagedistError: it does not have them in time.
        """
        for path in paths:
            repository, _, digest = path.removeprefix("/v2/").partition("?")[0].rpartition("/blobs/")
            place = f"/namespace/{quote(repository, safe='')}/blobs/{digest}/metainfo"
            url = f"http://127.0.0.1:{_TRACKER}{place}"
            until(partial(self._knows_pieces, url), f"Kraken's origin to have {digest}", _BRING_SECONDS, _POLL_SECONDS)

    def _knows_pieces(self, url: str) -> bool:
        """JSON; until the origin has the blob 202, with its words."""
        return self.host.get(url).startswith(b"{")


@contextmanager
def kraken(
    host: Node, nodes: Sequence[Node], directory: Path, upstream: Registry, piece: str = PIECE
) -> Iterator[Kraken]:
    """Redis, origin, tracker and build-index on one host, which read from a registry; an agent on each node.

    Args:
        piece: length, as Kraken writes sizes.

    Raises:
        ImagedistError: something did not start.
    """
    values = {
        "host": host.address,
        "registry": upstream.address,
        "piece": piece,
        "origin": _ORIGIN,
        "tracker": _TRACKER,
        "build_index": _BUILD_INDEX,
        "redis": _REDIS,
    }
    of_blobs, of_tags = (_BACKENDS.format(kind=f"registry_{kind}", **values) for kind in ("blob", "tag"))
    with ExitStack() as stack:
        site = [stack.enter_context(_redis(host, directory / "redis"))]
        origin = ["--blobserver-hostname", host.address, "--blobserver-port", _ORIGIN]
        origin += ["--peer-ip", host.address, "--peer-port", _ORIGIN_PEER]
        for name, arguments, port, config in (
            ("origin", origin, _ORIGIN, _TORRENTS + _ORIGIN_CONFIG.format(**values) + of_blobs),
            ("tracker", ["--port", _TRACKER], _TRACKER, _TRACKER_CONFIG.format(**values)),
            ("build-index", ["--port", _BUILD_INDEX], _BUILD_INDEX, _BUILD_INDEX_CONFIG.format(**values) + of_tags),
        ):
            url = f"http://127.0.0.1:{port}/health"
            site.append(stack.enter_context(_program(host, f"kraken-{name}", directory / name, config, arguments, url)))
        agents = []
        for node in nodes:
            ports = [argument for name, port in _PORTS.items() for argument in (_option(name), port)]
            started = _program(
                node,
                "kraken-agent",
                directory / node.name,
                _TORRENTS + _AGENT_CONFIG.format(**values),
                ["--peer-ip", node.address, *ports],
                f"{MIRROR}/v2/",
            )
            agents.append(Service(node, stack.enter_context(started)))
        yield Kraken(host, site, agents)


def _option(port: str) -> str:
    return "--peer-port" if port == "peer" else f"--agent-{port}-port"


@contextmanager
def _program(
    node: Node, name: str, directory: Path, config: str, arguments: Sequence[object], ready_url: str
) -> Iterator[int]:
    """One of them, with its nginx, in a mount namespace of its own. Raises ImagedistError: it did not start."""
    for place in _PRIVATE:
        (directory / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
    (directory / "tmp/config.yaml").write_text(_EVERY.format(program=name) + config)
    command = ["unshare", "--mount", "sh", "-c", _ENTER, str(directory), name, "--config", "/tmp/config.yaml"]
    with node.daemon([*command, *map(str, arguments)], directory / "out.log", ready_url) as process:
        yield process


@contextmanager
def _redis(node: Node, directory: Path) -> Iterator[int]:
    directory.mkdir(parents=True)
    command = ["redis-server", "--port", str(_REDIS), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
    is_ready = node.command(["redis-cli", "-p", str(_REDIS), "ping"])
    with daemon(node.command(command), directory / "redis.log", lambda: succeeds(is_ready)) as process:
        yield process
