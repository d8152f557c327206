"""``[backups.NAME]`` of ``seeder.toml``: registries that keep what rules send there."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from imagedist.config.syncing import TransferHours
from imagedist.config.values import AbsolutePath, Rate, Table, Url

_PREFIX = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*\Z")
"""A repository's name, of the distribution spec."""


def _check_prefix(text: str) -> str:
    if text and not _PREFIX.match(text):
        raise ValueError(f'expected the beginning of a repository\'s name such as "backup/bj", got {text!r}')
    return text


class Backup(Table):
    """A registry that any rule may name as a target; read from when nobody else has something."""

    registry: Url
    """``http://`` or ``https://``, without ``/v2``."""
    prefix: Annotated[str, AfterValidator(_check_prefix)] = ""
    """Put before every name: ``backup/bj`` makes ``backup/bj/local/team/app``."""
    username: str | None = None
    password_file: AbsolutePath | None = None
    """Read again when it has changed."""
    ca_file: AbsolutePath | None = None
    """Authorities besides the system's."""
    cost: int = Field(default=100, ge=0)
    """Of several backups the cheapest is read from first."""
    private: bool = False
    """Whether images of registries with credentials may lie there: whoever reads the backup reads them."""
    bandwidth: Rate = None
    """Bytes per second that go there."""
    hours: tuple[TransferHours, ...] = ()
    """Other caps for some hours of the day; the first that fits decides."""
    images_at_once: int = Field(default=2, ge=1, le=64)
    blobs_at_once: int = Field(default=4, ge=1, le=64)

    @model_validator(mode="after")
    def _login_is_whole(self) -> Self:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file go together: give both or none")
        return self
