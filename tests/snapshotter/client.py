"""containerd's side of the snapshots API, and its way of mounting what it is told."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from imagedist.snapshotter.service import SERVICE
from imagedist.snapshotter.wire import snapshots_pb2 as wire

_PAGE_BYTES = 4096
_FLAGS = {"ro": 1, "rbind": 4096 | 16384, "rw": 0}
_MS_REMOUNT_BIND_RDONLY = 32 | 4096 | 1
_CALL_SECONDS = 60.0


class Client:
    """Calls of the API by their names; failures are ``grpc.RpcError``."""

    def __init__(self, socket: Path) -> None:
        self.channel = grpc.insecure_channel(f"unix:{socket}")

    def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> Any:
        request = wire.PrepareSnapshotRequest(key=key, parent=parent, labels=labels)
        return self._call("Prepare", request, wire.PrepareSnapshotResponse).mounts

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> Any:
        request = wire.ViewSnapshotRequest(key=key, parent=parent, labels=labels)
        return self._call("View", request, wire.ViewSnapshotResponse).mounts

    def mounts(self, key: str) -> Any:
        return self._call("Mounts", wire.MountsRequest(key=key), wire.MountsResponse).mounts

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None, parent: str = "") -> None:
        self._call("Commit", wire.CommitSnapshotRequest(name=name, key=key, labels=labels, parent=parent), Empty)

    def remove(self, key: str) -> None:
        self._call("Remove", wire.RemoveSnapshotRequest(key=key), Empty)

    def stat(self, key: str) -> Any:
        return self._call("Stat", wire.StatSnapshotRequest(key=key), wire.StatSnapshotResponse).info

    def update(self, info: Any, *paths: str) -> Any:
        request = wire.UpdateSnapshotRequest(info=info)
        request.update_mask.paths.extend(paths)
        return self._call("Update", request, wire.UpdateSnapshotResponse).info

    def usage(self, key: str) -> Any:
        return self._call("Usage", wire.UsageRequest(key=key), wire.UsageResponse)

    def cleanup(self) -> None:
        self._call("Cleanup", wire.CleanupRequest(), Empty)

    def list(self, *filters: str) -> list[Any]:
        call = self.channel.unary_stream(
            f"/{SERVICE}/List",
            request_serializer=wire.ListSnapshotsRequest.SerializeToString,
            response_deserializer=wire.ListSnapshotsResponse.FromString,
        )
        request = wire.ListSnapshotsRequest(filters=filters)
        return [info for answer in call(request, timeout=_CALL_SECONDS) for info in answer.info]

    def names(self, *filters: str) -> set[str]:
        return {info.name for info in self.list(*filters)}

    def _call(self, method: str, request: Any, answer: Any) -> Any:
        call = self.channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return call(request, timeout=_CALL_SECONDS)


@contextlib.contextmanager
def failing(code: grpc.StatusCode) -> Iterator[None]:
    """A block that must fail with this status."""
    with pytest.raises(grpc.RpcError) as failure:
        yield
    assert failure.value.code() is code, failure.value.details()


def exists(call: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a call fails because what it is to make is there already."""
    try:
        call(*arguments)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.ALREADY_EXISTS:
            return True
        raise
    return False


@contextlib.contextmanager
def mounted(mounts: Sequence[Any], target: Path) -> Iterator[Path]:
    """Mounts as containerd does it (mount/mount_linux.go): of long options, from the lower directories' own."""
    target.mkdir(parents=True, exist_ok=True)
    (mount,) = mounts
    options, directory = list(mount.options), Path("/")
    if sum(map(len, options)) >= _PAGE_BYTES - 512:
        lower = next(one for one in options if one.startswith("lowerdir="))
        paths = [Path(path) for path in lower.removeprefix("lowerdir=").split(":")]
        directory = Path(os.path.commonpath([path.parent for path in paths]))
        options[options.index(lower)] = "lowerdir=" + ":".join(str(path.relative_to(directory)) for path in paths)
    flags = 0
    for option in options:
        flags |= _FLAGS.get(option, 0)
    text = ",".join(option for option in options if option not in _FLAGS)
    assert len(text) <= _PAGE_BYTES, "more than mount(2) takes"
    before = Path.cwd()
    os.chdir(directory)
    try:
        _mount(mount.source, target, mount.type, flags, text)
        if mount.type == "bind" and "ro" in options:
            _mount("", target, "", _MS_REMOUNT_BIND_RDONLY, "")
    finally:
        os.chdir(before)
    try:
        yield target
    finally:
        assert ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(target), 0) == 0, os.strerror(ctypes.get_errno())


def _mount(source: str, target: Path, kind: str, flags: int, text: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, text.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"{kind} {source} {text[:200]}")
