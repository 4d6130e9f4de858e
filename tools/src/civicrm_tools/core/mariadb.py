"""Dump and load a MariaDB database (mariadb-dump(1), mariadb(1)), with what it needs to come back byte for byte."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from civicrm_tools.core import streams
from civicrm_tools.core.command import Failure
from civicrm_tools.core.run import ProgramFailed, run

SECONDS = 60
# One moment of all tables, without locking anybody out; binary columns survive any charset.
OPTIONS = ("--single-transaction", "--quick", "--routines", "--triggers", "--events", "--hex-blob")
# The longest row or statement that MariaDB sends or takes at all, in bytes. A BLOB is twice as long in a dump as in its
# table: what the server's own max_allowed_packet lets in comes back only where dump and load have more.
LONGEST = 1 << 30
PACKET = f"--max-allowed-packet={LONGEST}"
CHARSET = "--default-character-set=utf8mb4"
DATABASE_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
CHARSET_NAME = re.compile(r"[A-Za-z0-9_]+")


class Dump(NamedTuple):
    """A dump's file: its size in bytes, its SHA-256, and how many tables it holds."""

    size: int
    sha256: str
    tables: int


class DumpInspector:
    """Counts the tables of a dump as it passes, measures its statements and notices whether it came to its end.

    longest: bytes of the longest statement; one that begins and ends in the same piece of the dump is not measured.
    """

    TABLE = b"\nCREATE TABLE "
    END = b";\n"  # in a value a newline is escaped

    def __init__(self) -> None:
        self.tables = 0
        self.tail = b""
        self.passed = self.ended = self.longest = 0

    def __call__(self, chunk: bytes) -> None:
        data = self.tail + chunk
        self.tables += data.count(self.TABLE) - self.tail.count(self.TABLE)
        begin = self.passed - len(self.tail)
        if (first := data.find(self.END)) >= 0:
            self.longest = max(self.longest, begin + first - self.ended)
            self.ended = begin + data.rfind(self.END)
        self.passed += len(chunk)
        self.tail = data[-256:]

    def judge(self) -> None:
        """Raise Failure unless what passed is a whole dump that can be loaded."""
        if b"\n-- Dump completed" not in self.tail:
            raise Failure("mariadb-dump ended before its last line")
        if self.longest >= LONGEST:
            raise Failure(
                f"one row takes a statement of {self.longest >> 20} MB, and MariaDB loads none of {LONGEST >> 20} MB: "
                "make its largest value smaller, or this dump never comes back"
            )


def charset(database: str) -> tuple[str, str]:
    """Return a database's character set and collation. Raises ProgramFailed."""
    question = "SELECT @@character_set_database, @@collation_database"
    command = ("mariadb", "--batch", "--skip-column-names", database)
    name, collation = run(*command, timeout=SECONDS, text=question).stdout.split()
    return name, collation


def dump(database: str, target: Path) -> Dump:
    """Dump a database, compressed, into a new file. Raises Failure unless the dump is whole and can be loaded."""
    inspector = DumpInspector()
    made = streams.compress(["mariadb-dump", *OPTIONS, PACKET, CHARSET, database], target, inspector)
    inspector.judge()
    return Dump(made.size, made.sha256, inspector.tables)


def check(source: Path) -> None:
    """Read a compressed dump to its end. Raises Failure unless it is whole and can be loaded."""
    inspector = DumpInspector()
    try:
        with gzip.open(source) as packed:
            while chunk := packed.read(streams.CHUNK):
                inspector(chunk)
    except (OSError, EOFError, zlib.error) as error:
        raise Failure(f"it cannot be read: {error}") from error
    inspector.judge()


@contextmanager
def long_statements() -> Iterator[None]:
    """Have the server take statements of any length from connections that begin now. Raises ProgramFailed.

    So may connections of others that begin meanwhile; after a run that is killed, until the server restarts.
    """

    def ask(statement: str) -> str:
        return run("mariadb", "--batch", "--skip-column-names", timeout=SECONDS, text=statement).stdout.strip()

    before = ask("SELECT @@GLOBAL.max_allowed_packet")
    ask(f"SET GLOBAL max_allowed_packet = {LONGEST}")
    try:
        yield
    finally:
        ask(f"SET GLOBAL max_allowed_packet = {before}")


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
        with long_statements():
            streams.feed(source, ["mariadb", PACKET, CHARSET, database])
    except ProgramFailed as error:
        raise ProgramFailed(f"loading it: {error}") from error
