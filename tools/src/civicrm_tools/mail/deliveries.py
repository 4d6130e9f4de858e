"""Who sent what to whom, out of Postfix's log with its rotated and compressed files."""

from __future__ import annotations

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
        parsed = maillog.parse(line)
        if not parsed or not parsed.queue_id:
            continue
        key, text = parsed.queue_id, parsed.text
        passage = found.get(key)
        if parsed.service == "cleanup":
            message_id = maillog.MESSAGE_ID.match(text)
            if message_id and (passage or message_id["id"] in message_ids):
                found.setdefault(key, Passage()).message_id = message_id["id"]
        elif parsed.service == "qmgr":
            sender = maillog.SENDER.match(text)
            if sender and (passage or sender["address"] in senders):
                found.setdefault(key, Passage()).sender = sender["address"]
        elif passage and len(passage.recipients) < 10 and (delivery := maillog.DELIVERY.match(text)):
            # A dict keeps the order and each address once.
            passage.recipients = [*dict.fromkeys([*passage.recipients, delivery["to"]])]
    return {key: passage for key, passage in found.items() if passage != Passage()}


SCHEMA = """
CREATE TABLE IF NOT EXISTS position (inode INTEGER, offset INTEGER);
CREATE TABLE IF NOT EXISTS queued (id TEXT PRIMARY KEY, site TEXT, job INTEGER, day INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS delivered (
    day INTEGER, provider TEXT, site TEXT, job INTEGER, messages INTEGER,
    PRIMARY KEY (day, provider, site, job)) WITHOUT ROWID;
"""
KEEP_DAYS = 35
# What is held in memory of the log.
PIECE_BYTES = 1024 * 1024


def follow(log: Path, database: sqlite3.Connection, settings: Settings, limit_bytes: int = 64 * 1024 * 1024) -> int:
    """Count deliveries per day, provider and mailing job since the last call; returns the lines read.

    The place in the log and the counts change in one transaction, so that nothing is counted twice. About
    `limit_bytes` a call, the rest next time.
    """
    owners, read, left = settings.owners(), 0, limit_bytes
    row = database.execute("SELECT inode, offset FROM position").fetchone()
    place, before = maillog.Place(*row) if row else maillog.Place(), None
    while left > 0 and place != before:
        before = place
        for piece, reached in maillog.since(log, place, PIECE_BYTES):
            read += _take(piece, reached, database, settings, owners)
            left -= len(piece)
            place = reached
    oldest = today() - KEEP_DAYS
    for table in ("queued", "delivered"):
        database.execute(f"DELETE FROM {table} WHERE day < ?", (oldest,))  # noqa: S608 two fixed names
    return read


def _take(
    piece: bytes, reached: maillog.Place, database: sqlite3.Connection, settings: Settings, owners: Owners
) -> int:
    """Count one piece of the log, all of it or nothing; returns its lines."""
    lines = piece.split(b"\n")
    database.execute("BEGIN IMMEDIATE")
    try:
        for line in lines:
            if b"/qmgr[" in line or b"status=sent" in line:
                _count(line.decode("latin-1"), database, settings, owners)
        database.execute("DELETE FROM position")
        database.execute("INSERT INTO position VALUES (?, ?)", reached)
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise
    return len(lines)


def today() -> int:
    """Days since 1970, UTC."""
    return int(time.time() // 86400)


def _count(line: str, database: sqlite3.Connection, settings: Settings, owners: Owners) -> None:
    parsed = maillog.parse(line)
    if not parsed or not parsed.queue_id:
        return
    if parsed.service == "qmgr":
        if parsed.text == "removed":
            database.execute("DELETE FROM queued WHERE id = ?", (parsed.queue_id,))
        elif sender := maillog.SENDER.match(parsed.text):
            for site in settings.sites:
                address: Address | None = site.parse(sender["address"])
                if address and address.verb is Verb.BOUNCE:
                    row = (parsed.queue_id, site.name, address.job, today())
                    database.execute("INSERT OR REPLACE INTO queued VALUES (?, ?, ?, ?)", row)
    elif (
        parsed.service == "smtp" and (delivery := maillog.DELIVERY.match(parsed.text)) and delivery["status"] == "sent"
    ):
        row = database.execute("SELECT site, job FROM queued WHERE id = ?", (parsed.queue_id,)).fetchone()
        if row:
            database.execute(
                "INSERT INTO delivered VALUES (?, ?, ?, ?, 1) ON CONFLICT DO UPDATE SET messages = messages + 1",
                (today(), owners.of(delivery["to"]), row["site"], row["job"]),
            )
