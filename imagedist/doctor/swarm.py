"""The swarm's ports and directions: peers come in here, the site's seeder and tracker are reached from here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from urllib.parse import urlsplit

from imagedist.config import Address
from imagedist.doctor.asking import ask, connects
from imagedist.doctor.finding import Finding, Severity
from imagedist.doctor.subject import Subject
from imagedist.errors import ImagedistError
from imagedist.oci.tls import Tls

_REACH_SECONDS = 6.0
"""The site itself tries for three."""


async def check(subject: Subject) -> list[Finding]:
    if subject.agent is None and subject.config is None:
        return []
    asked = [_listening(subject)]
    asked += [tracker(url, subject.tls) for url in subject.seeders]
    if subject.agent is not None:  # who does not listen is not reached either
        asked += [reach(url, subject.bittorrent, subject.tls) for url in subject.seeders]
    return [finding for found in await asyncio.gather(*asked) for finding in found]


async def _listening(subject: Subject) -> list[Finding]:
    return await listening(subject.bittorrent, is_running=subject.agent is not None)


async def listening(own: Address, *, is_running: bool) -> list[Finding]:
    """Whether the agent lets peers in at its own port, seen from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(own.host, own.host)
    obstacle = await connects(host, own.port)
    if obstacle is None:
        return [Finding("ok", "peer-port", f"peers are let in at {own}")]
    if not is_running:
        return []  # that no agent runs is said elsewhere
    why = "this node gets pieces but gives none to its neighbours"
    return [
        Finding(
            "bad", "peer-port-closed", f"nobody listens at {own} ({obstacle})", why, "systemctl restart imagedist-agent"
        )
    ]


async def tracker(seeder: str, tls: Tls | None = None) -> list[Finding]:
    """A scrape of an infohash that nobody has changes nothing at the tracker."""
    try:
        heard = await ask(f"{seeder}/scrape?info_hash={'%00' * 20}", tls=tls)
    except ImagedistError:
        return []  # that the seeder is not reached is said elsewhere
    if heard.status == 200 and heard.body.startswith(b"d"):
        return [Finding("ok", "tracker", f"tracker {seeder}/announce answers")]
    why = "this node finds no peers: everything comes from the site's proxy"
    return [
        Finding(
            "bad",
            "tracker",
            f"tracker {seeder}: HTTP {heard.status} {heard.said}",
            why,
            "on its host: journalctl -u imagedist-seeder",
        )
    ]


async def reach(seeder: str, own: Address, tls: Tls | None = None) -> list[Finding]:
    """Both directions: the site tries this node's port, and this node the seeder's."""
    try:
        heard = await ask(f"{seeder}/site/v1/reach?port={own.port}", tls=tls, seconds=_REACH_SECONDS)
    except ImagedistError:
        return []
    try:
        answer = json.loads(heard.body)
        obstacle, address, port = answer["obstacle"], str(answer["address"]), int(answer["peer_port"])
        others = [Address(str(other), int(its)) for other, its in answer.get("neighbours", ())]
    except (ValueError, KeyError, TypeError):
        why = "a seeder of an earlier version, or a full one"
        return [
            Finding(
                "unknown",
                "peer-port-blocked",
                f"{seeder} does not try this node's port",
                why,
                f"nc -vz THIS-NODE {own.port}, from another node",
            )
        ]
    findings = [Finding("ok", "peer-port-open", f"the site reaches this node's peer port at {address}:{own.port}")]
    if obstacle is not None:
        why = "peers cannot connect: this node gets pieces but gives fewer, and two such nodes exchange none"
        fix = (
            f"let TCP port {own.port} in from the site's nodes (iptables -I INPUT -p tcp --dport {own.port} -j ACCEPT)"
        )
        what = f"the site cannot connect to this node's peer port {address}:{own.port}: {obstacle}"
        findings = [Finding("bad", "peer-port-blocked", what, why, fix)]
    if answer.get("is_known") is False:
        why = "it is in no inventory and in no preheat; the first heartbeat comes at the agent's start, then every 15 s"
        what = f"{seeder} has heard no heartbeat of this node ({address}, peer port {own.port})"
        findings.append(Finding("warn", "inventory", what, why, "journalctl -u imagedist-agent | grep lives"))
    else:
        findings.append(Finding("ok", "inventory", f"{seeder} knows that this node lives"))
    host = urlsplit(seeder).hostname or ""
    seeders, found = await asyncio.gather(_seeders_port(host, port), neighbours(others))
    return [*findings, seeders, *found]


async def _seeders_port(host: str, port: int) -> Finding:
    obstacle = await connects(host, port)
    if obstacle is None:
        return Finding("ok", "seeder-peer-port", f"the seeder's peer port {host}:{port} is reached")
    why = "the seeder gives this node no pieces: what no neighbour has comes from the proxy"
    fix = f"let this node out to {host} TCP port {port}, and in there"
    return Finding("bad", "seeder-peer-port", f"the seeder's peer port {host}:{port}: {obstacle}", why, fix)


async def neighbours(others: Sequence[Address]) -> list[Finding]:
    """Some other nodes of the site by chance: whether this one reaches their peer ports."""
    if not others:
        return []
    obstacles = await asyncio.gather(*(connects(other.host, other.port) for other in others))
    closed = [f"{other} ({obstacle})" for other, obstacle in zip(others, obstacles, strict=True) if obstacle]
    reached = f"{len(others) - len(closed)} of {len(others)} neighbours let this node in"
    if not closed:
        return [Finding("ok", "neighbours", reached)]
    severity: Severity = "bad" if len(closed) == len(others) > 1 else "warn"
    why = "pieces do not flow between them and this node"
    fix = "on each of them: imagedist doctor; if all are closed, let this node out to the peer ports of its site"
    return [Finding(severity, "neighbours", f"{reached}, not {', '.join(closed)}", why, fix)]
