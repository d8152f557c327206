"""`imagedist gc`, `rm` and `mount IMAGE -- COMMAND` as their users see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from imagedist.cli import app
from imagedist.overlay.store import OverlayStore
from tests.overlay.stores import APP, BASE, NAME, OTHER, SECOND, begin, build, put


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def store(root: Path) -> OverlayStore:
    store = OverlayStore(root, durability="none")
    put(store, BASE, OTHER, names=[SECOND])
    with pytest.raises(KeyboardInterrupt):
        begin(store, build(BASE, APP), APP)
    return store


def imagedist(root: Path, *arguments: str) -> Result:
    ramdisk = ("--ramdisk", str(root.with_name("ramdisk"))) if arguments[0] == "gc" else ()
    return CliRunner().invoke(app, [*arguments, *ramdisk, "--root", str(root)] if "--" not in arguments else arguments)


def test_gc_says_what_went_and_how_much_that_was(root: Path, store: OverlayStore) -> None:
    would = imagedist(root, "gc", "--dry-run").output.splitlines()
    assert would[0].startswith("would remove layer ")
    assert would[-1].endswith(" could be freed")
    done = imagedist(root, "gc").output.splitlines()
    assert done[0] == would[0].replace("would remove", "removed")
    assert imagedist(root, "gc").output == "0 bytes freed\n"


def test_gc_tells_machines_in_json(root: Path, store: OverlayStore) -> None:
    told = json.loads(imagedist(root, "gc", "--json", "--quota", "0").output)
    assert told["dry_run"] is False
    assert [one["kind"] for one in told["collected"]] == ["layer", "image"]
    assert told["collected"][1]["name"] == SECOND
    assert told["size_bytes"] == sum(one["size_bytes"] for one in told["collected"]) > 0
    assert store.images() == []


@pytest.mark.parametrize("quota", ["much", "-1"])
def test_a_bad_quota_is_one_line_and_exit_code_2(root: Path, quota: str) -> None:
    done = imagedist(root, "gc", "--quota", quota)
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1


def test_rm_takes_one_name_after_the_other(root: Path, store: OverlayStore) -> None:
    built = put(store, BASE, OTHER, names=[NAME])
    assert json.loads(imagedist(root, "rm", NAME, "--json").output) == {"image": built.image.id.hex, "is_gone": False}
    assert store.find(SECOND).names == (SECOND,)
    assert imagedist(root, "rm", SECOND).output == ""
    gone = imagedist(root, "rm", SECOND)
    assert (gone.exit_code, gone.stderr) == (1, f"imagedist: no image {SECOND} in the store; there is: none\n")


@pytest.mark.root
def test_a_command_runs_in_the_mounted_image_and_its_exit_code_is_ours(
    root: Path, store: OverlayStore, capfd: pytest.CaptureFixture[str]
) -> None:
    done = imagedist(root, "mount", SECOND, "--root", str(root), "--", "sh", "-c", "ls d; exit 7")
    assert done.exit_code == 7
    assert capfd.readouterr().out == "base\nother\n"
    assert list((root / "imagedist/mounts").iterdir()) == []
    missing = imagedist(root, "mount", SECOND, "--root", str(root), "--", "/nowhere")
    assert (missing.exit_code, missing.stderr) == (2, "imagedist: cannot run /nowhere: No such file or directory\n")
    assert list((root / "imagedist/mounts").iterdir()) == []


@pytest.mark.root
def test_mount_and_umount_tell_machines_in_json(root: Path, store: OverlayStore) -> None:
    told = json.loads(imagedist(root, "mount", SECOND, "--json").output)
    refused = imagedist(root, "rm", SECOND)
    assert sorted(path.name for path in (Path(told["path"]) / "d").iterdir()) == ["base", "other"]
    assert json.loads(imagedist(root, "umount", SECOND, "--json").output) == {"image": told["image"]}
    assert not Path(told["path"]).exists()
    assert (refused.exit_code, "imagedist umount undoes it" in refused.stderr) == (2, True)
