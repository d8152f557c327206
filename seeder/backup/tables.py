"""The tables that backups keep in the seeder's database, beside the cursors of sync."""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA = sa.MetaData()

TAGS = sa.Table(
    "backup_tags",
    SCHEMA,
    sa.Column("backup", sa.String(255), primary_key=True),
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("tag", sa.String(128), primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.String(160), nullable=False),  # empty: it is to be deleted
    sa.Column("done", sa.String(160), nullable=False, default=""),  # empty: it was not sent yet
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("not_before", sa.Float, nullable=False, default=0.0),
    sa.Column("has_failed", sa.Boolean, nullable=False, default=False),
    sa.Column("error", sa.Text, nullable=False, default=""),
)
"""What each tag is to mean at a backup, and what it was left as there: where the two differ, there is work to do."""

BLOBS = sa.Table(
    "backup_blobs",
    SCHEMA,
    sa.Column("backup", sa.String(255), primary_key=True),
    sa.Column("digest", sa.String(160), primary_key=True),
    sa.Column("repository", sa.String(255), nullable=False),
    sa.Column("upload", sa.Text, nullable=False, default=""),
)
"""Where a blob was sent, so that other repositories mount it; while ``upload`` is not empty, where it goes on."""
