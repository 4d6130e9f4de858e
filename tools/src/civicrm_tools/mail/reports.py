"""From an abuse report to the person who complained, and that person's opt-out.

Reads messages from files, standard input or a Maildir. The person is found by the VERP address of either generation, or
by queue ID or Message-ID through the mail log.

Prints what it found and what it would do. Acted on is only a feedback report (ARF, RFC 5965), whole, nested in another
provider's text or damaged, of a type that means "I do not want this mail", or what a provider is known to send instead.
A forwarded newsletter, an answer, an automatic message and a bounce are shown. A person who has read such a file and
takes it for a complaint says so: --apply --as-complaint FILE. It then counts in no rate.

With --apply it sends one mail per person and report to CiviMail's opt-out address, not to the unsubscribe address: who
presses "spam" wants no more mail at all, and unsubscribing from one group would leave the person in the others. Never
to the bounce address: a complaint is not a bounce.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from civicrm_tools.core import command, metrics
from civicrm_tools.core.command import Failure
from civicrm_tools.core.paths import READ_LIMIT
from civicrm_tools.mail import deliveries
from civicrm_tools.mail.complainants import resolve
from civicrm_tools.mail.complaint_metrics import families
from civicrm_tools.mail.feedback import Report, examine
from civicrm_tools.mail.feedback_types import ACT
from civicrm_tools.mail.journal import open_state
from civicrm_tools.mail.maildir import Folder
from civicrm_tools.mail.opt_outs import SCHEMA, Actions
from civicrm_tools.mail.return_path import SETTINGS, Settings, load_settings

NAME = "abuse-report"
BATCH = 200
# Of what may have to be kept.
BATCH_BYTES = 1024 * 1024


class Examined(NamedTuple):
    """A report, the bytes that may have to be kept, and where in a Maildir it came from: (folder, entry) or None."""

    report: Report
    raw: bytes
    place: Any


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
            with Path(path).open("rb") as file:  # the caller's own word: a FIFO of their shell, perhaps
                raw = file.read(READ_LIMIT + 1)
            yield path, raw[:READ_LIMIT], len(raw) > READ_LIMIT, None


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


def parser() -> command.Parser:
    top = command.Parser(prog=NAME, description=__doc__)
    top.add_argument(
        "paths", nargs="*", default=["-"], metavar="FILE", help="message, Maildir, or - for standard input"
    )
    top.add_argument("--apply", action="store_true", help="send the opt-outs")
    top.add_argument(
        "--as-complaint",
        action="store_true",
        help="you have read the named files, and they are complaints: opt out the persons in them, whatever they are",
    )
    top.add_argument("--json", action="store_true", help="print one JSON object per report")
    top.add_argument("--consume", action="store_true", help="mark what is done in a Maildir as seen (new to cur)")
    top.add_argument("--metrics", action="store_true", help="count deliveries in the mail log and write the metrics")
    top.add_argument("--log", metavar="FILE", help="where each report becomes a JSON line; empty: nowhere")
    top.add_argument("--kept", metavar="DIR", help="where unparsed reports are kept; empty: nowhere")
    top.add_argument("--state", metavar="FILE", help="journal of what was sent and counted")
    top.add_argument("--config", default=SETTINGS, type=Path, metavar="FILE", help=f"settings (default: {SETTINGS})")
    return top


def body(argv: Sequence[str] | None) -> int:
    options = parser().parse_args(argv)
    if options.as_complaint and any(Path(path).is_dir() for path in options.paths):
        raise Failure("--as-complaint is for files that somebody has read: name them, not a Maildir", command.USAGE)
    settings = load_settings(options.config)
    section = settings.section("abuse_report")

    def place(given: str | None, name: str, default: str) -> Path | None:
        text = given if given is not None else str(section.get(name, default))
        return Path(text) if text else None

    state = place(options.state, "state_file", "/var/lib/abuse-report/state.db")
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
    status = work(options, settings, actions)
    if options.metrics and database is not None:
        deliveries.follow(settings.mail_log, database, settings)
        if settings.textfile_directory:
            metrics.write(settings.textfile_directory / "abuse-report.prom", families(database, settings))
    return status


def work(options: argparse.Namespace, settings: Settings, actions: Actions) -> int:
    """Examine all inputs in batches, so that the log is read once for many and memory stays flat."""
    status, size = command.DONE, 0
    batch: list[Examined] = []
    for source, raw, truncated, place in inputs(options.paths):
        report = examine(raw, settings, source, truncated)
        # What may turn out unparsed is kept with all its bytes.
        batch.append(Examined(report, raw if not report.addresses else b"", place))
        size += len(batch[-1].raw)
        del raw
        if len(batch) >= BATCH or size > BATCH_BYTES:
            status |= finish(batch, options, settings, actions)
            batch, size = [], 0
    return status | (finish(batch, options, settings, actions) if batch else command.DONE)


def finish(batch: list[Examined], options: argparse.Namespace, settings: Settings, actions: Actions) -> int:
    """Find the persons, do what is due, write everything down, and only then take it out of the Maildir."""
    resolve([one.report for one in batch], settings)
    done = []
    for one in batch:
        if options.as_complaint and one.report.persons:
            one.report.verdict = ACT
        done.append(actions.act(one.report, one.raw))
    actions.record(one.report for one in batch)
    for one, well in zip(batch, done, strict=True):
        print(json.dumps(one.report.record()) if options.json else describe(one.report))
        if well and one.place and options.consume:
            folder, entry = one.place
            base = entry.name.partition(":2,")[0]
            with suppress(FileNotFoundError):
                (folder.path / "new" / entry.name).rename(folder.path / "cur" / f"{base}:2,S")
    return command.DONE if all(done) else command.FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 when something could not be read or sent; 2 for wrong usage or settings."""
    return command.run(NAME, body, argv, also=(sqlite3.Error,))
