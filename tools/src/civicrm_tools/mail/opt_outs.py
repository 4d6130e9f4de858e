"""Send a complainant's opt-out to CiviMail, once per person and report, and record every report.

The mail is marked as written by a program (RFC 3834). What is about to be sent is written down first, and after a
crash the mail log says whether it was sent.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from civicrm_tools.core import command
from civicrm_tools.core.run import ProgramFailed, run
from civicrm_tools.mail import deliveries
from civicrm_tools.mail import log as maillog
from civicrm_tools.mail.feedback import Person, Report
from civicrm_tools.mail.feedback_types import ACT, SHOW
from civicrm_tools.mail.return_path import Settings

SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS sent (
    person TEXT, report TEXT, state TEXT, message_id TEXT, time INTEGER, PRIMARY KEY (person, report)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS complaint (
    person TEXT, report TEXT, day INTEGER, provider TEXT, site TEXT, job INTEGER,
    PRIMARY KEY (person, report)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS report (id TEXT PRIMARY KEY, time INTEGER, shape TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS typed (report TEXT PRIMARY KEY, type TEXT) WITHOUT ROWID;
"""
    + deliveries.SCHEMA
)


@dataclass
class Actions:
    """Where reports are recorded and how opt-outs are sent; `apply` False changes nothing."""

    settings: Settings
    database: sqlite3.Connection | None
    apply: bool
    log: Path | None
    kept: Path | None
    sendmail: str = "/usr/sbin/sendmail"
    sender: str = ""

    def act(self, report: Report, raw: bytes) -> bool:
        """Send what is due; False when an opt-out could not be handed over: try again. `record` comes next."""
        done = True
        for person in report.persons:
            if report.verdict != ACT:
                person.outcome = "shown" if report.verdict == SHOW else person.outcome
            elif not self.apply:
                person.outcome = "would opt out"
            elif not self._opt_out(person, report):
                person.outcome, done = "failed", False
        if report.shape == "unparsed" and self.kept:
            self._keep(self.kept, report, raw)
        return done

    def _opt_out(self, person: Person, report: Report) -> bool:
        if self.database is None:
            raise OSError("without its state nothing is sent")
        key = (person.opt_out, report.id)
        row = self.database.execute(
            "SELECT state, message_id FROM sent WHERE person = ? AND report = ?", key
        ).fetchone()
        if row and row["state"] == "sent":
            person.outcome = "opted out before"
            return True
        digest = hashlib.sha256(" ".join(key).encode()).hexdigest()[:24]
        message_id = f"abuse-report.{digest}@{self.settings.hostname}"
        if row and deliveries.lookup(maillog.rotated(self.settings.mail_log), {message_id}):
            # Handed over, and killed before that was written down.
            person.outcome = "opted out before"
        else:
            # Written down before it is sent: after a crash the log is asked whether it went out.
            values = (*key, "sending", message_id, int(time.time()))
            self.database.execute("INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?, ?)", values)
            if not self._send(person, message_id):
                return False
            person.outcome = "opted out"
        self.database.execute("UPDATE sent SET state = 'sent' WHERE person = ? AND report = ?", key)
        return True

    def _send(self, person: Person, message_id: str) -> bool:
        # A bounce of it goes to a human, and is no complaint when it is examined: no loop.
        sender = self.sender or f"postmaster@{self.settings.hostname}"
        text = (
            f"From: {sender}\nTo: {person.opt_out}\nSubject: Opt out after a complaint\nMessage-ID: <{message_id}>\n"
            f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S +0000', time.gmtime())}\n"
            "Auto-Submitted: auto-generated\nMIME-Version: 1.0\nContent-Type: text/plain; charset=us-ascii\n\n"
            "The provider of this person reported the newsletter as spam.\n"
        )
        try:
            run(self.sendmail, "-i", "-f", sender, "--", person.opt_out, text=text, timeout=60)
        except ProgramFailed as failure:
            command.tell("abuse-report", str(failure))
            return False
        return True

    @staticmethod
    def _keep(directory: Path, report: Report, raw: bytes) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        path = directory / f"{report.id}.eml"
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640)
            with os.fdopen(descriptor, "wb") as file:
                file.write(raw)

    def record(self, reports: Iterable[Report]) -> None:
        """Write reports down, in one step for all of them. One that is recorded again changes nothing but the log."""
        reports = list(reports)
        if self.log and reports:
            lines = "".join(json.dumps(report.record()) + "\n" for report in reports).encode()
            descriptor = os.open(
                self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640
            )
            try:
                # One write: two examiners never mix their lines.
                os.write(descriptor, lines)
            finally:
                os.close(descriptor)
        if self.database is None:
            return
        now, day = int(time.time()), deliveries.today()
        self.database.execute("BEGIN IMMEDIATE")
        self.database.executemany(
            "INSERT OR IGNORE INTO complaint VALUES (?, ?, ?, ?, ?, ?)",
            [
                (person.opt_out, report.id, day, person.provider, person.site, person.job)
                for report in reports
                if report.complaint
                for person in report.persons
            ],
        )
        examined = [(report.id, now, report.shape) for report in reports]
        self.database.executemany("INSERT OR IGNORE INTO report VALUES (?, ?, ?)", examined)
        typed = [(report.id, report.feedback_type) for report in reports if report.feedback_type]
        self.database.executemany("INSERT OR IGNORE INTO typed VALUES (?, ?)", typed)
        self.database.execute("COMMIT")
