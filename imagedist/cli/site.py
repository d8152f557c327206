"""The commands that ask and change a site's proxy: what tags mean, what stays, what its store holds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from imagedist.cli.command import Json, Socket, app, explained, interruptible
from imagedist.cli.site_access import Config, Proxy, TokenFile, site_access
from imagedist.errors import InputError
from imagedist.plain import plain

if TYPE_CHECKING:
    from imagedist.site_store import PinStatus, SiteStore

AnswerT = TypeVar("AnswerT")

_IMAGE_HELP = "REGISTRY/REPOSITORY:TAG, REGISTRY/REPOSITORY@DIGEST, or the DIGEST of a blob or manifest."

Image = Annotated[str, typer.Argument(help=_IMAGE_HELP)]
Owner = Annotated[str, typer.Option(help="Whose pin it is: one owner's unpinning leaves another's pin.")]


@app.command()
@explained
def purge(
    name: Annotated[str, typer.Argument(help="REGISTRY/REPOSITORY:TAG, or REGISTRY/REPOSITORY for all of its tags.")],
    proxy: Proxy = None,
    token_file: TokenFile = None,
    config: Config = None,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Have the site forget what a tag means, or every tag of a repository: the next pull asks the registry."""
    from imagedist.oci.reference import Reference
    from imagedist.site import Purged

    reference = Reference.parse(name)
    if reference.digest is not None:
        raise InputError(f"cannot purge {name}: what a digest names never changes; give a tag or a repository")
    is_tag = ":" in name.rpartition("/")[2]
    access = site_access(proxy, token_file, config, socket)

    async def ask() -> Purged:
        async with access.opened() as site:
            return await site.purge(reference.registry, reference.repository, reference.tag if is_tag else None)

    done = interruptible(ask())
    if as_json:
        print(done.model_dump_json())
    else:
        counts = f"{done.tags} tag{'' if done.tags == 1 else 's'}"
        counts += f" at {done.proxies} prox{'y' if done.proxies == 1 else 'ies'}"
        what = f"{reference.name}{f':{done.tag}' if done.tag else ''}"
        print(plain(f"purged {what} ({done.upstream}/{done.repository}): {counts}"))


@app.command()
@explained
def pin(
    name: Image,
    owner: Owner = "operator",
    reason: Annotated[str, typer.Option(help="Why, for whoever lists the pins.")] = "",
    proxy: Proxy = None,
    token_file: TokenFile = None,
    config: Config = None,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Keep an image, or a blob, in the site's store whatever its quota says.

    A tag is pinned as what it means now; pin it again when it has moved. Nothing is fetched but the manifest.
    """
    query = {**_subject(name), "owner": owner, "reason": reason}
    _show_pin("pinned", _ask_store(lambda store: store.pin(query), proxy, token_file, config, socket), as_json)


@app.command()
@explained
def unpin(
    name: Image,
    owner: Owner = "operator",
    proxy: Proxy = None,
    token_file: TokenFile = None,
    config: Config = None,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Let the quota have an image, or a blob, again."""
    query = {**_subject(name), "owner": owner}
    _show_pin("unpinned", _ask_store(lambda store: store.unpin(query), proxy, token_file, config, socket), as_json)


@app.command()
@explained
def pins(
    proxy: Proxy = None,
    token_file: TokenFile = None,
    config: Config = None,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """List what is pinned in the site's store, by whom and why."""
    from imagedist.render import pin_table

    listed = _ask_store(lambda store: store.pins(), proxy, token_file, config, socket)
    print(listed.model_dump_json() if as_json else pin_table(listed.pins))


@app.command()
@explained
def site(
    proxy: Proxy = None,
    token_file: TokenFile = None,
    config: Config = None,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Show the site's store: its quota, what uses it, what is pinned, evicted, scrubbed."""
    from imagedist.render import store_lines

    status = _ask_store(lambda store: store.status(), proxy, token_file, config, socket)
    print(status.model_dump_json() if as_json else plain(store_lines(status)))


@app.command()
@explained
def scrub(
    now: Annotated[bool, typer.Option("--now", help="Begin now, not when the next round is due.")] = False,
    proxy: Proxy = None,
    token_file: TokenFile = None,
    config: Config = None,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Say how far the proxy has come in reading its blobs again, or have it begin now."""
    from imagedist.render import scrub_line

    status = _ask_store(lambda store: store.scrub(now=now), proxy, token_file, config, socket)
    print(status.model_dump_json() if as_json else scrub_line(status))


def _subject(name: str) -> dict[str, str]:
    """A reference or a bare digest as the routes take it."""
    from imagedist.oci.digest import Digest
    from imagedist.oci.reference import Reference

    if name.startswith(("sha256:", "sha512:")):
        return {"reference": str(Digest.parse(name))}
    reference = Reference.parse(name)
    return {"ns": reference.registry, "repo": reference.repository, "reference": reference.target}


def _ask_store(
    ask: Callable[[SiteStore], Awaitable[AnswerT]],
    proxy: list[str] | None,
    token_file: Path | None,
    config: Path | None,
    socket: Path | None,
) -> AnswerT:
    access = site_access(proxy, token_file, config, socket)

    async def asked() -> AnswerT:
        from imagedist.site_store import SiteStore

        async with access.opened() as site:
            return await ask(SiteStore(site))

    return interruptible(asked())


def _show_pin(done: str, pin: PinStatus, as_json: bool) -> None:
    from imagedist.render import decimal

    if as_json:
        print(pin.model_dump_json())
        return
    missing = f", {pin.missing} not here yet" if pin.missing else ""
    held = f"{pin.blobs} blobs and manifests, {decimal(pin.bytes)}{missing}"
    print(plain(f"{done} {pin.name} ({pin.digest}): {held}"))
