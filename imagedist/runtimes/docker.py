"""Docker: by its graph driver the mirror only; with the containerd image store our snapshotter as well."""

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
        edits=(Edit(settings.at(_CONFIG), lambda text: with_mirror(text, settings.mirror)),),
        restart=("systemctl", "reload", "docker"),
    )


def _with_image_store(settings: Settings, version: str) -> Found:
    return Found(
        "docker",
        "docker (containerd image store)",
        version,
        "yes, the registries written",
        "yes, by our snapshotter as its storage driver",
        f"certs.d: hosts.toml; daemon.json: storage-driver {SNAPSHOTTER}; containerd's config.toml",
        edits=(
            *hosts_edits(settings.at(_HOSTS_DIRECTORY), settings.mirror, tuple(settings.upstreams)),
            Edit(
                settings.at(containerd.CONFIG),
                lambda text: with_values(text, containerd.with_plugin(settings)),
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
        ),
    )


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
