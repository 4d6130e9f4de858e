"""Dump and load a MariaDB database (mariadb-dump(1), mariadb(1)), with what it needs to come back byte for byte."""

from __future__ import annotations

import gzip
import hashlib
import re
import secrets
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from civicrm_tools.core import streams
from civicrm_tools.core.command import Failure, about
from civicrm_tools.core.run import run

SECONDS = 60
# One moment of all tables, without locking anybody out; binary columns survive any charset.
OPTIONS = ("--single-transaction", "--quick", "--routines", "--triggers", "--events", "--hex-blob")
# The longest row or statement that MariaDB sends or takes at all, in bytes. A BLOB is twice as long in a dump as in its
# table: what the server's own max_allowed_packet lets in comes back only where dump and load have more.
LONGEST = 1 << 30
PACKET = f"--max-allowed-packet={LONGEST}"
CHARSET = "--default-character-set=utf8mb4"
DATABASE_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
ACCOUNT_NAME = re.compile(r"[A-Za-z0-9_]{1,80}")
HASH = re.compile(r"'(\*[0-9A-F]{40})'")
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


class Incomplete(Failure):
    """A database was emptied, and its dump is not all in it."""


class WithoutDefiners:
    """Takes DEFINER out of a dump as it passes: whoever loads it owns its views, triggers and routines.

    The definers in the dump may be accounts that this server does not know, and only root may name another than itself.
    mariadb-dump writes the clause at the beginning of a line, where no value of a table is.
    """

    CLAUSE = re.compile(
        rb"^((?:/\*![0-9]{5,6} )?(?:CREATE\*/ /\*![0-9]{5,6} |CREATE )?)DEFINER=(?:`(?:[^`\n]|``){0,300}`@?){1,2} ?",
        re.MULTILINE,
    )
    LONG = 4096  # bytes of a line whose beginning has been looked at

    def __init__(self) -> None:
        self.rest = b""
        self.inside = False  # what comes next goes on with a line that has passed

    def __call__(self, chunk: bytes) -> bytes:
        data, passed = self.rest + chunk, b""
        if self.inside:
            end = data.find(b"\n") + 1
            if not end:
                self.rest = b""
                return data
            passed, data, self.inside = data[:end], data[end:], False
        cut = data.rfind(b"\n") + 1
        if self.inside or len(data) - cut > self.LONG:
            cut, self.inside = len(data), True
        self.rest = data[cut:]
        return passed + self.CLAUSE.sub(rb"\1", data[:cut])

    def end(self) -> bytes:
        return self.CLAUSE.sub(rb"\1", self.rest)


def ask(statement: str) -> str:
    """Return what the server answers to root. Raises ProgramFailed."""
    return run("mariadb", "--batch", "--skip-column-names", timeout=SECONDS, text=statement).stdout.strip()


@contextmanager
def long_statements() -> Iterator[None]:
    """Have the server take statements of any length from connections that begin now. Raises ProgramFailed.

    So may connections of others that begin meanwhile; after a run that is killed, until the server restarts.
    """
    before = ask("SELECT @@GLOBAL.max_allowed_packet")
    ask(f"SET GLOBAL max_allowed_packet = {LONGEST}")
    try:
        yield
    finally:
        ask(f"SET GLOBAL max_allowed_packet = {before}")


@contextmanager
def own_account(database: str) -> Iterator[Path]:
    """Lend a database's own account: the path of an option file with its name and a second password, until the end.

    Its limits are lifted meanwhile, for the site may have used them up. Raises Failure, also unless exactly one account
    at localhost has this database. After a run that is killed the limits stay lifted until the next playbook, and the
    second password, which nobody knows, until the next rotation.
    """
    # In a grant the _ of a database's name may be escaped.
    rows = ask(
        "SELECT REPLACE(Db, CHAR(92), ''), User, max_questions, max_updates, max_connections, max_user_connections, "
        "max_statement_time FROM mysql.user JOIN mysql.db USING (Host, User) WHERE Host = 'localhost' AND User != ''"
    )
    found = [row.split("\t")[1:] for row in rows.splitlines() if row.split("\t")[0] == database]
    if len(found) != 1 or not ACCOUNT_NAME.fullmatch(found[0][0]):
        raise Failure("no account, or more than one, has this database: run the playbook first")
    user, *before = found[0]
    hashes = HASH.findall(ask(f"SHOW CREATE USER `{user}`@localhost"))
    if not hashes:
        raise Failure(f"account {user} has no password: run the playbook first")
    password = secrets.token_hex(16)
    digest = hashlib.sha1(hashlib.sha1(password.encode()).digest()).hexdigest().upper()  # noqa: S324 (MariaDB's own)

    def alter(passwords: list[str], values: list[str]) -> None:
        via = " OR ".join(f"mysql_native_password USING '{one}'" for one in passwords)
        words = ("QUERIES_PER_HOUR", "UPDATES_PER_HOUR", "CONNECTIONS_PER_HOUR", "USER_CONNECTIONS", "STATEMENT_TIME")
        limited = " ".join(f"MAX_{word} {value}" for word, value in zip(words, values, strict=True))
        ask(f"ALTER USER `{user}`@localhost IDENTIFIED VIA {via} WITH {limited}")

    # 0 connections would be the server's default for all accounts, no limit.
    alter([*hashes, f"*{digest}"], ["0", "0", "0", "65535", "0"])
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".cnf") as options:
            options.write(f"[client]\nuser={user}\npassword={password}\n")
            options.flush()
            yield Path(options.name)
    finally:
        alter(hashes, before)


def load(database: str, source: Path, charset: str, collation: str) -> None:
    """Replace a database by a dump, as the account that has it: the dump may do no more than its site.

    Raises Incomplete, and Failure before anything was changed.
    """
    for value, pattern in ((database, DATABASE_NAME), (charset, CHARSET_NAME), (collation, CHARSET_NAME)):
        if not pattern.fullmatch(value):
            raise Failure(f"{value!r} is not the name of a database, character set or collation")
    # Emptied first: a table made after the dump must not stay. Grants do not go with a database.
    statement = (
        f"DROP DATABASE IF EXISTS `{database}`; "
        f"CREATE DATABASE `{database}` CHARACTER SET {charset} COLLATE {collation};"
    )
    # --binary-mode: of the client's own commands, which could run a program, it obeys only DELIMITER.
    argv = ["--binary-mode", "--skip-local-infile", "--init-command=SET SESSION max_statement_time = 0"]
    with own_account(database) as options, long_statements():
        try:
            with about("emptying it"):
                run("mariadb", timeout=SECONDS, text=statement)
            with about("loading it"):
                streams.feed(
                    source,
                    ["mariadb", f"--defaults-file={options}", *argv, PACKET, CHARSET, database],
                    WithoutDefiners(),
                )
        except Failure as error:
            raise Incomplete(str(error)) from error
