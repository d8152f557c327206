"""A JSON object read field by field, as strictly as a schema would; a complaint names the field by its path.

Instead of pydantic, whose import and models cost every pull 0.1 s at its start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from imagedist.errors import InputError
from imagedist.oci.digest import Digest

T = TypeVar("T")


class MalformedError(ValueError):
    """``layers.0.size: expected …``; whoever knows what the document is puts that before it."""


class Fields:
    """One object of a document. A field that is absent or null has its default; a field without one is required.

    Args:
        where: the object's path, with a dot at its end unless it is the whole document.
    """

    def __init__(self, content: Mapping[str, Any], where: str = "") -> None:
        self._content = content
        self._where = where

    @classmethod
    def parse(cls, content: bytes) -> Fields:
        """Reads a document.

        Raises:
            MalformedError: not JSON in UTF-8, or not an object.
        """
        try:
            document = json.loads(content.decode())
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"not JSON: {error}") from error
        if not isinstance(document, dict):
            raise MalformedError("expected an object")
        return cls(document)

    def __contains__(self, name: str) -> bool:
        return self._content.get(name) is not None

    def text(self, name: str, default: str = "") -> str:
        return self._one(name, str, "a string", default)

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number from 0 on."""
        number = self._one(name, int, "a whole number", default)
        if number < 0 or isinstance(number, bool):
            raise self.malformed(name, "expected a whole number from 0 on")
        return number

    def digest(self, name: str) -> Digest:
        return self._digest(self._one(name, str, "a digest"), name)

    def digests(self, name: str) -> tuple[Digest, ...]:
        return tuple(self._digest(each, f"{name}.{index}") for index, each in enumerate(self._list(name)))

    def object(self, name: str) -> Fields:
        return Fields(self._one(name, dict, "an object"), f"{self._where}{name}.")

    def objects(self, name: str) -> tuple[Fields, ...]:
        """A list of them; none if it is absent."""
        listed = enumerate(self._list(name))
        return tuple(
            Fields(self._is(each, dict, "an object", f"{name}.{index}"), f"{self._where}{name}.{index}.")
            for index, each in listed
        )

    def named_objects(self, name: str) -> dict[str, Fields]:
        """An object of objects; empty if it is absent."""
        if name not in self:
            return {}
        of = self.object(name)
        return {key: of.object(key) for key in of._content}

    def texts(self, name: str) -> dict[str, str]:
        """An object of strings; empty if it is absent."""
        found: dict[str, Any] = self._one(name, dict, "an object", {})
        return {key: self._is(each, str, "a string", f"{name}.{key}") for key, each in found.items()}

    def malformed(self, name: str, complaint: str) -> MalformedError:
        return MalformedError(f"{self._where}{name}: {complaint}")

    def _list(self, name: str) -> list[Any]:
        return self._one(name, list, "a list", [])

    def _one(self, name: str, kind: type[T], called: str, default: T | None = None) -> T:
        value = self._content.get(name)
        if value is not None:
            return self._is(value, kind, called, name)
        if default is None:
            raise self.malformed(name, f"missing, expected {called}")
        return default

    def _is(self, value: Any, kind: type[T], called: str, name: str) -> T:
        if not isinstance(value, kind):
            raise self.malformed(name, f"expected {called}")
        return value

    def _digest(self, value: Any, name: str) -> Digest:
        try:
            return Digest.parse(self._is(value, str, "a digest", name))
        except InputError as error:
            raise self.malformed(name, str(error)) from error
