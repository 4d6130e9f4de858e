"""Watch over the sites' mailboxes: is what comes back taken, and taken for what it is?

"run" (a timer does it) writes metrics: messages and the oldest one's age per folder, and the valid bounces that the
application filed as ignored. It also sets aside a message that the application's job cannot get past: the same first
message in INBOX through several runs of the job. If the job does not get on without it either, the message goes back:
then the job is broken, not the message.

"replay-ignored" puts valid bounces from the folder of ignored mail back into INBOX, each one once: what comes back
there a second time stays.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from civicrm_tools.core import command, metrics, paths
from civicrm_tools.core.locks import locked
from civicrm_tools.core.metrics import Family, gauge
from civicrm_tools.core.run import ProgramFailed, run
from civicrm_tools.mail import delivery_report
from civicrm_tools.mail.journal import open_state
from civicrm_tools.mail.maildir import Entry, Folder, fresh_name
from civicrm_tools.mail.return_path import SETTINGS, Settings, Site, load_settings
from civicrm_tools.mail.verdict import NOBODY, US

NAME = "mailbox-watch"
# Some hundred thousand messages.
UIDLIST_LIMIT = 64 << 20

# Folder below INBOX for each name in the metrics. The application makes processed and ignored.
FOLDERS = {
    "inbox": "",
    "incoming": "Incoming",
    "quarantine": "Quarantine",
    "refused": "Refused",
    "notices": "Notices",
    "processed": "CiviMail.processed",
    "ignored": "CiviMail.ignored",
    "poison": "Poison",
}
# Folders whose oldest message says that something stands still.
AGED = ("inbox", "incoming", "quarantine")
POISON = "Poison"
POISON_RUNS = 3

SCHEMA = """
CREATE TABLE IF NOT EXISTS looked (
    site TEXT, name TEXT, valid INTEGER, digest TEXT, PRIMARY KEY (site, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS replayed (
    site TEXT, digest TEXT, source TEXT, time REAL, PRIMARY KEY (site, digest)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS job (
    site TEXT PRIMARY KEY, first TEXT, since REAL, runs INTEGER, suspect TEXT, stuck INTEGER) WITHOUT ROWID;
"""


def base(name: str) -> str:
    """A message's file name without its flags."""
    return name.partition(":2,")[0]


@dataclass
class Watch:
    """One look at all mailboxes, and the operator's commands."""

    settings: Settings
    database: sqlite3.Connection
    poison_runs: int
    now: float

    # Ignored mail

    def ignored_bounces(self, site: Site) -> list[tuple[Entry, str]]:
        """(message, digest) of valid bounces in the folder of ignored mail that were not put back before.

        A message is read once; what was understood of it is remembered under its file name.
        """
        folder = Folder(site.maildir, FOLDERS["ignored"])
        entries = folder.entries()
        query = "SELECT name, valid, digest FROM looked WHERE site = ?"
        known = {row["name"]: row for row in self.database.execute(query, (site.name,))}
        present = {base(entry.name) for entry in entries}
        self.database.execute("BEGIN")
        for name in known.keys() - present:
            self.database.execute("DELETE FROM looked WHERE site = ? AND name = ?", (site.name, name))
        found = []
        for entry in entries:
            name = base(entry.name)
            if name in known:
                valid, digest = known[name]["valid"], known[name]["digest"]
            else:
                try:
                    raw = folder.read(entry)
                except OSError:
                    continue
                bounce = delivery_report.read(raw, site)
                # Refusals of us and what is no bounce were never the application's to understand.
                valid = bounce is not None and bounce.verdict.subject not in (US, NOBODY) and b"Action:" in raw
                digest = hashlib.sha256(raw).hexdigest()
                values = (site.name, name, valid, digest)
                self.database.execute("INSERT OR REPLACE INTO looked VALUES (?, ?, ?, ?)", values)
            if valid:
                found.append((entry, digest))
        self.database.execute("COMMIT")
        before = self.database.execute("SELECT digest, source FROM replayed WHERE site = ?", (site.name,))
        replayed = {row["digest"]: row["source"] for row in before}
        # Written down before it is moved: one that still has its old name was not moved then.
        return [
            (entry, digest) for entry, digest in found if replayed.get(digest, base(entry.name)) == base(entry.name)
        ]

    def replay(self, site: Site, limit: int, dry_run: bool = False) -> int:
        """Put valid bounces back into INBOX; returns how many."""
        folder, inbox = Folder(site.maildir, FOLDERS["ignored"]), Folder(site.maildir)
        moved = 0
        for entry, digest in self.ignored_bounces(site)[:limit]:
            if dry_run:
                moved += 1
                continue
            values = (site.name, digest, base(entry.name), time.time())
            self.database.execute("INSERT OR REPLACE INTO replayed VALUES (?, ?, ?, ?)", values)
            inbox.make()
            # Under another name: Dovecot knew the old one.
            moved += folder.move(entry, inbox, fresh_name(entry))
        return moved

    # Poison

    def poison(self, site: Site) -> None:
        """Set the first message aside after too many runs of the job that did not get past it.

        It stays aside if the job then gets on. If not, it goes back, and nothing more is set aside until the job
        gets on: in an outage no more than one message is away, and only for a while.
        """
        inbox, aside = Folder(site.maildir), Folder(site.maildir, POISON)
        entries = in_order(inbox)
        row = self.database.execute("SELECT * FROM job WHERE site = ?", (site.name,)).fetchone()
        # The message that was first stays the one to watch until it has gone, whatever its number is now.
        here = next((entry for entry in entries if row and base(entry.name) == row["first"]), next(iter(entries), None))
        first = base(here.name) if here else ""
        since, runs, suspect, stuck = tuple(row)[2:] if row else (self.now, 0, "", 0)
        if row and row["first"] != first:
            since, runs = self.now, 0
            if row["first"]:
                suspect, stuck = "", 0
        elif first and (ended := ended_run(site.fetch_unit, since)):
            since, runs = ended, runs + 1
        if runs >= self.poison_runs and suspect and not stuck:
            print(f"mailbox-watch: {site.name}: the job does not get on without {suspect} either: it is put back")
            for entry in aside.entries():
                if base(entry.name) == suspect:
                    aside.move(entry, inbox, fresh_name(entry))
            suspect, stuck = "", 1
        elif runs >= self.poison_runs and not stuck:
            print(f"mailbox-watch: {site.name}: {runs} runs of {site.fetch_unit} did not get past {first}: set aside")
            aside.make()
            # Written down before it is moved; after a crash in between the runs are counted anew.
            following = next((base(entry.name) for entry in entries if entry is not here), "")
            self._remember(site, following, self.now, 0, first, 0)
            if here:
                inbox.move(here, aside)
            return
        self._remember(site, first, since, runs, suspect, stuck)

    def _remember(self, site: Site, *values: object) -> None:
        self.database.execute("INSERT OR REPLACE INTO job VALUES (?, ?, ?, ?, ?, ?)", (site.name, *values))

    # Metrics

    def run(self) -> list[Family]:
        """Look at everything once; returns the metrics."""
        counts, ages, ignored, stuck = [], [], [], []
        for site in self.settings.sites:
            if site.fetch_unit:
                self.poison(site)
            for name, folder in FOLDERS.items():
                labels = {"site": site.name, "folder": name}
                counts.append((labels, Folder(site.maildir, folder).count()))
                if name in AGED:
                    oldest = Folder(site.maildir, folder).oldest()
                    ages.append((labels, max(0, round(self.now - oldest)) if oldest else 0))
            ignored.append(({"site": site.name}, len(self.ignored_bounces(site))))
            row = self.database.execute("SELECT stuck FROM job WHERE site = ?", (site.name,)).fetchone()
            stuck.append(({"site": site.name}, row["stuck"] if row else 0))
        return [
            Family("mailbox_messages", "gauge", "Messages in a folder of a site's mailbox.", counts),
            Family("mailbox_oldest_seconds", "gauge", "Age of the oldest message in a folder; 0 if it is empty.", ages),
            Family(
                "mailbox_ignored_valid_bounces",
                "gauge",
                "Valid bounces that the application filed as ignored.",
                ignored,
            ),
            Family("mailbox_job_stuck", "gauge", "1 while the job gets past no message at all.", stuck),
            gauge("mailbox_watch_last_run_timestamp_seconds", "When the watch last ended well.", int(self.now)),
        ]


def in_order(folder: Folder) -> list[Entry]:
    """A folder's messages as IMAP numbers them, by Dovecot's list of UIDs; those that are not in it yet come last."""
    numbers = {}
    try:
        for line in paths.read(folder.path / "dovecot-uidlist", UIDLIST_LIMIT).decode("latin-1").splitlines():
            if found := re.match(r"(\d+) (?:[^:]*)?:(.+)$", line):
                numbers[base(found[2])] = int(found[1])
    except OSError:
        numbers = {}
    return sorted(
        folder.entries(), key=lambda entry: (numbers.get(base(entry.name), sys.maxsize), entry.time, entry.name)
    )


def ended_run(unit: str, since: float) -> float:
    """When the unit's last run ended (UNIX time), if it began after `since` and has ended; else 0."""
    wanted = ("-p", "ExecMainStartTimestamp", "-p", "ExecMainExitTimestamp")
    try:
        said = run("systemctl", "show", "--timestamp=unix", *wanted, unit, timeout=30, statuses=()).stdout
    except ProgramFailed:
        return 0.0
    times = dict(re.findall(r"^ExecMain(Start|Exit)Timestamp=@(\d+)$", said, re.MULTILINE))
    began, ended = float(times.get("Start", 0)), float(times.get("Exit", 0))
    return ended if since < began <= ended else 0.0


def parser() -> command.Parser:
    top = command.Parser(prog=NAME, description=__doc__)
    top.add_argument("--config", default=SETTINGS, type=Path, metavar="FILE", help=f"settings (default: {SETTINGS})")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("run", help="write the metrics, set poison aside; a timer does this")
    replay = commands.add_parser("replay-ignored", help="put valid bounces from ignored back into INBOX, each once")
    replay.add_argument("site", metavar="SITE")
    replay.add_argument("--limit", type=int, default=sys.maxsize, metavar="N", help="at most N")
    replay.add_argument("--dry-run", action="store_true", help="only say how many")
    return top


def body(argv: Sequence[str] | None) -> int:
    options = parser().parse_args(argv)
    settings = load_settings(options.config)
    section = settings.section("mailbox_watch")
    site = settings.site(options.site) if options.command == "replay-ignored" else None
    state = Path(section.get("state_file") or "/var/lib/mailbox-watch/state.db")
    with locked(state.with_suffix(".lock")):
        runs = int(section.get("poison_runs") or POISON_RUNS)
        watch = Watch(settings, open_state(state, SCHEMA), runs, time.time())
        if site:
            moved = watch.replay(site, options.limit, options.dry_run)
            print(f"{moved} messages {'would go' if options.dry_run else 'went'} back to INBOX of {site.name}")
        else:
            found = watch.run()
            if settings.textfile_directory:
                metrics.write(settings.textfile_directory / "mailbox-watch.prom", found)
    return command.DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 when something could not be done; 2 for wrong usage or settings."""
    return command.run(NAME, body, argv, also=(sqlite3.Error,))
