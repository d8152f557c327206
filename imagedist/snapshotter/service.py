"""The snapshots API over gRPC: messages in, messages out, errors as the statuses that containerd knows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.empty_pb2 import Empty

from imagedist.errors import ExistsError, ImagedistError, InputError, NotFoundError, PreconditionError
from imagedist.metrics import SNAPSHOT_CALLS
from imagedist.snapshotter.snapshot import Kind, Mount, Snapshot
from imagedist.snapshotter.wire import snapshots_pb2 as wire

if TYPE_CHECKING:
    from imagedist.snapshotter.node import Node

_LOG = logging.getLogger(__name__)

SERVICE = "containerd.services.snapshots.v1.Snapshots"

_LIST_CHUNK = 100
"""Snapshots in one message of ``List``, as containerd's own server sends them."""
_NANOSECONDS = 1_000_000_000

_STATUSES: tuple[tuple[type[ImagedistError], grpc.StatusCode], ...] = (
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (ExistsError, grpc.StatusCode.ALREADY_EXISTS),
    (PreconditionError, grpc.StatusCode.FAILED_PRECONDITION),
    (InputError, grpc.StatusCode.INVALID_ARGUMENT),
)

R = TypeVar("R")


class Service:
    """The methods, each named as in snapshots.proto.

    Args:
        open_node: the node's snapshots; raises StorageError as long as they cannot be had. Asked at every call, so that
            a disk that was full, or a database put back, is used again without a restart.
    """

    def __init__(self, open_node: Callable[[], Node]) -> None:
        self._open_node = open_node

    def handler(self) -> grpc.GenericRpcHandler:
        """For ``grpc.Server.add_generic_rpc_handlers``."""
        unary = grpc.unary_unary_rpc_method_handler
        methods = {
            "Prepare": unary(self._told(self.prepare), wire.PrepareSnapshotRequest.FromString, _serialized),
            "View": unary(self._told(self.view), wire.ViewSnapshotRequest.FromString, _serialized),
            "Mounts": unary(self._told(self.mounts), wire.MountsRequest.FromString, _serialized),
            "Commit": unary(self._told(self.commit), wire.CommitSnapshotRequest.FromString, _serialized),
            "Remove": unary(self._told(self.remove), wire.RemoveSnapshotRequest.FromString, _serialized),
            "Stat": unary(self._told(self.stat), wire.StatSnapshotRequest.FromString, _serialized),
            "Update": unary(self._told(self.update), wire.UpdateSnapshotRequest.FromString, _serialized),
            "Usage": unary(self._told(self.usage), wire.UsageRequest.FromString, _serialized),
            "Cleanup": unary(self._told(self.cleanup), wire.CleanupRequest.FromString, _serialized),
            "List": grpc.unary_stream_rpc_method_handler(self.list, wire.ListSnapshotsRequest.FromString, _serialized),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def prepare(self, node: Node, request: Any, context: grpc.ServicerContext) -> Any:
        labels = dict(request.labels)
        # The key first: containerd takes "already exists" for the layer only if no snapshot has the key.
        if node.snapshots.records.get(request.key) is None and node.remote.provide(
            request.parent, labels, context.is_active
        ):
            raise ExistsError(f"target snapshot of {request.key!r} exists already")
        mounts = node.snapshots.prepare(request.key, request.parent, labels)
        return wire.PrepareSnapshotResponse(mounts=map(_mount, mounts))

    def view(self, node: Node, request: Any, context: grpc.ServicerContext) -> Any:
        mounts = node.snapshots.view(request.key, request.parent, dict(request.labels))
        return wire.ViewSnapshotResponse(mounts=map(_mount, mounts))

    def mounts(self, node: Node, request: Any, context: grpc.ServicerContext) -> Any:
        return wire.MountsResponse(mounts=map(_mount, node.snapshots.mounts(request.key)))

    def commit(self, node: Node, request: Any, context: grpc.ServicerContext) -> Any:
        node.snapshots.commit(request.name, request.key, dict(request.labels), request.parent)
        return Empty()

    def remove(self, node: Node, request: Any, context: grpc.ServicerContext) -> Any:
        node.snapshots.remove(request.key)
        return Empty()

    def stat(self, node: Node, request: Any, context: grpc.ServicerContext) -> Any:
        return wire.StatSnapshotResponse(info=_info(node.snapshots.stat(request.key)))

    def update(self, node: Node, request: Any, context: grpc.ServicerContext) -> Any:
        info = request.info
        updated = node.snapshots.update(info.name, dict(info.labels), list(request.update_mask.paths))
        return wire.UpdateSnapshotResponse(info=_info(updated))

    def usage(self, node: Node, request: Any, context: grpc.ServicerContext) -> Any:
        usage = node.snapshots.usage(request.key)
        return wire.UsageResponse(size=usage.size_bytes, inodes=usage.inodes)

    def cleanup(self, node: Node, request: Any, context: grpc.ServicerContext) -> Any:
        node.clean()
        return Empty()

    def list(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        def found(node: Node, request: Any, context: grpc.ServicerContext) -> list[Snapshot]:
            return node.snapshots.matching(list(request.filters))

        snapshots = self._told(found, "list")(request, context)
        for start in range(0, len(snapshots), _LIST_CHUNK):
            yield wire.ListSnapshotsResponse(info=map(_info, snapshots[start : start + _LIST_CHUNK]))

    def _told(
        self, method: Callable[[Node, Any, grpc.ServicerContext], R], name: str = ""
    ) -> Callable[[Any, grpc.ServicerContext], R]:
        """A method whose errors end the call with a status; counted by its name, if no other is given."""
        name = name or method.__name__

        def end(context: grpc.ServicerContext, status: grpc.StatusCode, details: str) -> None:
            SNAPSHOT_CALLS.labels(name, status.name.lower()).inc()
            context.abort(status, details)

        def call(request: Any, context: grpc.ServicerContext) -> R:
            try:
                node = self._open_node()
            except ImagedistError as error:
                _LOG.error("cannot serve snapshots: %s", error)
                end(context, grpc.StatusCode.UNAVAILABLE, str(error))
            try:
                answer = method(node, request, context)
            except ImagedistError as error:
                status = next((code for kind, code in _STATUSES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
                if status is grpc.StatusCode.INTERNAL:
                    _LOG.error("%s: %s", name, error)
                end(context, status, str(error))
            except Exception as error:
                _LOG.exception("%s failed", name)
                end(context, grpc.StatusCode.INTERNAL, f"the snapshotter failed: {error!r}")
            else:
                SNAPSHOT_CALLS.labels(name, "ok").inc()
                return answer
            raise AssertionError("abort raises")

        return call


def _serialized(message: Any) -> bytes:
    content: bytes = message.SerializeToString()
    return content


def _mount(mount: Mount) -> Any:
    return wire.Mount(type=mount.type, source=mount.source, options=mount.options)


def _info(snapshot: Snapshot) -> Any:
    info = wire.Info(
        name=snapshot.name, parent=snapshot.parent, kind=_KINDS[snapshot.kind], labels=dict(snapshot.labels)
    )
    info.created_at.seconds, info.created_at.nanos = divmod(snapshot.created_ns, _NANOSECONDS)
    info.updated_at.seconds, info.updated_at.nanos = divmod(snapshot.updated_ns, _NANOSECONDS)
    return info


_KINDS = {Kind.VIEW: wire.VIEW, Kind.ACTIVE: wire.ACTIVE, Kind.COMMITTED: wire.COMMITTED}
