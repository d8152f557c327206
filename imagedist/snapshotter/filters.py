"""containerd's filter expressions, which ``List`` takes (github.com/containerd/containerd, pkg/filters).

selectors := selector ("," selector)*        all of them
selector  := fieldpath [("==" | "!=" | "~=") value]        without an operator: is it there
fieldpath := field ("." field)*        kind, name, parent, labels.NAME
field     := quoted | [A-Za-z0-9_]+
value     := quoted | characters without space and comma
quoted    := "…" with Go's escapes; after ~= also /…/ and |…|
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence

from imagedist.errors import InputError
from imagedist.snapshotter.snapshot import Snapshot

_LOG = logging.getLogger(__name__)

Filter = Callable[[Snapshot], bool]

_LIMIT_CHARACTERS = 16_384

_FIELD = re.compile(r"\s*(?:(?P<bare>[A-Za-z0-9_]+)|(?P<quoted>\"(?:[^\"\\\n]|\\.)*\"))")
_OPERATOR = re.compile(r"\s*([=!~]+)")
_VALUE = re.compile(r"\s*(?:(?P<quoted>([\"/|])(?:(?!\2)[^\\\n]|\\.)*\2)|(?P<bare>[^\s,\"/|][^\s,]*))")
_ESCAPE = re.compile(r"\\(?:([abfnrtv\\\"/|])|([0-7]{3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.|$))")
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def parse_filters(texts: Sequence[str]) -> Filter:
    """What matches any of them; without any, everything does.

    Raises:
        InputError: not a filter; says where.
    """
    if not texts:
        return lambda snapshot: True
    filters = [_parse(text) for text in texts]
    return lambda snapshot: any(matches(snapshot) for matches in filters)


def _parse(text: str) -> Filter:
    if len(text) > _LIMIT_CHARACTERS:
        raise InputError(f"filter of {len(text)} characters: at most {_LIMIT_CHARACTERS} are read")
    if not text:
        return lambda snapshot: True
    selectors: list[Filter] = []
    position = 0
    while True:
        selector, position = _selector(text, position)
        selectors.append(selector)
        position = _skip_space(text, position)
        if position == len(text):
            return lambda snapshot: all(matches(snapshot) for matches in selectors)
        if text[position] != ",":
            raise _malformed(text, position, "expected a comma")
        position += 1


def _selector(text: str, position: int) -> tuple[Filter, int]:
    path, position = _fieldpath(text, position)
    operator = _OPERATOR.match(text, position)
    if operator is None:
        return (lambda snapshot: _field(snapshot, path) is not None), position
    if operator[1] not in ("==", "!=", "~="):
        raise _malformed(text, operator.start(1), "expected ==, != or ~=")
    value = _VALUE.match(text, operator.end())
    if value is None:
        raise _malformed(text, operator.end(), "expected a value")
    wanted = value["bare"] if value["bare"] is not None else _unquoted(text, value.start("quoted"), value["quoted"])
    if value["quoted"] and value["quoted"][0] != '"' and operator[1] != "~=":
        raise _malformed(text, value.start("quoted"), "only a regular expression may be quoted like that")
    return _comparison(operator[1], path, wanted), value.end()


def _comparison(operator: str, path: Sequence[str], wanted: str) -> Filter:
    if operator == "==":
        return lambda snapshot: _field(snapshot, path) == wanted
    if operator == "!=":
        return lambda snapshot: (_field(snapshot, path) or "") != wanted
    try:
        pattern = re.compile(wanted)
    except (re.error, RecursionError, OverflowError) as error:
        _LOG.warning("no regular expression: %r (%s): nothing matches it", wanted[:100], error)  # as containerd does
        return lambda snapshot: False
    return lambda snapshot: pattern.search(_field(snapshot, path) or "") is not None


def _fieldpath(text: str, position: int) -> tuple[list[str], int]:
    path: list[str] = []
    while True:
        found = _FIELD.match(text, position)
        if found is None:
            raise _malformed(text, position, "expected a field")
        path.append(found["bare"] or _unquoted(text, found.start("quoted"), found["quoted"]))
        position = found.end()
        if text[position : position + 1] != ".":
            return path, position
        position += 1


def _field(snapshot: Snapshot, path: Sequence[str]) -> str | None:
    """None: it has no such field."""
    match path[0]:
        case "kind":
            return snapshot.kind.name.lower()
        case "name":
            return snapshot.name
        case "parent":
            return snapshot.parent
        case "labels":
            return snapshot.labels.get(".".join(path[1:]))
    return None


def _unquoted(text: str, position: int, quoted: str) -> str:
    """Without the quotes, its escapes resolved."""

    def resolve(escape: re.Match[str]) -> str:
        simple, octal, *hexadecimal, unknown = escape.groups()
        if simple:
            return _SIMPLE.get(simple, simple)
        if unknown is not None:
            raise _malformed(text, position, f"unknown escape {escape[0]!r}")
        number = int(octal, 8) if octal else int(next(filter(None, hexadecimal)), 16)
        try:
            return chr(number)
        except (ValueError, OverflowError):
            raise _malformed(text, position, f"no character {escape[0]!r}") from None

    # Of a regular expression the escapes are its own; only its quotes are ours.
    if quoted[0] != '"':
        return quoted[1:-1].replace(f"\\{quoted[0]}", quoted[0])
    return _ESCAPE.sub(resolve, quoted[1:-1])


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _malformed(text: str, position: int, expected: str) -> InputError:
    return InputError(f"malformed filter {text[:200]!r} at {position + 1}: {expected}")
