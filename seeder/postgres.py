"""PostgreSQL as the seeder's database; the only file that knows asyncpg."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from imagedist.errors import ConfigError, SourceError, StorageError

_CONNECT_SECONDS = 5.0
_COMMAND_SECONDS = 60.0
_CONNECTIONS, _MORE = 5, 10
_SETTINGS = {
    "application_name": "imagedist-seeder",
    # A host that loses its power keeps its locks for so long, not until the server's TCP gives it up (two hours).
    "idle_in_transaction_session_timeout": "30s",
    "tcp_keepalives_idle": "20",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


class Postgres:
    """
    Args:
        url: as libpq reads it, with several hosts, ``sslmode`` and the rest; passwords also from ``PGPASSFILE``.
    """

    is_shared = True

    def __init__(self, url: str) -> None:
        self._url = url

    async def open(self) -> AsyncEngine:
        """Raises ConfigError: asyncpg is not installed."""
        try:
            import asyncpg
        except ModuleNotFoundError as error:
            raise ConfigError(
                "seeder.database is postgresql, whose driver is missing: install asyncpg "
                "(pip install 'imagedist[postgres]')"
            ) from error

        async def connect() -> Any:
            try:
                return await asyncpg.connect(
                    self._url, timeout=_CONNECT_SECONDS, command_timeout=_COMMAND_SECONDS, server_settings=_SETTINGS
                )
            except asyncpg.InterfaceError:
                raise
            except ValueError:  # names what it took for a port: of a password, perhaps
                raise ConfigError(
                    f"bad value for seeder.database ({shown(self._url)}): it cannot be read; in a password write "
                    "what is neither letter nor digit as %2F and the like"
                ) from None

        return create_async_engine(
            "postgresql+asyncpg://",
            async_creator=connect,
            pool_size=_CONNECTIONS,
            max_overflow=_MORE,
            pool_pre_ping=True,  # a server that was restarted meanwhile costs no transaction
        )

    async def prepare(self, engine: AsyncEngine) -> None:
        """There is nothing to do: its administrator makes backups."""

    async def lock(self, connection: AsyncConnection, key: str) -> None:
        number = zlib.crc32(f"imagedist {key}".encode())
        await connection.execute(sa.text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})

    def explain(self, error: BaseException) -> Exception:
        """
        Returns:
            ConfigError: it refuses us, and waiting will not help. SourceError: it does not answer. StorageError: else.
        """
        import asyncpg

        found = [each for each in _chain(error) if isinstance(each, (asyncpg.PostgresError, asyncpg.InterfaceError))]
        first = found[0] if found else error
        said = str(first).partition("\n")[0] or type(first).__name__
        where = f"PostgreSQL at {shown(self._url)}"
        if isinstance(first, (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)):
            return ConfigError(
                f"{where} refuses the user: {said}; correct user and password in seeder.database, or in the file that "
                "PGPASSFILE names"
            )
        if isinstance(first, asyncpg.InvalidCatalogNameError):
            return ConfigError(f"{where}: {said}; make it (createdb), or correct its name in seeder.database")
        if isinstance(first, asyncpg.InsufficientPrivilegeError):
            return ConfigError(f"{where}: {said}; the seeder's user must own its tables: GRANT CREATE ON SCHEMA public")
        if isinstance(first, asyncpg.exceptions.ClientConfigurationError):
            return ConfigError(f"bad value for seeder.database ({shown(self._url)}): {said}")
        is_away = isinstance(
            first,
            (
                asyncpg.PostgresConnectionError,
                asyncpg.CannotConnectNowError,
                asyncpg.TooManyConnectionsError,
                asyncpg.AdminShutdownError,
                asyncpg.CrashShutdownError,
            ),
        )
        if is_away or any(isinstance(each, OSError) for each in _chain(error)):
            return SourceError(f"{where} does not answer: {said}; start it, or correct seeder.database")
        return StorageError(f"{where} failed: {said}")

    async def close(self) -> None:
        """The engine has closed the connections."""


def shown(url: str) -> str:
    """A URL without its password, even if that holds what ends it: nobody has escaped it."""
    scheme, _, rest = url.partition("://")
    user, separator, place = rest.rpartition("@")
    if any(each in user for each in "/?#"):
        return f"{scheme}://…"
    return f"{scheme}://{user.partition(':')[0]}{separator}{place.partition('?')[0]}"


@cache
def errors() -> tuple[type[Exception], ...]:
    """What the driver raises itself, if it is there; SQLAlchemy hands on what comes while it connects."""
    try:
        import asyncpg
    except ModuleNotFoundError:
        return ()
    return (asyncpg.PostgresError, asyncpg.InterfaceError)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """It, and what it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = getattr(seen, "orig", None) or seen.__cause__ or (seen.__context__ if seen is error else None)
