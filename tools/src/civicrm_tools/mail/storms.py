"""Remember what came back lately, tell a storm of refusals, and keep what the operator has said to it.

A storm is named after who refuses: a provider of the table as a whole, or else one domain of mail servers. "default",
the recipients of no provider, is a storm only by those servers that are none themselves: then many refuse us.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from civicrm_tools.mail.journal import open_state
from civicrm_tools.mail.provider_table import DEFAULT
from civicrm_tools.mail.refusals import Limits
from civicrm_tools.mail.verdict import ADDRESS, US

SCHEMA = """
CREATE TABLE IF NOT EXISTS event (
    site TEXT, name TEXT, time REAL, provider TEXT, host TEXT, domain TEXT, subject TEXT, kind TEXT, wrap INTEGER,
    PRIMARY KEY (site, name)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS event_by_time ON event (time);
CREATE TABLE IF NOT EXISTS incident (
    id INTEGER PRIMARY KEY, provider TEXT, mode TEXT, since REAL, until REAL, paused INTEGER, why TEXT);
CREATE TABLE IF NOT EXISTS stopped (name TEXT, domain TEXT, PRIMARY KEY (name, domain)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS forgiven (provider TEXT PRIMARY KEY, time REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS total (outcome TEXT PRIMARY KEY, messages INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS verdict_total (
    subject TEXT, kind TEXT, messages INTEGER, PRIMARY KEY (subject, kind)) WITHOUT ROWID;
"""
# Domains whose mail is stopped for one storm: more do not fit on a command line.
DOMAINS = 500


class Event(NamedTuple):
    """One mail to a bounce address. time: of the first look; wrap: whether it is handed over in other words."""

    site: str
    name: str
    time: float
    provider: str
    host: str
    domain: str
    subject: str
    kind: str
    wrap: bool


class Recent(NamedTuple):
    """Numbers of mails within the window. others: failures that are neither about us nor about an address."""

    us: int = 0
    address: int = 0
    others: int = 0

    def plus(self, more: Recent) -> Recent:
        return Recent(*(one + other for one, other in zip(self, more, strict=True)))


def open_storms(path: Path) -> sqlite3.Connection:
    """The state. Of an earlier build everything stays but the single mails of the last minutes. Raises OSError."""
    database = open_state(path, "")
    columns = {row["name"] for row in database.execute("PRAGMA table_info(event)")}
    if columns and "wrap" not in columns:
        database.execute("DROP TABLE event")
    database.executescript(SCHEMA)
    return database


class Storms:
    """What is remembered, looked at now."""

    def __init__(self, database: sqlite3.Connection, limits: Limits, now: float) -> None:
        self.database, self.limits, self.now = database, limits, now

    def forget(self) -> None:
        self.database.execute("DELETE FROM event WHERE time < ?", (self.now - 2 * self.limits.window,))

    def event(self, site: str, name: str) -> Event | None:
        row = self.database.execute("SELECT * FROM event WHERE site = ? AND name = ?", (site, name)).fetchone()
        return Event(*row) if row else None

    def add(self, event: Event) -> None:
        self.database.execute("INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", event)

    def count(self, totals: dict[str, int], verdicts: dict[tuple[str, str], int]) -> None:
        """Add to what became of mails, and to what they were about."""
        self.database.executemany(
            "INSERT INTO total VALUES (?, ?) ON CONFLICT DO UPDATE SET messages = messages + excluded.messages",
            totals.items(),
        )
        self.database.executemany(
            "INSERT INTO verdict_total VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET messages = messages + excluded.messages",
            [(*about, number) for about, number in verdicts.items()],
        )

    def recent(self) -> dict[tuple[str, str], Recent]:
        """{(provider, host): numbers} since the operator's last word to either."""
        rows = self.database.execute(
            "SELECT e.provider, e.host, SUM(subject = ?), SUM(subject = ?), SUM(subject IN ('theirs', 'network')) "
            "FROM event e LEFT JOIN forgiven p ON p.provider = e.provider LEFT JOIN forgiven h ON h.provider = e.host "
            "WHERE e.time >= ? AND e.time > IFNULL(p.time, 0) AND e.time > IFNULL(h.time, 0) GROUP BY 1, 2",
            (US, ADDRESS, self.now - self.limits.window),
        )
        return {(provider, host): Recent(*numbers) for provider, host, *numbers in rows}

    def incidents(self) -> dict[str, sqlite3.Row]:
        """The open incident of each name."""
        rows = self.database.execute("SELECT * FROM incident WHERE until IS NULL ORDER BY id")
        return {row["provider"]: row for row in rows}

    def storms(self) -> dict[str, str]:
        """{name: why} of what is a storm by its numbers."""
        recent = self.recent()
        found: dict[str, str] = {}
        hosts: dict[str, Recent] = {}
        for provider, numbers in by_provider(recent).items():
            if provider != DEFAULT and self.limits.is_storm(numbers.us, numbers.others):
                found[provider] = self._why(numbers)
        for (provider, host), numbers in recent.items():
            if provider not in found and host:
                hosts[host] = hosts.get(host, Recent()).plus(numbers)
        found |= {h: self._why(n) for h, n in hosts.items() if self.limits.is_storm(n.us, n.others)}
        left = by_provider({key: numbers for key, numbers in recent.items() if key[1] not in found})
        rest = left.get(DEFAULT, Recent())
        if self.limits.is_storm(rest.us, rest.others):
            found[DEFAULT] = self._why(rest)
        return found

    def _why(self, numbers: Recent) -> str:
        return f"{numbers.us} of {numbers.us + numbers.others} bounces in {self.limits.window:g} s refuse us"

    def decide(self, shadow: bool) -> list[str]:
        """Open an incident for each storm; returns the new ones.

        Only the operator closes one; a shadow one ends with its storm.
        """
        storms, open_ = self.storms(), self.incidents()
        for name, row in open_.items():
            if row["mode"] == "shadow" and (name not in storms or not shadow):
                self.database.execute("UPDATE incident SET until = ? WHERE id = ?", (self.now, row["id"]))
        fresh = sorted(storms.keys() - self.incidents().keys())
        for name in fresh:
            values = (name, self.limits.mode, self.now, storms[name])
            query = "INSERT INTO incident (provider, mode, since, paused, why) VALUES (?, ?, ?, 0, ?)"
            self.database.execute(query, values)
        return fresh

    def settle(self, name: str) -> None:
        """Close an incident; what has come until now makes no new one."""
        query = "UPDATE incident SET until = ? WHERE provider = ? AND until IS NULL"
        self.database.execute(query, (self.now, name))
        self.database.execute("INSERT OR REPLACE INTO forgiven VALUES (?, ?)", (name, self.now))
        self.database.execute("DELETE FROM stopped WHERE name = ?", (name,))

    def domains(self, host: str) -> list[str]:
        """Recipients' domains that a mail server refused since its storm began."""
        query = "SELECT DISTINCT host, domain FROM event WHERE host = ? AND subject = ? AND domain != ''"
        self.database.execute(f"INSERT OR IGNORE INTO stopped {query}", (host, US))
        query = "SELECT domain FROM stopped WHERE name = ? LIMIT ?"
        return [row["domain"] for row in self.database.execute(query, (host, DOMAINS))]

    def refused(self, names: Iterable[str]) -> set[tuple[str, str]]:
        """(site, file) of the refusals within the window that belong to one of the names."""
        query = "SELECT site, name FROM event WHERE subject = ? AND time >= ? AND (provider = ? OR host = ?)"
        window = self.now - self.limits.window
        return {
            tuple(row) for name in names for row in self.database.execute(query, (US, window, name, name)).fetchall()
        }


def by_provider(recent: dict[tuple[str, str], Recent]) -> dict[str, Recent]:
    """{provider: numbers}."""
    found: dict[str, Recent] = {}
    for (provider, _), numbers in recent.items():
        found[provider] = found.get(provider, Recent()).plus(numbers)
    return found


def by_host(recent: dict[tuple[str, str], Recent]) -> dict[str, Recent]:
    """{domain of mail servers: numbers}."""
    return by_provider({(host, provider): numbers for (provider, host), numbers in recent.items()})
