"""The database's tables brought to this version, by Alembic; the only file that knows it, beside the migrations."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from imagedist.errors import StorageError

_CONFIG = Config()
_CONFIG.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))

_SCRIPTS = ScriptDirectory.from_config(_CONFIG)
HEAD = _SCRIPTS.get_current_head() or ""
"""The revision that this version makes and needs."""
_UNVERSIONED = "none"
"""Of databases from before there were revisions."""


def revision(connection: sa.Connection) -> str | None:
    """Which revision a database has; ``none``: one from before there were any. None: it has no tables yet."""
    heads = MigrationContext.configure(connection).get_current_heads()
    if heads:
        return heads[0]
    return _UNVERSIONED if sa.inspect(connection).get_table_names() else None


def migrate(connection: sa.Connection) -> None:
    """Within one transaction of the caller, who also sees to it that nobody else migrates meanwhile.

    Raises:
        StorageError: a newer version has made it.
    """
    found = revision(connection)
    if found == HEAD:
        return
    known = {script.revision for script in _SCRIPTS.walk_revisions()}
    if found not in (None, _UNVERSIONED) and found not in known:
        raise StorageError(
            f"the seeder's database is of a newer version of imagedist (revision {found}; this one knows {HEAD}): run "
            "that version, or give back the copy from before (docs/database.md)"
        )
    _CONFIG.attributes["connection"] = connection
    try:
        command.upgrade(_CONFIG, "head")
    finally:
        del _CONFIG.attributes["connection"]
