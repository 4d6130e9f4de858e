"""lnav's format of the mail log: one operation per queue ID, deferred is a warning, bounced and expired are errors."""

from __future__ import annotations

import json
import re

import pytest
from loading import ROOT

PATH = ROOT / "roles/mail_tools/files/etc/lnav/formats/mail_tools/postfix_log.json"
FORMAT = json.loads(PATH.read_text())["postfix_log"]
# PCRE writes (?<name>...) where Python wants (?P<name>...).
PATTERNS = {
    name: re.compile(re.sub(r"\(\?<(?=\w)", "(?P<", entry["pattern"])) for name, entry in FORMAT["regex"].items()
}
LEVELS = {level: re.compile(pattern) for level, pattern in FORMAT["level"].items()}
SAMPLES = FORMAT["sample"]


def fields(line: str) -> dict[str, str]:
    found = next(found for pattern in PATTERNS.values() if (found := pattern.search(line)))
    return found.groupdict()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["line"][-40:])
def test_each_line_has_its_colour(sample):
    """By one pattern: lnav 0.11.1 tries first the one that took an earlier line, whatever their order (S21)."""
    (found,) = [found for pattern in PATTERNS.values() if (found := pattern.search(sample["line"]))]
    body = found[FORMAT["body-field"]]
    assert next((level for level, p in LEVELS.items() if p.search(body)), "info") == sample["level"]


def test_the_samples_show_every_colour_in_both_timestamp_styles():
    assert {sample["level"] for sample in SAMPLES} == {"info", "warning", "error"}
    assert {sample["line"][:2] for sample in SAMPLES} == {"20", "No"}


@pytest.mark.parametrize(
    "stamp", ["2026-11-20T08:33:45.123456+00:00", "2026-11-20T08:33:45Z", "Nov 20 08:33:45", "Nov  2 08:33:45"]
)
@pytest.mark.parametrize("queue_id", ["4jW8WD6NjJzDSVp", "9A3F2C0B1D"])
def test_the_queue_id_is_the_operation(stamp, queue_id):
    """`o` in lnav then jumps along one message; short and long IDs."""
    line = (
        f"{stamp} int postfix-gmail/smtp[7]: {queue_id}: to=<p@x.test>, relay=mx, dsn=4.7.28, status=deferred (421 no)"
    )
    found = fields(line)
    assert FORMAT["opid-field"] == "queue_id"
    assert (found["timestamp"], found["queue_id"], found["instance"]) == (stamp, queue_id, "postfix-gmail")
    assert (found["recipient"], found["dsn"], found["status"], found["reply"]) == (
        "p@x.test",
        "4.7.28",
        "deferred",
        "421 no",
    )


def test_a_word_is_no_queue_id():
    assert fields("Nov 20 08:33:45 int postfix/smtpd[7]: warning: x").get("queue_id") is None
    assert fields("Nov 20 08:33:45 int postfix/smtpd[7]: connect from x").get("queue_id") is None


@pytest.mark.parametrize(("status", "colour"), [("sent", None), ("deferred", "warning"), ("bounced", "error")])
@pytest.mark.parametrize(
    "quoted", ["status=bounced (ha)", "dsn=5.0.0, status=bounced (ha)", "dsn=2.0.0, status=sent (ok)"]
)
def test_a_reply_that_quotes_a_status_does_not_change_the_colour(status, colour, quoted):
    """Providers write what they like."""
    line = (
        "Nov 20 08:33:45 int postfix/smtp[7]: 9A3F2C0B1D: to=<p@x.test>, relay=mx, dsn=4.7.28, "
        f"status={status} (host mx said: 4xx, {quoted} (in reply to DATA))"
    )
    assert (fields(line)["status"], fields(line)["dsn"]) == (status, "4.7.28")
    for pattern in PATTERNS.values():
        if found := pattern.search(line):
            assert [name for name, level in LEVELS.items() if level.search(found["body"])] == (
                [colour] if colour else []
            )


def test_other_programs_lines_in_the_mail_log_belong_to_it():
    """lnav chooses one format for a file by its first lines, and Dovecot may have written those."""
    assert fields("Nov 20 08:33:45 int dovecot: imap(crm)<1>: hello")["instance"] == "dovecot"
    assert re.search(FORMAT["file-pattern"], "/var/log/mail.log.2.gz")
    assert not re.search(FORMAT["file-pattern"], "/var/log/syslog")
