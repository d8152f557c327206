"""Digests: ``algorithm:hex`` of stored bytes (OCI image spec, descriptor.md#digests)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from imagedist.errors import InputError

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+\Z")


class Hasher(Protocol):
    def update(self, data: Any, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """One content address. ``str(digest)`` is the wire form."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Reads ``sha256:…`` or ``sha512:…``.

        Raises:
            InputError: the algorithm is not registered or the hex part is malformed.
        """
        algorithm, separator, hexadecimal = text.partition(":")
        length = _HEX_LENGTH.get(algorithm)
        if not separator or length is None or len(hexadecimal) != length or not _HEX.match(hexadecimal):
            raise InputError(f"invalid digest {text[:160]!r}: expected sha256: or sha512: and lower-case hex")
        return cls(algorithm, hexadecimal)

    @classmethod
    def of_name(cls, algorithm: str, name: str) -> Digest | None:
        """That of a file named by its hex part; None: it has another name."""
        try:
            return cls.parse(f"{algorithm}:{name}")
        except InputError:
            return None

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Digest:
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    def hasher(self) -> Hasher:
        """A fresh hash of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, hasher: Hasher) -> bool:
        return hasher.hexdigest() == self.hex

    @property
    def short(self) -> str:
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema  # here: digests are for processes without pydantic, too

        def validate(value: Any) -> Digest:
            if isinstance(value, Digest):
                return value
            if not isinstance(value, str):
                raise ValueError("a digest is a string")
            try:
                return cls.parse(value)
            except InputError as error:
                raise ValueError(str(error)) from error

        return core_schema.no_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )
