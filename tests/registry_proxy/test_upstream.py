from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from imagedist.config import ProxyConfig, Upstream, load
from imagedist.distribution.backend import Target
from imagedist.errors import ConfigError, NotFoundError, SourceError, UnauthorizedError
from imagedist.oci.client import RegistryClient
from registry_proxy import upstream as module
from registry_proxy.logins import login_of
from registry_proxy.upstream import Upstreams
from tests.support.registry import PASSWORD, USERNAME, FaultyRegistry


def config(default: str | None = "docker.io", **upstreams: dict[str, Any]) -> ProxyConfig:
    proxy = {"listen": "127.0.0.1:0", "site_blobs": "/nowhere", "default_upstream": default}
    tables = {
        "docker.io": {"url": "https://registry-1.docker.io"},
        "local": {"url": "http://127.0.0.1:5000", "hosts": ["registry.local:5000"]},
    }
    return ProxyConfig.model_validate({"proxy": proxy, "upstreams": tables | upstreams})


@pytest.mark.parametrize(
    ("namespace", "name", "upstream", "repository"),
    [
        ("registry.local:5000", "docker.io/x", "local", "docker.io/x"),  # ns wins over the path
        ("local", "x", "local", "x"),
        ("docker.io", "library/nginx", "docker.io", "library/nginx"),
        (None, "docker.io/library/nginx", "docker.io", "library/nginx"),
        (None, "local/team/app", "local", "team/app"),
        (None, "library/nginx", "docker.io", "library/nginx"),
        (None, "local", "docker.io", "local"),  # a lone component is a repository, not an upstream
    ],
)
async def test_first_rule_that_matches_wins(namespace: str | None, name: str, upstream: str, repository: str) -> None:
    place = Upstreams(config()).resolve(Target(namespace, name))
    assert (place.upstream, place.repository) == (upstream, repository)


async def test_unknown_upstream_names_the_configured_ones() -> None:
    with pytest.raises(NotFoundError, match=r"ns=quay\.io; configured: docker\.io, local") as caught:
        Upstreams(config()).resolve(Target("quay.io", "x"))
    assert caught.value.code == "NAME_UNKNOWN"
    with pytest.raises(NotFoundError, match=r"begins with one of docker\.io, local"):
        Upstreams(config(default=None)).resolve(Target(None, "library/nginx"))


async def test_private_blobs_stay_out_of_the_swarm_unless_told(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    private = {"url": "https://r.example", "username": "u", "password_file": str(tmp_path / "password")}
    upstreams = Upstreams(config(private=private, shared=private | {"private_in_swarm": True}))
    swarming = {key: upstreams.resolve(Target(key, "x")).may_swarm for key in ("local", "private", "shared")}
    assert swarming == {"local": True, "private": False, "shared": True}


@pytest.mark.parametrize(
    ("upstreams", "message"),
    [
        ({"a/b": {"url": "http://x"}}, "bad key upstreams.a/b"),
        ({"..": {"url": "http://x"}}, "bad key upstreams"),
        ({"Quay": {"url": "http://x"}}, "bad key upstreams.Quay"),
        ({"a": {"url": "http://x", "hosts": ["local"]}}, "upstreams.a.hosts: local belongs to another"),
        ({"a": {"url": "http://x", "username": "u"}}, "missing key upstreams.a.password_file"),
        ({"a": {"url": "http://x", "username": "u", "password_file": "/nowhere/p"}}, "cannot read /nowhere/p"),
        ({"a": {"url": "http://x", "username_env": "NOT_SET"}}, "upstreams.a.username_env: the environment has no NOT"),
        ({"a": {"url": "http://x", "docker_config": "/nowhere/c"}}, "cannot read /nowhere/c"),
        ({"a": {"url": "http://x", "ca_file": "/nowhere/ca"}}, "bad value in upstreams.a: cannot read /nowhere/ca"),
        ({"a": {"url": "http://x", "ca_file": "/dev/null"}}, "cannot use the certificates in /dev/null"),
        ({"a": {"url": "http://x", "proxy": "ftp://u:secret@x"}}, "bad value for upstreams.a.proxy: expected a URL"),
    ],
)
async def test_bad_upstreams_are_named(upstreams: dict[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Upstreams(config(None, **upstreams))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"username": "u", "username_env": "U"}, "username and username_env"),
        ({"username": "u", "password_file": "/p", "password_env": "P"}, "password_file and password_env"),
        ({"password_file": "/p"}, "a password needs username"),
        ({"username": "u", "docker_config": "/c"}, "docker_config has its own names"),
        ({"client_key": "/k"}, "client_key needs client_certificate"),
        ({"allow_addresses": ["10.0.0.1/8"]}, "allow_addresses"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Upstream.model_validate({"url": "http://x"} | table)


async def test_unknown_default_is_named() -> None:
    with pytest.raises(ConfigError, match=r"proxy\.default_upstream: 'quay\.io' is none of docker\.io, local"):
        Upstreams(config(default="quay.io"))


def test_unknown_key_of_an_upstream_is_named(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text('[proxy]\nlisten = "h:1"\nsite_blobs = "/b"\n[upstreams.a]\nurl = "http://x"\nttl = "1s"\n')
    with pytest.raises(ConfigError, match=r"unknown key upstreams\.a\.ttl; allowed here: .*tag_ttl"):
        load(path, ProxyConfig)


def any_config(**proxy: Any) -> ProxyConfig:
    table = {"listen": "127.0.0.1:0", "site_blobs": "/nowhere", "allow_any": True} | proxy
    return ProxyConfig.model_validate({"proxy": table, "upstreams": {"local": {"url": "http://127.0.0.1:5000"}}})


@pytest.mark.parametrize(
    ("namespace", "name", "upstream", "repository", "url"),
    [
        ("quay.io", "team/app", "quay.io", "team/app", "https://quay.io"),
        ("r.example:5000", "app", "r.example:5000", "app", "https://r.example:5000"),
        ("docker.io", "library/nginx", "docker.io", "library/nginx", "https://registry-1.docker.io"),
        (None, "quay.io/team/app", "quay.io", "team/app", "https://quay.io"),
        ("local", "app", "local", "app", "http://127.0.0.1:5000"),  # a configured one wins
        (None, "local/app", "local", "app", "http://127.0.0.1:5000"),
        (None, "library/nginx", "local", "library/nginx", "http://127.0.0.1:5000"),
    ],
)
async def test_any_registry_is_asked_by_its_host_name_if_allowed(
    namespace: str | None, name: str, upstream: str, repository: str, url: str
) -> None:
    upstreams = Upstreams(any_config(default_upstream="local"))
    place = upstreams.resolve(Target(namespace, name))
    assert (place.upstream, place.repository) == (upstream, repository)
    assert place.client.sources[-1].client.base_url == url
    assert place.may_swarm
    assert upstreams.resolve(Target(namespace, name)).client is place.client
    await upstreams.close()


@pytest.mark.parametrize(
    "namespace",
    ["..", "a/b", "localhost", "registry", "a..b", "-a.b", "a.b:", "[::1]:5", "A.b", "a.b:0", "a.b:65536", "a.b:99999"],
)
async def test_what_is_no_host_name_is_no_registry(namespace: str) -> None:
    with pytest.raises(NotFoundError):
        Upstreams(any_config()).resolve(Target(namespace, "x"))


@pytest.mark.parametrize("namespace", ["127.0.0.1:5000", "169.254.169.254", "10.0.0.1"])
async def test_any_registry_is_at_a_public_address(namespace: str) -> None:
    upstreams = Upstreams(any_config())
    place = upstreams.resolve(Target(namespace, "x"))
    with pytest.raises(SourceError, match="is refused: it is not a public address"):
        await place.client.manifest("x", "1")
    await upstreams.close()


async def test_any_registries_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANY_CLIENTS", 3)
    upstreams = Upstreams(any_config())
    for number in range(9):
        upstreams.resolve(Target(f"r{number}.example", "x"))
    assert list(upstreams._any) == ["r6.example", "r7.example", "r8.example"]
    await upstreams.close()


def test_a_proxy_needs_something_to_ask() -> None:
    with pytest.raises(ValueError, match="at least one table"):
        ProxyConfig.model_validate({"proxy": {"listen": "127.0.0.1:0", "site_blobs": "/nowhere"}})


async def test_credentials_come_from_a_file_the_environment_or_a_login(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    login = {"username": USERNAME, "password": PASSWORD}
    async with FaultyRegistry() as registry:
        (tmp_path / "config.json").write_text(
            json.dumps({"auths": {registry.url.removeprefix("http://"): login, "b": {}}})
        )
        registry.auth = "basic"
        registry.add_manifest("x", "1", b"{}")
        environment = {"REGISTRY_USER": USERNAME, "REGISTRY_PASSWORD": PASSWORD}
        for settings in (
            {"username": USERNAME, "password_file": str(tmp_path / "password")},
            {"username_env": "REGISTRY_USER", "password_env": "REGISTRY_PASSWORD"},
            {"docker_config": str(tmp_path / "config.json")},
        ):
            upstream = Upstream.model_validate({"url": registry.url} | settings)
            assert upstream.has_credentials
            find = login_of("up", upstream, registry.url.removeprefix("http://"), environment)
            async with RegistryClient(registry.url, credentials=find) as client:
                assert (await client.manifest("x", "1")).body == b"{}"


async def test_password_that_was_replaced_is_used_at_once(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("old")
    async with FaultyRegistry() as registry:
        registry.add_manifest("x", "1", b"{}")
        upstreams = Upstreams(config(up={"url": registry.url, "username": USERNAME, "password_file": str(path)}))
        client = upstreams.resolve(Target("up", "x")).client
        registry.auth = "basic"
        with pytest.raises(UnauthorizedError):
            await client.manifest("x", "1")
        path.write_text(PASSWORD)
        assert (await client.manifest("x", "1")).body == b"{}"
        path.unlink()
        registry.auth = "bearer"
        registry.token_life_seconds = 0
        with pytest.raises(SourceError, match=f"the credentials for up cannot be read: cannot read {path}"):
            await upstreams.resolve(Target("up", "x")).client.manifest("x", "1")
        await upstreams.close()
