"""The options that benchmarks share, each written once, and the decorator that makes a command of what measures."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from bench.commands.command import app, explained, measured, say
from bench.image_choice import SYNTAX
from bench.result import Keep, Result, forget
from bench.session import Settings
from imagedist.config import parse_size

P = ParamSpec("P")

Image = Annotated[str, typer.Option(help=f"{SYNTAX}.")]
Rounds = Annotated[int, typer.Option(min=1, max=100, help="Cold runs of each; tables show medians.")]
Store = Annotated[Path, typer.Option(help="Where stores are made and removed: the file system to measure.")]
Ext4 = Annotated[
    str | None, typer.Option(help="Measure a fresh ext4 of this size in a file below --store, until syncfs returns.")
]
Cache = Annotated[Path, typer.Option(help="Where images are kept between benchmarks.", envvar="IMAGEDIST_BENCH_CACHE")]
Json = Annotated[
    Path | None, typer.Option("--json", help="Keep the result in this file, after every row; - is standard output.")
]


def _endpoint(system: str, limits: str = "") -> Any:
    at = f"{system}'s mirror endpoint on this node, such as http://127.0.0.1:4001"
    return typer.Option(help=f"{at}: pulled through, with --image of it{limits}.")


Kraken = Annotated[str | None, _endpoint("Kraken", ", whose manifest is Docker's: it knows no OCI ones")]
Dragonfly = Annotated[str | None, _endpoint("Dragonfly")]
Spegel = Annotated[str | None, _endpoint("Spegel")]

STORE = Path("/dev/shm/imagedist-bench")
CACHE = Path("/var/tmp/imagedist-bench")
QUICK_ROUNDS = 3

_SHARED = {"image": Image, "rounds": Rounds, "store": Store, "ext4": Ext4, "cache": Cache}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the shared options said; those that a command does not have are as here. ``keep``: see ``measured``."""

    image: str = "reference"
    rounds: int = 5
    quick: bool = False
    store: Path = STORE
    ext4: str | None = None
    cache: Path = CACHE
    keep: Keep = forget

    def settings(self) -> Settings:
        """Of a benchmark of one image. Raises InputError: a size that is none."""
        return Settings(
            cache=self.cache.absolute(),
            store=self.store.absolute(),
            ext4_bytes=parse_size(self.ext4) if self.ext4 else None,
            image="small" if self.quick and self.image == "reference" else self.image,
            rounds=min(self.rounds, QUICK_ROUNDS) if self.quick else self.rounds,
            say=say,
            keep=self.keep,
        )


Measures = Callable[Concatenate[Asked, P], Result]


def benchmark(quick: str, **shared: Any) -> Callable[[Measures[P]], Callable[..., None]]:
    """Makes a command of what measures: after its own options stand the shared ones, ``--quick`` and ``--json``.

    Args:
        quick: what ``--quick`` does, for its help.
        shared: further options by their names in ``Asked``, with their defaults.
    """

    def command(measures: Measures[P]) -> Callable[..., None]:
        types = {name: _SHARED[name] for name in shared}
        types |= {"quick": Annotated[bool, typer.Option("--quick", help=quick)], "json": Json}
        defaults = {**shared, "quick": False, "json": None}

        @wraps(measures)
        def run(json: Path | None, **given: Any) -> None:
            said = {name: given.pop(name) for name in types if name != "json"}
            anyhow: Any = measures  # by name, as the signature below has them
            store = said.get("store", STORE)
            measured(lambda keep: anyhow(Asked(**said, keep=keep), **given), json, store)

        own = list(inspect.signature(measures, eval_str=True).parameters.values())[1:]
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=types[name])
            for name in types
        ]
        parameters = [*(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own), *more]
        wrapped: Any = explained(run)
        wrapped.__signature__ = inspect.Signature(parameters)
        wrapped.__annotations__ = {each.name: each.annotation for each in parameters}
        registered: Callable[..., None] = app.command()(wrapped)
        return registered

    return command


def benchmark_of_image(rounds: int = 5) -> Callable[[Measures[P]], Callable[..., None]]:
    """``benchmark`` with all that ``Asked.settings`` is made of."""
    return benchmark(
        "The small image, three rounds.", image="reference", rounds=rounds, store=STORE, ext4=None, cache=CACHE
    )
