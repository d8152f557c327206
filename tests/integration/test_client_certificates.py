"""A site whose proxies serve only who shows a certificate of its authority: nodes, commands, seeders, other sites."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from imagedist import __version__
from imagedist.doctor import site as doctor
from imagedist.errors import ConfigError, ImagedistError
from imagedist.oci.tls import Tls
from imagedist.service import ServerTls
from tests.integration.test_site import BUILT, REFERENCE, check_tree, pull
from tests.seeder.sync.sites import SyncSite, until_quiet, until_told
from tests.support.certificates import Authority
from tests.support.site import Site

SOON = {"swarm_alone": "100ms", "swarm_stalled": "200ms"}
TEAM = {"repositories": ["team/*"], "to": ["sh"]}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def guarded(directory: Path, authority: Authority, **settings: Any) -> Site:
    site = Site(directory, tls_certificate=authority.ca, tls_key=authority.ca, tls_client_ca=authority.ca, **settings)
    site.proxy_tls = ServerTls(*authority.issue("proxy"), authority.ca)
    return site


def keys(site: Site, authority: Authority, shown: tuple[Path, Path] | None) -> dict[str, object]:
    """Of an agent."""
    table: dict[str, object] = {"site_proxies": [f"https://{site.proxy}"], "site_ca_file": authority.ca}
    if shown is not None:
        table |= {"site_client_certificate": shown[0], "site_client_key": shown[1]}
    return table


async def test_a_node_without_a_certificate_is_told_which_keys_it_lacks(tmp_path: Path, authority: Authority) -> None:
    async with guarded(tmp_path / "site", authority) as site:
        site.put(BUILT, "team/app", "1")
        async with site.agent(agent=keys(site, authority, None)) as (client, _, _):
            with pytest.raises(
                ImagedistError, match="this one has shown none: imagedist shows site_client_certificate"
            ):
                await pull(client)
        (found,) = await doctor.service(f"https://{site.proxy}", "proxy", __version__, Tls(authority.ca))
        assert (found.code, "site_client_certificate" in (found.fix or "")) == ("proxy-uncertified", True)
        tls = Tls(authority.ca, *authority.issue("node"))
        (found,) = await doctor.service(f"https://{site.proxy}", "proxy", __version__, tls)
        assert found.code == "proxy"
    assert not site.upstream.requests


async def test_a_certificate_that_replaces_one_of_a_stranger_is_shown_without_a_restart(
    tmp_path: Path, authority: Authority
) -> None:
    stranger = Authority(tmp_path, "stranger")
    ours, our_key = stranger.issue("ours")
    async with guarded(tmp_path / "site", authority) as site:
        site.put(BUILT, "team/app", "1")
        async with site.agent(agent=keys(site, authority, (ours, our_key))) as (client, _, store):
            with pytest.raises(ImagedistError):
                await pull(client)
            for source, target in zip(authority.issue("renewed"), (ours, our_key), strict=True):
                shutil.copy(source, target)
            await pull(client)
            check_tree(store)


async def test_an_agent_whose_key_is_another_certificates_does_not_start(tmp_path: Path, authority: Authority) -> None:
    certificate, _ = authority.issue("node")
    _, key = authority.issue("other")
    async with guarded(tmp_path / "site", authority) as site:
        with pytest.raises(ConfigError, match=r"node.pem and .*other.key: the key does not belong to the certificate"):
            async with site.agent(agent=keys(site, authority, (certificate, key))):
                pass


async def test_nodes_share_by_the_swarm_and_one_that_is_alone_by_a_signed_web_seed(
    tmp_path: Path, authority: Authority
) -> None:
    (tmp_path / "token").write_text("a-token")
    token = {"site_token_file": tmp_path / "token"}
    async with guarded(tmp_path / "site", authority, **token) as site:
        site.put(BUILT, "team/app", "1")
        table = keys(site, authority, authority.issue("node")) | token
        two = table | {"swarm_alone": "60s", "swarm_stalled": "60s"}
        async with site.agent(agent=two) as (first, _, store), site.agent(agent=two) as (second, _, other_store):
            await pull(first)
            check_tree(store)
            received = (await pull(second)).received_bytes or {}
            check_tree(other_store)
        assert received.get("peer", 0) + received.get("seeder", 0) > 0
        await site.stop_seeder()
        async with site.agent(agent=table | SOON) as (alone, _, store):
            received = (await pull(alone)).received_bytes or {}
            check_tree(store)
    assert received.get("webseed", 0) > 0


async def test_where_nothing_can_be_signed_a_node_that_is_alone_goes_on_by_http(
    tmp_path: Path, authority: Authority
) -> None:
    async with guarded(tmp_path / "site", authority) as site:
        site.put(BUILT, "team/app", "1")
        table = keys(site, authority, authority.issue("node")) | SOON
        async with site.agent(agent=table) as (first, _, _):
            await pull(first)
        await site.stop_seeder()
        async with site.agent(agent=table) as (alone, _, store):
            received = (await pull(alone)).received_bytes or {}
            check_tree(store)
    assert (received.get("webseed", 0), received["proxy"] > 0) == (0, True)


async def test_the_command_line_shows_what_its_options_name(tmp_path: Path, authority: Authority) -> None:
    certificate, key = authority.issue("user")
    async with guarded(tmp_path / "site", authority) as site:
        site.put(BUILT, "team/app", "1")
        argv = [
            "-m",
            "imagedist",
            "pull",
            REFERENCE,
            "--via",
            f"https://{site.proxy}",
            "--root",
            str(tmp_path / "root"),
        ]
        argv += ["--no-agent", "--ca-file", str(authority.ca)]
        shown = ["--client-certificate", str(certificate), "--client-key", str(key)]
        for options, code, said in (
            ([], 1, b"this one has shown none"),
            (shown[2:], 2, b"--client-key needs --client-certificate"),
            (shown, 0, b""),
        ):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, *argv, *options),
                env={name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            output, _ = await process.communicate()
            assert (process.returncode, said in output) == (code, True), output
        check_tree(tmp_path / "root")


async def test_a_tag_crosses_between_two_such_sites(tmp_path: Path, authority: Authority) -> None:
    bj, sh = SyncSite(tmp_path, "bj"), SyncSite(tmp_path, "sh")
    for site in (bj, sh):
        certificate, key = authority.issue(f"service-of-{site.name}")
        shown = {"site_ca_file": authority.ca, "site_client_certificate": certificate, "site_client_key": key}
        site.authority = authority
        site.proxy_settings = site.seeder_settings = shown
    sh.join(bj)
    bj.join(sh)
    bj.rules = [TEAM]
    async with bj, sh:
        await until_quiet([bj, sh])
        digest = bj.registry.add_image("team/app", "1", os.urandom(300_000))
        await bj.notify("team/app", "1")
        await until_told(sh, "team/app", "1", digest)
        assert sh.registry.blob_gets.total() == 0  # by the other site's proxy
