"""A blob's bytes from the site by HTTP: by the next proxy where one breaks off, under a cap that may come meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from concurrent.futures import Executor

from imagedist.distribution.backend import Target
from imagedist.distribution.changing_rate import ChangingRate
from imagedist.errors import SourceError, UnauthorizedError
from imagedist.oci.bulk import BlobStream, Consume, deliver_chunks
from imagedist.oci.digest import Digest
from imagedist.site.clients import Clients
from imagedist.site.proxies import Proxies, told


class _CappedError(Exception):
    """A cap came while bytes flowed without one: a thread that receives cannot be slowed down, only stopped."""


class Delivery:
    """
    Args:
        rate: caps the bytes of all blobs, those under way included.
    """

    def __init__(self, proxies: Proxies, clients: Clients, rate: ChangingRate) -> None:
        self._proxies = proxies
        self._clients = clients
        self._rate = rate

    async def deliver(
        self, target: Target, digest: Digest, size_bytes: int, offset: int, consume: Consume, threads: Executor
    ) -> None:
        """Hands the blob's bytes from ``offset`` on to ``consume``, in a thread of ``threads``, as they come by HTTP;
        goes on at the next proxy where one broke off.

        Raises:
            NotFoundError, SourceError. What ``consume`` raises.
        """

        def counted(chunk: bytes | memoryview) -> None:
            nonlocal offset
            consume(chunk)
            offset += len(chunk)

        def uncapped(chunk: bytes | memoryview) -> None:
            counted(chunk)
            if self._rate.rate_bytes_per_second is not None and offset < size_bytes:
                raise _CappedError

        failure: SourceError | None = None
        proxies = deque(self._proxies.by_health())
        while proxies:
            proxy = proxies[0]
            try:
                async with self._clients.of(proxy.url, target).blob(target.name, digest, offset) as stream:
                    if stream.size_bytes != size_bytes:
                        raise SourceError(f"{proxy.url} says {stream.size_bytes} bytes of {digest}, not {size_bytes}")
                    if self._rate.rate_bytes_per_second is None:
                        await stream.deliver(uncapped, threads)
                    else:
                        await deliver_chunks(_capped(stream, self._rate), counted, threads)
                return
            except _CappedError:
                continue  # at the byte that is next, from the same proxy
            except UnauthorizedError as error:
                raise told(error) from error
            except SourceError as error:
                proxies.popleft().failed()
                failure = error
        raise failure or SourceError("no site proxy is configured")


async def _capped(stream: BlobStream, rate: ChangingRate) -> AsyncGenerator[bytes, None]:
    async for chunk in stream:
        await rate.take(len(chunk))
        yield chunk
