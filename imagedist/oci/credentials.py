"""Credentials that ``docker login`` and ``podman login`` left on this machine, their credential helpers included."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from imagedist.errors import InputError
from imagedist.oci.auth import Credentials
from imagedist.oci.fields import Fields, MalformedError

_LOG = logging.getLogger(__name__)

KEPT_SECONDS = 60.0
_DOCKER_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_HOST_PATHS = frozenset({"", "/", "/v1", "/v1/", "/v2", "/v2/"})


class LookedUp:
    """Credentials from where they may change (``FindCredentials``): looked up in a thread when a registry asks for
    some, kept for a minute, and looked up again as soon as they were refused.

    Args:
        look_up: blocking; reads a file or runs a program.
    """

    def __init__(
        self, look_up: Callable[[], Credentials | None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look_up = look_up
        self._clock = clock
        self._looking = asyncio.Lock()
        self._kept: Credentials | None = None
        self._expires = float("-inf")

    async def __call__(self, refused: Credentials | None) -> Credentials | None:
        async with self._looking:
            if self._clock() >= self._expires or (refused is not None and refused == self._kept):
                self._kept = await asyncio.to_thread(self._look_up)
                self._expires = self._clock() + KEPT_SECONDS
            return self._kept


def find_credentials(registry: str, environment: Mapping[str, str] = os.environ) -> Credentials | None:
    """The credentials for a registry, from the first file that has them. Blocking; may run a credential helper.

    Looked at in order: ``$REGISTRY_AUTH_FILE``, ``$XDG_RUNTIME_DIR/containers/auth.json``,
    ``$DOCKER_CONFIG/config.json`` or ``~/.docker/config.json``.

    Raises:
        InputError: one of the files is malformed; names it. SourceError: a helper failed.
    """
    for path in _files(environment):
        try:
            if found := read_login(path, registry, environment):
                return found
        except OSError:
            continue
    return None


def read_login(path: Path, registry: str, environment: Mapping[str, str] = os.environ) -> Credentials | None:
    """What one ``config.json`` has for a registry: its own helper (``credHelpers``), the file itself, the general store
    (``credsStore``), in this order. Blocking.

    Raises:
        OSError: the file cannot be read. InputError, SourceError: as ``find_credentials``.
    """
    content = path.read_bytes()
    try:
        fields = Fields.parse(content)
        for key, name in fields.texts("credHelpers").items():
            if _host(key) == _host(registry):
                return _from_helper(name, registry, environment, is_needed=True)
        for key, entry in fields.named_objects("auths").items():
            if _host(key) == _host(registry) and (found := _read(entry, path, key)):
                return found
        if store := fields.text("credsStore"):
            return _from_helper(store, registry, environment, is_needed=False)
    except MalformedError as error:
        raise InputError(f"{path} is not a Docker configuration: {error}") from error
    return None


def _from_helper(name: str, registry: str, environment: Mapping[str, str], *, is_needed: bool) -> Credentials | None:
    from imagedist.oci.credential_helper import MissingHelperError, ask_helper  # here: most pulls ask none

    host = _host(registry)
    try:
        return ask_helper(name, _DOCKER_HUB_KEY if host == "docker.io" else host, environment)
    except MissingHelperError as error:
        if is_needed:
            raise
        _LOG.warning("%s; going on without credentials for %s", error, registry)
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
    """``https://index.docker.io/v1/`` and ``docker.io`` are the same registry; ``quay.io/team`` is none (podman)."""
    parts = urlsplit(key if "://" in key else f"//{key}")
    if parts.path not in _HOST_PATHS:
        return key
    return "docker.io" if parts.netloc in _DOCKER_HUB_NAMES else parts.netloc


def _read(entry: Fields, path: Path, key: str) -> Credentials | None:
    if identity_token := entry.text("identitytoken"):
        return Credentials("", "", identity_token=identity_token)
    if auth := entry.text("auth"):
        try:
            username, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}: auths.{key}.auth is not base64: log in again") from error
        return Credentials(username, password.rstrip("\0")) if colon else None
    username, password = entry.text("username"), entry.text("password")
    return Credentials(username, password) if username and password else None
