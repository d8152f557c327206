"""Servers side by side: a site's proxy, nginx and docker-registry, each private, each on the CPUs it is given."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.processes import daemon
from bench.registry import answers, free_port
from imagedist.errors import ImagedistError
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST

REPOSITORY = "bench/blobs"
_UPSTREAM = "upstream"
_PROXY = """\
[proxy]
listen = "{address}"
site_blobs = "{directory}/store"
[upstreams.{upstream}]
url = "{url}"
tag_ttl = "1h"
"""
_NGINX = """\
{user}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{ worker_connections 4096; }}
http {{
    sendfile on;
    tcp_nopush on;
    access_log off;
    keepalive_requests 1000000;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{ listen {address}; root {root}; }}
}}
"""
_REGISTRY = """\
version: 0.1
log: {{level: {level}, accesslog: {{disabled: {is_silent}}}}}
storage:
  cache: {{blobdescriptor: inmemory}}
  filesystem: {{rootdirectory: {directory}/registry}}
http: {{addr: "{address}"}}
"""
"""As Debian's own, with its cache; the access log only where it is the witness."""


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs. ``process`` may have children."""

    url: str
    process: int
    log: Path


def pinned(command: Sequence[str], cpus: Sequence[int] | None) -> list[str]:
    """The command on some CPUs alone; None: on all."""
    return list(command) if cpus is None else ["taskset", "--cpu-list", ",".join(map(str, cpus)), *command]


def upstream_path(kind: str, reference: object) -> str:
    """The proxy's path of a manifest or blob of the upstream."""
    return f"/v2/{_UPSTREAM}/{REPOSITORY}/{kind}/{reference}"


def proxy_config(directory: Path, address: str, upstream_url: str) -> Path:
    """A proxy's configuration file, its store below ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "proxy.toml"
    config.write_text(_PROXY.format(address=address, directory=directory, upstream=_UPSTREAM, url=upstream_url))
    return config


def proxy_command(config: Path) -> list[str]:
    return [sys.executable, "-m", "registry_proxy", "--config", str(config)]


@contextmanager
def proxy(directory: Path, upstream_url: str, cpus: Sequence[int] | None = None) -> Iterator[Server]:
    """A site's proxy on loopback. Raises ImagedistError: it did not start."""
    address = f"127.0.0.1:{free_port()}"
    command = pinned(proxy_command(proxy_config(directory, address, upstream_url)), cpus)
    url, log = f"http://{address}", directory / "proxy.log"
    with daemon(command, log, lambda: answers(f"{url}/readyz")) as process:
        yield Server(url, process, log)


@contextmanager
def nginx(directory: Path, file: Path, cpus: Sequence[int] | None = None) -> Iterator[Server]:
    """nginx with one worker and sendfile; it serves a file as ``/blob``. Raises ImagedistError: it did not start."""
    root = directory / "root"
    root.mkdir(parents=True)
    (root / "blob").symlink_to(file)
    (root / "ready").touch()
    address = f"127.0.0.1:{free_port()}"
    config = nginx_config(directory, address, root)
    url, log = f"http://{address}", directory / "nginx.log"
    command = pinned(["nginx", "-e", str(log), "-c", str(config)], cpus)
    with daemon(command, directory / "out.log", lambda: answers(f"{url}/ready")) as process:
        yield Server(url, process, log)


def nginx_config(directory: Path, address: str, root: Path) -> Path:
    """Of one that serves the files of ``root`` at an address."""
    config = directory / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # its own user may not read private directories
    config.write_text(_NGINX.format(user=user, address=address, directory=directory, root=root))
    return config


@contextmanager
def docker_registry(
    directory: Path, cpus: Sequence[int] | None = None, *, is_witness: bool = False, address: str | None = None
) -> Iterator[Server]:
    """docker-registry on loopback.

    Args:
        is_witness: whether it logs every request.

    Raises:
        ImagedistError: it did not start.
    """
    directory.mkdir(parents=True, exist_ok=True)
    address = address or f"127.0.0.1:{free_port()}"
    config = registry_config(directory, address, is_witness=is_witness)
    url, log = f"http://{address}", directory / "registry.log"
    command = pinned(["docker-registry", "serve", str(config)], cpus)
    with daemon(command, log, lambda: answers(f"{url}/v2/")) as process:
        yield Server(url, process, log)


def registry_config(directory: Path, address: str, *, is_witness: bool = False) -> Path:
    config = directory / "registry.yml"
    level = "info" if is_witness else "error"
    is_silent = "false" if is_witness else "true"
    config.write_text(_REGISTRY.format(level=level, is_silent=is_silent, directory=directory, address=address))
    return config


def gets(log: Path, digest: Digest) -> int:
    """How often a witness was asked for a blob's bytes."""
    return log.read_text(errors="replace").count(f'"GET /v2/{REPOSITORY}/blobs/{digest}')


def push(url: str, sizes_bytes: Sequence[int]) -> tuple[Digest, list[Digest]]:
    """An image of incompressible layers of these sizes, tagged ``1``; the digests of its manifest and layers."""
    config = b"{}"
    layers = [os.urandom(size_bytes) for size_bytes in sizes_bytes]
    descriptors = [
        {"mediaType": kind, "digest": str(_push_blob(url, content)), "size": len(content)}
        for kind, content in ((OCI_CONFIG, config), *((OCI_LAYER, layer) for layer in layers))
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptors[0], "layers": descriptors[1:]}
    body = json.dumps(document).encode()
    _ask("PUT", f"{url}/v2/{REPOSITORY}/manifests/1", body, OCI_MANIFEST)
    return Digest.of(body), [Digest.parse(str(one["digest"])) for one in descriptors[1:]]


def _push_blob(url: str, content: bytes) -> Digest:
    digest = Digest.of(content)
    location = _ask("POST", f"{url}/v2/{REPOSITORY}/blobs/uploads/", b"", "application/octet-stream")
    _ask("PUT", f"{location}{'&' if '?' in location else '?'}digest={digest}", content, "application/octet-stream")
    return digest


def _ask(method: str, url: str, body: bytes, media_type: str) -> str:
    """The ``Location`` that is answered."""
    request = urllib.request.Request(url, body, {"Content-Type": media_type}, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return str(answer.headers.get("Location", ""))
    except urllib.error.URLError as error:
        raise ImagedistError(f"cannot push to {url}: {error}") from error
