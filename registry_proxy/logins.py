"""The site's own credentials for an upstream: from files, the environment, or Docker's ``config.json``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from imagedist.config import Upstream, read_secret
from imagedist.errors import ConfigError, InputError, SourceError
from imagedist.oci.auth import Credentials, FindCredentials
from imagedist.oci.credentials import LookedUp, read_login


def login_of(
    key: str, settings: Upstream, registry: str, environment: Mapping[str, str] = os.environ
) -> FindCredentials | None:
    """How to find the credentials for a registry; None: it is asked without.

    Args:
        key: the upstream's table, for messages.
        registry: host and port of ``url``.

    Raises:
        ConfigError: a file or a variable is missing now.
    """
    if settings.docker_config is not None:
        return docker_login(settings.docker_config, registry, environment)
    if settings.username is None and settings.username_env is None:
        return None
    username = settings.username or _variable(key, "username_env", settings.username_env, environment)
    if settings.password_env is not None:
        credentials = Credentials(username, _variable(key, "password_env", settings.password_env, environment))
        return LookedUp(lambda: credentials)
    if settings.password_file is None:
        raise ConfigError(f"missing key upstreams.{key}.password_file: a username needs one (or password_env)")
    look_up = partial(_from_file, username, settings.password_file)
    look_up()
    return LookedUp(_at_runtime(look_up, key))


def docker_login(path: Path, registry: str, environment: Mapping[str, str] = os.environ) -> FindCredentials:
    """What a ``config.json`` has for a registry, looked up whenever it is asked for. Raises ConfigError: unreadable."""

    def look_up() -> Credentials | None:
        try:
            return read_login(path, registry, environment)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error

    try:
        path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    return LookedUp(_at_runtime(look_up, registry))


def _from_file(username: str, path: Path) -> Credentials:
    password = read_secret(path)
    assert password is not None
    return Credentials(username, password)


def _variable(key: str, setting: str, name: str | None, environment: Mapping[str, str]) -> str:
    value = environment.get(name or "")
    if not value:
        raise ConfigError(f"bad value for upstreams.{key}.{setting}: the environment has no {name}")
    return value


def _at_runtime(look_up: Callable[[], Credentials | None], about: str) -> Callable[[], Credentials | None]:
    """The configuration was right when we started: what is wrong with it now is no fault of the client that asks."""

    def looked_up() -> Credentials | None:
        try:
            return look_up()
        except InputError as error:
            raise SourceError(f"the credentials for {about} cannot be read: {error}") from error

    return looked_up
