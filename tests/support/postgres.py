"""A PostgreSQL of the tests' own: one cluster per session, a database per test, nothing of the system's.

With ``TEST_DATABASE=postgresql`` whole sites have theirs there instead of in files (make prove).
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from tests.support.ports import free_port

PASSWORD = "quiet-site"
_SETTINGS = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "shared_buffers": "16MB"}


class Cluster:
    """On a Unix socket, where everybody is believed, and on loopback, where the password counts."""

    def __init__(self, directory: Path) -> None:
        self._bin = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        self._directory = directory
        self._data = directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def make(self) -> None:
        secret = self._directory / "password"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            shutil.chown(self._directory, "postgres", "postgres")
            shutil.chown(secret, "postgres", "postgres")
        self._run(
            [
                *self._as_user(), str(self._bin / "initdb"), "--pgdata", str(self._data), "--username", "imagedist",
                "--no-sync", "--auth-local", "trust", "--auth-host", "scram-sha-256", "--pwfile", str(secret),
                "--locale", "C", "--encoding", "UTF8",
            ]
        )  # fmt: skip

    def start(self) -> None:
        command = [*self._as_user(), str(self._bin / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self._directory}"]
        for name, value in _SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        log = self._directory / "log"
        with log.open("ab") as written:
            self._process = subprocess.Popen(command, stdout=written, stderr=written, cwd="/")
        deadline = time.monotonic() + 60
        ready = [str(self._bin / "pg_isready"), "--quiet", "--host", str(self._directory), "--port", str(self.port)]
        while subprocess.run(ready, check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"PostgreSQL did not start: {log.read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """What clients have open breaks off."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)
            self._process = None

    def database(self) -> str:
        """A new, empty one; its URL."""
        name = f"seeder_{uuid.uuid4().hex[:12]}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str, user: str = f"imagedist:{PASSWORD}") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def sql(self, text: str, database: str = "postgres") -> str:
        command = [str(self._bin / "psql"), "-XqAt", "-h", str(self._directory), "-p", str(self.port)]
        return self._run([*command, "-U", "imagedist", "-d", database, "-c", text])

    @staticmethod
    def _as_user() -> Sequence[str]:
        """It does not run as root, and ends with the tests even if they are killed."""
        as_user = ["--reuid", "postgres", "--regid", "postgres", "--clear-groups"] if os.geteuid() == 0 else []
        return ["setpriv", "--pdeathsig", "INT", *as_user, "--"]

    @staticmethod
    def _run(command: Sequence[str]) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout.strip()


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="imagedist-pg-") as directory:
        cluster = Cluster(Path(directory))
        cluster.make()
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


def site_database(directory: Path) -> str:
    """The URL of a new database for a site: a file in the directory, unless the environment says otherwise."""
    if os.environ.get("TEST_DATABASE") == "postgresql":
        return _cluster_of_process().database()
    return f"sqlite:///{directory}/seeder.db"


@cache
def _cluster_of_process() -> Cluster:
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(running_cluster())
