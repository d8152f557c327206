"""containerd's files: our snapshotter by the names of each version, and nothing else of the user's file touched."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from imagedist.errors import ConfigError
from imagedist.runtimes.containerd import parse_release, with_snapshotter
from imagedist.runtimes.hosts import hosts_edits, with_host
from imagedist.runtimes.settings import Settings
from tests.runtimes.trees import DEBIANS_CONTAINERD

SETTINGS = Settings()
CRI_1 = "io.containerd.grpc.v1.cri"
CRI_2 = "io.containerd.cri.v1.images"
TRANSFER = "io.containerd.transfer.v1.local"
URL = "http://127.0.0.1:5050"

PLUGIN = {
    "type": "snapshot",
    "address": "/run/imagedist/snapshotter.sock",
    "exports": {
        "root": "/var/lib/imagedist/storage/imagedist/snapshots",
        "enable_remote_snapshot_annotations": "true",
    },
}

REMAPS = {"capabilities": ["remap-ids"]}


def written(text: str, release: tuple[int, int] | None = (1, 6)) -> dict[str, Any]:
    return tomllib.loads(with_snapshotter(text, SETTINGS, release))


def test_an_empty_file_of_containerd_1_is_of_version_2_with_the_long_names() -> None:
    assert written("") == {
        "version": 2,
        "proxy_plugins": {"imagedist": PLUGIN},
        "plugins": {
            CRI_1: {
                "containerd": {
                    "snapshotter": "imagedist",
                    "disable_snapshot_annotations": False,
                    "runtimes": {"runc": {"runtime_type": "io.containerd.runc.v2"}},
                },
                "registry": {"config_path": "/etc/containerd/certs.d"},
            }
        },
    }


def test_an_empty_file_of_containerd_2_is_of_version_3_with_its_names_and_the_transfer_services_list() -> None:
    assert written("", (2, 1)) == {
        "version": 3,
        "proxy_plugins": {"imagedist": PLUGIN | REMAPS},
        "plugins": {
            CRI_2: {
                "snapshotter": "imagedist",
                "disable_snapshot_annotations": False,
                "registry": {"config_path": "/etc/containerd/certs.d"},
            },
            TRANSFER: {
                "unpack_config": [
                    {"platform": "linux", "snapshotter": "overlayfs"},
                    {"platform": "linux", "snapshotter": "imagedist"},
                ]
            },
        },
    }


def test_a_file_of_version_2_keeps_its_names_under_containerd_2() -> None:
    plugins = written("version = 2\n", (2, 0))["plugins"]
    assert plugins[CRI_1]["containerd"]["snapshotter"] == "imagedist"
    assert CRI_2 not in plugins
    assert plugins[TRANSFER]["unpack_config"][1]["snapshotter"] == "imagedist"


def test_the_users_lines_comments_and_order_stay() -> None:
    text = DEBIANS_CONTAINERD.replace('"/usr/lib/cni"', '"/usr/lib/cni" # ours') + "\n# the end\n"
    after = with_snapshotter(text, SETTINGS, (1, 6))
    lines = iter(after.splitlines())
    assert all(line in lines for line in text.splitlines() if line), "a line is gone, or in another place"


@pytest.mark.parametrize(
    "text",
    [
        "",
        DEBIANS_CONTAINERD,
        'version = 2\nplugins = { "io.containerd.grpc.v1.cri" = { sandbox_image = "pause" } }\n',
        f'version = 2\n[plugins."{CRI_1}".containerd]\nsnapshotter = "overlayfs"  # mine\n[grpc]\nuid = 0\n'
        f'[plugins."{CRI_1}".containerd.runtimes.runc]\nruntime_type = "io.containerd.runc.v2"\n',
        f'version = 2\n[plugins."{CRI_1}".containerd.runtimes.runc]\nruntime_type = "io.containerd.runc.v2"\n',
        "version = 2\n[proxy_plugins]\n  [proxy_plugins.stargz]\n    type = 'snapshot'\n    address = '/s'\n",
        "version = 3\n[proxy_plugins.imagedist]\ntype = 'snapshot'\naddress = '/elsewhere'\n",
        f"version = 3\n[[plugins.'{TRANSFER}'.unpack_config]]\nplatform = 'linux/arm64'\nsnapshotter = 'native'\n",
    ],
)
def test_any_file_gets_our_settings_once_and_keeps_the_rest(text: str) -> None:
    after = with_snapshotter(text, SETTINGS, (2, 0))
    assert with_snapshotter(after, SETTINGS, (2, 0)) == after
    document = tomllib.loads(after)
    assert document["proxy_plugins"]["imagedist"] == PLUGIN | REMAPS
    _assert_within(tomllib.loads(text), document)


def _assert_within(part: Any, whole: Any) -> None:
    """Every table and value of ``part`` is in ``whole``, but for those we set."""
    for key, value in part.items():
        if isinstance(value, dict):
            _assert_within(value, whole[key])
        elif isinstance(value, list):
            assert [item for item in value if item not in whole[key]] == []
        elif key not in ("snapshotter", "address"):
            assert whole[key] == value


def test_a_file_of_version_2_names_a_runtime_else_containerd_2_would_drop_its_snapshotter() -> None:
    runtimes = f'version = 2\n[plugins."{CRI_1}".containerd.runtimes.kata]\nruntime_type = "io.containerd.kata.v2"\n'
    runc = {"runc": {"runtime_type": "io.containerd.runc.v2"}}
    for release in ((1, 6), (1, 7), (2, 1)):
        assert written("version = 2\n", release)["plugins"][CRI_1]["containerd"]["runtimes"] == runc
        assert list(written(runtimes, release)["plugins"][CRI_1]["containerd"]["runtimes"]) == ["kata"]
    assert "runtimes" not in written("version = 3\n", (2, 1))["plugins"][CRI_2]


def test_a_list_of_mirrors_directories_of_the_users_stays() -> None:
    text = f'version = 3\n[plugins."{CRI_2}".registry]\nconfig_path = "/srv/certs.d:/etc/docker/certs.d"\n'
    assert written(text, (2, 1))["plugins"][CRI_2]["registry"]["config_path"] == "/srv/certs.d:/etc/docker/certs.d"


def test_dockers_containerd_with_cri_disabled_and_without_a_version_gets_the_plugin_only() -> None:
    text = 'disabled_plugins = ["cri"]\n'
    assert written(text, (1, 7)) == {"disabled_plugins": ["cri"], "proxy_plugins": {"imagedist": PLUGIN}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[plugins.cri]\nsandbox_image = 'x'\n", "is of version 1"),
        ("version = 5\n", "is of version 5; known are 2 to 4"),
        ("version = 'two'\n", "is of version 'two'"),
        ("version = \n", "is not TOML"),
        (f'version = 2\n[plugins."{CRI_1}".registry.mirrors."docker.io"]\nendpoint = ["x"]\n', "registry.mirrors"),
        (f'version = 2\n[plugins."{CRI_1}".registry.configs."a".tls]\nca_file = "x"\n', "hosts.toml"),
    ],
)
def test_files_that_cannot_be_edited_are_told_with_the_remedy(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        with_snapshotter(text, SETTINGS, (1, 6))


def test_an_empty_file_without_a_program_that_says_its_version_is_refused() -> None:
    with pytest.raises(ConfigError, match="write `version = 2`"):
        with_snapshotter("", SETTINGS, None)


@pytest.mark.parametrize(("version", "release"), [("1.6.20~ds1", (1, 6)), ("v2.1.3", (2, 1)), ("unknown", None)])
def test_releases_are_read_as_programs_print_them(version: str, release: tuple[int, int] | None) -> None:
    assert parse_release(version) == release


def test_the_mirror_comes_before_the_hosts_of_the_user() -> None:
    text = 'server = "https://registry.example"\n\n# ours\n[host."https://other.example"]\n  capabilities = ["pull"]\n'
    after = with_host(text, "127.0.0.1:5050")
    document = tomllib.loads(after)
    assert list(document["host"]) == [URL, "https://other.example"]
    assert document["server"] == "https://registry.example"
    assert with_host(after, "127.0.0.1:5050") == after


def test_a_hosts_file_of_a_form_that_cannot_be_edited_is_refused() -> None:
    text = 'client = [\n  ["/a.cert", "/a.key"]\n]\n'
    with pytest.raises(ConfigError, match="cannot be edited safely"):
        with_host(text, "127.0.0.1:5050")


def test_a_registry_with_a_directory_of_its_own_gets_the_mirror_too(tmp_path: Path) -> None:
    (tmp_path / "docker.io").mkdir()
    (tmp_path / "docker.io/hosts.toml").write_text('server = "https://registry-1.docker.io"\n')
    (tmp_path / "only-certificates.example").mkdir()
    edits = hosts_edits(tmp_path, "127.0.0.1:5050")
    assert [edit.path for edit in edits] == [tmp_path / "_default/hosts.toml", tmp_path / "docker.io/hosts.toml"]
    assert all(URL in tomllib.loads(edit.change("server = 'https://x'\n"))["host"] for edit in edits)
