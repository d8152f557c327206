"""Pods and containers as kubelet makes them, on the node's own network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from bench.cri import images_pb2
from tests.support.cri import pods_pb2 as wire
from tests.support.waiting import wait_until

_RUNTIME = "/runtime.v1.RuntimeService"
_IMAGES = "/runtime.v1.ImageService"
_CALL_SECONDS = 60.0
_RUNNING, _EXITED = 1, 2


@dataclass(frozen=True)
class Done:
    """A container that has ended."""

    exit_code: int
    printed: str
    image_ref: str


class Runtime:
    """One runtime's service; every call may raise grpc.RpcError.

    Args:
        socket: the runtime's. logs: a directory for what containers print.
    """

    def __init__(self, socket: Path, logs: Path) -> None:
        self._socket = socket
        self._logs = logs

    @contextmanager
    def pod(self, name: str, users: Sequence[wire.IDMapping] = ()) -> Iterator[Pod]:
        """A pod, and its end.

        Args:
            users: the mapping of its user namespace, users and groups; empty: the node's own.
        """
        with grpc.insecure_channel(f"unix:{self._socket}") as channel:
            namespaces = wire.NamespaceOption(network=wire.NODE, pid=wire.CONTAINER, ipc=wire.POD)
            if users:
                namespaces.network = wire.POD
                namespaces.userns_options.CopyFrom(wire.UserNamespace(mode=wire.POD, uids=users, gids=users))
            config = wire.PodSandboxConfig(
                metadata=wire.PodSandboxMetadata(name=name, uid=name, namespace="default"),
                log_directory=str(self._logs),
                linux=wire.LinuxPodSandboxConfig(
                    security_context=wire.LinuxSandboxSecurityContext(namespace_options=namespaces)
                ),
            )
            request = wire.RunPodSandboxRequest(config=config)
            answer = _call(channel, f"{_RUNTIME}/RunPodSandbox", request, wire.RunPodSandboxResponse)
            try:
                yield Pod(channel, answer.pod_sandbox_id, config, self._logs)
            finally:
                for method, ask, to in (
                    ("StopPodSandbox", wire.StopPodSandboxRequest, wire.StopPodSandboxResponse),
                    ("RemovePodSandbox", wire.RemovePodSandboxRequest, wire.RemovePodSandboxResponse),
                ):
                    _call(channel, f"{_RUNTIME}/{method}", ask(pod_sandbox_id=answer.pod_sandbox_id), to)

    def images_directory(self) -> Path:
        """Where the images are, as kubelet is told, which watches that file system."""
        with grpc.insecure_channel(f"unix:{self._socket}") as channel:
            answer = _call(channel, f"{_IMAGES}/ImageFsInfo", wire.ImageFsInfoRequest(), wire.ImageFsInfoResponse)
        return Path(answer.image_filesystems[0].fs_id.mountpoint)


class Pod:
    """A pod that runs."""

    def __init__(self, channel: grpc.Channel, number: str, config: Any, logs: Path) -> None:
        self._channel = channel
        self._id = number
        self._config = config
        self._logs = logs

    def run(self, name: str, image: str, *command: str) -> Done:
        """A container of an image that is here, until it has ended."""
        container = self.begin(name, image, *command)
        wait_until(lambda: bool(self._status(container).state == _EXITED), f"container {name} ends")
        status = self._status(container)
        # TIME STREAM TAG TEXT
        lines = (self._logs / f"{name}.log").read_text().splitlines()
        return Done(status.exit_code, "\n".join(line.split(" ", 3)[3] for line in lines), status.image_ref)

    def begin(self, name: str, image: str, *command: str) -> str:
        """A container of an image that is here, which goes on until its pod ends; returns its id."""
        config = wire.ContainerConfig(
            metadata=wire.ContainerMetadata(name=name),
            image=images_pb2.ImageSpec(image=image),
            command=command,
            log_path=f"{name}.log",
            linux=wire.LinuxContainerConfig(
                security_context=wire.LinuxContainerSecurityContext(
                    namespace_options=self._config.linux.security_context.namespace_options
                )
            ),
        )
        request = wire.CreateContainerRequest(pod_sandbox_id=self._id, config=config, sandbox_config=self._config)
        made = self._call("CreateContainer", request, wire.CreateContainerResponse)
        start = wire.StartContainerRequest(container_id=made.container_id)
        self._call("StartContainer", start, wire.StartContainerResponse)
        return str(made.container_id)

    def is_running(self, container: str) -> bool:
        return bool(self._status(container).state == _RUNNING)

    def _status(self, container: str) -> Any:
        request = wire.ContainerStatusRequest(container_id=container)
        return self._call("ContainerStatus", request, wire.ContainerStatusResponse).status

    def _call(self, method: str, request: Any, answer: Any) -> Any:
        return _call(self._channel, f"{_RUNTIME}/{method}", request, answer)


def _call(channel: grpc.Channel, method: str, request: Any, answer: Any) -> Any:
    call = channel.unary_unary(
        method,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    return call(request, timeout=_CALL_SECONDS)
