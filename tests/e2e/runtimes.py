"""The runtimes: private daemons and clients that read the very files of deploy/client-config."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from subprocess import CompletedProcess

from tests.e2e.node import Node
from tests.e2e.processes import run

CLIENT_CONFIG = Path(__file__).parents[2] / "deploy/client-config"

_DOCKER = "/usr/bin/docker"
"""Debian's own client; another one earlier in the PATH may not speak this daemon's API version."""

_CONTAINERD_CONFIG = """\
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
"""


_PODMAN_SETTINGS = """\
[engine]
lock_type = "file"
"""
"""podman's other kind of lock is a file of the machine's own /dev/shm."""


SHIPPED_MIRROR = "127.0.0.1:5050"
"""What the shipped files point at."""


def client_config(node: Node, mirror: str) -> Path:
    """The shipped files themselves, or for another mirror copies that differ in its address alone."""
    if mirror == SHIPPED_MIRROR:
        return CLIENT_CONFIG
    copied = node.base / "client-config"
    if not copied.exists():
        shutil.copytree(CLIENT_CONFIG, copied)
        for path in copied.rglob("*"):
            if path.is_file():
                path.write_text(path.read_text().replace(SHIPPED_MIRROR, mirror))
    return copied


class Docker:
    """A dockerd with its own containerd, overlay2 and the shipped daemon.json, or another one."""

    def __init__(self, node: Node, config: Path = CLIENT_CONFIG / "daemon.json") -> None:
        self.node = node
        self.host = f"unix://{node.run_directory}/docker.sock"
        flags = ["--host=unix:///run/docker.sock", "--storage-driver=overlay2", "--iptables=false", "--bridge=none"]
        self._process = node.start(["dockerd", f"--config-file={config}", *flags], "dockerd")
        try:
            self._process.wait_until(lambda: self.run("version").returncode == 0, "dockerd")
        except AssertionError:
            self._process.stop()
            raise

    def run(self, *arguments: str) -> CompletedProcess[str]:
        return run([_DOCKER, "--host", self.host, *arguments], {"HOME": str(self.node.base / "home")})

    def pull(self, name: str, auth: str | None = None) -> CompletedProcess[str]:
        """
        Args:
            auth: ``user:password`` in base64, as ``docker login`` keeps it for Docker Hub.
        """
        config = self.node.base / "home/.docker/config.json"
        config.parent.mkdir(exist_ok=True)
        auths = {"https://index.docker.io/v1/": {"auth": auth}} if auth is not None else {}
        config.write_text(json.dumps({"auths": auths}))
        return self.run("pull", name)

    def image_id(self, name: str) -> str:
        done = self.run("image", "inspect", "--format", "{{.Id}}", name)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def reload(self) -> None:
        """What ``systemctl reload docker`` does; returns when its file has been read again."""
        log, told = self._process.log, "Reloaded configuration"
        before = log.read_text().count(told)
        os.kill(self._process.pid, signal.SIGHUP)
        self._process.wait_until(lambda: log.read_text().count(told) > before, "dockerd with its file read again")

    def names(self) -> list[str]:
        return self.run("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()

    def hang(self) -> None:
        """It takes connections and answers nothing, until it goes on."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        self._process.stop()


class Containerd:
    """A containerd without Kubernetes' interface, and ``ctr`` with the shipped hosts.toml."""

    def __init__(self, node: Node, mirror: str = SHIPPED_MIRROR) -> None:
        self.node = node
        self._hosts = client_config(node, mirror) / "certs.d"
        config = node.base / "containerd.toml"
        config.write_text(_CONTAINERD_CONFIG)
        self._process = node.start(["containerd", "--config", str(config)], "containerd")
        try:
            self._process.wait_until(lambda: self.run("version").returncode == 0, "containerd")
        except AssertionError:
            self._process.stop()
            raise

    def run(self, *arguments: str) -> CompletedProcess[str]:
        return run(["ctr", "--address", f"{self.node.run_directory}/containerd/containerd.sock", *arguments])

    def pull(self, name: str, *flags: str) -> CompletedProcess[str]:
        """``ctr`` resolves names itself, so it runs with the node's /etc/hosts."""
        pull = ["ctr", "images", "pull", "--hosts-dir", str(self._hosts), *flags, name]
        return self.node.run(pull)

    def digest(self, name: str) -> str:
        rows = [row.split() for row in self.run("images", "ls", f"name=={name}").stdout.splitlines()[1:]]
        assert len(rows) == 1, f"containerd has {len(rows)} images of name {name}"
        return rows[0][2]

    def stop(self) -> None:
        self._process.stop()


class Podman:
    """podman, Buildah and skopeo with the shipped registries.conf and storage.conf, at their default paths."""

    def __init__(self, node: Node, mirror: str = SHIPPED_MIRROR) -> None:
        self.node = node
        shipped = client_config(node, mirror)
        settings = node.base / "containers.conf"
        settings.write_text(_PODMAN_SETTINGS)
        self._env = {
            "CONTAINERS_CONF": str(settings),
            "CONTAINERS_REGISTRIES_CONF": str(shipped / "registries.conf"),
            "CONTAINERS_STORAGE_CONF": str(shipped / "storage.conf"),
        }

    def run(self, *arguments: str) -> CompletedProcess[str]:
        return self.node.run(["podman", *arguments], self._env)

    def pull(self, name: str) -> CompletedProcess[str]:
        return self.run("pull", name)

    def run_container(self, name: str, *command: str) -> CompletedProcess[str]:
        """Runs a container of an image that is here already; the flags are what this kind of test machine allows."""
        limits = ["--ulimit", "nofile=10000:10000", "--ulimit", "nproc=1000:1000"]
        isolation = ["--cgroups=disabled", "--network=none", "--runtime=crun", "--pull=never"]
        return self.run("run", "--rm", *isolation, *limits, name, *command)

    def images(self) -> dict[str, bool]:
        """Image ID → whether it is there read-only, in an additional image store; maybe in podman's own, too."""
        listed = json.loads(self.run("images", "--all", "--no-trunc", "--format", "json").stdout or "[]")
        found: dict[str, bool] = {}
        for image in listed:
            found[image["Id"]] = found.get(image["Id"], False) or bool(image.get("ReadOnly"))
        return found

    def skopeo(self, *arguments: str) -> CompletedProcess[str]:
        return self.node.run(["skopeo", *arguments], self._env)

    def buildah(self, *arguments: str) -> CompletedProcess[str]:
        return self.node.run(["buildah", *arguments], self._env)
