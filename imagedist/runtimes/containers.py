"""podman and CRI-O (and Buildah, skopeo): the mirror per registry, and our store as an additional image store.

Sources: containers-registries.conf(5), containers-registries.conf.d(5), containers-storage.conf(5), crio.conf.d(5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imagedist.errors import ConfigError
from imagedist.runtimes.asking import ask, glance, is_installed
from imagedist.runtimes.documents import check_toml, read_toml, value_at, with_values
from imagedist.runtimes.report import Edit, Found
from imagedist.runtimes.settings import Settings

_REGISTRIES = "/etc/containers/registries.conf"
_DROP_INS = "/etc/containers/registries.conf.d"
_OURS = f"{_DROP_INS}/50-imagedist.conf"
_STORAGE = "/etc/containers/storage.conf"
_VENDORS_STORAGE = "/usr/share/containers/storage.conf"
_STORES = ("storage", "options", "additionalimagestores")
_CRIO = "/etc/crio/crio.conf.d/50-imagedist.conf"

_STORAGE_DEFAULT = """\
# By `imagedist runtimes --apply`: containers/storage's own defaults, and one line more.

[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
"""
_CRIO_HEAD = """\
# By `imagedist runtimes --apply`. After a crash CRI-O checks its store, takes each layer upon one of an additional
# image store for broken, and removes it: containers of such images, then the whole store (cri-o 1.34 with
# containers/storage 1.58). `crio wipe` at boot is not concerned.
"""
_REGISTRIES_HEAD = """\
# By `imagedist runtimes --apply`. These clients do not say which registry they mean, so the mirror's address carries
# it: the first part of the path is the name of an upstream in the site's proxy.toml.
"""


def find_podman(settings: Settings) -> Found | None:
    words = ask("podman", "--version").split() if is_installed("podman") else None
    return None if words is None else _found(settings, "podman", "podman", words[-1] if words else "unknown", ())


def find_crio(settings: Settings) -> Found | None:
    words = ask("crio", "--version").split() if is_installed("crio") else None
    if words is None:
        return None
    version = words[2] if len(words) > 2 else "unknown"
    unrepaired = Edit(settings.at(_CRIO), without_repair)
    return _found(settings, "crio", "CRI-O", version, ("systemctl", "restart", "crio"), unrepaired)


def without_repair(text: str) -> str:
    """A drop-in of ``crio.conf`` that keeps CRI-O from repairing after a crash. Raises ConfigError: not TOML."""
    return with_values(text or _CRIO_HEAD, {("crio", "internal_repair"): False})


def _found(settings: Settings, key: str, name: str, version: str, restart: tuple[str, ...], *own: Edit) -> Found:
    own_options = "crio.conf's own `storage_option`, if set, replaces storage.conf's"
    return Found(
        key,
        name,
        version,
        "yes, registries listed in registries.conf",
        "yes: runs images of `imagedist pull` in place",
        "registries.conf; storage.conf: additionalimagestores",
        edits=(*_registry_edits(settings), Edit(settings.at(_STORAGE), _storage_change(settings)), *own),
        restart=restart,
        notes=(own_options,) if key == "crio" else (),
    )


def _registry_edits(settings: Settings) -> tuple[Edit, ...]:
    """One edit for each file that has a table of one of the registries, and ours for the others.

    A drop-in's table would replace the user's own of the same prefix, so the user's is edited where it is.
    """
    main = settings.at(_REGISTRIES)
    ours = settings.at(_OURS)
    files = [main, *sorted(path for path in settings.at(_DROP_INS).glob("*.conf") if path != ours)]
    texts = {path: glance(path) for path in files}
    edits: list[Edit] = []
    left = dict(settings.upstreams)
    for path in reversed(files):  # of two tables the later file's holds
        here = {registry: left.pop(registry) for registry in list(left) if _has_table(texts[path], registry)}
        if here:
            edits.append(Edit(path, _mirrors_change(here, settings.mirror)))
    if left:
        edits.append(Edit(ours, _mirrors_change(left, settings.mirror)))
        if "registries" in _tables(texts[main]):
            edits.append(Edit(main, _refused))
    return tuple(edits)


def _refused(text: str) -> str:
    raise ConfigError("is of version 1 ([registries.*]), beside which no drop-in is read: bring it to version 2")


def _tables(text: str) -> dict[str, Any]:
    try:
        return read_toml(text)
    except ConfigError:
        return {}


def _has_table(text: str, registry: str) -> bool:
    return any(_prefix(table) == registry for table in _registry_tables(_tables(text)))


def _registry_tables(document: dict[str, Any]) -> list[dict[str, Any]]:
    tables = document.get("registry", [])
    return [table for table in tables if isinstance(table, dict)] if isinstance(tables, list) else []


def _prefix(table: dict[str, Any]) -> str:
    return str(table.get("prefix") or table.get("location") or "")


def _mirrors_change(upstreams: dict[str, str], mirror: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        for registry, prefix in upstreams.items():
            text = with_registry(text, registry, f"{mirror}/{prefix}")
        return text

    return change


def with_registry(text: str, registry: str, location: str) -> str:
    """``registries.conf`` in which a registry has this mirror, before others it may have.

    Raises:
        ConfigError: not such a file.
    """
    tables = _registry_tables(read_toml(text))
    ours = {"location": location, "insecure": True}
    for number, table in enumerate(tables):
        if _prefix(table) == registry:
            mirrors = table.get("mirror", [])
            if any(isinstance(other, dict) and other.get("location") == location for other in mirrors):
                return text
            return _with_first_mirror(text, number, ours)
    addition = f'[[registry]]\nprefix = "{registry}"\nlocation = "{registry}"\n\n'
    addition += f'[[registry.mirror]]\nlocation = "{location}"\ninsecure = true  # plain HTTP, on loopback only\n'
    after = f"{text or _REGISTRIES_HEAD}\n{addition}"
    read_toml(after)
    return after


def _with_first_mirror(text: str, number: int, ours: dict[str, Any]) -> str:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    wanted = read_toml(text)
    table = wanted["registry"][number]
    table["mirror"] = [ours, *table.get("mirror", [])]
    try:
        document = tomlkit.parse(text)
        tables: Any = document["registry"]
        mirrors = tomlkit.aot()
        for item in table["mirror"]:
            mirrors.append(tomlkit.item(item))
        tables[number]["mirror"] = mirrors
        after = tomlkit.dumps(document)
    except (TOMLKitError, TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"cannot be edited ({error}): add {ours['location']} by hand") from error
    check_toml(after, wanted)
    return after


def _storage_change(settings: Settings) -> Callable[[str], str]:
    def change(text: str) -> str:
        # /etc's file replaces the vendor's as a whole.
        return with_store(text or glance(settings.at(_VENDORS_STORAGE)) or _STORAGE_DEFAULT, str(settings.store))

    return change


def with_store(text: str, store: str) -> str:
    """``storage.conf`` with our store among the additional ones. Raises ConfigError: not such a file."""
    stores = value_at(read_toml(text), _STORES) or []
    if not isinstance(stores, list):
        raise ConfigError("has additionalimagestores that are no list")
    return text if store in stores else with_values(text, {_STORES: [*stores, store]})
