from __future__ import annotations

import json
from pathlib import Path

import pytest

from imagedist.errors import InputError, IntegrityError, NotFoundError, UnacceptableError
from imagedist.oci.digest import Digest
from imagedist.oci.layout import Layout
from imagedist.oci.manifest import OCI_MANIFEST

BODY = b'{"schemaVersion":2}'
ENTRY = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(BODY)), "size": len(BODY)}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "layout")
    layout.put(Digest.of(BODY), BODY)
    layout.name("1", ENTRY)
    return layout


def test_what_was_put_under_a_name_is_found_by_it(layout: Layout) -> None:
    assert layout.find("1").digest == layout.find(None).digest == Digest.of(BODY)
    assert layout.read(Digest.of(BODY), 100) == BODY
    assert json.loads((layout.directory / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}


def test_file_is_moved_in(layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"blob")
    layout.put(Digest.of(b"blob"), path)
    assert layout.has(Digest.of(b"blob"))
    assert not path.exists()


def test_name_moves_and_other_entries_stay_as_they_are(layout: Layout) -> None:
    other = {**ENTRY, "digest": str(Digest.of(b"other")), "annotations": {"kept": "yes"}}
    index = json.loads((layout.directory / "index.json").read_bytes())
    (layout.directory / "index.json").write_text(json.dumps({**index, "manifests": [*index["manifests"], other]}))
    layout.name("1", {**ENTRY, "digest": str(Digest.of(b"new"))})
    assert layout.find("1").digest == Digest.of(b"new")
    assert other in json.loads((layout.directory / "index.json").read_bytes())["manifests"]


def test_another_programs_index_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"mine": 1}')
    with pytest.raises(InputError, match=r"has an index\.json and is no OCI image layout"):
        Layout(tmp_path).name("1", ENTRY)
    assert (tmp_path / "index.json").read_text() == '{"mine": 1}'


def test_what_others_say_of_the_whole_layout_stays(layout: Layout) -> None:
    index = json.loads((layout.directory / "index.json").read_bytes())
    (layout.directory / "index.json").write_text(json.dumps({**index, "annotations": {"kept": "yes"}}))
    layout.name("2", ENTRY)
    assert json.loads((layout.directory / "index.json").read_bytes())["annotations"] == {"kept": "yes"}


def test_several_images_need_a_name(layout: Layout) -> None:
    layout.name("2", {**ENTRY, "digest": str(Digest.of(b"new"))})
    with pytest.raises(NotFoundError, match="2 images; name one as oci:DIR:NAME, there are: 1, 2"):
        layout.find(None)
    with pytest.raises(NotFoundError, match="no image 3"):
        layout.find("3")


def test_directory_that_is_no_layout_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not an OCI image layout"):
        Layout(tmp_path).find("1")


def test_malformed_index_is_unacceptable(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"manifests": 3}')
    with pytest.raises(UnacceptableError, match="malformed"):
        Layout(tmp_path).find("1")


def test_blob_that_was_changed_is_gone_or_too_large_is_an_error(layout: Layout) -> None:
    with pytest.raises(UnacceptableError, match="more than 3 bytes"):
        layout.read(Digest.of(BODY), 3)
    with pytest.raises(NotFoundError, match="has no blob"):
        layout.read(Digest.of(b"none"), 3)
    layout.blob_path(Digest.of(BODY)).write_bytes(b"changed")
    with pytest.raises(IntegrityError, match="was changed"):
        layout.read(Digest.of(BODY), 100)
