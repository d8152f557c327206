"""What is simulated: one frozen value, checked. From options, or from a TOML file for what is too long for options."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from imagedist.config import parse_size
from imagedist.config.values import parse_rate
from imagedist.errors import InputError, storage_error

MOST_NODES = 20_000
MOST_SEEDERS = 64
"""Of one run, and of one site."""


def _read(read: Callable[[str], Any]) -> Callable[[Any], Any]:
    """A value in words; pydantic names the key of one that is wrong."""

    def validate(value: Any) -> Any:
        try:
            return read(value) if isinstance(value, str) else value
        except InputError as error:
            raise ValueError(str(error)) from error

    return validate


_rate, _size = _read(parse_rate), _read(parse_size)


Rate = Annotated[float, BeforeValidator(_rate), Field(gt=0, le=1e12)]
"""Bytes per second on a link, headers in it; ``12.5MB/s`` is one, too."""
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NodeClass(_Model):
    """Nodes alike. ``share`` of all nodes; ``up`` and ``down``: their links."""

    name: str = "node"
    share: float = Field(default=1.0, gt=0, le=1)
    up: Rate
    down: Rate


class Stragglers(_Model):
    """So many of the nodes have a link of ``rate`` each way, whatever their class."""

    share: Share = 0.0
    rate: Rate = 1e6


class Churn(_Model):
    """Nodes that are switched off in the middle.

    Attributes:
        per_minute: share of the nodes, in each minute.
        back: seconds until the node is there again, with nothing, and wants the image; its time counts from then.
    """

    per_minute: Share = 0.0
    back: float = Field(default=30.0, ge=10, le=86_400)


class Scenario(_Model):
    """
    Attributes:
        nodes: of all sites together.
        size, layers: of the image in bytes, and into how many equal blobs it is cut.
        classes: of nodes; shares add up to 1. Without any: 1 Gbit/s, of which agents give half (``[limits] upload``).
        sites: how many; nodes are dealt out to them.
        seeders, replicas: of each site, and of each blob. A seeder is a host with a link of ``site_egress``.
        site_egress: bytes per second out of each seeder's host.
        upstream: out of the registry, to all sites together.
        inter_site: between sites. With it only the first site asks the registry and the others copy from that one when
            it has the whole; without it each site asks the registry.
        state: ``warm``: the image is in every site before.
        preheated: share of the nodes that have the image before. They seed, and their time does not count.
        arrival: seconds over which nodes begin, evenly by chance.
        cpu_rate: bytes per second that all nodes together can take for want of CPU, such as on one machine.
        join_rate: torrents per second that all nodes together can begin with, for the same reason.
        web_seeds: whether a stalled node is helped by HTTP. A node of a BitTorrent network without is left alone.
        neighbours: peers asked for in an announce. None: as the agent does.
        pieces: of each blob at most. None: as many as the time allows.
        steps: of time in which an image comes over an idle link. None: 500, and 200 for thousands of nodes, if pieces
            are not too many for so few.
    """

    nodes: int = Field(ge=1, le=MOST_NODES)
    size: Annotated[int, BeforeValidator(_size), Field(ge=1 << 20, le=1 << 44)] = 1_000_000_000
    layers: int = Field(default=2, ge=1, le=64)
    classes: tuple[NodeClass, ...] = (NodeClass(up=62.5e6, down=125e6),)
    stragglers: Stragglers = Stragglers()
    churn: Churn = Churn()
    sites: int = Field(default=1, ge=1, le=64)
    seeders: int = Field(default=1, ge=1, le=MOST_SEEDERS)
    replicas: int = Field(default=2, ge=1, le=MOST_SEEDERS)
    site_egress: Rate = 1.25e9
    upstream: Rate = 1.25e9
    inter_site: Annotated[float | None, BeforeValidator(_rate)] = Field(default=None, gt=0, le=1e12)
    state: Literal["cold", "warm"] = "cold"
    preheated: Share = 0.0
    arrival: Seconds = 0.0
    cpu_rate: float | None = Field(default=None, gt=0)
    join_rate: float | None = Field(default=None, gt=0)
    first_wave_nodes: int = Field(default=2, ge=1, le=1000)
    first_wave_wait: Seconds = 20.0
    copies: float = Field(default=1.0, ge=0, le=1000)
    web_seeds: bool = True
    neighbours: int | None = Field(default=None, ge=1, le=30)
    pieces: int | None = Field(default=None, ge=8, le=100_000)
    steps: int | None = Field(default=None, ge=50, le=100_000)
    seed: int = Field(default=1, ge=0)

    @model_validator(mode="after")
    def _fits_together(self) -> Scenario:
        if abs(sum(one.share for one in self.classes) - 1) > 0.001:
            raise ValueError("the shares of the classes do not add up to 1")
        if self.sites > self.nodes:
            raise ValueError(f"{self.sites} sites for {self.nodes} nodes: expected a node in each at least")
        if round(self.preheated * self.nodes) >= self.nodes:
            raise ValueError("every node is preheated: nobody is left to wait for the image")
        if self.size // self.layers < 1 << 20:
            raise ValueError("layers below 1 MiB do not enter the swarm: fewer layers, or a larger image")
        return self

    @property
    def blob_bytes(self) -> int:
        return self.size // self.layers


def scenario_of(values: dict[str, Any], source: str) -> Scenario:
    """
    Args:
        source: where the values are from, for the message.

    Raises:
        InputError: something unknown or impossible; names it.
    """
    try:
        return Scenario.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{source}: {where + ': ' if where else ''}{message}") from error


def load(path: Path) -> dict[str, Any]:
    """The values of a scenario file.

    Raises:
        InputError: no TOML. StorageError: unreadable.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise storage_error(f"read the scenario {path}", error) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no scenario: {error}; expected TOML") from error
