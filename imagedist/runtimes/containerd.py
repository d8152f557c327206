"""containerd: our snapshotter for kubelet's pulls, and the mirror for every registry.

Sources: containerd's docs/cri/config.md, docs/hosts.md, plugins/transfer/plugin.go. Versions of the file are 2 (1.x;
2.x reads it too), 3 (2.0) and 4 (2.4); they differ in the names of CRI's tables.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from imagedist.errors import ConfigError
from imagedist.runtimes.asking import ask, glance, is_installed
from imagedist.runtimes.documents import Key, Value, read_toml, value_at, with_values
from imagedist.runtimes.hosts import hosts_edits
from imagedist.runtimes.report import Edit, Found
from imagedist.runtimes.settings import SNAPSHOTTER, Settings

CONFIG = "/etc/containerd/config.toml"

_NEWEST_FORMAT = 4
_HOSTS_DIRECTORY = "/etc/containerd/certs.d"
_SNAPSHOTS = "imagedist/snapshots"
"""Below the image store: where the snapshotter keeps its directories."""
_CRI_1 = ("plugins", "io.containerd.grpc.v1.cri")
_CRI_2 = ("plugins", "io.containerd.cri.v1.images")
_UNPACK = ("plugins", "io.containerd.transfer.v1.local", "unpack_config")
_CRI_NAMES = {"cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"}

_BACK = (
    "images pulled over the snapshotter have no layers in containerd's content store: "
    "after --undo, remove them (crictl rmi) so that they are pulled again"
)


def find(settings: Settings) -> Found | None:
    """The machine's own containerd; k3s and RKE2 bring theirs."""
    path = settings.at(CONFIG)
    if not is_installed("containerd") and not path.exists():
        return None
    version = installed_version()
    release = parse_release(version)
    text = glance(path)
    return Found(
        "containerd",
        "containerd / Kubernetes",
        version,
        "yes, any registry",
        "yes: kubelet's pulls, by our snapshotter",
        "config.toml, hosts.toml",
        edits=(
            Edit(path, lambda text: with_snapshotter(text, settings, release), is_snapshotters=True),
            *hosts_edits(settings.at(_hosts_directory(text)), settings.mirror),
        ),
        directories=_directories(settings, text, release),
        restart=("systemctl", "restart", "containerd"),
        notes=(_BACK, *_notes(text)),
        is_containerd=True,
    )


def installed_version() -> str:
    words = ask("containerd", "--version").split()
    return words[2] if len(words) > 2 else "unknown"


def parse_release(version: str) -> tuple[int, int] | None:
    """``v2.1.3`` or ``1.6.20~ds1`` → (major, minor)."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def with_snapshotter(
    text: str, settings: Settings, release: tuple[int, int] | None, hosts: str = _HOSTS_DIRECTORY
) -> str:
    """containerd's ``config.toml`` with our snapshotter, CRI's use of it, and a directory of mirrors.

    Args:
        release: of the program that reads it; None: nobody knows, so the file must say its own version.
        hosts: the directory of mirrors, if the file names none.

    Raises:
        ConfigError: a file that is too old or too new, or that has mirrors where hosts.toml cannot stand beside them.
    """
    document = read_toml(text)
    format = _format(document, release)
    values: dict[Key, Value] = with_plugin(settings, release)
    if format == 1:
        if not _is_cri_disabled(document):
            raise ConfigError(
                "is of version 1, with the short names of plugins: write the long ones and `version = 2`, "
                "or let containerd 2 do it (`containerd config migrate`), then try again"
            )
        return with_values(text, values)
    if "version" not in document:
        values = {("version",): format, **values}
    values |= _cri_values(document, format, hosts)
    if release is None or release >= (1, 7):
        values |= _transfer_values(document)
    return with_values(text, values)


def with_plugin(settings: Settings, release: tuple[int, int] | None) -> dict[Key, Value]:
    """The proxy plugin itself; which clients use it is theirs to say.

    ``exports`` are for containerd 1.7 and later: what kubelet watches as the images' file system, and that the
    transfer service tells the snapshotter which image a layer belongs to (CRI does by its own setting).
    ``capabilities`` are for 2.0 and later, which then mounts layers id-mapped for pods with user namespaces, and copies
    no image (``snapshotter/idmap.py``); 1.x cannot.
    """
    plugin = ("proxy_plugins", SNAPSHOTTER)
    capabilities: dict[Key, Value] = {(*plugin, "capabilities"): ["remap-ids"]}
    return {
        **(capabilities if release is None or release >= (2, 0) else {}),
        (*plugin, "type"): "snapshot",
        (*plugin, "address"): str(settings.socket),
        (*plugin, "exports", "root"): str(settings.store / _SNAPSHOTS),
        (*plugin, "exports", "enable_remote_snapshot_annotations"): "true",
    }


def _format(document: dict[str, Any], release: tuple[int, int] | None) -> int:
    format = document.get("version", 0)
    if not isinstance(format, int) or format > _NEWEST_FORMAT:
        raise ConfigError(f"is of version {format!r}; known are 2 to {_NEWEST_FORMAT}")
    if format > 0:
        return format
    if document:
        return 1
    if release is None:
        raise ConfigError("is empty, and no containerd says its version: write `version = 2` (1.x) or 3 (2.x) into it")
    return 3 if release >= (2, 0) else 2


def _cri_values(document: dict[str, Any], format: int, hosts: str) -> dict[Key, Value]:
    images = _CRI_2 if format >= 3 else (*_CRI_1, "containerd")
    registry = (*(_CRI_2 if format >= 3 else _CRI_1), "registry")
    old = value_at(document, registry) or {}
    configs = old.get("configs") or {}
    if old.get("mirrors") or any("tls" in config for config in configs.values() if isinstance(config, dict)):
        raise ConfigError(
            "has registry.mirrors or registry.configs.*.tls, which containerd refuses beside hosts.toml: "
            f"move them to {hosts} (containerd's docs/hosts.md), then try again"
        )
    values: dict[Key, Value] = {
        (*images, "snapshotter"): SNAPSHOTTER,
        (*images, "disable_snapshot_annotations"): False,  # 2.1 and later then pull without the transfer service
    }
    if not old.get("config_path"):
        values[*registry, "config_path"] = hosts
    if format < 3 and not value_at(document, (*images, "runtimes")):
        # containerd 2 reads a file of version 2, but drops its snapshotter if it names no runtime (2.1.9, plugins/cri/
        # images/plugin.go, migrateConfig). This one is the default.
        values[*images, "runtimes", "runc", "runtime_type"] = "io.containerd.runc.v2"
    return values


def _transfer_values(document: dict[str, Any]) -> dict[Key, Value]:
    """The transfer service (``ctr`` 2.x) unpacks only by snapshotters of its list, the first by default.

    A list of the user's own gets ours at its end; without one, containerd's default, overlayfs, is written before it.
    """
    units = value_at(document, _UNPACK)
    listed = list(units) if isinstance(units, list) else [{"platform": "linux", "snapshotter": "overlayfs"}]
    if any(isinstance(unit, dict) and unit.get("snapshotter") == SNAPSHOTTER for unit in listed):
        return {}
    return {_UNPACK: [*listed, {"platform": "linux", "snapshotter": SNAPSHOTTER}]}


def _is_cri_disabled(document: dict[str, Any]) -> bool:
    return bool(_CRI_NAMES & set(map(str, document.get("disabled_plugins") or [])))


def _hosts_directory(text: str) -> str:
    """Where CRI looks for hosts.toml: the first directory of the user's list, or the usual one."""
    try:
        document = read_toml(text)
    except ConfigError:
        return _HOSTS_DIRECTORY
    for cri in (_CRI_1, _CRI_2):
        listed = value_at(document, (*cri, "registry", "config_path"))
        if isinstance(listed, str) and listed.startswith("/"):
            return listed.split(":", 1)[0]
    return _HOSTS_DIRECTORY


def _directories(settings: Settings, text: str, release: tuple[int, int] | None) -> tuple[Path, ...]:
    """What containerd 1.x names to kubelet as the images' file system; kubelet fails where it does not exist."""
    if release is not None and release >= (2, 0):
        return ()
    try:
        root = read_toml(text).get("root") or "/var/lib/containerd"
    except ConfigError:
        return ()
    return (settings.at(f"{root}/io.containerd.snapshotter.v1.{SNAPSHOTTER}"),)


def _notes(text: str) -> tuple[str, ...]:
    """What of the user's file holds in spite of ours."""
    try:
        document = read_toml(text)
    except ConfigError:
        return ()
    notes = ["CRI is disabled in this containerd: only Docker and nerdctl use it"] if _is_cri_disabled(document) else []
    if document.get("imports"):
        notes.append("config.toml imports other files: what they say of CRI holds, not what is written here")
    for key in (
        (*_CRI_1, "containerd", "runtimes"),
        ("plugins", "io.containerd.cri.v1.runtime", "containerd", "runtimes"),
    ):
        for name, runtime in (value_at(document, key) or {}).items():
            own = runtime.get("snapshotter") if isinstance(runtime, dict) else None
            if own and own != SNAPSHOTTER:
                notes.append(f"runtime class {name} keeps its own snapshotter, {own}")
    return tuple(notes)
