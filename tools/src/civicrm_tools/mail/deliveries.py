"""Who sent what to whom, out of Postfix's log with its rotated and compressed files."""

from __future__ import annotations

import os
import re
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from civicrm_tools.mail import log as maillog
from civicrm_tools.mail.addresses import Address, Verb
from civicrm_tools.mail.providers import Owners
from civicrm_tools.mail.return_path import Settings

# host postfix-gmail/smtp[12]: 4jW8WD6NjJzDSVp: to=<...>, both timestamp styles stand before it.
LINE = re.compile(r" postfix[\w.-]*/(?:[\w-]+/)*(?P<service>\w+)\[\d+\]: (?P<id>[0-9A-Za-z]{6,20}): (?P<rest>.*)")
MESSAGE_ID = re.compile(r"(?:resent-)?message-id=<?(?P<id>[^<>\s]+)>?")
SENDER = re.compile(r"from=<(?P<address>[^<>]*)>")
DELIVERY = re.compile(r"to=<(?P<address>[^<>]*)>.*? status=(?P<status>\w+) ")


def lines(paths: Iterable[Path]) -> Iterator[str]:
    """All lines of the files; one that is damaged or goes away meanwhile is left where it breaks."""
    for path in paths:
        with suppress(OSError, EOFError, zlib.error), maillog.open_log(path) as file:
            for line in file:
                yield line.decode("latin-1")


@dataclass
class Passage:
    """What the log says of one queue ID."""

    sender: str = ""
    message_id: str = ""
    recipients: list[str] = field(default_factory=list)


def lookup(
    paths: Iterable[Path],
    message_ids: Set[str] = frozenset(),
    queue_ids: Set[str] = frozenset(),
    senders: Set[str] = frozenset(),
) -> dict[str, Passage]:
    """Every queue ID that one of the keys leads to. One pass; message IDs without < and >, senders to the letter."""
    found: dict[str, Passage] = {key: Passage() for key in queue_ids}
    if not (message_ids or queue_ids or senders):
        return {}
    for line in lines(paths):
        match = LINE.search(line)
        if not match:
            continue
        key, rest = match["id"], match["rest"]
        passage = found.get(key)
        if match["service"] == "cleanup":
            message_id = MESSAGE_ID.match(rest)
            if message_id and (passage or message_id["id"] in message_ids):
                found.setdefault(key, Passage()).message_id = message_id["id"]
        elif match["service"] == "qmgr":
            sender = SENDER.match(rest)
            if sender and (passage or sender["address"] in senders):
                found.setdefault(key, Passage()).sender = sender["address"]
        elif passage and len(passage.recipients) < 10 and (delivery := DELIVERY.match(rest)):
            # A dict keeps the order and each address once.
            passage.recipients = [*dict.fromkeys([*passage.recipients, delivery["address"]])]
    return {key: passage for key, passage in found.items() if passage != Passage()}


SCHEMA = """
CREATE TABLE IF NOT EXISTS position (inode INTEGER, offset INTEGER);
CREATE TABLE IF NOT EXISTS queued (id TEXT PRIMARY KEY, site TEXT, job INTEGER, day INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS delivered (
    day INTEGER, provider TEXT, site TEXT, job INTEGER, messages INTEGER,
    PRIMARY KEY (day, provider, site, job)) WITHOUT ROWID;
"""
KEEP_DAYS = 35


def follow(log: Path, database: sqlite3.Connection, settings: Settings, limit_bytes: int = 64 * 1024 * 1024) -> int:
    """Count deliveries per day, provider and mailing job since the last call; returns the lines read.

    The place in the log and the counts change in one transaction, so that nothing is counted twice. A file that was
    rotated meanwhile is finished first; at most `limit_bytes` a call, the rest next time.
    """
    owners = settings.owners()
    row = database.execute("SELECT inode, offset FROM position").fetchone()
    plan: list[tuple[Path, int]] = []
    try:
        current = log.stat()
    except FileNotFoundError:
        return 0
    if row is None or row["inode"] != current.st_ino or row["offset"] > current.st_size:
        for path in maillog.rotated(log)[-3:] if row is not None else []:
            with suppress(FileNotFoundError):
                status = path.stat()
                if path.suffix != ".gz" and status.st_ino == row["inode"] and status.st_size > row["offset"]:
                    plan.append((path, row["offset"]))
        plan.append((log, 0))
    else:
        plan.append((log, row["offset"]))
    read = 0
    for path, offset in plan:
        with suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(offset)
            chunk = file.read(limit_bytes)
            chunk = chunk[: chunk.rfind(b"\n") + 1]
            inode = os.fstat(file.fileno()).st_ino
            database.execute("BEGIN IMMEDIATE")
            try:
                for line in chunk.split(b"\n"):
                    read += 1
                    _count(line.decode("latin-1"), database, settings, owners)
                database.execute("DELETE FROM position")
                database.execute("INSERT INTO position VALUES (?, ?)", (inode, offset + len(chunk)))
                database.execute("COMMIT")
            except BaseException:
                database.execute("ROLLBACK")
                raise
            if len(chunk) >= limit_bytes - 65536:
                break  # the rest of this file before the next one
    oldest = today() - KEEP_DAYS
    for table in ("queued", "delivered"):
        database.execute(f"DELETE FROM {table} WHERE day < ?", (oldest,))  # noqa: S608 two fixed names
    return read


def today() -> int:
    """Days since 1970, UTC."""
    return int(time.time() // 86400)


def _count(line: str, database: sqlite3.Connection, settings: Settings, owners: Owners) -> None:
    match = LINE.search(line)
    if not match:
        return
    rest = match["rest"]
    if match["service"] == "qmgr":
        if rest == "removed":
            database.execute("DELETE FROM queued WHERE id = ?", (match["id"],))
        elif sender := SENDER.match(rest):
            for site in settings.sites:
                address: Address | None = site.parse(sender["address"])
                if address and address.verb is Verb.BOUNCE:
                    row = (match["id"], site.name, address.job, today())
                    database.execute("INSERT OR REPLACE INTO queued VALUES (?, ?, ?, ?)", row)
    elif match["service"] == "smtp" and " status=sent " in rest and (delivery := DELIVERY.match(rest)):
        row = database.execute("SELECT site, job FROM queued WHERE id = ?", (match["id"],)).fetchone()
        if row:
            database.execute(
                "INSERT INTO delivered VALUES (?, ?, ?, ?, 1) ON CONFLICT DO UPDATE SET messages = messages + 1",
                (today(), owners.of(delivery["address"]), row["site"], row["job"]),
            )
