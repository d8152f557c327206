"""The values of a configuration file: addresses, durations, rates, sizes, URLs, each with its own complaint."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import durationpy
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    HttpUrl,
    TypeAdapter,
    ValidationError,
)

from imagedist.errors import InputError

NODE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
"""What a node of a site may be called: it is a part of the site API's paths."""


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: Any) -> Address:
    """``host:port``; IPv6 hosts in brackets."""
    if isinstance(text, Address):
        return text
    host, colon, port = str(text).rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"expected host:port, got {text!r}")
    return Address(host.strip("[]"), int(port))


def parse_duration(value: Any) -> timedelta:
    """``30s``, ``5m``, ``12h``. Raises ValueError."""
    if isinstance(value, timedelta):
        return value
    try:
        parsed: timedelta = durationpy.from_str(str(value))
    except Exception as error:
        raise ValueError(f"expected a duration such as 30s, 5m or 12h, got {value!r}") from error
    return parsed


_BYTES = TypeAdapter(ByteSize)


def parse_size(text: str) -> int:
    """``150MiB`` → bytes.

    Raises:
        InputError: not a size.
    """
    try:
        return int(_BYTES.validate_python(text))
    except ValidationError as error:
        raise InputError(f"bad size {text!r}: expected for example 150MB or 4GiB") from error


def _parse_rate(value: Any) -> int | None:
    """``200MiB/s`` → bytes per second; ``none`` → no limit."""
    if value is None or value == "none":
        return None
    text = str(value).removesuffix("/s")
    try:
        rate = int(_BYTES.validate_python(text))
    except ValidationError as error:
        raise ValueError(f'expected a rate such as "200MiB/s" or "none", got {value!r}') from error
    if rate <= 0:
        raise ValueError('a rate is above zero; "none" means no limit')
    return rate


def _parse_url(value: Any) -> str:
    return str(TypeAdapter(HttpUrl).validate_python(value)).rstrip("/")


def parse_url(text: str, what: str) -> str:
    """An HTTP URL without a slash at its end.

    Raises:
        InputError: not one; ``what`` is what it was given for.
    """
    try:
        return _parse_url(text)
    except ValidationError as error:
        raise InputError(f"bad {what} {text!r}: expected a URL such as http://proxy.example:5001") from error


def _parse_cpus(value: Any) -> frozenset[int]:
    """``0-3,8`` → {0, 1, 2, 3, 8}, the kernel's cpulist form."""
    cpus: set[int] = set()
    for part in str(value).split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"expected a CPU list such as 0-3,8, got {value!r}")
        cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def _parse_upload(value: Any) -> int | Literal["auto"] | None:
    return "auto" if value == "auto" else _parse_rate(value)


def parse_upload(text: str) -> int | Literal["auto"] | None:
    """As a ``Rate``, or ``auto``.

    Raises:
        InputError: neither.
    """
    return "auto" if text == "auto" else parse_rate(text)


def parse_rate(text: str) -> int | None:
    """As a ``Rate`` of a configuration file.

    Raises:
        InputError: not a rate.
    """
    try:
        return _parse_rate(text)
    except ValueError as error:
        raise InputError(f"bad rate: {error}") from error


def _parse_cgroup(value: Any) -> str:
    """A path below the mount of cgroup v2: ``imagedist.slice/unpack``."""
    name = str(value)
    if not all(part not in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"expected a relative path such as imagedist.slice/unpack, got {value!r}")
    return name


Fallback = Literal["upstream", "never"]
AccessLog = Literal["json", "text", "off"]
Listen = Annotated[Address, BeforeValidator(parse_address)]


def parse_node_name(text: str) -> str:
    """Raises ValueError: it cannot be in a path."""
    if not re.fullmatch(NODE_NAME, text):
        raise ValueError(f"expected up to 128 letters, digits, '.', '_', '-', got {text!r}")
    return text


NodeName = Annotated[str, AfterValidator(parse_node_name)]

Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
DurationOrNone = Annotated[
    timedelta | None, BeforeValidator(lambda value: None if value == "none" else parse_duration(value))
]
"""A duration after which something ends, or ``none``."""
Ratio = Annotated[
    Annotated[float, Field(gt=0)] | None, BeforeValidator(lambda value: None if value == "none" else value)
]
Rate = Annotated[int | None, BeforeValidator(_parse_rate)]
UploadRate = Annotated[int | Literal["auto"] | None, BeforeValidator(_parse_upload)]
Percent = Annotated[float, Field(gt=0, le=100)]
Url = Annotated[str, BeforeValidator(_parse_url)]
CgroupName = Annotated[str, BeforeValidator(_parse_cgroup)]
Cpus = Annotated[frozenset[int], BeforeValidator(_parse_cpus)]
AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


class Table(BaseModel):
    """One table of a file: frozen, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
