from __future__ import annotations

import gzip
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from imagedist.errors import UnacceptableError
from imagedist.unpack.extract import ExtractedLayer
from imagedist.unpack.plan import Whiteout
from tests.support import layers, unpacking
from tests.support.layers import Member, character_device, directory, fifo, file, hardlink, opaque, symlink, whiteout
from tests.support.tarsplit import reassembled

IS_ROOT = os.geteuid() == 0
OPAQUE = "trusted.overlay.opaque" if IS_ROOT else "user.overlay.opaque"


def extract(members: Sequence[Member], tmp_path: Path) -> tuple[ExtractedLayer, Path]:
    extracted = unpacking.extract(layers.tar(members), tmp_path / "layer")
    return extracted, extracted.directory / "diff"


def test_files_directories_links_and_times_are_as_described(tmp_path: Path) -> None:
    _, diff = extract(
        [
            directory("d", 0o750, mtime=5),
            file("d/f", b"content", mode=0o4711, mtime=7.25),
            file("d/empty"),
            symlink("d/s", "../nowhere", mtime=9),
            hardlink("h", "d/f"),
            fifo("p", mode=0o600),
        ],
        tmp_path,
    )
    described = (diff / "d/f").stat()
    assert (diff / "d/f").read_bytes() == b"content"
    assert (stat.S_IMODE(described.st_mode), described.st_mtime_ns) == (0o4711, 7_250_000_000)
    assert (diff / "h").stat().st_ino == described.st_ino
    assert ((diff / "d").stat().st_mtime, stat.S_IMODE((diff / "d").stat().st_mode)) == (5, 0o750)
    assert os.readlink(diff / "d/s") == "../nowhere"
    assert (diff / "d/s").lstat().st_mtime == 9
    assert stat.S_ISFIFO((diff / "p").stat().st_mode)


def test_whiteouts_wait_for_the_merge(tmp_path: Path) -> None:
    extracted, diff = extract([directory("d"), opaque("d"), whiteout("other/gone")], tmp_path)
    assert os.listdir(diff) == ["d"]
    assert extracted.whiteouts == (Whiteout("d", True), Whiteout("other/gone", False))


def test_directory_in_place_of_a_file_takes_overlayfs_opaque_form(tmp_path: Path) -> None:
    extracted, diff = extract([file("d"), directory("d"), file("d/f")], tmp_path)
    if "d" not in extracted.unmarked_opaque:
        assert os.getxattr(diff / "d", OPAQUE) == b"y"


def test_undescribed_directories_are_named_parents_first(tmp_path: Path) -> None:
    extracted, _ = extract([file("a/b/f"), directory("c")], tmp_path)
    assert extracted.undescribed == ("", "a", "a/b")


def test_symlink_as_parent_never_leads_outside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    _, diff = extract([symlink("out", str(outside)), file("out/f", b"x"), hardlink("h", "out/f")], tmp_path)
    assert list(outside.iterdir()) == []
    assert diff.joinpath(*outside.parts[1:], "f").read_bytes() == b"x"


def test_layer_cannot_forge_overlayfs_marks(tmp_path: Path) -> None:
    forged = {f"SCHILY.xattr.{name}": "y" for name in ("user.overlay.opaque", "trusted.overlay.opaque")}
    _, diff = extract([directory("d", pax={**forged, "SCHILY.xattr.security.selinux": "x"})], tmp_path)
    assert not {"user.overlay.opaque", "trusted.overlay.opaque"} & set(os.listxattr(diff / "d"))


@pytest.mark.root
def test_owner_set_id_bits_devices_and_capabilities_are_kept_for_root(tmp_path: Path) -> None:
    capability = b"\x01\0\0\x02\0\x04" + bytes(14)
    extracted, diff = extract(
        [
            file("f", mode=0o6755, uid=1000, gid=2000, pax={"SCHILY.xattr.security.capability": capability.decode()}),
            symlink("s", "f", uid=5, gid=6),
            character_device("null", 1, 3, mode=0o666),
        ],
        tmp_path,
    )
    status = (diff / "f").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1000, 2000, 0o6755)
    assert os.getxattr(diff / "f", "security.capability") == capability
    assert ((diff / "s").lstat().st_uid, (diff / "s").lstat().st_gid) == (5, 6)
    assert (diff / "null").stat().st_rdev == os.makedev(1, 3)
    assert (extracted.uids, extracted.gids, extracted.skipped) == ((0, 5, 1000), (0, 6, 2000), {})


@pytest.mark.skipif(IS_ROOT, reason="root skips nothing")
def test_what_needs_root_is_skipped_and_counted(tmp_path: Path) -> None:
    extracted, diff = extract([file("f", uid=0), character_device("null", 1, 3)], tmp_path)
    assert (dict(extracted.skipped), (diff / "null").exists()) == ({"owner": 1, "device": 1}, False)


@pytest.mark.parametrize(
    "members",
    [
        [],
        [file("f", b"x" * 700), directory("d"), file("d/" + "n" * 200, b"y"), file("empty")],
        [file("f", b"replaced"), file("f", b"kept"), hardlink("h", "f")],
        [file("f", b"r" * (2 << 20)), file("f", b"kept")],
        [file("../../f", b"climbs")],
        [file("d/e/..", b"climbs at its end"), file("f/.", b"stays")],
        [symlink("s", "d"), file("s/f", b"moved"), file("caf\udce9", b"not UTF-8")],
    ],
)
def test_tar_split_and_layer_directory_give_the_tar_back(members: list[Member], tmp_path: Path) -> None:
    tar = layers.tar(members)
    extracted = unpacking.extract(tar, tmp_path / "layer")
    assert reassembled(extracted.directory) == tar


def test_tar_split_has_the_checksum_that_go_computes(tmp_path: Path) -> None:
    """Value from a store that podman 4.3 wrote."""
    extracted = unpacking.extract(layers.tar([file("d/f", b"abc")]), tmp_path / "layer")
    split = gzip.decompress((extracted.directory / "tar-split.gz").read_bytes())
    assert b'{"type":1,"name":"d/f","size":3,"payload":"N3bEIAAAAAA=","position":1}' in split.splitlines()


def test_unsafe_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnacceptableError):
        extract([file("f"), file("n" * 300)], tmp_path)


def test_file_whose_name_climbs_out_is_embedded_in_the_tar_split(tmp_path: Path) -> None:
    """containers/storage opens the name as it stands in the tar, below the layer's directory."""
    extracted, _ = extract([file("../../etc/passwd", b"x"), file("etc/group", b"y")], tmp_path)
    records = [
        json.loads(line) for line in gzip.decompress((extracted.directory / "tar-split.gz").read_bytes()).splitlines()
    ]
    sizes = {record["name"]: record.get("size") for record in records if record["type"] == 1}
    assert sizes == {"etc/group": 1}


def test_bad_xattr_name_is_the_layers_fault(tmp_path: Path) -> None:
    name = "user." + "n" * 300
    with pytest.raises(UnacceptableError, match="bad xattr"):
        extract([file("f", pax={f"SCHILY.xattr.{name}": "x"})], tmp_path)
