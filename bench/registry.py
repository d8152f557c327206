"""The registry that everyone pulls from: Debian's docker-registry on loopback, or ours where that is missing."""

from __future__ import annotations

import shutil
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from bench.account import Account, ProcessAccount, cgroup_account
from bench.processes import daemon, run, search_path
from imagedist.demo.layout import BuiltImage

_HOST = "127.0.0.1"
_CONFIG = """\
version: 0.1
log:
  level: error
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: {root}
http:
  addr: {address}
"""


class Registry(Protocol):
    """A running registry.

    Attributes:
        sizes_bytes: of the images' compressed layers, by reference.
    """

    kind: str
    account: Account
    sizes_bytes: dict[str, int]

    def add(self, built: BuiltImage, name: str) -> str:
        """Puts an image there and returns its whole reference.

        Args:
            name: ``repository:tag``.
        """


class DockerRegistry:
    """docker-registry 2.8, filled by skopeo."""

    kind = "docker-registry"

    def __init__(self, address: str, account: Account) -> None:
        self._address = address
        self.account = account
        self.sizes_bytes: dict[str, int] = {}

    def add(self, built: BuiltImage, name: str) -> str:
        reference = f"{self._address}/{name}"
        flags = ["--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]
        run(["skopeo", *flags, f"oci:{built.layout}", f"docker://{reference}"])
        self.sizes_bytes[reference] = built.size_bytes
        return reference


class LayoutRegistry:
    """The demonstration's registry, a process for each image."""

    kind = "imagedist.demo.registry"

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self.account: Account = ProcessAccount()
        self.sizes_bytes: dict[str, int] = {}

    def add(self, built: BuiltImage, name: str) -> str:
        address = f"{_HOST}:{free_port()}"
        options = ["--layout", str(built.layout), "--listen", address, "--name", name]
        command = [sys.executable, "-m", "imagedist.demo.registry", *options]
        log = self._directory / f"registry-{address.rpartition(':')[2]}.log"
        process = self._stack.enter_context(daemon(command, log, lambda: answers(f"http://{address}/v2/")))
        assert isinstance(self.account, ProcessAccount)
        self.account.roots.add(process)
        reference = f"{address}/{name}"
        self.sizes_bytes[reference] = built.size_bytes
        return reference


@contextmanager
def registry(directory: Path) -> Iterator[Registry]:
    """A private registry with its storage in ``directory``.

    Raises:
        ImagedistError: it did not start.
    """
    directory.mkdir(parents=True)
    if not all(shutil.which(program, path=search_path()) for program in ("docker-registry", "skopeo", "setpriv")):
        with ExitStack() as stack:
            yield LayoutRegistry(directory, stack)
        return
    address = f"{_HOST}:{free_port()}"
    config = directory / "config.yml"
    config.write_text(_CONFIG.format(root=directory / "storage", address=address))
    with cgroup_account() as cgroup:
        account: Account = cgroup or ProcessAccount()
        command = ["docker-registry", "serve", str(config)]
        log = directory / "registry.log"
        with daemon(command, log, lambda: answers(f"http://{address}/v2/"), account) as process:
            if isinstance(account, ProcessAccount):
                account.roots.add(process)
            yield DockerRegistry(address, account)


def answers(url: str) -> bool:
    """Whether a URL answers with a status below 400."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    with socket.create_server((_HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
