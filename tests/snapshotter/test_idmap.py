"""User namespaces: whose files a container finds, by whichever side maps them."""

from __future__ import annotations

import os
from pathlib import Path

import grpc
import pytest

from imagedist.errors import InputError
from imagedist.snapshotter.idmap import GID_LABEL, UID_LABEL, id_mapping
from tests.snapshotter.client import Client, failing, mounted

MAPPED = {UID_LABEL: "0:100000:65536", GID_LABEL: "0:200000:65536"}


def test_without_labels_nothing_is_mapped() -> None:
    assert id_mapping({"containerd.io/snapshot.ref": "x"}) is None


def test_the_containers_root_is_found_among_several_ranges() -> None:
    mapping = id_mapping({UID_LABEL: "1:5:10,0:7:1", GID_LABEL: "0:3:65536"})
    assert mapping is not None
    assert (mapping.root_uid, mapping.root_gid) == (7, 3)
    assert mapping.options == ("uidmap=1:5:10,0:7:1", "gidmap=0:3:65536")


@pytest.mark.parametrize(
    "users", ["", "0", "0:1", "0:1:0", "0:-1:5", "0:1:5,", "x:1:5", "1:1:5", "0:4294967290:65536", "0:1:5:6", "²:1:5"]
)
def test_what_is_no_mapping_of_a_root_is_refused(users: str) -> None:
    with pytest.raises(InputError, match="uidmapping"):
        id_mapping({UID_LABEL: users, GID_LABEL: "0:1:65536"})


@pytest.mark.root
class TestSnapshots:
    def test_containerd_is_told_to_map_the_layers_and_the_new_one_is_the_mapped_roots(
        self, client: Client, base: Path
    ) -> None:
        client.prepare("layer")
        client.commit("below", "layer")

        (mount,) = client.prepare("container", "below", MAPPED)

        assert list(mount.options)[:2] == ["uidmap=0:100000:65536", "gidmap=0:200000:65536"]
        assert list(client.mounts("container")[0].options) == list(mount.options)
        named = dict(option.split("=", 1) for option in mount.options if "=" in option)
        assert (os.stat(named["upperdir"]).st_uid, os.stat(named["upperdir"]).st_gid) == (100_000, 200_000)
        # One common directory may be mounted elsewhere, and the rest looked up in it: no symlink on the way.
        assert os.path.realpath(named["lowerdir"]) == named["lowerdir"]

    def test_what_containerd_has_given_to_other_owners_is_not_mapped_once_more(
        self, client: Client, base: Path
    ) -> None:
        client.prepare("layer")
        client.commit("below", "layer")
        with mounted(client.prepare("below-remap", "below"), base / "work") as root:
            os.chown(root, 100_000, 200_000)
        client.commit("below-100000-200000", "below-remap")

        (mount,) = client.prepare("container", "below-100000-200000", MAPPED)

        assert not [option for option in mount.options if "map=" in option]
        named = dict(option.split("=", 1) for option in mount.options if "=" in option)
        assert os.stat(named["upperdir"]).st_uid == 100_000

    def test_a_snapshot_upon_nothing_is_mapped_as_well(self, client: Client) -> None:
        (mount,) = client.prepare("container", "", MAPPED)
        assert list(mount.options) == ["uidmap=0:100000:65536", "gidmap=0:200000:65536", "rw", "rbind"]
        assert os.stat(mount.source).st_uid == 100_000

    def test_labels_that_map_nothing_are_refused_and_leave_nothing(self, client: Client) -> None:
        with failing(grpc.StatusCode.INVALID_ARGUMENT):
            client.prepare("container", "", MAPPED | {GID_LABEL: "0:1"})
        assert client.list() == []
