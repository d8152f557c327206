"""The tables as they were when there were no revisions: each is made where it is missing.

Databases from before hold all of them, or the first ones: the journal, then nodes, preheats, sync came one by one.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "tag_journal",
        sa.Column("sequence", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("tag", sa.String(128), nullable=False),
        sa.Column("digest", sa.String(160), nullable=False),
        sa.UniqueConstraint("name", "tag"),
        sqlite_autoincrement=True,
        if_not_exists=True,
    )
    op.create_table(
        "nodes",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("heartbeat", sa.Text, nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
        sa.Column("is_paused", sa.Boolean, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "preheats",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("run", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "tag_moves",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("tag", sa.String(128), primary_key=True),
        sa.Column("move", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "journal_identity",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("journal", sa.String(64), nullable=False),
        sa.Column("born_at", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )
    _sync()


def _sync() -> None:
    op.create_table(
        "sync_seen",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("tag", sa.String(128), primary_key=True),
        sa.Column("digest", sa.String(160), nullable=False),
        sa.Column("terms", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "sync_cursors",
        sa.Column("site", sa.String(255), primary_key=True),
        sa.Column("journal", sa.String(64), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "sync_tasks",
        sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("tag", sa.String(128), nullable=False),
        sa.Column("digest", sa.String(160), nullable=False),
        sa.Column("move", sa.Text, nullable=False),
        sa.Column("source", sa.String(255), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("not_before", sa.Float, nullable=False),
        sa.Column("has_failed", sa.Boolean, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.UniqueConstraint("name", "tag"),
        sqlite_autoincrement=True,
        if_not_exists=True,
    )
    op.create_table(
        "sync_conflicts",
        sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("tag", sa.String(128), nullable=False),
        sa.Column("kept", sa.String(160), nullable=False),
        sa.Column("kept_of", sa.String(255), nullable=False),
        sa.Column("lost", sa.String(160), nullable=False),
        sa.Column("lost_of", sa.String(255), nullable=False),
        sqlite_autoincrement=True,
        if_not_exists=True,
    )
