"""Where a node's session may take a blob from by HTTP without credentials: the proxy's web seeds (BEP 19)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from pydantic import BaseModel, Field, ValidationError

from imagedist.distribution.backend import Target
from imagedist.errors import NotFoundError, SourceError
from imagedist.oci.digest import Digest
from imagedist.site.proxies import Proxies
from imagedist.site.questions import Questions


@dataclass(frozen=True, slots=True)
class WebSeed:
    """``life_seconds``: from when it was given; None: for ever."""

    url: str
    life_seconds: float | None = None


class _Named(BaseModel):
    path: str = Field(pattern=r"^/[!-~]+$")
    life_seconds: float | None = Field(default=None, gt=0)


class WebSeeds:
    """What the site's proxies say."""

    def __init__(self, proxies: Proxies, questions: Questions) -> None:
        self._proxies = proxies
        self._questions = questions

    async def of(self, target: Target, digest: Digest, *, is_private: bool) -> WebSeed | None:
        """A URL at the first proxy that answers; None: the blob has no web seed.

        Args:
            is_private: a URL without a signature gives nothing.

        Raises:
            SourceError: no proxy answers. UnauthorizedError: the asker may not have the blob.
        """
        try:
            return await self._proxies.first(lambda url: self._ask(url, target, digest))
        except NotFoundError:
            if is_private:
                return None
        # A proxy that is older than web seeds of its own.
        query = f"?{urlencode({'ns': target.namespace})}" if target.namespace is not None else ""
        return WebSeed(f"{self._proxies.by_health()[0].url}/v2/{target.name}/blobs/{digest}{query}")

    async def _ask(self, url: str, target: Target, digest: Digest) -> WebSeed:
        query = {"repo": target.name}
        if target.namespace is not None:
            query["ns"] = target.namespace
        asked = f"{url}/site/v1/web-seeds/{digest}"
        async with self._questions.ask("GET", asked, 0, query, authorization=target.authorization) as response:
            try:
                named = _Named.model_validate_json(await response.read())
            except ValidationError as error:
                raise SourceError(f"{url} names no web seed of {digest}; is it an imagedist proxy?") from error
        return WebSeed(url + named.path, named.life_seconds)
