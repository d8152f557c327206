"""Calls of Kubernetes' container runtime interface, as kubelet makes them: pull an image, remove it, is it there?

All requests are one message in another with one string (cri-api's api.proto: ``ImageSpec image = 1``, ``string image
= 1``), written here by hand: generated code for two fields would be longer.
"""

from __future__ import annotations

from pathlib import Path

from imagedist.errors import InputError, SourceError

CONTAINERD = Path("/run/containerd/containerd.sock")
K3S = Path("/run/k3s/containerd/containerd.sock")
"""RKE2's, too."""
CRIO = Path("/var/run/crio/crio.sock")

_SERVICE = "/runtime.v1.ImageService"
_PULL_TIMEOUT_SECONDS = 600
_CALL_TIMEOUT_SECONDS = 60


def pull_image(socket: Path, reference: str) -> None:
    """Raises InputError: grpcio is not installed. SourceError: the runtime does not answer, or the pull failed."""
    _call(socket, "PullImage", reference, _PULL_TIMEOUT_SECONDS)


def remove_image(socket: Path, reference: str) -> None:
    """Raises InputError, SourceError: as ``pull_image``. An image that is not there is no error."""
    _call(socket, "RemoveImage", reference, _CALL_TIMEOUT_SECONDS)


def has_image(socket: Path, reference: str) -> bool:
    """Raises InputError, SourceError: as ``pull_image``."""
    return bool(_call(socket, "ImageStatus", reference, _CALL_TIMEOUT_SECONDS))  # an answer without one has no field


def _call(socket: Path, method: str, reference: str, timeout_seconds: float) -> bytes:
    try:
        import grpc
    except ImportError as error:
        raise InputError("speaking to CRI needs grpcio: pip install 'imagedist[containerd]'") from error
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        call = channel.unary_unary(f"{_SERVICE}/{method}")  # bytes in, bytes out
        try:
            answer: bytes = call(_field(_field(reference.encode())), timeout=timeout_seconds)
        except grpc.RpcError as error:
            raise SourceError(f"{method} at {socket} failed: {error.details()}") from error
    return answer


def _field(content: bytes) -> bytes:
    """Field 1, length-delimited (protobuf's encoding)."""
    length, size = len(content), bytearray()
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return b"\x0a" + bytes(size) + bytes([length]) + content
