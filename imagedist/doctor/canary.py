"""A canary through the mirror to each upstream: who answers it, and how far it got."""

from __future__ import annotations

import asyncio
import json

from imagedist.config import Address
from imagedist.doctor.asking import Heard, ask
from imagedist.doctor.finding import Finding
from imagedist.doctor.subject import START, Subject
from imagedist.errors import ImagedistError
from imagedist.hops import HEADER, UPSTREAM, parse_hops

CANARY = "imagedist/canary/manifests/doctor"
"""Nobody has it. A registry that says so has been reached; Docker Hub counts only manifests that it gives."""

_MAX_UPSTREAMS = 8
_CANARY_SECONDS = 12.0


async def check(subject: Subject) -> list[Finding]:
    if subject.agent is None and subject.config is None:
        return []
    findings = await mirror(subject.mirror)
    if any(finding.severity == "bad" for finding in findings):
        return findings
    upstreams = await _upstreams(subject)
    asked = [through(subject.mirror, upstream) for upstream in sorted(upstreams)[:_MAX_UPSTREAMS]]
    return [*findings, *await asyncio.gather(*asked)]


async def mirror(address: Address) -> list[Finding]:
    """Whether our agent answers where the runtimes are pointed at."""
    why = "every runtime that is pointed at it goes to the registry itself: slow, and nobody notices"
    try:
        heard = await ask(f"http://{address}/v2/")
    except ImagedistError as error:
        fix = f"{START}, or correct agent.listen"
        return [Finding("bad", "mirror-unanswered", f"nobody answers at the mirror {address}: {error}", why, fix)]
    hops = parse_hops(heard.headers.get(HEADER))
    if not hops or not hops[0].startswith("agent/"):
        what = f"what answers at the mirror {address} is not this node's agent but {_server(heard, hops)}"
        fix = f"ss -ltnp 'sport = :{address.port}' names it; stop it, or choose another agent.listen"
        return [Finding("bad", "mirror-stranger", what, why, fix)]
    return [Finding("ok", "mirror", f"the mirror {address} is answered by {hops[0]}")]


async def through(address: Address, upstream: str) -> Finding:
    """One request as podman makes it: the upstream in the path."""
    try:
        heard = await ask(f"http://{address}/v2/{upstream}/{CANARY}", seconds=_CANARY_SECONDS)
    except ImagedistError as error:
        what = f"canary to {upstream}: {error}"
        return Finding("bad", "canary-lost", what, "pulls by this mirror hang", "journalctl -u imagedist-agent")
    hops = parse_hops(heard.headers.get(HEADER))
    way = " → ".join(hops) or "nobody that says so"
    if heard.status == 404:
        return Finding("ok", "canary", f"canary to {upstream}: {way} answered")
    if heard.status in (401, 403):
        what = f"canary to {upstream}: {way} answered; it is denied, as unknown names are there"
        return Finding("ok", "canary", what)
    said = _message(heard)
    if hops[-1:] == [UPSTREAM]:
        fix = f'on the site\'s host: journalctl -u imagedist-proxy, and [upstreams."{upstream}"] in its proxy.toml'
    elif len(hops) > 1:
        fix = f'on the site\'s host: curl -v the url of [upstreams."{upstream}"] in its proxy.toml'
    else:
        fix = "imagedist doctor says more under proxy; journalctl -u imagedist-agent"
    why = "what the site does not hold yet cannot be pulled from there"
    what = f"canary to {upstream} got as far as {way}: HTTP {heard.status} {said}"
    return Finding("bad", "canary-failed", what, why, fix)


async def _upstreams(subject: Subject) -> list[str]:
    """The path prefixes of the first proxy that names some."""
    for proxy in subject.proxies:
        try:
            heard = await ask(f"{proxy}/site/v1/upstreams", tls=subject.tls)
            return list(json.loads(heard.body)["upstreams"])
        except (ImagedistError, ValueError, KeyError, TypeError):
            continue
    return []


def _server(heard: Heard, hops: list[str]) -> str:
    return hops[0] if hops else heard.headers.get("Server", "another server")[:80]


def _message(heard: Heard) -> str:
    try:
        return str(json.loads(heard.body)["errors"][0]["message"])[:300]
    except (ValueError, LookupError, TypeError):
        return heard.said
