"""The site as this node reaches it: proxies and seeders, their certificates, versions and clocks, the token."""

from __future__ import annotations

import asyncio
import json
import re
from email.utils import parsedate_to_datetime

from imagedist import __version__
from imagedist.doctor.asking import Heard, UntrustedError, ask
from imagedist.doctor.finding import Finding, Severity
from imagedist.doctor.subject import Subject
from imagedist.errors import ImagedistError
from imagedist.hops import HEADER, parse_hops
from imagedist.oci.tls import Tls

SKEW_SECONDS = 5.0
_BAD_SKEW_SECONDS = 300.0
_VERSION = re.compile(r"(\d+)\.(\d+)")

_WITHOUT = {
    "proxy": "nothing new can be pulled by this node: blobs and manifests come from it",
    "seeder": "this node finds no peers: everything comes from the site's proxy, and no inventory has it",
}


async def check(subject: Subject) -> list[Finding]:
    own = subject.agent.version if subject.agent else __version__
    tls = subject.tls
    asked = [service(url, "proxy", own, tls) for url in subject.proxies]
    asked += [service(url, "seeder", own, tls) for url in subject.seeders]
    asked += [token(url, subject.token, tls, is_known=subject.config is not None) for url in subject.seeders]
    if not asked:
        why = "whether its site answers cannot be checked"
        fix = "imagedist doctor --config /etc/imagedist/agent.toml"
        return [Finding("unknown", "site-unnamed", "neither an agent nor a configuration names a site", why, fix)]
    return [finding for found in await asyncio.gather(*asked) for finding in found]


async def service(url: str, kind: str, own_version: str, tls: Tls | None = None) -> list[Finding]:
    """One proxy or seeder: reached, trusted, ready, ours, of a version that works, with the right time."""
    try:
        heard = await ask(f"{url}/readyz", tls=tls)
    except UntrustedError as error:
        fix = (
            "the site's CA certificate on this node, and site_ca_file in agent.toml that names it; "
            f"openssl s_client -connect {url.partition('://')[2]} shows what it sends"
        )
        return [Finding("bad", f"{kind}-untrusted", f"{kind} {url}: {error}", _WITHOUT[kind], fix)]
    except ImagedistError as error:
        fix = (
            f"on its host: systemctl status imagedist-{kind}; "
            f"from here: curl -v {url}/livez (a firewall if that hangs), and its address in agent.toml"
        )
        return [Finding("bad", f"{kind}-unreachable", f"{kind} {url}: {error}", _WITHOUT[kind], fix)]
    if heard.status == 403 and "certificate" in heard.said:
        fix = "site_client_certificate and site_client_key in agent.toml, then doctor as a user who may read both"
        return [Finding("bad", f"{kind}-uncertified", f"{kind} {url}: {heard.said}", _WITHOUT[kind], fix)]
    name, _, version = next(iter(parse_hops(heard.headers.get(HEADER))), "").partition("/")
    if name != kind:
        what = f"what answers at {url} is {f'imagedist’s {name}' if name else 'not imagedist'}, not a {kind}"
        key = "site_proxies" if kind == "proxy" else "site_seeders"
        return [Finding("bad", f"{kind}-stranger", what, _WITHOUT[kind], f"correct {key} in agent.toml")]
    if heard.status != 200:
        fix = f"on its host: journalctl -u imagedist-{kind}"
        return [Finding("bad", f"{kind}-unready", f"{kind} {url}: {heard.said}", _WITHOUT[kind], fix)]
    ok = Finding("ok", kind, f"{kind} {version} at {url} is ready")
    return [ok, *skewed_version(kind, version, own_version), *skewed_clock(kind, heard)]


def skewed_version(kind: str, version: str, own: str) -> list[Finding]:
    """Agents work with a site one minor version behind or ahead."""
    theirs, ours = _VERSION.match(version), _VERSION.match(own)
    if theirs is None or ours is None or theirs[0] == ours[0]:
        return []
    is_near = theirs[1] == ours[1] and abs(int(theirs[2]) - int(ours[2])) == 1
    what = f"this node has imagedist {own}, the {kind} {version}"
    why = "one minor version apart works" if is_near else "only one minor version apart works"
    return [Finding("warn" if is_near else "bad", "version-skew", what, why, f"pip install 'imagedist=={version}'")]


def skewed_clock(kind: str, heard: Heard) -> list[Finding]:
    """By the answer's Date, which has whole seconds."""
    try:
        theirs = parsedate_to_datetime(heard.headers["Date"]).timestamp() + 0.5
    except (KeyError, ValueError, TypeError):
        return []
    skew = heard.local_time - theirs
    if abs(skew) < SKEW_SECONDS:
        return []
    what = f"this node's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the {kind}'s"
    why = "certificates and tokens count as expired or not yet valid, and logs cannot be put beside each other"
    severity: Severity = "bad" if abs(skew) > _BAD_SKEW_SECONDS else "warn"
    return [Finding(severity, "clock", what, why, "timedatectl set-ntp true, on the one that is wrong")]


async def token(seeder: str, secret: str | None, tls: Tls | None = None, *, is_known: bool = True) -> list[Finding]:
    """Whether the seeder lets this node change something: its heartbeat. Asks for a route that there is not.

    Args:
        is_known: whether that is the agent's token. False: no agent.toml was read, and the agent does not tell it.
    """
    try:
        heard = await ask(f"{seeder}/site/v1/nodes", method="POST", token=secret, tls=tls)
    except ImagedistError:
        return []  # ``service`` says so
    if heard.status != 401:
        return [Finding("ok", "token", f"{seeder} takes this node's heartbeats")]
    if not is_known:
        why = "no agent.toml was read, and an agent does not tell its token"
        fix = "imagedist doctor --config with the agent's file"
        return [Finding("unknown", "token-unread", f"whether {seeder} takes this node's heartbeats", why, fix)]
    try:
        said = str(json.loads(heard.body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = heard.said
    why = "the site does not know that this node lives: it is in no inventory and in no preheat"
    fix = "the same token on both hosts, and site_token_file in agent.toml and seeder.toml that names it"
    held = "this node's token is not the site's" if secret is not None else "this node has no site token"
    return [Finding("bad", "token-refused", f"{seeder} refuses heartbeats, {held}: {said}", why, fix)]
