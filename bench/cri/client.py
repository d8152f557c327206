"""Pulls, lists and removes images as kubelet does."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import grpc

from bench.cri import images_pb2 as wire
from imagedist.errors import SourceError

_SERVICE = "/runtime.v1.ImageService"
_CALL_SECONDS = 60.0
_PULL_SECONDS = 1800.0


class Login(NamedTuple):
    username: str
    password: str


class ImageService:
    """One runtime's image service; use it as a context. Every call may raise SourceError, with the runtime's words.

    Args:
        socket: the runtime's.
    """

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._channel.close()

    def pull(self, name: str, login: Login | None = None) -> str:
        """Returns the image's id, ``sha256:…``: the runtime can start containers of it.

        Args:
            login: as kubelet takes it from an imagePullSecret.
        """
        request = wire.PullImageRequest(image=wire.ImageSpec(image=name))
        if login is not None:
            request.auth.CopyFrom(wire.AuthConfig(username=login.username, password=login.password))
        answer = self._call("PullImage", request, wire.PullImageResponse, _PULL_SECONDS)
        return str(answer.image_ref)

    def ids(self) -> list[str]:
        """The ids of all images."""
        answer = self._call("ListImages", wire.ListImagesRequest(), wire.ListImagesResponse)
        return [image.id for image in answer.images]

    def remove(self, name: str) -> None:
        """Removes an image, by name or id, under all its names; harmless when it is not there."""
        request = wire.RemoveImageRequest(image=wire.ImageSpec(image=name))
        self._call("RemoveImage", request, wire.RemoveImageResponse)

    def _call(self, method: str, request: Any, answer: Any, timeout_seconds: float = _CALL_SECONDS) -> Any:
        call = self._channel.unary_unary(
            f"{_SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        try:
            return call(request, timeout=timeout_seconds)
        except grpc.RpcError as error:
            raise SourceError(f"the container runtime failed to {method}: {error.details()}") from error
