"""Every client that people point at a mirror, in one shape: pull an image of docker.io, prove what came, forget it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from subprocess import CompletedProcess
from typing import Protocol

from imagedist.demo.layout import BuiltImage
from imagedist.demo.tree import expected_tree
from imagedist.overlay.tree import tree
from tests.e2e.node import Node
from tests.e2e.processes import succeed
from tests.e2e.runtimes import Containerd, Docker, Podman, client_config


class Client(Protocol):
    """One client with a store of its own."""

    name: str

    def pull(self, image: str) -> CompletedProcess[str]:
        """Pulls ``docker.io/<image>``."""

    def check(self, image: str, built: BuiltImage) -> None:
        """Fails unless this very image is there, as far as the client can tell."""

    def forget(self, image: str) -> None:
        """Nothing of the image is left."""


class DockerClient:
    """By its graph driver. It has its mirror for docker.io only, and sends no ``ns``."""

    name = "docker"

    def __init__(self, docker: Docker) -> None:
        self._docker = docker

    def pull(self, image: str) -> CompletedProcess[str]:
        return self._docker.pull(_short(image))

    def check(self, image: str, built: BuiltImage) -> None:
        assert self._docker.image_id(_short(image)) == str(built.image.id)
        done = self._docker.run("image", "inspect", "--format", "{{json .RepoDigests}}", _short(image))
        assert str(built.image.manifest_digest) in done.stdout

    def forget(self, image: str) -> None:
        done = self._docker.run("rmi", "--force", _short(image))
        assert done.returncode == 0, done.stderr


class ContainerdClient:
    """``ctr``: sends ``?ns=docker.io``."""

    name = "containerd"

    def __init__(self, containerd: Containerd) -> None:
        self._containerd = containerd

    def pull(self, image: str) -> CompletedProcess[str]:
        return self._containerd.pull(f"docker.io/{image}")

    def check(self, image: str, built: BuiltImage) -> None:
        assert self._containerd.digest(f"docker.io/{image}") == str(built.image.manifest_digest)
        done = self._containerd.run("images", "check", f"name==docker.io/{image}")
        assert "complete" in done.stdout, done.stdout

    def forget(self, image: str) -> None:
        done = self._containerd.run("images", "rm", "--sync", f"docker.io/{image}")
        assert done.returncode == 0, done.stderr


class PodmanClient:
    """The upstream in the path."""

    name = "podman"

    def __init__(self, podman: Podman) -> None:
        self._podman = podman

    def pull(self, image: str) -> CompletedProcess[str]:
        return self._podman.pull(f"docker.io/{image}")

    def check(self, image: str, built: BuiltImage) -> None:
        assert built.image.id.hex in self._podman.images()

    def forget(self, image: str) -> None:
        done = self._podman.run("rmi", "--force", f"docker.io/{image}")
        assert done.returncode == 0, done.stderr


class BuildahClient:
    name = "buildah"

    def __init__(self, podman: Podman) -> None:
        self._podman = podman

    def pull(self, image: str) -> CompletedProcess[str]:
        return self._podman.buildah("pull", f"docker.io/{image}")

    def check(self, image: str, built: BuiltImage) -> None:
        done = self._podman.buildah("inspect", "--type", "image", f"docker.io/{image}")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["FromImageDigest"] == str(built.image.manifest_digest)

    def forget(self, image: str) -> None:
        done = self._podman.buildah("rmi", "--force", f"docker.io/{image}")
        assert done.returncode == 0, done.stderr


class SkopeoClient:
    """Into a directory: every blob as it was sent."""

    name = "skopeo"

    def __init__(self, podman: Podman) -> None:
        self._podman = podman
        self._directory = podman.node.base / "copy"

    def pull(self, image: str) -> CompletedProcess[str]:
        return self._podman.skopeo("copy", f"docker://docker.io/{image}", f"dir:{self._directory}")

    def check(self, image: str, built: BuiltImage) -> None:
        manifest = (self._directory / "manifest.json").read_bytes()
        assert hashlib.sha256(manifest).hexdigest() == built.image.manifest_digest.hex
        for digest in _blobs(built):
            assert hashlib.sha256((self._directory / digest).read_bytes()).hexdigest() == digest

    def forget(self, image: str) -> None:
        shutil.rmtree(self._directory)


class UmociClient:
    """By skopeo into an OCI layout, which umoci unpacks."""

    name = "umoci"

    def __init__(self, podman: Podman) -> None:
        self._podman = podman
        self._layout = podman.node.base / "layout"
        self._bundle = podman.node.base / "bundle"

    def pull(self, image: str) -> CompletedProcess[str]:
        done = self._podman.skopeo("copy", f"docker://docker.io/{image}", f"oci:{self._layout}:1")
        if done.returncode == 0:
            done = succeed(["umoci", "unpack", "--image", f"{self._layout}:1", str(self._bundle)])
        return done

    def check(self, image: str, built: BuiltImage) -> None:
        assert tree([self._bundle / "rootfs"], with_owner=True) == expected_tree(built)

    def forget(self, image: str) -> None:
        shutil.rmtree(self._layout)
        shutil.rmtree(self._bundle)


def with_podmans_files(base: Path, hosts: dict[str, str], mirror: str) -> list[Client]:
    """Those of the containers/image family but podman, each on a node of its own below ``base``."""
    buildah, skopeo, umoci = (Podman(Node(base / name, hosts), mirror) for name in ("buildah", "skopeo", "umoci"))
    for one in (skopeo, umoci):
        # skopeo 1.9 reads the machine's files, whatever its environment says.
        etc = one.node.etc / "containers"
        shutil.copytree("/etc/containers", etc)
        ours = etc / "registries.conf.d/50-imagedist.conf"
        ours.parent.mkdir(exist_ok=True)
        shutil.copyfile(client_config(one.node, mirror) / "registries.conf", ours)
    return [BuildahClient(buildah), SkopeoClient(skopeo), UmociClient(umoci)]


def _blobs(built: BuiltImage) -> list[str]:
    return [built.image.id.hex, *(layer.descriptor.digest.hex for layer in built.image.layers)]


def _short(image: str) -> str:
    return image.removeprefix("library/")
