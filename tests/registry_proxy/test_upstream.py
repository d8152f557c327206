from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imagedist.config import ProxyConfig, load
from imagedist.distribution.backend import Target
from imagedist.errors import ConfigError, NotFoundError
from registry_proxy.upstream import Upstreams


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
    ],
)
async def test_bad_upstreams_are_named(upstreams: dict[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Upstreams(config(None, **upstreams))
    assert message in str(caught.value)


async def test_unknown_default_is_named() -> None:
    with pytest.raises(ConfigError, match=r"proxy\.default_upstream: 'quay\.io' is none of docker\.io, local"):
        Upstreams(config(default="quay.io"))


def test_unknown_key_of_an_upstream_is_named(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text('[proxy]\nlisten = "h:1"\nsite_blobs = "/b"\n[upstreams.a]\nurl = "http://x"\nttl = "1s"\n')
    with pytest.raises(ConfigError, match=r"unknown key upstreams\.a\.ttl; allowed here: .*tag_ttl"):
        load(path, ProxyConfig)
