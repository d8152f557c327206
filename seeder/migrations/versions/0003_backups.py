"""Backups: what each tag is to mean there and was left as, and where blobs were sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "backup_tags",
        sa.Column("backup", sa.String(255), primary_key=True),
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("tag", sa.String(128), primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(160), nullable=False),
        sa.Column("done", sa.String(160), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("not_before", sa.Float, nullable=False),
        sa.Column("has_failed", sa.Boolean, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
    )
    op.create_table(
        "backup_blobs",
        sa.Column("backup", sa.String(255), primary_key=True),
        sa.Column("digest", sa.String(160), primary_key=True),
        sa.Column("repository", sa.String(255), nullable=False),
        sa.Column("upload", sa.Text, nullable=False),
    )
