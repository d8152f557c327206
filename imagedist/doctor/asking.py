"""How the checks ask: HTTP with a short patience, and whatever may block in threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket as sockets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import aiohttp

from imagedist.errors import SourceError, UnauthorizedError
from imagedist.oci.tls import Tls

P = ParamSpec("P")
R = TypeVar("R")

ASK_SECONDS = 4.0
_BODY_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Heard:
    """An HTTP answer.

    Attributes:
        local_time: this machine's clock between question and answer, seconds since the epoch.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    local_time: float

    @property
    def said(self) -> str:
        """The beginning of the body, as one line."""
        text = self.body[:400].decode(errors="replace")
        return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:200]


class UntrustedError(UnauthorizedError):
    """TLS: whoever answers cannot show a certificate that this node trusts."""


async def ask(
    url: str,
    *,
    method: str = "GET",
    token: str | None = None,
    tls: Tls | None = None,
    seconds: float = ASK_SECONDS,
) -> Heard:
    """One request, without redirects, past any HTTP proxy of the environment.

    Args:
        tls: the site's own authorities, if it has some.

    Raises:
        UntrustedError: the certificate is not accepted. SourceError: no answer; the message is the cause alone.
    """
    headers = {"Accept": "application/json, */*", "User-Agent": "imagedist-doctor"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    timeout = aiohttp.ClientTimeout(total=seconds)
    try:
        async with aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=False) as session:
            before = time.time()
            async with session.request(
                method, url, allow_redirects=False, ssl=tls.context() if tls else True
            ) as answer:
                after = time.time()
                body = await answer.content.read(_BODY_LIMIT_BYTES)
                return Heard(answer.status, answer.headers, body, (before + after) / 2)
    except aiohttp.ClientConnectorCertificateError as error:
        raise UntrustedError(str(error.certificate_error)) from error
    except aiohttp.ClientConnectorDNSError as error:
        raise SourceError(f"no address for {error.host}") from error
    except aiohttp.ClientSSLError as error:
        raise UntrustedError(str(error)) from error
    except aiohttp.ClientConnectorError as error:
        raise SourceError(_cause(error.os_error)) from error
    except TimeoutError as error:
        raise SourceError(f"no answer within {seconds:.0f} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise SourceError(str(error) or type(error).__name__) from error


async def connects(host: str, port: int, seconds: float = ASK_SECONDS) -> str | None:
    """Why a TCP connection cannot be opened, in words. None: it can."""
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return f"no answer within {seconds:.0f} s"
    except sockets.gaierror:
        return f"no address for {host}"
    except OSError as error:
        return _cause(error)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return None


def _cause(error: OSError) -> str:
    """``connection refused``: asyncio's own text names only the address."""
    return (os.strerror(error.errno) if error.errno else str(error) or type(error).__name__).lower()


async def in_thread(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """As ``asyncio.to_thread``; but a thread that hangs (a dead NFS mount) keeps neither us nor the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[R] = loop.create_future()

    def settle(result: R | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # R, which may include None

    def run() -> None:
        result, error = None, None
        try:
            result = work(*args, **kwargs)
        except BaseException as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="imagedist-doctor", daemon=True).start()
    return await done
