"""A file into its frozen settings; every mistake is named by its path."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from imagedist.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def load(path: Path, model: type[ConfigT]) -> ConfigT:
    """Reads and validates one configuration file.

    Raises:
        ConfigError: unreadable, not TOML, an unknown key (with the allowed ones) or a bad value.
    """
    try:
        return parse(path.read_text(), model, str(path))
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def parse(text: str, model: type[ConfigT], name: str) -> ConfigT:
    """The text of one, which messages call ``name``. Raises as ``load``."""
    try:
        return model.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name} is not TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{name}: {_explain(error, model)}") from error


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        allowed = ", ".join(sorted(_fields_at(model, first["loc"][:-1])))
        return f"unknown key {key}; allowed here: {allowed}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"].startswith("byte_size"):
        message = f'expected a size such as "50GiB", got {first["input"]!r}'
    if first["type"] == "missing":
        return f"missing key {key}"
    return f"bad value for {key}: {message}" if key else message


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> set[str]:
    """The keys a table allows, following the annotations of the models down the path of an error."""
    fields = model.model_fields
    for part in path:
        if part not in fields:
            continue
        found = list(_models_in(fields[str(part)].annotation))
        if found:
            fields = found[0].model_fields
    return {field.alias or name for name, field in fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    from typing import get_args

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def read_secret(path: Path | None) -> str | None:
    """A token or password file's one line.

    Raises:
        ConfigError: it cannot be read or is empty.
    """
    if path is None:
        return None
    try:
        secret = path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if not secret:
        raise ConfigError(f"{path} is empty: expected a token or password in it")
    return secret
