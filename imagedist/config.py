"""The three configuration files (design.md §4.6): TOML in, frozen settings out, every mistake named by its path."""

from __future__ import annotations

import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

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
    model_validator,
)

from imagedist.errors import ConfigError, InputError


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


def _parse_duration(value: Any) -> timedelta:
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


Listen = Annotated[Address, BeforeValidator(parse_address)]
Duration = Annotated[timedelta, BeforeValidator(_parse_duration)]
Rate = Annotated[int | None, BeforeValidator(_parse_rate)]
Url = Annotated[str, BeforeValidator(_parse_url)]
CgroupName = Annotated[str, BeforeValidator(_parse_cgroup)]
Cpus = Annotated[frozenset[int], BeforeValidator(_parse_cpus)]
AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Upstream(_Table):
    """A registry outside the site. The table's key is the path prefix and one of its ``ns`` values."""

    url: Url
    hosts: tuple[str, ...] = ()
    username: str | None = None
    password_file: AbsolutePath | None = None
    tag_ttl: Duration = timedelta(seconds=60)
    stale_if_error: bool = True
    private_in_swarm: bool = False
    """All nodes may have what this upstream's credentials can read, so its blobs may enter the swarm."""


class ProxyTable(_Table):
    listen: Listen
    site_blobs: AbsolutePath
    site_blobs_quota: ByteSize | None = None
    default_upstream: str | None = None
    site_seeders: tuple[Url, ...] = ()
    site_token_file: AbsolutePath | None = None
    first_wave_nodes: int = Field(default=2, ge=1)
    first_wave_wait: Duration = timedelta(seconds=20)
    swarm_min_size: ByteSize = ByteSize(1 << 20)
    egress: Rate = None
    max_requests: int = Field(default=512, ge=1)


class ProxyConfig(_Table):
    proxy: ProxyTable
    upstreams: dict[str, Upstream] = Field(min_length=1)


class Site(_Table):
    proxy: Url
    seeder: Url
    cost: int = Field(default=10, ge=0)


class SyncRule(_Table):
    """Validated now; carried out by the sync capability (not in this version)."""

    repositories: tuple[str, ...]
    tags: dict[str, Any] = {}
    to: tuple[str, ...]


class SeederTable(_Table):
    site: str = Field(min_length=1)
    listen: Listen
    bittorrent: Listen
    site_blobs: AbsolutePath
    site_proxies: tuple[Url, ...] = ()
    database: str = "sqlite:////var/lib/imagedist/seeder.db"
    site_token_file: AbsolutePath | None = None
    announce_interval: Duration = timedelta(seconds=30)
    upload: Rate = None


class SeederConfig(_Table):
    seeder: SeederTable
    sites: dict[str, Site] = {}
    sync: tuple[SyncRule, ...] = ()


class AgentTable(_Table):
    listen: Listen = Address("127.0.0.1", 5050)
    bittorrent: Listen = Address("0.0.0.0", 6882)
    socket: AbsolutePath = Path("/run/imagedist/agent.sock")
    site_proxies: tuple[Url, ...] = Field(min_length=1)
    site_seeders: tuple[Url, ...] = ()
    node_blobs: AbsolutePath = Path("/var/lib/imagedist/blobs")
    node_blobs_quota: ByteSize = ByteSize(50 << 30)
    labels: dict[str, str] = {}
    site_token_file: AbsolutePath | None = None
    max_requests: int = Field(default=256, ge=1)


class StorageTable(_Table):
    root: AbsolutePath = Path("/var/lib/imagedist/storage")
    quota: ByteSize | None = None
    durability: Literal["none", "image"] = "image"
    used_by: tuple[AbsolutePath, ...] = (Path("/var/lib/containers/storage"),)


class UnpackTable(_Table):
    ramdisk: AbsolutePath = Path("/run/imagedist/ramdisk")
    ramdisk_budget: ByteSize = ByteSize(4 << 30)
    cpus: Cpus | None = None
    workers: int | None = Field(default=None, ge=1)
    nice: int = Field(default=10, ge=-20, le=19)
    io_class: Literal["none", "best-effort", "idle"] = "none"
    cgroup: CgroupName | None = None
    """For the workers, below the mount of cgroup v2."""
    cpu_max: float | None = Field(default=None, gt=0.0)
    """CPUs' worth of time in the cgroup."""
    memory_max: ByteSize | None = Field(default=None, gt=0)
    devices: Literal["keep", "refuse", "skip"] = "keep"
    max_layer_entries: int = Field(default=2_000_000, ge=1)
    max_layer_size: ByteSize = ByteSize(100 << 30)
    max_layer_ratio: int = Field(default=500, ge=1)

    @model_validator(mode="after")
    def _limits_need_a_cgroup(self) -> Self:
        if self.cgroup is None and (self.cpu_max is not None or self.memory_max is not None):
            raise ValueError("cpu_max and memory_max limit a cgroup: give cgroup as well")
        return self


class SnapshotterTable(_Table):
    socket: AbsolutePath
    patience: Duration = timedelta(seconds=10)
    """containerd unpacks a layer itself when the agent's pull makes no progress for so long."""
    wait: Duration = timedelta(minutes=5)
    """And when the whole pull takes longer."""


class LimitsTable(_Table):
    upload: Rate = None
    download: Rate = None


class AgentConfig(_Table):
    agent: AgentTable
    storage: StorageTable = StorageTable()
    unpack: UnpackTable = UnpackTable()
    snapshotter: SnapshotterTable | None = None
    limits: LimitsTable = LimitsTable()


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def load(path: Path, model: type[ConfigT]) -> ConfigT:
    """Reads and validates one configuration file.

    Raises:
        ConfigError: unreadable, not TOML, an unknown key (with the allowed ones) or a bad value.
    """
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error, model)}") from error


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        allowed = ", ".join(sorted(_fields_at(model, first["loc"][:-1])))
        return f"unknown key {key}; allowed here: {allowed}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"missing key {key}"
    return f"bad value for {key}: {message}"


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> set[str]:
    """The keys a table allows, following the annotations of the models down the path of an error."""
    fields = model.model_fields
    for part in path:
        if part not in fields:
            continue
        found = list(_models_in(fields[str(part)].annotation))
        if found:
            fields = found[0].model_fields
    return set(fields)


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
