"""The site's proxy as its own process before one upstream, and a real client that pulls through it."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.processes import Process, answers, run
from tests.support.ports import free_port

_CONFIG = """\
[proxy]
listen = "127.0.0.1:{port}"
site_blobs = "{blobs}"
{proxy}
[upstreams.up]
{upstream}
"""


class Proxy:
    """Use as a context.

    Args:
        upstream: the keys of its only upstream. proxy: more keys of ``[proxy]``.
        env: of the process.
    """

    def __init__(self, directory: Path, upstream: str, proxy: str = "", env: Mapping[str, str] | None = None) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.log = directory / "proxy.log"
        config = directory / "proxy.toml"
        values = {"port": self._port, "blobs": directory / "blobs", "upstream": upstream, "proxy": proxy}
        config.write_text(_CONFIG.format(**values))
        self._argv = [sys.executable, "-m", "registry_proxy", "--config", str(config)]
        self._env = env
        self._pulls = 0

    def __enter__(self) -> Self:
        self._process = Process(self._argv, self.log, self._env)
        try:
            self._process.wait_until(lambda: answers(f"{self.url}/livez"), self.url)
        except AssertionError:
            self._process.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stop()

    def pull(self, name: str) -> CompletedProcess[str]:
        """skopeo copies the image out, checking every digest."""
        self._pulls += 1
        source = f"docker://{self.url.removeprefix('http://')}/up/{name}"
        target = f"dir:{self._directory / f'pull{self._pulls}'}"
        return run(["skopeo", "copy", "--src-tls-verify=false", source, target])

    def pulled(self, name: str) -> None:
        done = self.pull(name)
        assert done.returncode == 0, f"{done.stderr}\n{self.log.read_text()[-3000:]}"

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")

    def wait_until_told(self, text: str) -> None:
        """Until ``/metrics`` has it."""
        self._process.wait_until(lambda: text in self._metrics(), f"{text} in {self.url}/metrics")

    def metric(self, name: str, **labels: str) -> float:
        text = self._metrics()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def _metrics(self) -> str:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            text: str = answer.read().decode()
            return text
