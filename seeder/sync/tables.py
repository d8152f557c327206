"""The tables that sync keeps in the seeder's database beside the tag journal."""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA = sa.MetaData()

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")

SEEN = sa.Table(
    "sync_seen",
    SCHEMA,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("tag", sa.String(128), primary_key=True),
    sa.Column("digest", sa.String(160), nullable=False),
    sa.Column("terms", sa.Text, nullable=False),
)
"""What the site's own registry said last of each covered tag: one has moved when the registry says something else."""

CURSORS = sa.Table(
    "sync_cursors",
    SCHEMA,
    sa.Column("site", sa.String(255), primary_key=True),
    sa.Column("journal", sa.String(64), nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)
"""How far each site's journal was followed: what it told up to there is in the queue, or done."""

TASKS = sa.Table(
    "sync_tasks",
    SCHEMA,
    sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("tag", sa.String(128), nullable=False),
    sa.Column("digest", sa.String(160), nullable=False),
    sa.Column("move", sa.Text, nullable=False),
    sa.Column("source", sa.String(255), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("not_before", sa.Float, nullable=False, default=0.0),
    sa.Column("has_failed", sa.Boolean, nullable=False, default=False),
    sa.Column("error", sa.Text, nullable=False, default=""),
    sa.Column("holder", sa.String(255), nullable=False, server_default=""),
    sa.Column("held_until", sa.Float, nullable=False, server_default="0"),
    sa.UniqueConstraint("name", "tag"),
    sqlite_autoincrement=True,
)
"""Tags that are to be set or deleted here, one row per tag: what is wanted last.

``holder``: the seeder that works on the tag, until ``held_until`` by the database's clock. It keeps the tag when
something else is wanted of it meanwhile, so that no two work on one tag.
"""

CONFLICTS = sa.Table(
    "sync_conflicts",
    SCHEMA,
    sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("tag", sa.String(128), nullable=False),
    sa.Column("kept", sa.String(160), nullable=False),
    sa.Column("kept_of", sa.String(255), nullable=False),
    sa.Column("lost", sa.String(160), nullable=False),
    sa.Column("lost_of", sa.String(255), nullable=False),
    sqlite_autoincrement=True,
)
