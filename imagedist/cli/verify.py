"""``imagedist verify``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagedist.cli.command import Json, Socket, app, explained, interruptible
from imagedist.cli.site_access import Config, Seeder, seeder_access, tls_for
from imagedist.cli.tls_options import CaFile, ClientCertificate, ClientKey, tls_files

if TYPE_CHECKING:
    from imagedist.oci.tls import Tls

_PLACE = (
    "A site or backup by the name that the site's seeder has for it, site:URL of a site's proxy, "
    "backup:URL[/PREFIX] of a backup, or [NAME=]URL of a registry that sites call NAME."
)


@app.command()
@explained
def verify(
    one: Annotated[str, typer.Argument(help=_PLACE)],
    other: Annotated[str, typer.Argument(help="The same.")],
    repository: Annotated[
        list[str] | None,
        typer.Option(help="Only these: names, globs, or expressions between slashes; repeatable. Default: all."),
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every blob and hash it; else sizes are asked.")] = False,
    token_file: Annotated[
        list[Path] | None,
        typer.Option("--token-file", help="Holds a site's token; once for both, or once for each in their order."),
    ] = None,
    ca_file: CaFile = None,
    client_certificate: ClientCertificate = None,
    client_key: ClientKey = None,
    seeder: Seeder = None,
    config: Config = None,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Compare tags, manifests and blobs of two places and list every difference. Nothing is changed.

    A site is what its sync keeps, and what its proxy itself holds of it for everyone. Exit code 0 only without a
    difference. Without --token-file the agent's site token is shown to its own site only. What --ca-file and
    --client-certificate name is for places given by URL; a site's services are asked as agent.toml says it
    (site_ca_file, site_client_certificate), if it does.
    """
    from contextlib import AsyncExitStack
    from functools import partial

    from imagedist.config import matches, parse_pattern, read_secret
    from imagedist.errors import InputError, NotFoundError
    from imagedist.oci.reference import is_name
    from imagedist.plain import one_line
    from imagedist.render import decimal
    from imagedist.verify.compare import Comparison, Counts, Difference
    from imagedist.verify.named import NamedPlaces, is_place_name
    from imagedist.verify.place import Place, open_place

    files = tls_files(ca_file, client_certificate, client_key)
    tokens = [read_secret(path) for path in token_file or ()]
    if len(tokens) > 2:
        raise InputError("--token-file is given once for both places, or once for each")
    try:
        patterns = [parse_pattern(text) for text in repository or ()]
    except ValueError as error:
        raise InputError(f"bad --repository: {error}") from error
    named = [text for text in repository or () if is_name(text)]
    access = None
    names = [text for text in (one, other) if is_place_name(text)]
    if names:
        try:
            access = seeder_access(seeder, token_file[0] if token_file else None, config, socket)
        except InputError as error:
            raise InputError(
                f"bad place {names[0]!r}: expected a URL, or a name that the site's seeder knows; {error}"
            ) from error

    def site_tls(url: str) -> Tls | None:
        return tls_for(url, config) or (files.own() if files is not None and url.startswith("https:") else None)

    async def compare() -> tuple[list[Difference], Counts]:
        async with AsyncExitStack() as stack:
            places = None
            if access is not None:
                site = await stack.enter_async_context(access.opened())
                places = NamedPlaces(site, access.proxies, access.token, site_tls)

            async def opened(text: str, token: str | None) -> Place:
                if places is not None and is_place_name(text):
                    place = await places.open(text, token)
                else:
                    place = open_place(text, token, site_tls(text.removeprefix("site:")), files)
                stack.push_async_callback(place.close)
                return place

            first = await opened(one, tokens[0] if tokens else None)
            second = await opened(other, tokens[-1] if tokens else None)
            comparison = Comparison(first, second, partial(matches, tuple(patterns)), is_deep=deep)
            found = []
            async for each in comparison.differences(named if len(named) == len(patterns) else ()):
                found.append(each)
                if not as_json:
                    print(one_line(f"{each.kind:16}  {each.place}  {each.name}  {each.what}"), flush=True)
            return found, comparison.counts

    differences, counts = interruptible(compare())
    if repository and not counts.tags:
        raise NotFoundError(f"neither place has a tag of {', '.join(repository)}: nothing was compared")
    if as_json:
        listed = [asdict(each) for each in differences]
        print(json.dumps({"format": 1, "differences": listed, "looked_at": asdict(counts)}))
    else:
        read = f", {decimal(counts.bytes)} read" if deep else ""
        print(
            f"{len(differences)} difference{'' if len(differences) == 1 else 's'}: {counts.tags} tags, "
            f"{counts.manifests} manifests and {counts.blobs} blobs looked at{read}",
            file=sys.stderr,
        )
    if differences:
        raise typer.Exit(1)
