"""The upstream: Debian's docker-registry, a real one, with its access log as the witness of what it sent."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from imagedist.demo.layout import BuiltImage
from tests.e2e.processes import Process, answers, succeed

HOST = "127.0.0.4"
PORT = 5000
NAME = f"registry.local:{PORT}"
"""How clients and the shipped registries.conf call it; the nodes' /etc/hosts lead there."""

_CONFIG = """\
version: 0.1
log:
  level: warn
  accesslog:
    disabled: false
storage:
  filesystem:
    rootdirectory: {root}
http:
  addr: {host}:{port}
"""
_BLOB_SENT = re.compile(
    r'"GET /v2/\S+/blobs/(sha256:[0-9a-f]{64})\S* HTTP/1\.[01]" 20[06] [0-9]+ "[^"]*" "(?P<client>[^"]*)"'
)
_RUNTIMES = ("docker/", "containerd/", "containers/", "skopeo/")
"""How the User-Agent of each runtime begins: those that come here themselves when a mirror is down."""


class Upstream:
    """One docker-registry; plays docker.io and a private registry at once."""

    def __init__(self, base: Path) -> None:
        base.mkdir(parents=True)
        self._base = base
        config = base / "config.yml"
        config.write_text(_CONFIG.format(root=base / "registry", host=HOST, port=PORT))
        self._argv = ["docker-registry", "serve", str(config)]
        self._log = base / "registry.log"
        self._process = self._start()

    def _start(self) -> Process:
        process = Process(self._argv, self._log)
        try:
            process.wait_until(lambda: answers(f"http://{HOST}:{PORT}/v2/"), f"docker-registry on {HOST}:{PORT}")
        except AssertionError:
            process.stop()
            raise
        return process

    @property
    def url(self) -> str:
        return f"http://{HOST}:{PORT}"

    def push(self, built: BuiltImage, name: str) -> None:
        """Pushes an image as it is: the digests stay."""
        source = f"oci:{built.layout}"
        target = f"docker://{HOST}:{PORT}/{name}"
        succeed(["skopeo", "copy", "--preserve-digests", "--dest-tls-verify=false", source, target])

    def blobs_sent(self) -> Counter[str]:
        """How often each blob was sent to the site, by digest, from the access log of the whole run."""
        sent = _BLOB_SENT.findall(self._log.read_text())
        return Counter(digest for digest, client in sent if not client.startswith(_RUNTIMES))

    def stop(self) -> None:
        self._process.stop()

    def start(self) -> None:
        if not self._process.is_running():
            self._process = self._start()
