"""What containerd's own snapshotter test suite checks (core/snapshots/testsuite), asked through the real socket."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc
import pytest

from imagedist.snapshotter.wire import snapshots_pb2 as wire
from tests.snapshotter.client import Client, failing, mounted

pytestmark = pytest.mark.root

Change = Callable[[Path], None]


@pytest.fixture
def work(base: Path) -> Path:
    return base / "work"


@contextlib.contextmanager
def prepared(client: Client, work: Path, key: str, parent: str = "") -> Iterator[Path]:
    with mounted(client.prepare(key, parent), work / key) as root:
        yield root


def committed(client: Client, work: Path, name: str, parent: str, change: Change) -> None:
    with prepared(client, work, f"{name}-key", parent) as root:
        change(root)
    client.commit(name, f"{name}-key")


def check_stack(client: Client, work: Path, changes: Sequence[Change]) -> None:
    """Each snapshot, as it is prepared upon and viewed, equals the changes applied to one plain directory."""
    flat = work / "flat"
    flat.mkdir(parents=True)
    parent = ""
    for number, change in enumerate(changes):
        with prepared(client, work, f"key-{number}", parent) as root:
            _assert_equal(flat, root)
            change(flat)
            change(root)
            _assert_equal(flat, root)
        client.commit(f"layer-{number}", f"key-{number}")
        parent = f"layer-{number}"
    with mounted(client.view("view", parent), work / "view") as root:
        _assert_equal(flat, root)


def _assert_equal(expected: Path, found: Path) -> None:
    def listing(root: Path) -> dict[str, tuple[int, int, int, bytes | str | None]]:
        listed: dict[str, tuple[int, int, int, bytes | str | None]] = {}
        for path in sorted(root.rglob("*")):
            status = path.lstat()
            content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            listed[str(path.relative_to(root))] = (status.st_mode, status.st_uid, status.st_gid, content)
        return listed

    assert listing(found) == listing(expected)


def test_a_snapshot_goes_its_way_from_prepare_to_remove(client: Client, work: Path) -> None:
    def first(root: Path) -> None:
        (root / "a/b/c").mkdir(parents=True)
        (root / "foo").write_text("foo\n")

    def second(root: Path) -> None:
        (root / "bar").write_text("bar\n")
        (root / "foo").unlink()
        (root / "a/x").mkdir()

    committed(client, work, "first", "", first)
    assert (client.stat("first").parent, client.stat("first").kind) == ("", wire.COMMITTED)
    with prepared(client, work, "next", "first") as root:
        assert (root / "foo").read_text() == "foo\n"
        second(root)
    assert (client.stat("next").parent, client.stat("next").kind) == ("first", wire.ACTIVE)
    client.commit("second", "next")
    with failing(grpc.StatusCode.NOT_FOUND):
        client.stat("next")
    stats = {name: client.stat(name) for name in ("first", "second")}
    assert {info.name: info for info in client.list()} == stats
    with mounted(client.view("shown", "second"), work / "shown") as root:
        assert sorted(path.name for path in root.iterdir()) == ["a", "bar"]
    client.remove("shown")
    with failing(grpc.StatusCode.FAILED_PRECONDITION):
        client.remove("first")
    client.remove("second")
    client.remove("first")
    assert client.list() == []


def test_parents_are_told_over_generations(client: Client, work: Path) -> None:
    committed(client, work, "a", "", lambda root: None)
    committed(client, work, "b", "a", lambda root: None)
    assert client.stat(client.stat("b").parent).parent == ""


@pytest.mark.parametrize("first", ["prepare", "view"])
@pytest.mark.parametrize("second", ["prepare", "view"])
def test_a_key_is_taken_once(client: Client, first: str, second: str) -> None:
    getattr(client, first)("key")
    with failing(grpc.StatusCode.ALREADY_EXISTS):
        getattr(client, second)("key")


def test_parents_must_be_there_and_committed(client: Client) -> None:
    client.prepare("active")
    client.view("shown")
    with failing(grpc.StatusCode.NOT_FOUND):
        client.prepare("key", "nowhere")
    for parent in ("active", "shown"):
        with failing(grpc.StatusCode.INVALID_ARGUMENT):
            client.prepare("key", parent)


def test_commit_needs_an_active_snapshot_and_a_free_name(client: Client) -> None:
    client.prepare("key")
    client.view("shown")
    client.commit("name", "key")
    client.prepare("other")
    with failing(grpc.StatusCode.ALREADY_EXISTS):
        client.commit("name", "other")
    for key in ("shown", "name"):
        with failing(grpc.StatusCode.FAILED_PRECONDITION):
            client.commit("more", key)
    with failing(grpc.StatusCode.NOT_FOUND):
        client.commit("more", "nowhere")


def test_a_snapshot_without_a_parent_gets_one_at_its_commit_but_none_gets_another(client: Client) -> None:
    for name in ("base", "rival"):
        client.prepare(f"{name}-key")
        client.commit(name, f"{name}-key")
    client.prepare("alone")
    client.commit("upon", "alone", parent="base")
    assert client.stat("upon").parent == "base"
    client.prepare("child", "base")
    with failing(grpc.StatusCode.INVALID_ARGUMENT):
        client.commit("never", "child", parent="rival")
    with failing(grpc.StatusCode.NOT_FOUND):
        client.prepare("lone")
        client.commit("never", "lone", parent="nowhere")


def test_a_committed_snapshot_cannot_be_mounted_for_writing(client: Client) -> None:
    client.prepare("key")
    before = client.mounts("key")
    assert list(client.mounts("key")) == list(before)
    client.commit("name", "key")
    with failing(grpc.StatusCode.FAILED_PRECONDITION):
        client.mounts("name")
    with failing(grpc.StatusCode.NOT_FOUND):
        client.mounts("key")


def test_labels_change_and_nothing_else_does(client: Client) -> None:
    before_ns = time.time_ns()
    client.prepare("base-key")
    client.commit("base", "base-key", {"kept": "no"})
    client.prepare("key", "base", {"a": "1"})
    info = client.stat("key")
    created_ns = info.created_at.ToNanoseconds()
    assert before_ns <= created_ns <= time.time_ns()
    assert info.updated_at == info.created_at

    info.labels.clear()
    info.labels.update({"l1": "v1", "l2": "v2", "l3": "v3", "empty": ""})
    info.parent = "elsewhere"
    updated = client.update(info)
    assert dict(updated.labels) == {"l1": "v1", "l2": "v2", "l3": "v3"}
    assert (updated.parent, updated.kind, updated.created_at) == ("base", wire.ACTIVE, info.created_at)
    assert updated.updated_at.ToNanoseconds() > created_ns

    info.labels.clear()
    info.labels.update({"l1": "new", "l4": "v4"})
    assert dict(client.update(info, "labels.l1", "labels.l2").labels) == {"l1": "new", "l3": "v3"}
    assert dict(client.update(info, "labels").labels) == {"l1": "new", "l4": "v4"}
    for path in ("parent", "kind", "name", "labelsx"):
        with failing(grpc.StatusCode.INVALID_ARGUMENT):
            client.update(info, path)
    info.name = "nowhere"
    with failing(grpc.StatusCode.NOT_FOUND):
        client.update(info)


def test_a_committed_snapshot_inherits_no_labels(client: Client) -> None:
    client.prepare("key", labels={"a": "1"})
    client.commit("name", "key", {"b": "2"})
    assert dict(client.stat("name").labels) == {"b": "2"}


def test_names_are_free_again_after_removal(client: Client) -> None:
    client.prepare("a")
    client.commit("one", "a")
    for make in (client.prepare, client.view, client.prepare):
        make("again", "one")
        client.remove("again")
    client.prepare("again")
    client.remove("one")
    client.commit("one", "again")
    with failing(grpc.StatusCode.NOT_FOUND):
        client.remove("again")


def test_lists_are_filtered(client: Client) -> None:
    client.prepare("a-np")
    client.prepare("p-key")
    client.commit("p", "p-key")
    client.prepare("a", "p")
    client.view("v", "p")
    client.prepare("p-wl-key")
    client.commit("p-wl", "p-wl-key", {"l": "1", "containerd.io/gc.root": "x"})
    client.prepare("a-wl", "p-wl", {"l": "2"})
    client.view("v-wl", "p-wl", {"l": "3"})
    client.prepare("a-np-wl", labels={"l": "2"})

    assert client.names("kind==active") == {"a-np", "a", "a-wl", "a-np-wl"}
    assert client.names("kind==view") == {"v", "v-wl"}
    assert client.names("kind==committed") == {"p", "p-wl"}
    assert client.names("name==p", "name==a-np-wl") == {"p", "a-np-wl"}
    assert client.names("name==a-wl,labels.l") == {"a-wl"}
    assert client.names("parent==p") == {"a", "v"}
    assert client.names('parent!=""') == {"a", "v", "a-wl", "v-wl"}
    assert client.names("labels.l") == {"p-wl", "a-wl", "v-wl", "a-np-wl"}
    assert client.names("labels.l==2") == {"a-wl", "a-np-wl"}
    assert client.names('labels."containerd.io/gc.root"==x,parent==""') == {"p-wl"}
    with failing(grpc.StatusCode.INVALID_ARGUMENT):
        client.list("name=p")


def test_a_list_of_many_comes_whole(client: Client) -> None:
    for number in range(250):
        client.view(f"v{number}")
    assert len(client.names()) == 250


def test_lower_files_are_replaced_and_removed(client: Client, work: Path) -> None:
    def base(root: Path) -> None:
        (root / "foo").write_text("foo\n")
        (root / "foobar").write_text("foobar\n")
        (root / "dir/inner").mkdir(parents=True)
        (root / "dir/inner/file").write_text("1")

    def change(root: Path) -> None:
        (root / "foobar").unlink()
        (root / "foo").write_text("foo foo\n")
        shutil.rmtree(root / "dir")
        (root / "dir").mkdir()
        (root / "dir/new").write_text("2")

    check_stack(client, work, [base, change, lambda root: None])


def test_owners_and_modes_are_kept(client: Client, work: Path) -> None:
    def base(root: Path) -> None:
        (root / "opt").mkdir(mode=0o700)
        (root / "opt/a").write_text("a")

    def change(root: Path) -> None:
        os.chown(root / "opt", 1, 2)
        os.chown(root / "opt/a", 3, 4)
        (root / "opt").chmod(0o755)

    check_stack(client, work, [base, change, lambda root: (root / "opt/a").chmod(0o600)])


def test_lower_files_move(client: Client, work: Path) -> None:
    def base(root: Path) -> None:
        (root / "dir1").mkdir()
        (root / "dir1/f1").write_text("Hello")
        (root / "dir2").mkdir()
        (root / "dir2/f2").write_text("…")

    def move(root: Path) -> None:
        (root / "dir3").mkdir()
        (root / "dir1/f1").rename(root / "dir3/f1")
        shutil.rmtree(root / "dir1")
        os.link(root / "dir2/f2", root / "dir3/f2")
        (root / "dir2/f2").unlink()

    check_stack(client, work, [base, move])


@pytest.mark.parametrize("layers", [1, 2])
def test_a_view_is_read_only(client: Client, work: Path, layers: int) -> None:
    for number in range(layers):
        committed(client, work, f"l{number}", f"l{number - 1}" if number else "", lambda root: None)
    with mounted(client.view("shown", f"l{layers - 1}"), work / "shown") as root:
        with pytest.raises(OSError) as failure:
            (root / "file").write_text("no")
    assert failure.value.errno == errno.EROFS


def test_the_root_directory_is_for_everybody_to_enter(client: Client, work: Path) -> None:
    before = os.umask(0o077)
    try:
        with prepared(client, work, "key") as root:
            assert root.stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)


def test_the_root_directory_belongs_to_the_lower_ones_owner(client: Client, work: Path) -> None:
    committed(client, work, "owned", "", lambda root: os.chown(root, 12, 34))
    with prepared(client, work, "above", "owned") as root:
        assert (root.stat().st_uid, root.stat().st_gid) == (12, 34)


def test_128_layers_mount(client: Client, work: Path) -> None:
    def layer(number: int) -> Change:
        def change(root: Path) -> None:
            (root / "overwritten").write_text(str(number))
            (root / "kept").mkdir(exist_ok=True)
            (root / f"kept/{number}").write_text("")
            shutil.rmtree(root / "replaced", ignore_errors=True)
            (root / "replaced").mkdir()
            (root / f"replaced/{number}").write_text("")

        return change

    check_stack(client, work, [layer(number) for number in range(128)])


def test_usage_counts_what_was_written(client: Client, work: Path) -> None:
    client.prepare("empty")
    assert client.usage("empty").inodes == 1
    with prepared(client, work, "key") as root:
        (root / "dir").mkdir()
        (root / "dir/file").write_bytes(b"x" * (1 << 20))
        os.link(root / "dir/file", root / "other-name")
        written = client.usage("key")
    assert written.inodes == 3
    assert 1 << 20 <= written.size < (1 << 20) + 65536
    client.commit("name", "key")
    assert client.usage("name") == written
    client.view("shown", "name")
    assert client.usage("shown").size == 0
    with failing(grpc.StatusCode.NOT_FOUND):
        client.usage("nowhere")
