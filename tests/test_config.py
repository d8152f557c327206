"""Configuration: what design and deploy/ show works as written; every mistake is named by its path."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from pydantic import BaseModel, ValidationError

from imagedist.config import (
    Address,
    AgentConfig,
    AgentTable,
    ProxyConfig,
    SeederConfig,
    Upstream,
    load,
    parse_size,
    read_secret,
)
from imagedist.errors import ConfigError, InputError
from imagedist.fetch.watch import Patience

ConfigT = TypeVar("ConfigT", bound=BaseModel)
SHIPPED = Path(__file__).parent.parent / "deploy" / "etc"

AGENT = """
[agent]
listen = "127.0.0.1:5050"
bittorrent = "0.0.0.0:6882"
socket = "/run/imagedist/agent.sock"
site_proxies = ["http://10.0.0.5:5001"]     # tried in order, then by health
site_seeders = ["http://10.0.0.5:5002"]
node_blobs = "/var/lib/imagedist/blobs"
node_blobs_quota = "50GiB"
labels = { zone = "a", rack = "r12" }
[storage]
root = "/var/lib/imagedist/storage"
quota = "200GiB"                            # unused images are evicted, oldest first
durability = "image"                        # none | image
used_by = ["/var/lib/containers/storage"]
[unpack]
ramdisk = "/run/imagedist/ramdisk"
ramdisk_budget = "4GiB"
cpus = "0-7"
nice = 10
[snapshotter]
socket = "/run/imagedist/snapshotter.sock"  # containerd's proxy_plugins address; no table, no snapshotter
[limits]
upload = "200MiB/s"
download = "none"
"""
PROXY = """
[proxy]
listen = "0.0.0.0:5001"
site_blobs = "/var/lib/imagedist/site"
default_upstream = "docker.io"
site_seeders = ["http://127.0.0.1:5002"]
# site_token_file = "/etc/imagedist/site.token"
[upstreams."docker.io"]               # the key is the path prefix: path-safe
url = "https://registry-1.docker.io"
[upstreams.local]
url = "http://127.0.0.1:5000"
hosts = ["registry.local:5000"]       # the ns values it answers for; the key itself always
# username, password_file; tag_ttl = "60s"; stale_if_error = true
"""
SEEDER = """
[seeder]
site = "bj"
listen = "0.0.0.0:5002"
bittorrent = "0.0.0.0:6881"
site_blobs = "/var/lib/imagedist/site"
site_proxies = ["http://127.0.0.1:5001"]
database = "sqlite:////var/lib/imagedist/seeder.db"     # or postgresql://…; the async driver is ours to pick
[sites.sh]                            # a sibling site; a miss asks siblings by cost, then the upstream
proxy = "http://sh.example:5001"
seeder = "http://sh.example:5002"
cost = 10
[[sync]]
repositories = ["team/*"]
tags = { semver = ">=1.2", newest = 20 }
to = ["sh"]
"""


def loaded(tmp_path: Path, text: str, model: type[ConfigT]) -> ConfigT:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load(path, model)


def test_the_designs_agent_example_works_as_written(tmp_path: Path) -> None:
    config = loaded(tmp_path, AGENT, AgentConfig)
    assert config.agent.listen == Address("127.0.0.1", 5050)
    assert config.unpack.cpus == frozenset(range(8))
    assert config.limits.upload == 200 << 20
    assert config.limits.download is None
    assert config.storage.quota == 200 << 30


def test_the_designs_proxy_example_works_as_written(tmp_path: Path) -> None:
    config = loaded(tmp_path, PROXY, ProxyConfig)
    assert config.upstreams["docker.io"].tag_ttl == timedelta(seconds=60)
    assert config.upstreams["local"].hosts == ("registry.local:5000",)


def test_the_designs_seeder_example_works_as_written(tmp_path: Path) -> None:
    config = loaded(tmp_path, SEEDER, SeederConfig)
    assert config.sites["sh"].cost == 10
    assert config.sync[0].repositories == ("team/*",)


@pytest.mark.parametrize(("name", "model"), [("agent", AgentConfig), ("proxy", ProxyConfig), ("seeder", SeederConfig)])
def test_the_shipped_files_load(name: str, model: type[BaseModel]) -> None:
    load(SHIPPED / f"{name}.toml", model)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[agent]\nsite_proxies = ["http://p"]\nlisen = "x"',
            "unknown key agent.lisen; allowed here: access_log, bittorrent",
        ),
        ('[agent]\nsite_proxies = ["http://p"]\nlisten = "5050"', "bad value for agent.listen: expected host:port"),
        ('[agent]\nsite_proxies = ["http://p"]\nlisten = "h:99999"', "bad value for agent.listen"),
        ("[agent]", "missing key agent.site_proxies"),
        ('[agent]\nsite_proxies = ["ftp://p"]', "bad value for agent.site_proxies.0"),
        ('[agent]\nsite_proxies = ["http://p"]\n[limits]\nupload = "fast"', "bad value for limits.upload"),
        (
            '[agent]\nsite_proxies = ["http://p"]\nnode_blobs_quota = "lots"',
            "bad value for agent.node_blobs_quota: expected a size such as \"50GiB\", got 'lots'",
        ),
        (
            '[agent]\nsite_proxies = ["http://p"]\n[storage]\nquota = "5 parsecs"',
            "bad value for storage.quota: expected a size such as \"50GiB\", got '5 parsecs'",
        ),
        ('[agent]\nsite_proxies = ["http://p"]\n[unpack]\ncpus = "a-b"', "bad value for unpack.cpus"),
        ('[agent]\nsite_proxies = ["http://p"]\n[unpack]\nnices = 3', "unknown key unpack.nices; allowed here: cgroup"),
        ('[agent]\nsite_proxies = ["http://p"]\n[unpack]\ncgroup = "/abs"', "unpack.cgroup: expected a relative path"),
        (
            '[agent]\nsite_proxies = ["http://p"]\n[unpack]\ncgroup = "a/../b"',
            "unpack.cgroup: expected a relative path",
        ),
        ('[agent]\nsite_proxies = ["http://p"]\n[unpack]\ncpu_max = 1.5', "cpu_max and memory_max limit a cgroup"),
        ('[agent]\nsite_proxies = ["http://p"]\n[unpack]\nio_class = "rt"', "unpack.io_class: Input should be 'none'"),
        ('[agent]\nsite_proxies = ["http://p"]\n[limits]\nconnections = 1', "bad value for limits.connections"),
        ('[agent]\nsite_proxies = ["http://p"]\n[quiet]\ncpu_pressure = 120', "bad value for quiet.cpu_pressure"),
        ('[agent]\nsite_proxies = ["http://p"]\n[quiet]\nupload = "auto"', "bad value for quiet.upload"),
        ('[agent]\nsite_proxies = ["http://p"]\n[seeding]\nratio = 0', "bad value for seeding.ratio"),
        (
            '[agent]\nsite_proxies = ["http://p"]\n[seeding]\ntime = "long"',
            "bad value for seeding.time: expected a dur",
        ),
        (
            '[agent]\nsite_proxies = ["http://p"]\nname = "rack 12"',
            "bad value for agent.name: expected up to 128 letters",
        ),
        ("[agent", "is not TOML"),
    ],
)
def test_a_mistake_is_named_by_its_path(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml") as caught:
        loaded(tmp_path, text, AgentConfig)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_seeding_may_be_without_end(tmp_path: Path) -> None:
    text = AGENT + '[seeding]\ntime = "none"\nratio = "none"\nquota = "20GiB"\n'
    seeding = loaded(tmp_path, text, AgentConfig).seeding
    assert (seeding.time, seeding.ratio, seeding.quota) == (None, None, 20 << 30)
    assert loaded(tmp_path, AGENT, AgentConfig).seeding.time == timedelta(hours=24)


def test_how_long_a_node_trusts_in_its_swarm_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    keys = (
        'swarm_stalled = "7s"\nswarm_alone = "500ms"\nswarm_given_up = "2m"\nswarm_others = 5\nunfinished_kept = "1h"'
    )
    path.write_text(f'[agent]\nsite_proxies = ["http://p"]\n{keys}\n')
    table = load(path, AgentConfig).agent
    assert Patience.of(table) == Patience(stalled=7.0, alone=0.5, hold=5.0, give_up=120.0)
    assert (table.swarm_others, table.unfinished_kept.total_seconds()) == (5, 3600.0)
    assert Patience.of(AgentTable(site_proxies=("http://p",))) == Patience()


def test_a_bad_duration_says_what_one_looks_like(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"upstreams\.local\.tag_ttl: expected a duration such as 30s"):
        loaded(tmp_path, PROXY + 'tag_ttl = "soon"', ProxyConfig)


def test_a_missing_file_and_an_empty_secret_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load(tmp_path / "nowhere.toml", AgentConfig)
    secret = tmp_path / "token"
    secret.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        read_secret(secret)


def test_sizes_are_read_as_people_write_them() -> None:
    assert parse_size("150MB") == 150_000_000
    assert parse_size("4GiB") == 4 << 30
    with pytest.raises(InputError, match="expected for example"):
        parse_size("much")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ('tls_certificate = "/c.pem"', "tls_certificate and tls_key go together"),
        ('tls_client_ca = "/ca.pem"', "tls_client_ca needs HTTPS"),
        ('site_client_key = "/own.key"', "site_client_key needs site_client_certificate"),
        ('fallback = "sometimes"', "bad value for proxy.fallback: Input should be 'upstream' or 'never'"),
        ('access_log = "xml"', "bad value for proxy.access_log"),
        ("workers = 0", "bad value for proxy.workers"),
        ("max_downloads = 0", "bad value for proxy.max_downloads"),
        ("max_connections = 2", "bad value for proxy.max_connections"),
        ('drain = "soon"', "bad value for proxy.drain: expected a duration"),
    ],
)
def test_a_mistake_in_how_the_proxy_serves_is_named(tmp_path: Path, keys: str, expected: str) -> None:
    text = f'[proxy]\nlisten = "h:1"\nsite_blobs = "/b"\n{keys}\n[upstreams.up]\nurl = "http://up"'
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text, ProxyConfig)
    assert expected in str(caught.value)


def test_how_the_agent_serves_can_be_said(tmp_path: Path) -> None:
    text = (
        '[agent]\nsite_proxies = ["https://p:5001"]\nsite_ca_file = "/etc/ca.pem"\n'
        'site_client_certificate = "/etc/own.pem"\nfallback = "never"\n'
        'drain = "1s"\naccess_log = "json"\nmax_downloads = 7'
    )
    table = loaded(tmp_path, text, AgentConfig).agent
    assert (table.fallback, table.access_log, table.max_downloads) == ("never", "json", 7)
    assert table.drain.total_seconds() == 1
    assert (str(table.site_ca_file), str(table.site_client_certificate)) == ("/etc/ca.pem", "/etc/own.pem")


def test_every_key_of_an_upstream_is_explained() -> None:
    pages = "".join(path.read_text() for path in (Path(__file__).parents[1] / "docs").glob("*.md"))
    assert [key for key in Upstream.model_fields if f"`{key}" not in pages and f"\n{key} =" not in pages] == []


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ('mode = "public"\nusername = "u"', "credentials are for mode = \"service-account\", not 'public'"),
        (
            'mode = "passthrough"\nusername_env = "U"',
            "credentials are for mode = \"service-account\", not 'passthrough'",
        ),
        ('mode = "service-account"', 'mode = "service-account" needs credentials'),
        ('mode = "passthrough"\nmirrors = ["http://m"]', "mirrors cannot say who may read"),
        ('mode = "open"', "upstreams.local.mode"),
        ('repositories = ["/(/"]', "expected a glob, or a regular expression between slashes"),
        ('stale_if_error = "old"', "expected a duration"),
    ],
)
def test_mode_that_its_upstream_cannot_have_is_refused(tmp_path: Path, keys: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, f"{PROXY}{keys}\n", ProxyConfig)
    assert says in str(caught.value)


def test_mode_follows_from_the_credentials(tmp_path: Path) -> None:
    keys = {"": "public", 'docker_config = "/c"': "service-account", 'mode = "passthrough"': "passthrough"}
    for text, mode in keys.items():
        assert loaded(tmp_path, f"{PROXY}{text}\n", ProxyConfig).upstreams["local"].access == mode


def test_networks_of_peers_are_networks_and_empty_means_everywhere(tmp_path: Path) -> None:
    assert loaded(tmp_path, AGENT, AgentConfig).agent.peer_networks == ()
    named = AGENT.replace("[agent]", '[agent]\npeer_networks = ["10.0.0.0/8", "fd00::/8"]', 1)
    assert [str(each) for each in loaded(tmp_path, named, AgentConfig).agent.peer_networks] == [
        "10.0.0.0/8",
        "fd00::/8",
    ]
    with pytest.raises(ConfigError, match=r"agent\.peer_networks"):
        loaded(tmp_path, named.replace("10.0.0.0/8", "10.0.0.1/8"), AgentConfig)


def test_a_seeder_gives_one_copy_and_each_blob_has_two_of_them() -> None:
    seeder = {"site": "bj", "listen": "0.0.0.0:5002", "bittorrent": "0.0.0.0:6881", "site_blobs": "/srv/site"}
    assert SeederConfig.model_validate({"seeder": seeder}).seeder.copies == 1.0
    proxy = {"listen": "0.0.0.0:5001", "site_blobs": "/srv/site", "allow_any": True}
    assert ProxyConfig.model_validate({"proxy": proxy}).proxy.seeder_replicas == 2
    with pytest.raises(ValidationError):
        SeederConfig.model_validate({"seeder": seeder | {"copies": -1}})
    with pytest.raises(ValidationError):
        SeederConfig.model_validate({"seeder": seeder | {"connections_per_host": 0}})
    with pytest.raises(ValidationError):
        ProxyConfig.model_validate({"proxy": proxy | {"seeder_replicas": 0}})
