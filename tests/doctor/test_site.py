"""Proxies and seeders as a node finds them."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from pathlib import Path

import pytest
from aiohttp import web

from imagedist import __version__
from imagedist.doctor import asking, site
from imagedist.doctor.asking import Heard
from imagedist.errors import SourceError
from imagedist.oci.tls import Tls
from imagedist.service import render_site_errors, serving
from imagedist.site_guard import require_site_token
from seeder.node_routes import add_node_routes
from seeder.nodes import Nodes
from tests.doctor.servers import HERE, answering, self_signed, service


async def test_a_ready_proxy_is_fine_and_says_its_version() -> None:
    async with service("proxy") as address:
        (found,) = await site.service(f"http://{address}", "proxy", __version__)
    assert (found.severity, found.code) == ("ok", "proxy")
    assert __version__ in found.what


async def test_a_proxy_that_is_not_ready_is_a_problem_with_its_own_reason() -> None:
    async with service("proxy", unready="cannot write to /srv") as address:
        (found,) = await site.service(f"http://{address}", "proxy", __version__)
    assert (found.severity, found.code) == ("bad", "proxy-unready")
    assert "cannot write to /srv" in found.what


async def test_a_seeder_that_is_gone_is_unreachable() -> None:
    async with service("seeder") as address:
        pass
    (found,) = await site.service(f"http://{address}", "seeder", __version__)
    assert (found.severity, found.code) == ("bad", "seeder-unreachable")
    assert "refused" in found.what
    assert found.why
    assert "imagedist-seeder" in found.fix


async def test_an_address_that_is_another_service_of_ours_is_named() -> None:
    async with service("seeder") as address:
        (found,) = await site.service(f"http://{address}", "proxy", __version__)
    assert found.code == "proxy-stranger"
    assert "seeder" in found.what
    assert "site_proxies" in found.fix


async def test_an_address_that_is_not_imagedist_is_named() -> None:
    async with answering() as address:
        (found,) = await site.service(f"http://{address}", "seeder", __version__)
    assert found.code == "seeder-stranger"
    assert "not imagedist" in found.what


async def test_one_that_accepts_and_never_answers_is_not_waited_for_long() -> None:
    over = asyncio.Event()

    async def never(request: web.Request) -> web.Response:
        await over.wait()
        return web.Response()

    app = web.Application()
    app.router.add_get("/readyz", never)
    async with serving(app, HERE) as address:
        with pytest.raises(SourceError, match="no answer within"):
            await asking.ask(f"http://{address}/readyz", seconds=0.1)
        over.set()


async def test_a_certificate_that_nobody_vouches_for_is_told_from_a_dead_host(tmp_path: Path) -> None:
    async with self_signed(tmp_path) as (address, certificate):
        (found,) = await site.service(f"https://{address}", "proxy", __version__)
        assert (found.severity, found.code) == ("bad", "proxy-untrusted")
        assert "self" in found.what, "the certificate is self-signed"
        (found,) = await site.service(f"https://{address}", "proxy", __version__, Tls(certificate))
        assert (found.severity, found.code) == ("ok", "proxy"), "the site's own authority is not heeded"


@pytest.mark.parametrize(
    ("seconds", "severity", "word"), [(60.0, "warn", "ahead of"), (-60.0, "warn", "behind"), (4000.0, "bad", "ahead")]
)
def test_clocks_that_disagree_are_found_by_the_date_of_the_answer(seconds: float, severity: str, word: str) -> None:
    now = time.time()
    (found,) = site.skewed_clock("proxy", Heard(200, {"Date": formatdate(now - seconds)}, b"", now))
    assert (found.severity, found.code) == (severity, "clock")
    assert word in found.what


@pytest.mark.parametrize("date", [None, "yesterday"])
def test_an_answer_without_a_date_says_nothing_about_the_clock(date: str | None) -> None:
    headers = {} if date is None else {"Date": date}
    assert site.skewed_clock("proxy", Heard(200, headers, b"", time.time())) == []


def test_clocks_that_agree_are_not_worth_a_line() -> None:
    now = time.time()
    assert site.skewed_clock("proxy", Heard(200, {"Date": formatdate(now)}, b"", now)) == []


@pytest.mark.parametrize(
    ("theirs", "severity"), [("0.4.9", None), ("0.3.0", "warn"), ("0.5.0", "warn"), ("0.6.0", "bad"), ("1.4.0", "bad")]
)
def test_one_minor_version_apart_works_and_more_does_not(theirs: str, severity: str | None) -> None:
    assert [found.severity for found in site.skewed_version("proxy", theirs, "0.4.0")] == [severity][
        : severity is not None
    ]


@pytest.mark.parametrize(
    ("sites", "nodes", "refused"),
    [("s3cret", "s3cret", False), ("s3cret", "other", True), ("s3cret", None, True), (None, None, False)],
)
async def test_a_wrong_token_is_found_without_changing_anything(
    sites: str | None, nodes: str | None, refused: bool
) -> None:
    inventory = Nodes()
    app = web.Application(middlewares=[render_site_errors, require_site_token(sites)])
    add_node_routes(app, inventory)
    async with serving(app, HERE) as address:
        (found,) = await site.token(f"http://{address}", nodes)
    assert (found.severity, found.code) == (("bad", "token-refused") if refused else ("ok", "token"))
    assert inventory.describe() == []


async def test_an_agent_whose_file_was_not_read_is_not_told_that_it_has_no_token() -> None:
    app = web.Application(middlewares=[render_site_errors, require_site_token("s3cret")])
    async with serving(app, HERE) as address:
        (found,) = await site.token(f"http://{address}", None, is_known=False)
    assert (found.severity, found.code) == ("unknown", "token-unread")


async def test_a_seeder_that_is_gone_says_nothing_about_the_token() -> None:
    async with answering() as address:
        pass
    assert await site.token(f"http://{address}", "s3cret") == []
