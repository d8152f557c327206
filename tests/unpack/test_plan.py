from __future__ import annotations

from collections.abc import Sequence

import pytest

from imagedist.errors import UnacceptableError
from imagedist.unpack.entries import entries
from imagedist.unpack.plan import Node, Plan, Whiteout, plan
from tests.support import layers
from tests.support.layers import Member, character_device, directory, file, hardlink, opaque, symlink, whiteout


def planned(members: Sequence[Member]) -> Plan:
    return plan(entries(memoryview(layers.tar(members))))


def paths(plan: Plan) -> dict[str, Node]:
    found: dict[str, Node] = {}

    def visit(node: Node, prefix: str) -> None:
        for name, child in (node.children or {}).items():
            found[prefix + name] = child
            visit(child, f"{prefix}{name}/")

    visit(plan.root, "")
    return found


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/etc/passwd", "etc/passwd"),
        ("../../etc/passwd", "etc/passwd"),
        ("a/../../../etc/passwd", "etc/passwd"),
        ("./etc//./passwd", "etc/passwd"),
    ],
)
def test_escaping_name_is_cleaned_relative_to_the_root(name: str, path: str) -> None:
    assert path in paths(planned([file(name)]))


def test_parent_that_is_a_symlink_is_followed_inside_the_root() -> None:
    found = paths(planned([symlink("out", "../../../tmp/x"), file("out/file"), symlink("abs", "/tmp"), file("abs/f2")]))
    assert "tmp/x/file" in found
    assert "tmp/f2" in found
    assert found["out"].entry is not None
    assert found["out"].entry.is_symlink


def test_last_of_two_entries_with_one_name_wins() -> None:
    found = paths(planned([file("f", b"old"), directory("f"), file("f/inner"), file("f", b"newer")]))
    assert list(found) == ["f"]
    assert found["f"].entry is not None
    assert found["f"].entry.size_bytes == 5


def test_directory_in_place_of_a_file_hides_the_lower_one() -> None:
    assert paths(planned([file("x"), directory("x")]))["x"].is_opaque


def test_whiteouts_are_kept_in_order_and_apart_from_the_tree() -> None:
    found = planned([whiteout("d/f"), file("f"), whiteout("f"), opaque("d/e"), opaque("")])
    assert list(paths(found)) == ["f"]
    assert found.whiteouts == (Whiteout("d/f", False), Whiteout("f", False), Whiteout("d/e", True), Whiteout("", True))


def test_whiteout_goes_where_a_symlink_of_its_layer_leads() -> None:
    assert planned([symlink("s", "d"), whiteout("s/f")]).whiteouts == (Whiteout("d/f", False),)


def test_whiteout_below_a_file_of_its_layer_leaves_the_file() -> None:
    assert not paths(planned([file("f"), whiteout("f/x"), opaque("f")]))["f"].is_directory


def test_hard_linked_whiteout_is_a_whiteout() -> None:
    assert planned([file("f"), hardlink(".wh.g", "f")]).whiteouts == (Whiteout("g", False),)


def test_aufs_bookkeeping_is_left_out() -> None:
    found = planned([file(".wh..wh.plnk"), directory(".wh..wh.aufs")])
    assert (paths(found), found.whiteouts) == ({}, ())


def test_hard_link_shares_the_entry_of_its_target_as_it_was() -> None:
    found = paths(planned([file("a", b"1"), hardlink("b", "/a"), file("a", b"22")]))
    assert found["b"].entry is not None
    assert (found["b"].entry.name, found["b"].entry.size_bytes) == ("a", 1)


def test_hard_link_to_a_lower_file_waits_for_the_merge() -> None:
    links = planned([hardlink("d/new", "../../lower/file"), hardlink("again", "d/new")]).lower_links
    assert {(link.path, link.target) for link in links} == {("d/new", "lower/file"), ("again", "lower/file")}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([file("n" * 256)], "255 bytes"),
        ([file("d/" * 300 + "f")], "deeper"),
        ([file("dd/" * 2000 + "f")], "4096"),
        ([symlink("a", "b"), symlink("b", "a"), file("a/f")], "too many symlinks"),
        ([directory("d"), hardlink("h", "d")], "directory"),
        ([hardlink("h", "/")], "root"),
        ([hardlink("h", "lower"), file("h/f")], "two names"),
        ([file("d/..")], "root"),
        ([character_device("dev/zero", 0, 0)], "0:0"),
        ([file(".wh.")], "names nothing"),
        ([file("d/.wh...")], "names nothing"),
    ],
)
def test_unsafe_layer_is_refused(members: list[Member], message: str) -> None:
    with pytest.raises(UnacceptableError, match=message):
        planned(members)


def test_endless_symlink_targets_are_refused() -> None:
    links = [symlink(f"l{number}", f"l{number + 1}/" + "x/../" * 200) for number in range(30)]
    with pytest.raises(UnacceptableError, match="parts"):
        planned([directory("x"), directory("l30"), *links, file("l0/f")])


def test_hard_link_to_what_may_be_a_lower_symlink_waits_for_the_merge() -> None:
    (link,) = planned([file("bin/f"), hardlink("h", "bin")]).lower_links
    assert (link.path, link.target) == ("h", "bin")
