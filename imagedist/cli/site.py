"""The commands that change a site: forgetting what tags mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagedist.cli.command import Json, Socket, app, explained, interruptible
from imagedist.errors import InputError

if TYPE_CHECKING:
    from imagedist.oci.reference import Reference
    from imagedist.site import Purged

_CONFIG = Path("/etc/imagedist/agent.toml")


@app.command()
@explained
def purge(
    name: Annotated[str, typer.Argument(help="REGISTRY/REPOSITORY:TAG, or REGISTRY/REPOSITORY for all of its tags.")],
    proxy: Annotated[
        list[str] | None, typer.Option(help="The site's proxy; repeatable. Default: those of this node's agent.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="Holds the site token. Default: the agent's.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help=f"agent.toml, for both defaults. Default: {_CONFIG}, if there.")
    ] = None,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Have the site forget what a tag means, or every tag of a repository: the next pull asks the registry."""
    from imagedist.config import AgentConfig, load, parse_url, read_secret
    from imagedist.oci.reference import Reference

    reference = Reference.parse(name)
    if reference.digest is not None:
        raise InputError(f"cannot purge {name}: what a digest names never changes; give a tag or a repository")
    is_tag = ":" in name.rpartition("/")[2]
    path = config or (_CONFIG if _CONFIG.exists() and not (proxy and token_file) else None)
    table = load(path, AgentConfig).agent if path is not None else None
    proxies = [parse_url(url, "--proxy") for url in proxy or ()] or list(table.site_proxies if table else ())
    proxies = proxies or _agents_proxies(socket)
    token = read_secret(token_file or (table.site_token_file if table else None))
    ca_file = table.site_ca_file if table else None
    done = interruptible(_purge(proxies, token, ca_file, reference, reference.tag if is_tag else None))
    if as_json:
        print(done.model_dump_json())
    else:
        print(
            f"purged {reference.name}{f':{done.tag}' if done.tag else ''} ({done.upstream}/{done.repository}): "
            f"{done.tags} tag{'' if done.tags == 1 else 's'} at {done.proxies} "
            f"prox{'y' if done.proxies == 1 else 'ies'}"
        )


def _agents_proxies(socket: Path | None) -> list[str]:
    from imagedist.agent.client import AgentClient, find_socket

    found = find_socket(socket)
    if found is None:
        raise InputError("which proxy? give --proxy URL or --config agent.toml: no agent runs on this node")
    return list(AgentClient(found).status().site_proxies)


async def _purge(
    proxies: list[str], token: str | None, ca_file: Path | None, reference: Reference, tag: str | None
) -> Purged:
    from imagedist.oci.tls import Tls
    from imagedist.site import Site

    site = Site(proxies, (), "imagedist-purge", token, tls=Tls(ca_file) if ca_file else None)
    try:
        return await site.purge(reference.registry, reference.repository, tag)
    finally:
        await site.close()
