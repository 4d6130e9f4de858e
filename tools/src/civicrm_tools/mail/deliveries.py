"""Who sent what to whom, out of Postfix's log with its rotated and compressed files."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from civicrm_tools.mail import log as maillog
from civicrm_tools.mail import search
from civicrm_tools.mail.addresses import Address, Verb
from civicrm_tools.mail.providers import Owners
from civicrm_tools.mail.return_path import Settings

# Where a line says a Message-ID or an envelope sender.
SAID = re.compile(rb": (?:(?:resent-)?message-id=<?([^<>\s]+)|from=<([^<>]*)>)")


@dataclass
class Passage:
    """What the log says of one queue ID."""

    sender: str = ""
    message_id: str = ""
    recipients: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Keys:
    """What a passage is looked for by: Message-IDs without < and >, and envelope senders, to the letter."""

    message_ids: Set[str]
    senders: Set[str]

    def places(self, chunk: bytes) -> Iterator[int]:
        """Yield positions in all lines that say one of them."""
        if len(self.message_ids) + len(self.senders) <= search.FEW:
            forms = [f"message-id={before}{key}" for key in self.message_ids for before in ("<", "")]
            forms += [f"from=<{key}>" for key in self.senders]
            return search.places(chunk, (form.encode("latin-1", "replace") for form in forms))
        return (
            said.start()
            for said in SAID.finditer(chunk)
            if (said[1] or b"").decode("latin-1") in self.message_ids
            or (said[2] or b"").decode("latin-1") in self.senders
        )


def lookup(
    paths: Iterable[Path],
    message_ids: Set[str] = frozenset(),
    queue_ids: Set[str] = frozenset(),
    senders: Set[str] = frozenset(),
) -> dict[str, Passage]:
    """Every queue ID that one of the keys leads to. One pass; message IDs without < and >, senders to the letter.

    A file that is damaged or goes away meanwhile is left where it breaks.
    """
    found: dict[str, Passage] = {key: Passage() for key in queue_ids}
    keys, ids = Keys(message_ids, senders), {key.encode() for key in queue_ids}
    for path in paths if message_ids or queue_ids or senders else ():
        with suppress(OSError):
            for chunk in search.chunks(path):
                by_key = set(keys.places(chunk))
                ids |= {head[1] for _, line in search.lines_at(chunk, by_key) if (head := search.HEAD.search(line))}
                for _, line in search.lines_at(chunk, chain(by_key, search.heads(chunk, ids))):
                    _note(found, line.decode("latin-1"), keys)
    return {key: passage for key, passage in found.items() if passage != Passage()}


def _note(found: dict[str, Passage], line: str, keys: Keys) -> None:
    """Take from a line what it says of a queue ID that was found, or that a key leads to."""
    parsed = maillog.parse(line)
    if not parsed or not parsed.queue_id:
        return
    key, text = parsed.queue_id, parsed.text
    passage = found.get(key)
    if parsed.service == "cleanup":
        message_id = maillog.MESSAGE_ID.match(text)
        if message_id and (passage or message_id["id"] in keys.message_ids):
            found.setdefault(key, Passage()).message_id = message_id["id"]
    elif parsed.service == "qmgr":
        sender = maillog.SENDER.match(text)
        if sender and (passage or sender["address"] in keys.senders):
            found.setdefault(key, Passage()).sender = sender["address"]
    elif passage and len(passage.recipients) < 10 and (delivery := maillog.DELIVERY.match(text)):
        # A dict keeps the order and each address once.
        passage.recipients = [*dict.fromkeys([*passage.recipients, delivery["to"]])]


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
