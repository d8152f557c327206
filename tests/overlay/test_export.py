"""What goes in comes out to the byte: skopeo puts the layers together again from our store."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from imagedist.errors import StorageError
from imagedist.overlay.store import OverlayStore
from tests.support import layers, unpacking
from tests.support.layers import (
    Member,
    character_device,
    directory,
    fifo,
    file,
    hardlink,
    opaque,
    symlink,
    whiteout,
)

pytestmark = [pytest.mark.root, pytest.mark.e2e("skopeo")]
NAME = "registry.example/team/app:1"
BLOCK = 512


def sparse_tar() -> bytes:
    """GNU's old sparse format: 10 bytes, a hole, 10 bytes, as GNU tar itself writes it."""
    with_hole = b"0123456789" + bytes(1 << 20) + b"9876543210"
    return _by_gnu_tar({"hole": with_hole, "plain": b"plain"}, "--sparse", "--format=gnu")


def pax_sparse_tar(version: str) -> bytes:
    with_hole = b"0123456789" + bytes(1 << 20) + b"9876543210"
    return _by_gnu_tar({"hole": with_hole}, "--sparse", "--format=posix", f"--sparse-version={version}")


def _by_gnu_tar(files: dict[str, bytes], *options: str) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        for name, content in files.items():
            with open(Path(place, name), "wb") as out:
                for start in range(0, len(content), 4096):
                    part = content[start : start + 4096]
                    out.seek(len(part), os.SEEK_CUR) if part.strip(b"\0") == b"" else out.write(part)
                out.truncate(len(content))
        command = ["tar", "--create", *options, "--directory", place, *sorted(files)]
        return subprocess.run(command, capture_output=True, check=True).stdout


ODD: dict[str, Sequence[bytes | Sequence[Member]]] = {
    "an ordinary image": [
        [directory("d"), file("d/f", b"x" * 5000), symlink("l", "d/f"), hardlink("h", "d/f"), fifo("p")],
        [whiteout("l"), opaque("d"), file("d/new", b"new"), hardlink("again", "h"), character_device("null", 1, 3)],
    ],
    "duplicates that change": [[file("a", b"first"), file("b", b"b"), file("a", b"second, longer"), directory("a")]],
    "a file deleted where it was made": [[file("a", b"x" * 1000), whiteout("a"), file("a", b"y" * 1000)]],
    "long names in pax": [[directory("d" * 90), file("d" * 90 + "/" + "f" * 200, b"x"), symlink("s", "t" * 300)]],
    "long names in GNU": [layers.tar([file("n" * 200, b"x"), symlink("s", "t" * 200)], tarfile.GNU_FORMAT)],
    "names that are no text": [[file("caf\udce9", b"x" * 700), file("\udcff\udcfe/in", b"y" * 700)]],
    "absolute and dotted names": [[file("/abs", b"a" * 600), file("./dot", b"b" * 600), file("../up", b"c" * 600)]],
    "hard links to lower layers": [[file("a", b"a" * 600)], [hardlink("b", "a"), whiteout("a")]],
    "what goes through a lower symlink": [
        [directory("usr/bin"), symlink("bin", "usr/bin")],
        [file("bin/x", b"x" * 600)],
    ],
    "trailing garbage": [layers.tar([file("a", b"a")]) + b"garbage" * 1000],
    "no end at all": [layers.tar([file("a", b"a" * 100)])[: 2 * BLOCK]],
    "no entry at all": [layers.tar([]), b""],
    "the same layer twice": [[file("a", b"a" * 600)], [file("a", b"a" * 600)]],
    "empty files": [[file("empty"), file("also empty"), hardlink("third", "empty")]],
    "a sparse file, GNU's old way": [sparse_tar()],
    **{f"a sparse file, pax {version}": [pax_sparse_tar(version)] for version in ("0.0", "0.1", "1.0")},
}


@pytest.mark.parametrize("odd", ODD)
def test_skopeo_copies_every_layer_to_the_byte(tmp_path: Path, odd: str) -> None:
    tars = [content if isinstance(content, bytes) else layers.tar(content) for content in ODD[odd]]
    store = OverlayStore(tmp_path / "store", durability="none")
    built = layers.image(tars, NAME)
    unpacking.put(store, built, tars, [NAME])
    source = f"containers-storage:[overlay@{store.root}+{tmp_path / 'run'}]{NAME}"
    target = tmp_path / "dir"
    done = subprocess.run(
        ["unshare", "--mount", "skopeo", "copy", "--dest-decompress", source, f"dir:{target}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((target / "manifest.json").read_bytes())
    assert [layer["digest"] for layer in manifest["layers"]] == [str(layer.diff_id) for layer in built.image.layers]
    for layer, tar in zip(built.image.layers, tars, strict=True):
        assert (target / layer.diff_id.hex).read_bytes() == tar
    assert manifest["config"]["digest"] == str(built.image.id)


def test_a_store_that_a_tool_has_mounted_on_itself_is_built_upon_and_collected(tmp_path: Path) -> None:
    """skopeo does so, and leaves it; renames do not go beyond a mount."""
    store = OverlayStore(tmp_path / "a store", durability="none")
    tars = [layers.tar([file("a", b"a")])]
    unpacking.put(store, layers.image(tars, NAME), tars, [NAME])
    more = [*tars, layers.tar([hardlink("b", "a")])]
    overlay = store.root / "overlay"
    for change in (
        lambda: unpacking.put(store, layers.image(more, NAME), more, ["registry.example/team/other:1"]),
        lambda: store.gc(quota_bytes=0),
    ):
        subprocess.run(["mount", "--bind", overlay, overlay], check=True)
        change()
        assert str(overlay).replace(" ", "\\040") not in Path("/proc/self/mountinfo").read_text()
    assert store.images() == []


def test_a_mount_on_itself_that_is_in_use_is_told(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path / "store", durability="none")
    overlay = store.root / "overlay"
    subprocess.run(["mount", "--bind", overlay, overlay], check=True)
    try:
        with (overlay / "busy").open("w"), pytest.raises(StorageError, match="mounted on itself by a tool"):
            store.gc()
    finally:
        subprocess.run(["umount", overlay], check=True)
