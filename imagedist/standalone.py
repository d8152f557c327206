"""A pull by this process alone. The workers start first and load while the rest is imported."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagedist.errors import InputError
from imagedist.oci.platform import Platform
from imagedist.oci.reference import Reference
from imagedist.progress import Observer

if TYPE_CHECKING:
    from imagedist.config import UnpackTable
    from imagedist.puller import Strategy


def unpack_table(options: Mapping[str, Any]) -> UnpackTable:
    """The configuration's table ``[unpack]`` for a command: its own defaults, and what was given as options.

    Raises:
        InputError: a bad value; names the option.
    """
    from pydantic import ValidationError

    from imagedist.config import UnpackTable, parse_size
    from imagedist.engine import default_ramdisk

    budget = options.get("ramdisk_budget")
    if budget is not None:
        options = {**options, "ramdisk_budget": parse_size(budget)}  # says what a size looks like
    try:
        return UnpackTable.model_validate({"ramdisk": default_ramdisk(), "nice": 0, **options})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise InputError(f"bad --{name} {first['input']!r}: {first['msg'].removeprefix('Value error, ')}") from error


def mirror_url(text: str) -> str:
    """What ``--via`` was given. Raises InputError: no URL."""
    from imagedist.config import parse_url

    return parse_url(text, "--via")


async def pull(
    reference: Reference,
    platform: Platform,
    observe: Observer,
    *,
    root: Path,
    via: str | None = None,
    plain_http: bool = False,
    strategy: Strategy = "parallel",
    unpack: UnpackTable,
) -> None:
    """Pulls into the store at ``root``.

    Args:
        via: a mirror's URL to ask instead of the registry.

    Raises:
        ImagedistError.
    """
    from imagedist.engine import opened, started_workers

    with ExitStack() as stack:
        workers = stack.enter_context(started_workers(unpack))
        from imagedist.config import StorageTable
        from imagedist.fetch.registry import RegistrySource
        from imagedist.puller import Puller

        engine = stack.enter_context(opened(StorageTable(root=root), unpack, workers))
        source = RegistrySource(reference, via, plain_http=plain_http)
        try:
            puller = Puller(source, engine.store, engine.ramdisk, engine.workers, strategy=strategy)
            try:
                await puller.pull(reference, platform, observe)
            finally:
                puller.close()
        finally:
            await source.close()
