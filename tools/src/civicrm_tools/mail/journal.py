"""Keep what a command must not forget in SQLite."""

from __future__ import annotations

import sqlite3
from pathlib import Path


def open_state(path: Path, schema: str) -> sqlite3.Connection:
    """The state of a command: every change is on the disk before the next step (autocommit). Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        database = sqlite3.connect(path, timeout=30, isolation_level=None)
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(schema)
    except sqlite3.Error as error:
        raise OSError(f"{path}: {error}") from error
    database.row_factory = sqlite3.Row
    return database
