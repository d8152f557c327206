"""Writing and taking back: whole or not at all, byte for byte, and never over somebody else's change."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from imagedist.errors import ConfigError, InputError, StorageError
from imagedist.runtimes.applying import apply
from imagedist.runtimes.plan import FileChange, Plan, plan, read
from imagedist.runtimes.report import Edit, Found
from imagedist.runtimes.settings import Settings
from imagedist.runtimes.undoing import undo
from tests.runtimes.trees import put, settings, snapshot
from tests.support.counts import count


def found(key: str, *edits: Edit, directories: Sequence[Path] = ()) -> Found:
    return Found(key, key, "1", "yes", "yes", "how", edits=edits, directories=tuple(directories))


def line(path: Path, text: str) -> Edit:
    """Adds a line unless it is there."""
    return Edit(path, lambda before: before if text in before else f"{before}{text}\n")


def written(node: Settings, *founds: Found) -> None:
    apply(node, plan(founds, ()))


@pytest.fixture
def node(tmp_path: Path) -> Settings:
    put(tmp_path, "/etc/a.conf", "a\n", 0o640)
    os.utime(tmp_path / "etc/a.conf", (1_000_000_000, 1_000_000_000))
    return settings(tmp_path)


def test_what_is_written_is_taken_back_to_the_same_files(node: Settings) -> None:
    before = snapshot(node.root)
    new = node.at("/etc/new/deep/b.conf")
    written(
        node, found("one", line(node.at("/etc/a.conf"), "ours"), line(new, "ours"), directories=[node.at("/var/x")])
    )
    assert node.at("/etc/a.conf").read_text() == "a\nours\n"
    assert node.at("/etc/a.conf").stat().st_mode & 0o777 == 0o640
    assert node.at("/var/x").is_dir()

    undo(node)

    after = snapshot(node.root)
    state = str(node.at("/var"))
    assert {path: what for path, what in after.items() if not path.startswith(state)} == before
    assert not new.parent.parent.exists()
    assert not node.at("/var/x").exists()


@pytest.mark.root
def test_the_owner_stays(node: Settings) -> None:
    path = node.at("/etc/a.conf")
    os.chown(path, 12, 34)
    written(node, found("one", line(path, "ours")))
    assert (path.stat().st_uid, path.stat().st_gid) == (12, 34)


def test_applying_again_writes_nothing(node: Settings) -> None:
    runtime = found("one", line(node.at("/etc/a.conf"), "ours"))
    written(node, runtime)
    assert plan([runtime], ()) == Plan((), ())


def test_a_second_apply_with_other_settings_is_taken_back_as_well(node: Settings) -> None:
    path = node.at("/etc/a.conf")
    written(node, found("one", line(path, "first")))
    written(node, found("one", line(path, "second")))
    undo(node)
    assert path.read_text() == "a\n"
    assert [entry.name for entry in node.at("/etc").iterdir()] == ["a.conf"]


def test_undo_leaves_a_file_that_was_changed_since_and_says_how_to_go_on(node: Settings) -> None:
    path, other = node.at("/etc/a.conf"), node.at("/etc/other.conf")
    written(node, found("one", line(other, "ours"), line(path, "ours")))
    path.write_text("a\nours\nmine\n")

    with pytest.raises(InputError, match=r"a\.conf was changed since --apply \(compare `diff -u .*--undo --force"):
        undo(node)
    assert path.read_text() == "a\nours\nmine\n"
    assert other.exists(), "half of it was undone"

    restored = undo(node, is_forced=True)
    assert path.read_text() == "a\n"
    assert not other.exists()
    kept = next(one.kept for one in restored if one.kept)
    assert Path(kept).read_text() == "a\nours\nmine\n"


def test_undo_of_one_runtime_leaves_the_others(node: Settings) -> None:
    first, second = node.at("/etc/first"), node.at("/etc/second")
    written(node, found("one", line(first, "ours")), found("two", line(second, "ours")))
    undo(node, ["one"])
    assert (first.exists(), second.exists()) == (False, True)


def test_a_file_of_two_runtimes_is_taken_back_for_both_only(node: Settings) -> None:
    shared = node.at("/etc/shared")
    written(node, found("one", line(shared, "ours")), found("two", line(shared, "ours")))
    with pytest.raises(InputError, match="was written for one and two: name all of them"):
        undo(node, ["two"])
    undo(node, ["one", "two"])
    assert not shared.exists()


def test_nothing_is_written_when_one_of_the_files_cannot_be_edited(node: Settings) -> None:
    def refuse(text: str) -> str:
        raise ConfigError("is not TOML: somewhere")

    with pytest.raises(ConfigError, match=r"b\.conf is not TOML"):
        written(node, found("one", line(node.at("/etc/a.conf"), "ours"), Edit(node.at("/etc/b.conf"), refuse)))
    assert node.at("/etc/a.conf").read_text() == "a\n"


def test_a_failure_in_the_middle_takes_back_what_was_written_before(node: Settings) -> None:
    before = snapshot(node.root / "etc")
    put(node.root, "/etc/file", "not a directory")
    wanted = plan([found("one", line(node.at("/etc/a.conf"), "ours"))], ())
    broken = FileChange(node.at("/etc/file/below"), None, b"x", ("one",))
    with pytest.raises(StorageError):
        apply(node, Plan((*wanted.files, broken), ()))
    node.at("/etc/file").unlink()
    assert snapshot(node.root / "etc") == before
    assert undo(node) == []


def test_a_file_changed_between_reading_and_writing_is_left_alone(node: Settings) -> None:
    path = node.at("/etc/a.conf")
    wanted = plan([found("one", line(path, "ours"))], ())
    path.write_text("somebody else's\n")
    with pytest.raises(StorageError, match="was changed at the same time"):
        apply(node, wanted)
    assert path.read_text() == "somebody else's\n"
    assert [entry.name for entry in node.at("/etc").iterdir()] == ["a.conf"]


@pytest.mark.root
def test_a_runtime_is_not_made_to_depend_on_a_snapshotter_that_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    edit = Edit(path, lambda text: "ours\n", is_snapshotters=True)
    machine = Settings(socket=tmp_path / "no.sock")
    with pytest.raises(InputError, match=r"no snapshotter listens at .*no\.sock, and one would start nothing"):
        written(machine, found("one", edit))
    assert not path.exists()


def test_a_symbolic_link_is_refused_and_named(node: Settings) -> None:
    link = node.at("/etc/link.conf")
    link.symlink_to("a.conf")
    with pytest.raises(ConfigError, match=r"link\.conf is a symbolic link to a\.conf"):
        written(node, found("one", line(link, "ours")))


@pytest.mark.parametrize("kind", ["directory", "fifo", "large"])
def test_what_is_no_configuration_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(b"\n" * (5 << 20))
    with pytest.raises(ConfigError, match="is not a configuration file"):
        read(path)


def test_bytes_that_are_no_text_are_refused(node: Settings) -> None:
    node.at("/etc/a.conf").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        written(node, found("one", line(node.at("/etc/a.conf"), "ours")))


def test_a_journal_of_a_newer_version_is_left_alone(node: Settings) -> None:
    put(node.root, "/var/lib/imagedist/runtimes.json", '{"format": 2, "entries": []}')
    with pytest.raises(StorageError, match="newer version"):
        undo(node)


_KILLED = """
import os, signal, sys
from pathlib import Path
from imagedist.runtimes.applying import apply
from imagedist.runtimes.plan import plan
from imagedist.runtimes.undoing import undo
from tests.runtimes.test_applying import found, line
from tests.runtimes.trees import settings

node, left, act = settings(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3]

def count_down(event, arguments):
    global left
    if event in ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

wanted = plan([found("one", line(node.at("/etc/a.conf"), "ours"), line(node.at("/etc/new/b"), "ours"))], ())
sys.addaudithook(count_down)
apply(node, wanted) if act == "apply" else undo(node)
print("done", flush=True)
"""


@pytest.mark.prove
@pytest.mark.parametrize("act", ["apply", "undo"])
def test_killed_at_any_step_every_file_is_whole_and_undo_gives_back_what_was_there(tmp_path: Path, act: str) -> None:
    steps = range(0, 200, count(5, 1))
    for step in steps:
        root = tmp_path / str(step)
        node = settings(root)
        path, new = put(root, "/etc/a.conf", "a\n"), node.at("/etc/new/b")
        before = snapshot(root / "etc")
        if act == "undo":
            written(node, found("one", line(path, "ours"), line(new, "ours")))

        done = subprocess.run(
            [sys.executable, "-c", _KILLED, str(root), str(step), act], capture_output=True, text=True, check=False
        )

        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        assert path.read_text() in ("a\n", "a\nours\n")
        assert not new.exists() or new.read_text() == "ours\n"
        undo(node)
        assert snapshot(root / "etc") == before, f"killed at step {step}"
        if done.stdout:
            return
    pytest.fail("it never came to its end")
