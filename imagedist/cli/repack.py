"""``imagedist repack``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from imagedist.cli.command import Json, app, explained, interruptible
from imagedist.cli.tls_options import CaFile, ClientCertificate, ClientKey, tls_files

_PLACE = "registry/repository:tag, or oci:DIR[:NAME]"


@app.command()
@explained
def repack(
    source: Annotated[str, typer.Argument(help=_PLACE)],
    target: Annotated[str, typer.Argument(help=_PLACE)],
    compression: Annotated[
        Literal["pgzip", "zstd", "gzip"],
        typer.Option(
            help="pgzip: gzip that every client reads and imagedist inflates in parallel. zstd: smaller and faster, "
            "for clients that know it."
        ),
    ] = "pgzip",
    level: Annotated[int | None, typer.Option(help="1 to 9 (zstd: 22). Default: 6 (zstd: 3).")] = None,
    block_size: Annotated[str | None, typer.Option(help="Of pgzip's blocks, 64KiB to 2MiB. Default: 1MiB.")] = None,
    platform: Annotated[str | None, typer.Option(help="OS/ARCH[/VARIANT]. Default: all there are.")] = None,
    plain_http: Annotated[bool, typer.Option("--plain-http", help="The registries speak HTTP, not HTTPS.")] = False,
    ca_file: CaFile = None,
    client_certificate: ClientCertificate = None,
    client_key: ClientKey = None,
    as_json: Json = False,
) -> None:
    """Compress an image's layers another way, so that it unpacks faster; files and image ID stay the same.

    Each layer is checked against its diff ID, and nothing is written before all of them match. Repacking again gives
    the same bytes. Attestations, which are about the original's bytes, are left out.
    """
    from imagedist.config import parse_size
    from imagedist.oci.platform import Platform
    from imagedist.repack.image import repack as repack_image
    from imagedist.repack.place import Place, parse_place
    from imagedist.repack.recipe import Recipe
    from imagedist.watching import watching

    recipe = Recipe.of(compression, level, parse_size(block_size) if block_size else None)
    wanted = Platform.parse(platform) if platform else None
    tls = tls_files(ca_file, client_certificate, client_key)
    places = [parse_place(text, plain_http=plain_http, tls=tls) for text in (source, target)]

    async def work(source: Place, target: Place) -> None:
        try:
            with watching(as_json) as observe:
                await repack_image(source, target, recipe, wanted, observe)
        finally:
            await source.close()
            await target.close()

    interruptible(work(*places))
