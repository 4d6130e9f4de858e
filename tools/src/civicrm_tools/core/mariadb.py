"""Dump and load a MariaDB database (mariadb-dump(1), mariadb(1)), with what it needs to come back byte for byte."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from civicrm_tools.core import streams
from civicrm_tools.core.command import Failure
from civicrm_tools.core.run import ProgramFailed, run

SECONDS = 60
# One moment of all tables, without locking anybody out; binary columns survive any charset.
OPTIONS = ("--single-transaction", "--quick", "--routines", "--triggers", "--events", "--hex-blob")
CHARSET = "--default-character-set=utf8mb4"
DATABASE_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
CHARSET_NAME = re.compile(r"[A-Za-z0-9_]+")


class Dump(NamedTuple):
    """A dump's file: its size in bytes, its SHA-256, and how many tables it holds."""

    size: int
    sha256: str
    tables: int


class DumpInspector:
    """Counts the tables of a dump as it passes and notices whether it came to its end."""

    TABLE = b"\nCREATE TABLE "

    def __init__(self) -> None:
        self.tables = 0
        self.tail = b""

    def __call__(self, chunk: bytes) -> None:
        data = self.tail + chunk
        self.tables += data.count(self.TABLE) - self.tail.count(self.TABLE)
        self.tail = data[-256:]

    @property
    def complete(self) -> bool:
        return b"\n-- Dump completed" in self.tail


def charset(database: str) -> tuple[str, str]:
    """Return a database's character set and collation. Raises ProgramFailed."""
    question = "SELECT @@character_set_database, @@collation_database"
    command = ("mariadb", "--batch", "--skip-column-names", database)
    name, collation = run(*command, timeout=SECONDS, text=question).stdout.split()
    return name, collation


def dump(database: str, target: Path) -> Dump:
    """Dump a database, compressed, into a new file. Raises Failure unless the dump came to its end."""
    inspector = DumpInspector()
    made = streams.compress(["mariadb-dump", *OPTIONS, CHARSET, database], target, inspector)
    if not inspector.complete:
        raise Failure("mariadb-dump ended before its last line")
    return Dump(made.size, made.sha256, inspector.tables)


def load(database: str, source: Path, charset: str, collation: str) -> None:
    """Replace a database by a dump. Raises ProgramFailed; the database is incomplete then."""
    for value, pattern in ((database, DATABASE_NAME), (charset, CHARSET_NAME), (collation, CHARSET_NAME)):
        if not pattern.fullmatch(value):
            raise Failure(f"{value!r} is not the name of a database, character set or collation")
    # Emptied first: a table made after the dump must not stay. Grants do not go with a database.
    statement = (
        f"DROP DATABASE IF EXISTS `{database}`; "
        f"CREATE DATABASE `{database}` CHARACTER SET {charset} COLLATE {collation};"
    )
    try:
        run("mariadb", timeout=SECONDS, text=statement)
    except ProgramFailed as error:
        raise ProgramFailed(f"emptying it: {error}") from error
    try:
        streams.feed(source, ["mariadb", CHARSET, database])
    except ProgramFailed as error:
        raise ProgramFailed(f"loading it: {error}") from error
