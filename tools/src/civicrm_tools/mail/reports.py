"""From an abuse report to the person who complained, and that person's opt-out.

Reads reports from files, standard input or a Maildir: feedback reports (ARF, RFC 5965), whole or nested in another
provider's text, newsletters forwarded as an attachment or in the text, mere headers, and damaged forms of all of them.
The person is found by the VERP address of either generation, or by queue ID or Message-ID through the mail log.

Prints what it found and what it would do. With --apply it sends one mail per person and report to CiviMail's opt-out
address, not to the unsubscribe address: who presses "spam" wants no more mail at all, and unsubscribing from one
group would leave the person in the others. Never to the bounce address: a complaint is not a bounce.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import os
import quopri
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from civicrm_tools.core import metrics
from civicrm_tools.core.command import Failure
from civicrm_tools.core.metrics import Family, gauge
from civicrm_tools.mail import deliveries
from civicrm_tools.mail import log as maillog
from civicrm_tools.mail.addresses import Address, Verb
from civicrm_tools.mail.providers import DEFAULT, Owners
from civicrm_tools.mail.return_path import (
    READ_LIMIT,
    SETTINGS,
    Folder,
    Settings,
    Site,
    content_type,
    header,
    load_settings,
    open_state,
    parameter,
    parse_message,
    parts,
    read_head,
    text_of,
)

# More persons than a report has: somebody lists addresses, and a human must look.
PERSONS_LIMIT = 20
MESSAGE_IDS_LIMIT = 50
# Complaint rate at which Google asks for care and at which it must never be.
RATE_LIMITS = {"warning": 0.001, "critical": 0.003}
RATE_DAYS = 7
JOBS_LIMIT = 20

FEEDBACK_TYPE = re.compile(r'^[ \t>|]{0,40}Feedback-Type:[ \t]*"?([A-Za-z-]+)', re.IGNORECASE | re.MULTILINE)
MESSAGE_ID = re.compile(
    r"^[ \t>|*]{0,40}(?:X-)?Message-ID:\s*<?([^<>\s@]{1,200}@[^<>\s]{1,200})>?", re.IGNORECASE | re.MULTILINE
)
# What stands at the beginning of a line in a newsletter's header: two of them make a forwarded message.
HEADER_LINE = re.compile(
    r"^[ \t>|*]{0,40}(Return-Path|Received|List-Unsubscribe|X-CiviMail-Bounce|Message-ID|Precedence|job_id"
    r"|From|To|Subject|Date)\*?:",
    re.IGNORECASE | re.MULTILINE,
)
# The fields of a delivery report's text (RFC 3464).
DSN_LINE = re.compile(r"^[ \t>|]{0,40}(Final-Recipient|Action|Diagnostic-Code)[ \t]*:", re.IGNORECASE | re.MULTILINE)
FIELD_OR_BLANK = re.compile(r"(?:[ \t>|]{0,40}[A-Za-z][A-Za-z0-9-]{0,60}:.*|[ \t].*|\s*)\r?")
TOP_HEADERS = frozenset({"return-path", "received", "list-unsubscribe", "x-civimail-bounce", "precedence", "job_id"})
SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS sent (
    person TEXT, report TEXT, state TEXT, message_id TEXT, time INTEGER, PRIMARY KEY (person, report)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS complaint (
    person TEXT, report TEXT, day INTEGER, provider TEXT, site TEXT, job INTEGER,
    PRIMARY KEY (person, report)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS report (id TEXT PRIMARY KEY, time INTEGER, shape TEXT) WITHOUT ROWID;
"""
    + deliveries.SCHEMA
)


@dataclass
class Person:
    """Whom a report is about: the site, the mailing's job and queue entry, the opt-out address and what led there."""

    site: str
    job: int
    queue: int
    opt_out: str
    found_by: str
    recipient: str = ""
    provider: str = DEFAULT
    outcome: str = "none"


@dataclass
class Report:
    """What one report says. `shape` is arf, nested, attached, inline, headers, mention, dsn, auto-reply or unparsed."""

    id: str
    source: str
    shape: str = "unparsed"
    feedback_type: str = ""
    reporter: str = ""
    persons: list[Person] = field(default_factory=list)
    complaint: bool = False
    reason: str = ""
    truncated: bool = False
    # Evidence: addresses as found, IDs to look up in the log.
    addresses: list[tuple[Site, Address]] = field(default_factory=list)
    message_ids: list[str] = field(default_factory=list)
    queue_ids: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """The report as it stands in the log: JSON types only."""
        return {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "report": self.id,
            "source": self.source,
            "shape": self.shape,
            "feedback_type": self.feedback_type,
            "reporter": self.reporter,
            "complaint": self.complaint,
            "reason": self.reason,
            "truncated": self.truncated,
            "message_ids": self.message_ids[-3:],
            "queue_ids": self.queue_ids[-3:],
            "persons": [asdict(person) for person in self.persons],
        }


# What a report says


def examine(raw: bytes, settings: Settings, source: str = "-", truncated: bool = False) -> Report:
    """What one message says, without the mail log. Never raises, whatever is in it; `raw` is READ_LIMIT at most."""
    report = Report(identity(raw), source, truncated=truncated)
    try:
        _examine(raw[:READ_LIMIT].replace(b"\0", b""), settings, report)
    except (RecursionError, MemoryError, ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        report.shape, report.reason = "unparsed", f"cannot be read: {type(error).__name__}"
        report.addresses, report.message_ids, report.queue_ids = [], [], []
    return report


def identity(raw: bytes) -> str:
    """The same for every copy of a report: headers that a delivery adds at the top do not count."""
    head, separator, body = raw.partition(b"\r\n\r\n" if b"\r\n\r\n" in raw[:65536] else b"\n\n")
    message_id = re.search(rb"^message-id:\s*(\S+)", head, re.IGNORECASE | re.MULTILINE)
    digest = hashlib.sha256(message_id[1] if message_id else b"")
    digest.update(b"\0" + b"".join((body if separator else head).split()))
    return digest.hexdigest()[:32]


def _examine(raw: bytes, settings: Settings, report: Report) -> None:
    message = parse_message(raw)
    if message is None:
        # Too deep for MIME: what it says at the beginning of lines still counts.
        _read_text(raw.decode("latin-1"), settings, report, "inline")
        _judge(report)
        return
    report.reporter = _domain_of(header(message, "From"))
    answered = header(message, "Auto-Submitted").lower().startswith("auto-replied")
    if parameter(message, "report-type") == "delivery-status" or answered:
        report.shape = "auto-reply" if answered else "dsn"
        report.reason = "no complaint: " + ("an automatic answer" if answered else "a delivery report")
        return
    originals: list[str] = []
    texts: list[str] = []
    inside: set[int] = set()
    feedback = ""
    for part in parts(message):
        kind = content_type(part)
        if id(part) in inside:
            continue
        if kind == "message/delivery-status":
            report.shape, report.reason = "dsn", "no complaint: a delivery report"
            return
        if kind == "message/feedback-report":
            inside |= {id(child) for child in _descendants(part)}
            feedback += "\n" + text_of(part)
            report.shape = "arf" if part in _children(message) else "nested"
        elif kind in ("message/rfc822", "message/global", "text/rfc822-headers", "message/rfc822-headers"):
            below = list(_descendants(part))
            # A whole report that was forwarded: its own parts come next.
            if not {"message/feedback-report", "message/delivery-status"} & {content_type(child) for child in below}:
                inside |= {id(child) for child in below}
                originals.append(text_of(part))
        elif kind.startswith("text/") or (part is message and not part.is_multipart()):
            texts.append(text_of(part))
        elif kind == "application/octet-stream" and (text := text_of(part)) and HEADER_LINE.match(text):
            originals.append(text)
    _collect(message, settings, report, feedback, originals, texts)
    _judge(report)


def _collect(
    message: Message, settings: Settings, report: Report, feedback: str, originals: list[str], texts: list[str]
) -> None:
    if feedback:
        _read_text(feedback, settings, report, "arf")
    for text in originals:
        _read_text(text, settings, report, "nested" if FEEDBACK_TYPE.search(text) else "attached")
    covering = "\n".join(texts)
    if not _evidence(report):
        for text in texts:
            _read_text(text, settings, report, "inline")
    else:
        # A type in the covering text counts: "not-spam" there must not act.
        _feedback_types(covering, report)
    if not _evidence(report) and not originals:
        # Nothing inside: the headers themselves are what somebody saved or sent. With a text below them it may be one
        # of our own newsletters to this address.
        named = {name.lower() for name in message}
        if "message-id" in named or named & TOP_HEADERS:
            top = "\n".join(f"{name}: {value}" for name, value in message.items())
            report.shape = "unparsed"
            _read_text(top, settings, report, "mention" if covering.strip() else "headers")


def _evidence(report: Report) -> int:
    return len(report.addresses) + len(report.message_ids) + len(report.queue_ids)


def _children(part: Message) -> list[Message]:
    payload = part.get_payload()
    return [one for one in payload if isinstance(one, Message)] if isinstance(payload, list) else []


def _descendants(part: Message) -> Iterator[Message]:
    waiting = list(_children(part))
    for _ in range(1000):
        if not waiting:
            return
        child = waiting.pop()
        yield child
        waiting = [*waiting, *_children(child)]


def variants(text: str) -> list[str]:
    """The text as it stands, and as it was before encodings that do not belong there: quoted-printable, URL, HTML."""
    found = [text]
    if "=\n" in text or "=\r\n" in text or re.search(r"=[0-9A-F]{2}", text):
        found.append(quopri.decodestring(text.encode("latin-1", "replace")).decode("latin-1"))
    if re.search(r"%[0-9A-Fa-f]{2}", text):
        found.append(unquote(text, "latin-1"))
    if "&" in text and ";" in text:
        found.append(html.unescape(text))
    return found


def _read_text(text: str, settings: Settings, report: Report, shape: str) -> None:
    """Collect evidence from one text; `shape` is what the report is if there is any."""
    if _feedback_types(text, report) and shape == "inline":
        shape = "nested"
    elif shape in ("inline", "attached") and len(set(map(str.lower, DSN_LINE.findall(text)))) >= 2:
        shape = "dsn"
    elif shape == "inline" and all(FIELD_OR_BLANK.fullmatch(line) for line in text.split("\n")):
        shape = "headers"
    elif shape == "inline" and len({name.lower() for name in HEADER_LINE.findall(text)}) < 2:
        shape = "mention"
    before = _evidence(report)
    received = rf"\bby {re.escape(settings.hostname)}\s+\(Postfix[^)]{{0,80}}\)\s+(?:with \w+\s+)?id (\w{{6,20}})\b"
    for variant in variants(text):
        for found in settings.scan(variant):
            if found not in report.addresses and len(report.addresses) < 200:
                report.addresses.append(found)
        for message_id in MESSAGE_ID.findall(variant):
            # The last one wins, so one that comes again moves to the end.
            if message_id in report.message_ids:
                report.message_ids.remove(message_id)
            report.message_ids = [*report.message_ids, message_id][-MESSAGE_IDS_LIMIT:]
        for queue_id in re.findall(received, variant):
            if queue_id not in report.queue_ids and len(report.queue_ids) < MESSAGE_IDS_LIMIT:
                report.queue_ids.append(queue_id)
    if _evidence(report) > before and report.shape == "unparsed":
        report.shape = shape


def _feedback_types(text: str, report: Report) -> bool:
    found = {kind.lower() for variant in variants(text) for kind in FEEDBACK_TYPE.findall(variant)}
    # Of several the one that forbids to act counts.
    others = sorted(found - {"abuse"})
    if others:
        report.feedback_type = others[0]
    elif found and not report.feedback_type:
        report.feedback_type = "abuse"
    return bool(found)


def _judge(report: Report) -> None:
    if not _evidence(report):
        report.shape, report.reason = "unparsed", "names no address, queue ID or Message-ID of ours"
    elif report.feedback_type not in ("", "abuse"):
        report.reason = f"no complaint: feedback type {report.feedback_type}"
    elif report.shape == "mention":
        report.reason = "no complaint: neither a report nor a forwarded message; read it"
    elif report.shape == "dsn":
        report.reason = "no complaint: a delivery report"
    else:
        report.complaint = True


def _domain_of(address: str) -> str:
    found = re.search(r"@([A-Za-z0-9.-]{1,253})", address)
    return found[1].lower().rstrip(".") if found else ""


# From evidence to persons


def resolve(reports: list[Report], settings: Settings) -> None:
    """Fill in the persons of each report, with one pass through the mail log for all of them."""
    message_ids = {key for report in reports for key in report.message_ids if not report.addresses}
    queue_ids = {key for report in reports for key in report.queue_ids if not report.addresses}
    senders = {site.format(a.to(Verb.BOUNCE)) for report in reports for site, a in report.addresses if a.queue}
    passages = deliveries.lookup(maillog.rotated(settings.mail_log), message_ids, queue_ids, senders)
    by_message_id = {p.message_id: p for p in passages.values() if _person_of(p, settings)}
    by_sender = {p.sender: p for p in passages.values()}
    owners = settings.owners()
    for report in reports:
        if not _evidence(report):
            continue
        _resolve(report, settings, owners, passages, by_message_id, by_sender)
        if len(report.persons) > PERSONS_LIMIT:
            report.complaint, report.persons = False, []
            report.reason = f"names more than {PERSONS_LIMIT} persons: read it"
        elif not report.persons:
            report.complaint, report.shape = False, "unparsed"
            report.reason = "none of its queue IDs and Message-IDs is that of a mailing in the mail log"


def _person_of(passage: deliveries.Passage, settings: Settings) -> tuple[Site, Address] | None:
    for site in settings.sites:
        address = site.parse(passage.sender)
        if address is not None:
            return site, address
    return None


def _resolve(
    report: Report,
    settings: Settings,
    owners: Owners,
    passages: dict[str, deliveries.Passage],
    by_message_id: dict[str, deliveries.Passage],
    by_sender: dict[str, deliveries.Passage],
) -> None:
    found: dict[tuple[str, int, int, str], Person] = {}
    evidence: list[tuple[Site, Address, str, deliveries.Passage | None]] = []
    for site, address in report.addresses:
        if address.verb is not Verb.SUBSCRIBE:
            evidence.append((site, address, "address", by_sender.get(site.format(address.to(Verb.BOUNCE)))))
    if not evidence:
        for how, keys, known in (
            ("queue-id", report.queue_ids, passages),
            ("message-id", report.message_ids, by_message_id),
        ):
            for key in reversed(keys):
                passage = known.get(key)
                if passage and (meant := _person_of(passage, settings)) and not evidence:
                    evidence.append((*meant, how, passage))
    for site, address, how, passage in evidence:
        person = Person(
            site.name, address.job, address.queue, site.format(address.to(Verb.OPT_OUT)), how, address.recipient or ""
        )
        if passage and passage.recipients:
            person.recipient = passage.recipients[-1]
        person.provider = owners.of(person.recipient or report.reporter)
        found.setdefault((site.name, address.job, address.queue, address.hash), person)
    report.persons = list(found.values())


# What is done


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
        """Send what is due and record the report; False when an opt-out could not be handed over: try again."""
        done = True
        for person in report.persons:
            if not report.complaint:
                continue
            if not self.apply:
                person.outcome = "would opt out"
            elif not self._opt_out(person, report):
                person.outcome, done = "failed", False
        if report.shape == "unparsed" and self.kept:
            self._keep(self.kept, report, raw)
        self._record(report)
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
        argv = [self.sendmail, "-i", "-f", sender, "--", person.opt_out]
        try:
            done = subprocess.run(argv, input=text.encode(), capture_output=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"abuse-report: {error}", file=sys.stderr)
            return False
        if done.returncode:
            words = done.stderr.decode("utf-8", "replace").strip() or f"exit status {done.returncode}"
            print(f"abuse-report: sendmail: {words}", file=sys.stderr)
        return done.returncode == 0

    @staticmethod
    def _keep(directory: Path, report: Report, raw: bytes) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        path = directory / f"{report.id}.eml"
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640)
            with os.fdopen(descriptor, "wb") as file:
                file.write(raw)

    def _record(self, report: Report) -> None:
        if self.log:
            line = (json.dumps(report.record()) + "\n").encode()
            descriptor = os.open(
                self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640
            )
            try:
                # One write per line: two examiners never mix theirs.
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        if self.database is None:
            return
        day = deliveries.today()
        for person in report.persons if report.complaint else []:
            values = (person.opt_out, report.id, day, person.provider, person.site, person.job)
            self.database.execute("INSERT OR IGNORE INTO complaint VALUES (?, ?, ?, ?, ?, ?)", values)
        examined = (report.id, int(time.time()), report.shape)
        self.database.execute("INSERT OR IGNORE INTO report VALUES (?, ?, ?)", examined)


def families(database: sqlite3.Connection, settings: Settings) -> list[Family]:
    """Return the metrics: complaints and deliveries per provider and mailing job, and the rate of the last days.

    Labels are the configured providers, "default", and the latest mailing jobs of each site; older jobs are "older".
    """
    since = deliveries.today() - RATE_DAYS
    names = settings.owners().names
    latest = {
        (row["site"], row["job"])
        for site in settings.sites
        for row in database.execute(
            "SELECT site, job FROM (SELECT site, job FROM delivered UNION SELECT site, job FROM complaint) "
            "WHERE site = ? ORDER BY job DESC LIMIT ?",
            (site.name, JOBS_LIMIT),
        )
    }
    counted: dict[str, dict[tuple[str, str, str], int]] = {}
    for what, column in (("complaint", "COUNT(*)"), ("delivered", "SUM(messages)")):
        table = counted.setdefault(what, {})
        query = f"SELECT provider, site, job, {column} AS n FROM {what} GROUP BY provider, site, job"  # noqa: S608
        for row in database.execute(query):
            job = str(row["job"]) if (row["site"], row["job"]) in latest else "older"
            key = (row["provider"] if row["provider"] in names else DEFAULT, row["site"], job)
            table[key] = table.get(key, 0) + row["n"]
    rates = []
    for name in names:
        complaints, delivered = (
            database.execute(query, (name, since)).fetchone()[0] or 0
            for query in (
                "SELECT COUNT(*) FROM complaint WHERE provider = ? AND day > ?",
                "SELECT SUM(messages) FROM delivered WHERE provider = ? AND day > ?",
            )
        )
        rates.append(({"provider": name}, complaints / delivered if delivered else 0.0))
    shapes = database.execute("SELECT shape, COUNT(*) AS n FROM report GROUP BY shape").fetchall()

    def samples(table: dict[tuple[str, str, str], int]) -> Iterator[tuple[dict[str, str], float]]:
        for (provider, site, job), number in sorted(table.items()):
            yield {"provider": provider, "site": site, "job": job}, number

    return [
        Family(
            "mail_complaints_total",
            "counter",
            "Complaints by provider and mailing job.",
            samples(counted["complaint"]),
        ),
        Family(
            "mail_complaint_base_deliveries_total",
            "counter",
            "Mailings' messages that a provider took, the base of the rate.",
            samples(counted["delivered"]),
        ),
        Family("mail_complaint_ratio", "gauge", f"Complaints per delivery over {RATE_DAYS} days.", rates),
        Family(
            "mail_complaint_ratio_limit",
            "gauge",
            "Rate above which providers refuse.",
            [({"level": level}, value) for level, value in RATE_LIMITS.items()],
        ),
        Family(
            "mail_abuse_reports_total",
            "counter",
            "Messages examined, by what they were.",
            [({"shape": row["shape"]}, row["n"]) for row in shapes],
        ),
        gauge("mail_abuse_report_last_run_timestamp_seconds", "When the examiner last ended well.", int(time.time())),
    ]


# The command


def inputs(paths: list[str]) -> Iterator[tuple[str, bytes, bool, Any]]:
    """(name, beginning, truncated, (folder, entry) or None) of each message; Maildirs give what is in new."""
    for path in paths:
        if path == "-":
            raw = sys.stdin.buffer.read(READ_LIMIT + 1)
            yield "-", raw[:READ_LIMIT], len(raw) > READ_LIMIT, None
        elif Path(path).is_dir():
            folder = Folder(Path(path))
            for entry in folder.entries():
                if entry.subdirectory == "new":
                    with suppress(FileNotFoundError):
                        yield f"{path}/new/{entry.name}", folder.read(entry), entry.size > READ_LIMIT, (folder, entry)
        else:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            size = os.fstat(descriptor).st_size
            yield path, read_head(descriptor), size > READ_LIMIT, None


def describe(report: Report) -> str:
    """What a human reads of one report."""
    lines = [
        f"{report.source}: {report.shape}" + (f", feedback type {report.feedback_type}" if report.feedback_type else "")
    ]
    if report.reporter:
        lines.append(f"  reported by {report.reporter}")
    for person in report.persons:
        who = person.recipient or "recipient not in the mail log"
        lines.append(f"  {person.outcome}: {who} (site {person.site}, job {person.job}, found by {person.found_by})")
        lines.append(f"    {person.opt_out}")
    if report.reason:
        lines.append(f"  {report.reason}")
    if report.truncated:
        lines.append(f"  only its first {READ_LIMIT} bytes were examined")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="abuse-report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument(
        "paths", nargs="*", default=["-"], metavar="FILE", help="message, Maildir, or - for standard input"
    )
    top.add_argument("--apply", action="store_true", help="send the opt-outs")
    top.add_argument("--json", action="store_true", help="print one JSON object per report")
    top.add_argument("--consume", action="store_true", help="mark what is done in a Maildir as seen (new to cur)")
    top.add_argument("--metrics", action="store_true", help="count deliveries in the mail log and write the metrics")
    top.add_argument("--log", metavar="FILE", help="where each report becomes a JSON line; empty: nowhere")
    top.add_argument("--kept", metavar="DIR", help="where unparsed reports are kept; empty: nowhere")
    top.add_argument("--state", metavar="FILE", help="journal of what was sent and counted")
    top.add_argument("--config", default=SETTINGS, type=Path, metavar="FILE", help=f"settings (default: {SETTINGS})")
    return top


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 1 when something could not be read or sent; 2 for wrong usage or settings."""
    options = parser().parse_args(argv)
    try:
        settings = load_settings(options.config)
    except Failure as error:
        print(f"abuse-report: {error}", file=sys.stderr)
        return 2
    section = settings.section("abuse_report")

    def place(given: str | None, name: str, default: str) -> Path | None:
        text = given if given is not None else str(section.get(name, default))
        return Path(text) if text else None

    state = place(options.state, "state_file", "/var/lib/abuse-report/state.db")
    try:
        database = open_state(state, SCHEMA) if state else None
        actions = Actions(
            settings,
            database,
            options.apply,
            place(options.log, "log_file", "/var/log/abuse-reports.jsonl"),
            place(options.kept, "unparsed_directory", "/var/lib/abuse-report/unparsed"),
            str(section.get("sendmail") or "/usr/sbin/sendmail"),
            str(section.get("sender") or ""),
        )
        status = run(options, settings, actions)
        if options.metrics and database is not None:
            deliveries.follow(settings.mail_log, database, settings)
            if settings.textfile_directory:
                metrics.write(settings.textfile_directory / "abuse-report.prom", families(database, settings))
        return status
    except (Failure, OSError, sqlite3.Error) as error:
        print(f"abuse-report: {error}", file=sys.stderr)
        return 1


BATCH = 50


def run(options: argparse.Namespace, settings: Settings, actions: Actions) -> int:
    """Examine all inputs in batches, so that the log is read once for many and memory stays flat."""
    status = 0
    batch: list[tuple[Report, bytes, Any]] = []

    def finish() -> None:
        nonlocal status
        resolve([report for report, _, _ in batch], settings)
        for report, raw, place in batch:
            done = actions.act(report, raw)
            print(json.dumps(report.record()) if options.json else describe(report))
            if not done:
                status = 1
            elif place and options.consume:
                folder, entry = place
                base = entry.name.partition(":2,")[0]
                with suppress(FileNotFoundError):
                    (folder.path / "new" / entry.name).rename(folder.path / "cur" / f"{base}:2,S")
        batch.clear()

    for source, raw, truncated, place in inputs(options.paths):
        report = examine(raw, settings, source, truncated)
        # What may turn out unparsed is kept with all its bytes.
        batch.append((report, raw if not report.addresses else b"", place))
        if len(batch) >= BATCH or sum(len(raw) for _, raw, _ in batch) > 4 * READ_LIMIT:
            finish()
    finish()
    return status
