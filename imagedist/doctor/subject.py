"""What is examined: the node as its configuration says, or as its agent does, or as everything is by default."""

from __future__ import annotations

import contextlib
import os
import socket as sockets
import struct
from dataclasses import dataclass
from pathlib import Path

from imagedist.agent.client import DEFAULT_SOCKET, AgentClient, find_socket
from imagedist.agent.protocol import AgentStatus
from imagedist.config import Address, AgentConfig, parse_address, read_secret
from imagedist.doctor.asking import in_thread
from imagedist.doctor.finding import Finding
from imagedist.engine import default_ramdisk, default_root
from imagedist.errors import ConfigError, ImagedistError, InputError
from imagedist.oci.tls import Tls

START = "systemctl start imagedist-agent"
BLOB_CACHE = "blob cache"
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Subject:
    """The node.

    Attributes:
        config: None: nobody gave one, and there is none at the usual place.
        agent: what the running agent says; None: none runs, or it does not talk to us.
        agent_process: its id.
        tls: the site's own authorities, and what is shown to it.
        paths: what it is for → where the node writes.
    """

    config: AgentConfig | None
    agent: AgentStatus | None
    agent_process: int | None
    proxies: tuple[str, ...]
    seeders: tuple[str, ...]
    mirror: Address
    bittorrent: Address
    token: str | None
    tls: Tls | None
    root: Path
    ramdisk: Path
    paths: dict[str, Path]


async def learn(config: AgentConfig | None, socket: Path | None) -> tuple[Subject, list[Finding]]:
    """Finds the agent and asks it. What it says of itself counts more than what a file says."""
    findings: list[Finding] = []
    status = process = None
    try:
        found = find_socket(socket or (config.agent.socket if config else None))
    except InputError as error:
        findings.append(_silent(str(error)))
    else:
        if found is None:
            findings.append(_none())
        else:
            process = _owner(found)
            status, finding = await _ask(found)
            findings.append(finding)
    token, unread = _token(config)
    tls, untrusted = _authorities(config, status)
    return _subject(config, status, process, token, tls), findings + unread + untrusted


def _none() -> Finding:
    what = f"no agent runs on this node (nobody listens at {DEFAULT_SOCKET})"
    why = "`imagedist pull` works without one; the runtimes have no mirror, and nothing comes by the swarm"
    return Finding("warn", "agent-none", what, why, START)


async def _ask(found: Path) -> tuple[AgentStatus | None, Finding]:
    try:
        status = await in_thread(AgentClient(found).status)
    except ImagedistError as error:
        if not os.access(found, os.R_OK | os.W_OK):
            why = "only root and the socket's group may talk to the agent"
            return None, Finding("unknown", "agent-unasked", f"the agent at {found}", why, "sudo imagedist doctor")
        return None, _silent(str(error))
    return status, Finding("ok", "agent", f"agent {status.version}, images in {status.storage_root}")


def _silent(message: str) -> Finding:
    why = "no runtime of this node gets anything from the site"
    return Finding("bad", "agent-silent", message, why, f"{START}; journalctl -u imagedist-agent says why it ended")


def _token(config: AgentConfig | None) -> tuple[str | None, list[Finding]]:
    path = config.agent.site_token_file if config else None
    try:
        return read_secret(path), []
    except ConfigError as error:
        if path is not None and path.exists() and not os.access(path, os.R_OK):
            what = f"the site token in {path}"
            return None, [Finding("unknown", "token-unread", what, str(error), "sudo imagedist doctor")]
        fix = f"copy the site's token file to {path}"
        return None, [Finding("bad", "token-missing", str(error), "the agent does not start without it", fix)]


def _authorities(config: AgentConfig | None, status: AgentStatus | None) -> tuple[Tls | None, list[Finding]]:
    """As the agent says; if none runs, or an older one, as its file does."""
    table = config.agent if config else None
    names = ("site_ca_file", "site_client_certificate", "site_client_key")
    files = [getattr(status, name, "") or getattr(table, name, None) for name in names]
    ca_file, certificate, key = (Path(path) if path else None for path in files)
    findings: list[Finding] = []
    if certificate is not None:
        try:
            Tls(None, certificate, key)
        except ConfigError as error:
            findings.append(_unshown(str(error), key or certificate))
            certificate = key = None
    try:
        return (Tls(ca_file, certificate, key) if ca_file or certificate else None), findings
    except ConfigError as error:
        why = "the agent does not start without it, as it could trust nobody of the site"
        fix = f"copy the site's CA certificate to {ca_file}"
        return None, [*findings, Finding("bad", "ca-unread", str(error), why, fix)]


def _unshown(message: str, secret: Path) -> Finding:
    if secret.exists() and not os.access(secret, os.R_OK):
        what = f"the client certificate's key in {secret}"
        return Finding("unknown", "certificate-unread", what, message, "sudo imagedist doctor")
    why = "the agent does not start with it, and proxies that want a certificate serve this node nothing"
    fix = "site_client_certificate and site_client_key of agent.toml: PEM files that belong together"
    return Finding("bad", "certificate-unread", message, why, fix)


def _owner(socket: Path) -> int | None:
    """The process that listens (unix(7), SO_PEERCRED)."""
    with contextlib.suppress(OSError), sockets.socket(sockets.AF_UNIX) as asking:
        asking.settimeout(1)
        asking.connect(str(socket))
        process, _, _ = _CREDENTIALS.unpack(
            asking.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, _CREDENTIALS.size)
        )
        return int(process)
    return None


def _subject(
    config: AgentConfig | None, status: AgentStatus | None, process: int | None, token: str | None, tls: Tls | None
) -> Subject:
    usual = AgentConfig.model_validate({"agent": {"site_proxies": ["http://127.0.0.1:5001"]}})
    table = (config or usual).agent
    root = Path(status.storage_root) if status else config.storage.root if config else default_root()
    blobs = Path(status.node_blobs) if status and status.node_blobs else config.agent.node_blobs if config else None
    told = Path(status.ramdisk) if status and status.ramdisk else None
    proxies, seeders = (config.agent.site_proxies, config.agent.site_seeders) if config else ((), ())
    return Subject(
        config=config,
        agent=status,
        agent_process=process,
        proxies=status.site_proxies if status else proxies,
        seeders=status.site_seeders if status else seeders,
        mirror=parse_address(status.mirror) if status else table.listen,
        bittorrent=parse_address(status.bittorrent) if status and status.bittorrent else table.bittorrent,
        token=token,
        tls=tls,
        root=root,
        ramdisk=told or (config.unpack.ramdisk if config else default_ramdisk()),
        paths={"image store": root, **({BLOB_CACHE: blobs} if blobs else {})},
    )
