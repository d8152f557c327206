"""Credentials that ``docker login`` and ``podman login`` left on this machine (plain ``auths``, no helpers)."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from imagedist.errors import InputError
from imagedist.oci.auth import Credentials
from imagedist.oci.fields import Fields, MalformedError

_DOCKER_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


def find_credentials(registry: str, environment: Mapping[str, str] = os.environ) -> Credentials | None:
    """The credentials for a registry, from the first file that has them. Blocking, small.

    Looked at in order: ``$REGISTRY_AUTH_FILE``, ``$XDG_RUNTIME_DIR/containers/auth.json``,
    ``$DOCKER_CONFIG/config.json`` or ``~/.docker/config.json``.

    Raises:
        InputError: one of the files is malformed; names it.
    """
    for path in _files(environment):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        try:
            for key, entry in Fields.parse(content).named_objects("auths").items():
                if _host(key) == _host(registry) and (found := _read(entry, path, key)):
                    return found
        except MalformedError as error:
            raise InputError(f"{path} is not a Docker configuration: {error}") from error
    return None


def _files(environment: Mapping[str, str]) -> Iterator[Path]:
    if path := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(path)
    if path := environment.get("XDG_RUNTIME_DIR"):
        yield Path(path) / "containers" / "auth.json"
    if path := environment.get("DOCKER_CONFIG"):
        yield Path(path) / "config.json"
    elif path := environment.get("HOME"):
        yield Path(path) / ".docker" / "config.json"


def _host(key: str) -> str:
    """``https://index.docker.io/v1/`` and ``docker.io`` are the same registry."""
    host = urlsplit(key if "://" in key else f"//{key}").netloc
    return "docker.io" if host in _DOCKER_HUB_NAMES else host


def _read(entry: Fields, path: Path, key: str) -> Credentials | None:
    if auth := entry.text("auth"):
        try:
            username, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}: auths.{key}.auth is not base64: log in again") from error
        return Credentials(username, password.rstrip("\0")) if colon else None
    username, password = entry.text("username"), entry.text("password")
    return Credentials(username, password) if username and password else None
