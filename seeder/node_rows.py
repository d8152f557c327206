"""The node inventory's rows in the seeder's database: read at start, written now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import sqlalchemy as sa
from pydantic import ValidationError

from imagedist.errors import StorageError
from imagedist.nodes import Heartbeat
from imagedist.service import beside
from seeder.database import Database
from seeder.leading import Leading
from seeder.nodes import MAX_NODES, Node, Nodes

_LOG = logging.getLogger(__name__)

_FLUSH_SECONDS = 5.0

SCHEMA = sa.MetaData()
_NODES = sa.Table(
    "nodes",
    SCHEMA,
    sa.Column("id", sa.String(128), primary_key=True),
    sa.Column("heartbeat", sa.Text, nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
    sa.Column("is_paused", sa.Boolean, nullable=False),
)


async def load(database: Database) -> list[Node]:
    """Raises StorageError."""
    query = sa.select(_NODES).order_by(_NODES.c.seen_at.desc()).limit(MAX_NODES)
    async with database.transaction() as connection:
        rows = (await connection.execute(query)).all()
    nodes = []
    for row in rows:
        try:
            heartbeat = Heartbeat.model_validate_json(row.heartbeat)
        except ValidationError:
            heartbeat = Heartbeat()  # of another version; its next one tells
        nodes.append(Node(row.id, heartbeat, row.address, row.seen_at, row.is_paused))
    return nodes


async def flush(nodes: Nodes, database: Database, leading: Leading | None = None) -> None:
    """Writes what has changed, if this seeder leads. Raises StorageError: then it is tried again next time."""
    unsaved, forgotten = nodes.take_unsaved()
    if not unsaved and not forgotten:
        return
    rows = [
        {
            "id": node.id,
            "heartbeat": node.heartbeat.model_dump_json(),
            "address": node.address,
            "seen_at": node.seen_at,
            "is_paused": node.is_paused,
        }
        for node in unsaved
    ]
    try:
        async with database.transaction() as connection:
            if leading is not None:
                await leading.require_in(connection)
            await database.upsert(connection, _NODES, rows)
            for node_id in forgotten:
                await connection.execute(sa.delete(_NODES).where(_NODES.c.id == node_id))
    except StorageError:
        nodes.give_back(unsaved, forgotten)
        raise


@asynccontextmanager
async def kept(nodes: Nodes, database: Database, leading: Leading) -> AsyncIterator[None]:
    """The inventory with its rows: restored on entry, written while the context is open and once more at its end,
    by the seeder that leads. All hear the heartbeats; what operators said is only with the leader.

    Raises:
        StorageError: the rows cannot be read.
    """
    nodes.restore(await load(database))

    async def keep() -> None:
        said = ""
        nodes.take_over(await load(database))
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            try:
                await flush(nodes, database, leading)
                said = ""
            except StorageError as error:
                if str(error) != said:
                    _LOG.warning("the node inventory is not saved: %s", error)
                said = str(error)

    async with beside(partial(leading.led, keep), "the node inventory"):
        yield
    if leading.leads:
        try:
            await flush(nodes, database, leading)
        except StorageError as error:
            _LOG.warning("the node inventory is not saved: %s", error)
