"""One seeder leads at a time; what it holds runs out when it dies, and who lost it writes nothing any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Self

import pytest
import sqlalchemy as sa

from imagedist.errors import OverloadedError
from seeder.database import Database
from seeder.leading import Leading
from seeder.leases import Leases, LostError
from tests.support.postgres import Cluster
from tests.support.waiting import until

pytestmark = pytest.mark.e2e("postgresql")


class Relay:
    """A way to a port of this host, on which everything stands still while ``passes`` is not set."""

    def __init__(self, to: int) -> None:
        self._to = to
        self.passes = asyncio.Event()
        self.passes.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        for each in (self._pass_on(reader, back), self._pass_on(there, writer)):
            self._tasks.add(asyncio.create_task(each))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while part := await reader.read(65536):
                await self.passes.wait()
                writer.write(part)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def databases(postgres: Cluster) -> AsyncIterator[tuple[Database, Database]]:
    url = postgres.database()
    first, second = await Database.open(url, "first (:1)"), await Database.open(url, "second (:2)")
    yield first, second
    await first.close()
    await second.close()


async def run_out(database: Database) -> None:
    """As if its holder had not been heard of for long."""
    async with database.transaction() as connection:
        await connection.execute(sa.text("UPDATE leases SET until = until - 1000"))


async def test_the_second_takes_the_lead_when_the_first_gives_it_up_or_dies(
    databases: tuple[Database, Database],
) -> None:
    one, other = (Leading(each, Leases(each)) for each in databases)
    await one.take()
    await other.take()
    assert (one.leads, other.leads) == (True, False)
    with pytest.raises(OverloadedError, match=r"does not lead the site, first \(:1\) does: ask that one"):
        other.require()
    await run_out(databases[0])
    await other.take()
    await one.take()
    assert (one.leads, other.leads) == (False, True)
    keeping = asyncio.create_task(other.keep())
    await asyncio.sleep(0)
    keeping.cancel()
    await asyncio.wait([keeping])
    await one.take()
    assert (one.leads, other.leads) == (True, False)


async def test_who_lost_the_lead_without_knowing_it_writes_nothing(databases: tuple[Database, Database]) -> None:
    one, other = (Leading(each, Leases(each)) for each in databases)
    await one.take()
    await run_out(databases[0])
    await other.take()
    assert one.leads  # as far as it knows
    with pytest.raises(LostError, match=r"second \(:2\)"):
        async with databases[0].transaction() as connection:
            await one.require_in(connection)


async def test_the_leaders_work_stops_with_its_lead_and_begins_again_with_it(
    databases: tuple[Database, Database],
) -> None:
    leading, said = Leading(databases[0], Leases(databases[0])), list[str]()

    async def work() -> None:
        said.append("begins")
        try:
            await asyncio.Event().wait()
        finally:
            said.append("ends")

    working = asyncio.create_task(leading.led(work))
    await asyncio.sleep(0)
    assert said == []
    await leading.take()
    await until(lambda: said == ["begins"])
    await run_out(databases[0])
    await Leading(databases[1], Leases(databases[1])).take()
    await leading.take()
    await until(lambda: said == ["begins", "ends"])
    await run_out(databases[0])
    await leading.take()
    await until(lambda: said == ["begins", "ends", "begins"])
    working.cancel()
    await asyncio.wait([working])
    assert said[-1] == "ends"


async def test_a_leader_that_cannot_reach_the_database_stops_in_time(
    databases: tuple[Database, Database], postgres: Cluster
) -> None:
    leading = Leading(databases[0], Leases(databases[0], seconds=1.0))
    await leading.take()
    keeping = asyncio.create_task(leading.keep())
    postgres.stop()
    try:
        await until(lambda: not leading.leads)
    finally:
        postgres.start()
    await until(lambda: leading.leads)
    keeping.cancel()
    await asyncio.wait([keeping])


async def test_a_leader_whose_network_is_cut_stops_in_time_and_leads_again_when_it_is_mended(postgres: Cluster) -> None:
    """Nobody refuses anything: bytes get lost."""
    async with Relay(postgres.port) as relay:
        database = await Database.open(postgres.database().replace(f":{postgres.port}/", f":{relay.port}/"))
        leading = Leading(database, Leases(database, seconds=1.0))
        await leading.take()
        keeping = asyncio.create_task(leading.keep())
        relay.passes.clear()
        await until(lambda: not leading.leads)
        relay.passes.set()
        await until(lambda: leading.leads)
        keeping.cancel()
        await asyncio.wait([keeping])
        await database.close()


async def test_a_lease_is_waited_for_and_the_block_of_a_lost_one_is_cut(databases: tuple[Database, Database]) -> None:
    one, other = (Leases(each) for each in databases)
    order: list[str] = []

    async def second() -> None:
        async with other.held("x"):
            order.append("second")

    async with one.held("x"):
        waiting = asyncio.create_task(second())
        assert await other.take("x") != databases[1].process
        order.append("first")
    await waiting
    assert order == ["first", "second"]

    async def loses_it() -> None:
        async with Leases(databases[0], seconds=0.5).held("x"):
            async with databases[1].transaction() as connection:
                await connection.execute(sa.text("UPDATE leases SET holder = 'other', until = until + 1000"))
            await asyncio.Event().wait()

    with pytest.raises(LostError, match="x could not be held"):
        await loses_it()


async def test_a_block_that_is_cancelled_ends_even_if_its_lease_cannot_be_given_up(
    databases: tuple[Database, Database], postgres: Cluster
) -> None:
    """Else a seeder that looks through a registry would not stop while the database is away."""
    is_held = asyncio.Event()

    async def hold() -> None:
        async with Leases(databases[0]).held("x"):
            is_held.set()
            await asyncio.Event().wait()

    holding = asyncio.create_task(hold())
    await is_held.wait()
    postgres.stop()
    try:
        holding.cancel()
        await asyncio.wait([holding])
    finally:
        postgres.start()
    assert holding.cancelled()
