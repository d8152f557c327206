"""The tables of the seeder's database, one step per file; ``seeder/migrating.py`` runs them at start.

A new table or column: the next file in ``versions``, and the same in the room that owns the table; a test compares
both (``tests/seeder/test_database.py``, whose list SCHEMAS names the rooms). Columns that are added have a server
default, so that a seeder of the version before can still write.
"""
