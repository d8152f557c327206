"""Several seeders on one database: leases, and who works on a tag of sync's queue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.String(400), primary_key=True),
        sa.Column("holder", sa.String(255), nullable=False),
        sa.Column("until", sa.Float, nullable=False),
    )
    op.add_column("sync_tasks", sa.Column("holder", sa.String(255), nullable=False, server_default=""))
    op.add_column("sync_tasks", sa.Column("held_until", sa.Float, nullable=False, server_default="0"))
