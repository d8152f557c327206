"""A pull by this process alone. Importing is most of its start: the workers start first and load meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagedist.errors import InputError
from imagedist.garbage import importing
from imagedist.oci.platform import Platform
from imagedist.oci.reference import Reference
from imagedist.progress import Observer

if TYPE_CHECKING:
    from imagedist.config import UnpackTable
    from imagedist.engine import UnpackPlan
    from imagedist.oci.tls import TlsFiles
    from imagedist.puller import Strategy


def unpack_plan(options: Mapping[str, Any]) -> UnpackTable | UnpackPlan:
    """How to unpack, for a command: the configuration's defaults, and what was given as options.

    Raises:
        InputError: a bad value; names the option.
    """
    from imagedist.engine import UnpackPlan, default_ramdisk

    ramdisk: Path = options.get("ramdisk") or default_ramdisk()
    options = {"nice": 0, **options, "ramdisk": ramdisk.expanduser().absolute()}
    if not options.keys() & {"ramdisk_budget", "cpus"}:
        return UnpackPlan(**options)  # the command line itself has read and checked the others
    from pydantic import ValidationError

    from imagedist.config import UnpackTable, parse_size

    budget = options.get("ramdisk_budget")
    if budget is not None:
        options["ramdisk_budget"] = parse_size(budget)  # says what a size looks like
    try:
        return UnpackTable.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise InputError(f"bad --{name} {first['input']!r}: {first['msg'].removeprefix('Value error, ')}") from error


def mirror_url(text: str) -> str:
    """What ``--via`` was given. Raises InputError: no URL."""
    from imagedist.config import parse_url

    return parse_url(text, "--via")


def pull(
    reference: Reference,
    platform: Platform,
    observe: Observer,
    run: Callable[[Coroutine[Any, Any, None]], None],
    *,
    root: Path,
    via: str | None = None,
    plain_http: bool = False,
    tls: TlsFiles | None = None,
    strategy: Strategy = "parallel",
    unpack: UnpackTable | UnpackPlan,
) -> None:
    """Pulls into the store at ``root``.

    Args:
        run: runs a coroutine to its end.
        via: a mirror's URL to ask instead of the registry.
        tls: for HTTPS with authorities of one's own, or with a client certificate.

    Raises:
        ImagedistError.
    """
    with ExitStack() as stack:
        with importing():
            from imagedist.engine import StoragePlan, opened, started_workers

            workers = stack.enter_context(started_workers(unpack))
            engine = stack.enter_context(opened(StoragePlan(root=root.absolute()), unpack, workers))
            from imagedist.fetch.registry import RegistrySource
            from imagedist.puller import Puller

        async def pulled() -> None:
            source = RegistrySource(reference, via, plain_http=plain_http, tls=tls)
            try:
                puller = Puller(source, engine.store, engine.ramdisk, engine.workers, strategy=strategy)
                try:
                    await puller.pull(reference, platform, observe)
                finally:
                    puller.close()
            finally:
                await source.close()

        run(pulled())
