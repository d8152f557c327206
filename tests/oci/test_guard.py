from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest
from aiohttp import ThreadedResolver

from imagedist.errors import SourceError
from imagedist.oci.client import RegistryClient
from imagedist.oci.guard import Guard, RefusedAddressError
from imagedist.oci.http_aiohttp import AiohttpClient
from imagedist.oci.proxies import Proxy, parse_proxy
from tests.support.registry import FaultyRegistry

PUBLIC, OUTSIDE = Guard(only_public=True), Guard(only_public=False)
MACHINE = [
    *("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "169.254.169.254", "fe80::1%lo"),
    *("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "::127.0.0.1", "224.0.0.1", "ff02::1", "255.255.255.255"),
    *("100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254", "192.0.0.192", "fec0::1"),
]
PRIVATE = [
    *("10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.127.255.255", "198.18.0.1"),
    *(
        "::ffff:10.1.2.3",
        "64:ff9b::a01:203",
        "fd12:3456::1",
        "2001:db8::1",
        "2002:a01:203::1",
        "2001::1",
        "64:ff9b:1::1",
    ),
]
ANYWHERE = [
    "1.1.1.1",
    "172.32.0.1",
    "100.128.0.1",
    "2606:4700::1111",
    "2a00:1450::1",
    "64:ff9b::101:101",
    "::ffff:8.8.8.8",
]


@pytest.mark.parametrize("address", MACHINE)
def test_this_machine_its_link_and_metadata_are_never_reached(address: str) -> None:
    assert PUBLIC.refuses(address)
    assert OUTSIDE.refuses(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_networks_are_reached_from_configured_registries_only(address: str) -> None:
    assert PUBLIC.refuses(address)
    assert not OUTSIDE.refuses(address)


@pytest.mark.parametrize("address", ANYWHERE)
def test_public_addresses_are_reached(address: str) -> None:
    assert not PUBLIC.refuses(address)
    assert not OUTSIDE.refuses(address)


def test_allowed_networks_are_let_through() -> None:
    guard = Guard(only_public=True, allowed=(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1")))
    assert [guard.refuses(each) for each in ("10.1.2.3", "::ffff:10.1.2.3", "::1", "192.168.0.1")] == [
        *(False, False, False),
        True,
    ]


def test_no_socket_is_opened_for_a_refused_address() -> None:
    with pytest.raises(RefusedAddressError, match=r"10\.0\.0\.1 is refused: it is not a public address"):
        PUBLIC.open_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("10.0.0.1", 443)))
    PUBLIC.open_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("1.1.1.1", 443))).close()


@pytest.mark.parametrize(
    ("host", "is_refused"),
    [
        *(("quay.io", False), ("quay.io.", False), ("1.1.1.1", False), ("localhost", True), ("a.localhost", True)),
        *(("10.0.0.1", True), ("registry", True), ("vault.internal", True), ("printer.local", True), ("0x7f.1", True)),
        *(("2130706433", True), ("169.254.169.254.", True), ("exämple.org", True)),
    ],
)
def test_names_that_a_proxy_would_resolve_are_judged_by_what_they_say(host: str, is_refused: bool) -> None:
    assert PUBLIC.refuses_name(host) == is_refused


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_registry_at_a_refused_address_is_never_connected_to(host: str) -> None:
    async with FaultyRegistry() as registry:
        url = registry.url.replace("127.0.0.1", host)
        async with RegistryClient(url, http=AiohttpClient(guard=PUBLIC)) as client:
            with pytest.raises(SourceError, match="is refused: it is not a public address"):
                await client.manifest("a", "1")
        assert not registry.requests


@pytest.mark.parametrize("kind", ["redirect", "token server"])
async def test_configured_registry_does_not_lead_to_this_machine(kind: str) -> None:
    async with FaultyRegistry("127.0.0.2") as registry, FaultyRegistry() as victim:
        digest = registry.add_blob(b"content")
        if kind == "redirect":
            registry.redirect_to = victim.url
        else:
            registry.auth, registry.realm = "bearer", f"{victim.url}/token"
        http = AiohttpClient(guard=OUTSIDE, own_host="127.0.0.2")
        async with RegistryClient(registry.url, http=http) as client:
            with pytest.raises(SourceError, match=r"127\.0\.0\.1 is refused: it is not an address outside"):
                await client.blob_bytes("a", digest, 100)
        assert registry.requests
        assert not victim.requests


async def test_configured_registry_may_be_anywhere_and_lead_to_what_is_allowed() -> None:
    async with FaultyRegistry() as registry, FaultyRegistry("127.0.0.3") as storage:
        digest = registry.add_blob(b"content")
        storage.blobs = registry.blobs
        registry.redirect_to = storage.url
        guard = Guard(only_public=False, allowed=(ipaddress.ip_network("127.0.0.3/32"),))
        http = AiohttpClient(guard=guard, own_host="127.0.0.1")
        async with RegistryClient(registry.url, http=http) as client:
            assert await client.blob_bytes("a", digest, 100) == b"content"


async def test_refused_name_does_not_go_through_a_proxy() -> None:
    async with FaultyRegistry() as proxy:

        def through(url: str) -> Proxy:
            return parse_proxy(proxy.url, "proxy")

        http = AiohttpClient(guard=PUBLIC, find_proxy=through)
        async with RegistryClient("http://10.0.0.1", http=http) as client:
            with pytest.raises(SourceError, match=r"10\.0\.0\.1 is refused"):
                await client.manifest("a", "1")
        proxy.add_manifest("a", "1", b"{}")
        http = AiohttpClient(guard=PUBLIC, find_proxy=through)
        async with RegistryClient("http://registry.example", http=http) as client:
            assert (await client.manifest("a", "1")).body == b"{}"


async def test_name_that_changes_its_address_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look at it finds a public address, the next, which the connection uses, this machine."""
    resolved: list[str] = []
    resolver = ThreadedResolver.resolve

    async def rebinding(self: ThreadedResolver, host: str, *arguments: Any, **settings: Any) -> Any:
        resolved.append(host)
        return await resolver(self, "1.1.1.1" if len(resolved) == 1 else "127.0.0.1", *arguments, **settings)

    monkeypatch.setattr(ThreadedResolver, "resolve", rebinding)
    async with FaultyRegistry() as registry:
        url = registry.url.replace("127.0.0.1", "rebinding.example")
        await ThreadedResolver().resolve("rebinding.example", 80)
        async with RegistryClient(url, http=AiohttpClient(guard=PUBLIC)) as client:
            with pytest.raises(SourceError, match=r"127\.0\.0\.1 is refused"):
                await client.manifest("a", "1")
        assert not registry.requests
    assert len(resolved) == 2
