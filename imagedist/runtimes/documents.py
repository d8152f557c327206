"""Editing other programs' TOML and JSON: values are set, everything else stays, comments and order included."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from imagedist.errors import ConfigError

Value = str | bool | int | list[Any] | dict[str, Any]
Key = tuple[str, ...]


def read_toml(text: str) -> dict[str, Any]:
    """Raises ConfigError: not TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"is not TOML: {error}") from error


def value_at(document: Mapping[str, Any], key: Key) -> Any:
    """The value under a key path, or None."""
    found: Any = document
    for part in key:
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def with_values(text: str, values: Mapping[Key, Value]) -> str:
    """A TOML text in which these keys have these values; the same text if they have them already.

    tomlkit keeps the user's comments, order and spelling; the result is read again by the standard library and must
    say exactly what was meant.

    Raises:
        ConfigError: not TOML, or a key's parent is no table.
    """
    before = read_toml(text)
    missing = {key: value for key, value in values.items() if value_at(before, key) != value}
    if not missing:
        return text
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        for key, value in missing.items():
            _set(document, key, value)
        after = tomlkit.dumps(document)
    except (TOMLKitError, TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"cannot be edited ({error}): add the lines by hand") from error
    wanted = before
    for key, value in missing.items():
        _merge(wanted, key, value)
    check_toml(after, wanted)
    return after


def check_toml(text: str, wanted: Mapping[str, Any]) -> None:
    """Raises ConfigError: an edited text does not say what was meant, so it must not be written."""
    try:
        is_right = tomllib.loads(text) == wanted
    except tomllib.TOMLDecodeError:
        is_right = False
    if not is_right:
        raise ConfigError("is written in a form that cannot be edited safely: add the lines by hand")


def _set(document: Any, key: Key, value: Value) -> None:
    import tomlkit
    from tomlkit.items import InlineTable

    table = document
    for part in key[:-1]:
        if part not in table:
            is_inline = isinstance(table, InlineTable)
            table[part] = tomlkit.inline_table() if is_inline else tomlkit.table(is_super_table=True)
        table = table[part]
    table[key[-1]] = _tables(value, is_inline=isinstance(table, InlineTable)) if _is_tables(value) else value


def _is_tables(value: Value) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _tables(value: Any, *, is_inline: bool) -> Any:
    """``[[key]]`` tables, which an inline table cannot hold: there they are a list of inline tables."""
    import tomlkit

    tables: Any = tomlkit.array() if is_inline else tomlkit.aot()
    for item in value:
        table: Any = tomlkit.inline_table() if is_inline else tomlkit.table()
        table.update(item)
        tables.append(table)
    return tables


def _merge(document: dict[str, Any], key: Key, value: Value) -> None:
    for part in key[:-1]:
        document = document.setdefault(part, {})
    document[key[-1]] = value


def edit_json(text: str, change: Callable[[dict[str, Any]], None]) -> str:
    """A JSON object changed in place; order and indentation stay. The same text if nothing changed.

    Raises:
        ConfigError: not a JSON object.
    """
    try:
        document = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise ConfigError(f"is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError("is not a JSON object")
    before = json.dumps(document)
    change(document)
    if json.dumps(document) == before:
        return text
    found = re.search(r"\n([ \t]+)\"", text)
    return json.dumps(document, indent=found[1] if found else 2, ensure_ascii=False) + "\n"
