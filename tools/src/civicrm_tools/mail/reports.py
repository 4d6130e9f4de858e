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
import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from civicrm_tools.core import metrics
from civicrm_tools.core.command import Failure
from civicrm_tools.mail import deliveries
from civicrm_tools.mail.complainants import resolve
from civicrm_tools.mail.complaint_metrics import families
from civicrm_tools.mail.feedback import Report, examine
from civicrm_tools.mail.journal import open_state
from civicrm_tools.mail.maildir import Folder, read_head
from civicrm_tools.mail.mime import READ_LIMIT
from civicrm_tools.mail.opt_outs import SCHEMA, Actions
from civicrm_tools.mail.return_path import SETTINGS, Settings, load_settings

BATCH = 50


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
