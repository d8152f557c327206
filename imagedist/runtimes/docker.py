"""Docker: by its graph driver the mirror only; with the containerd image store our snapshotter as well.

With the image store Docker 28 reads hosts.toml. 26, and the graph driver, know a mirror of docker.io only; under our
snapshotter the layers of every registry come by the agent all the same.
"""

from __future__ import annotations

import json
from typing import Any

from imagedist.errors import ConfigError
from imagedist.runtimes import containerd
from imagedist.runtimes.asking import ask, is_installed
from imagedist.runtimes.documents import edit_json, with_values
from imagedist.runtimes.hosts import hosts_edits
from imagedist.runtimes.report import Edit, Found
from imagedist.runtimes.settings import SNAPSHOTTER, Settings

_CONFIG = "/etc/docker/daemon.json"
_HOSTS_DIRECTORY = "/etc/docker/certs.d"
_RESTART = ("systemctl", "restart", "docker")
_READS_HOSTS = (28, 0)
"""Tried: 26.1 does not, 28.5 does, ``_default`` for every registry without a directory of its own."""


def find(settings: Settings) -> Found | None:
    if not is_installed("docker") and not settings.at(_CONFIG).exists():
        return None
    answer = ask("docker", "info", "--format", "{{json .}}")
    try:
        facts: dict[str, Any] = json.loads(answer) if answer else {}
    except ValueError:
        facts = {}
    version = str(facts.get("ServerVersion") or "no daemon answers")
    if any("io.containerd.snapshotter" in str(pair) for pair in facts.get("DriverStatus") or []):
        return _with_image_store(settings, version)
    return Found(
        "docker",
        f"docker ({facts.get('Driver') or 'overlay2'} graph driver)" if facts.get("ServerVersion") else "docker",
        version,
        "docker.io by registry-mirrors; others by `imagedist pull --into docker`",
        "no: Docker's graph driver unpacks by itself",
        "daemon.json: registry-mirrors",
        edits=(_mirror_edit(settings),),
        restart=("systemctl", "reload", "docker"),
    )


def reads_hosts(version: str) -> bool:
    """Whether a Docker with the image store asks the mirror of every registry, not only that of docker.io."""
    release = containerd.parse_release(version)
    return release is None or release >= _READS_HOSTS


def _with_image_store(settings: Settings, version: str) -> Found:
    if reads_hosts(version):
        p2p, how = "yes, any registry", "certs.d: hosts.toml; daemon.json: storage-driver"
        mirrors = hosts_edits(settings.at(_HOSTS_DIRECTORY), settings.mirror)
    else:
        p2p, how = "docker.io by registry-mirrors, the layers of all by our snapshotter", "daemon.json"
        mirrors = (_mirror_edit(settings),)
    release = containerd.parse_release(containerd.installed_version())
    return Found(
        "docker",
        "docker (containerd image store)",
        version,
        p2p,
        "yes, by our snapshotter as its storage driver",
        f"{how}; containerd's config.toml",
        edits=(
            *mirrors,
            Edit(
                settings.at(containerd.CONFIG),
                lambda text: with_values(text, containerd.with_plugin(settings, release)),
                is_by_name_only=True,
                is_snapshotters=True,
            ),
            Edit(settings.at(_CONFIG), with_storage_driver, is_by_name_only=True, is_snapshotters=True),
        ),
        restart=_RESTART,
        notes=(
            "the storage driver is changed only by `--apply docker`: it hides the images and containers of the one "
            "before, until --undo",
            "dockerd must use the machine's containerd, which is restarted first; one it runs itself reads "
            "another config.toml",
            "images that our snapshotter unpacked have no layers in the content store: docker save writes none, docker "
            "push only reaches registries that have them, and before 28 docker images does not list them",
        ),
    )


def _mirror_edit(settings: Settings) -> Edit:
    return Edit(settings.at(_CONFIG), lambda text: with_mirror(text, settings.mirror))


def with_mirror(text: str, mirror: str) -> str:
    """``daemon.json`` in which our mirror is asked first. Raises ConfigError: not such a file."""
    url = f"http://{mirror}"

    def change(document: dict[str, Any]) -> None:
        mirrors = document.get("registry-mirrors", [])
        if not isinstance(mirrors, list):
            raise ConfigError("has registry-mirrors that are no list")
        if url not in [str(other).rstrip("/") for other in mirrors]:
            document["registry-mirrors"] = [url, *mirrors]

    return edit_json(text, change)


def with_storage_driver(text: str) -> str:
    """``daemon.json`` whose containerd image store uses our snapshotter. Raises ConfigError: not such a file."""

    def change(document: dict[str, Any]) -> None:
        features = document.setdefault("features", {})
        if not isinstance(features, dict):
            raise ConfigError("has features that are no object")
        features["containerd-snapshotter"] = True
        document["storage-driver"] = SNAPSHOTTER

    return edit_json(text, change)
