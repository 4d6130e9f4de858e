"""From a report to the person who complained, in whatever shape it comes (S28, S31, P6, P7, N6, N7)."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sqlite3
import sys
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loading import TOOLS
from reports import (
    HASH,
    arf,
    attached,
    bare_newsletter,
    damaged,
    dsn,
    inline,
    letter,
    nested,
    newsletter,
    plain,
    quoted,
    verp,
)
from unit_return_path import delivery, program

from civicrm_tools.mail import complainants, feedback, opt_outs, reports
from civicrm_tools.mail.return_path import load_settings

MESSAGE_ID = "20260102100000.4jW8WD6NjJzDSVp@mx.example.org"
OPT_OUT = verp("o", queue=100)
RECEIVED = (
    "Received: by mx.example.org (Postfix, from userid 998)\n\tid 4jW8WD6NjJzDSVp; Fri, 2 Jan 2026 10:00:00 +0000"
)


@pytest.fixture
def conf(settings_file):
    return load_settings(settings_file)


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    """What a stand-in for sendmail was given: one line of arguments for each mail."""
    program(tmp_path / "sendmail", f'cat >>{tmp_path}/mails; echo "$@" >>{tmp_path}/outbox')
    return tmp_path / "outbox"


def sent(outbox: Path) -> list[str]:
    """Recipients of the mails that were handed to sendmail."""
    return [line.split()[-1] for line in outbox.read_text().splitlines()] if outbox.exists() else []


@pytest.fixture
def tool(settings_file, tmp_path, capsys):
    """Run the command on messages; returns (exit status, one record per report)."""

    def _run(*messages: bytes | Path, options: tuple[str, ...] = ()) -> tuple[int, list[dict]]:
        paths = []
        for number, message in enumerate(messages):
            path = message if isinstance(message, Path) else tmp_path / f"report-{number}.eml"
            if not isinstance(message, Path):
                path.write_bytes(message)
            paths.append(str(path))
        status = reports.main(["--config", str(settings_file), "--json", *options, *paths])
        return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return _run


JMRP = {"From": "staff@hotmail.com", "Subject": "complaint about message from 192.0.2.11"}


def as_jmrp(message: bytes) -> bytes:
    """With the author and the subject of Microsoft's junk mail reports."""
    for name, value in JMRP.items():
        message = re.sub(rf"(?m)^{name}: .*".encode(), f"{name}: {value}".encode(), message, count=1)
    return message


def without_original(*fields: str) -> bytes:
    """Microsoft's since June 2026: neither recipient nor body, only what was said of the envelope and the header."""
    whole = as_jmrp(arf("")).replace(
        b"Version: 1\n", "".join(f"{field}\n" for field in ("Version: 1", *fields)).encode()
    )
    return whole.replace(b"--limit\nContent-Type: message/rfc822\n\n\n", b"")


SHAPES = {
    "arf": arf(newsletter()),
    "arf, report-type=report": arf(newsletter()).replace(b"report-type=feedback-report", b"report-type=report"),
    "arf, headers only": arf(newsletter(), kind="text/rfc822-headers"),
    "arf, just a Message-ID": arf(f"Message-ID: <{MESSAGE_ID}>\n", kind="text/rfc822-headers"),
    "arf, addresses blacked out": arf(bare_newsletter(MESSAGE_ID)),
    "arf, queue ID in Received": arf(f"{RECEIVED}\nSubject: January\n\nDear reader\n"),
    "arf, address of 2006": arf(
        f"Return-Path: <bounce.1.7.100.{HASH}-ada=gmail.com@crm.example.org>\nSubject: x\n\nx\n"
    ),
    "arf, only the envelope sender": without_original(f"Original-Mail-From: <{verp()}>"),
    "arf, only a Message-ID in the report": without_original(f"Original-Message-ID: <{MESSAGE_ID}>"),
    "arf, type folded": arf(newsletter(), feedback="\n abuse"),
    "arf, type with a comment": arf(newsletter(), feedback="(pressed twice) abuse"),
    "arf, written by a program that says so": b"Auto-Submitted: auto-generated\nPrecedence: bulk\n" + arf(newsletter()),
    "arf, report in base64": arf(newsletter())
    .replace(
        b"message/feedback-report\n\nFeedback-Type: abuse\n",
        b"message/feedback-report\nContent-Transfer-Encoding: base64\n\n"
        + base64.encodebytes(b"Feedback-Type: abuse\nVersion: 1\n"),
    )
    .replace(b"User-Agent: Loop/1\nVersion: 1\nSource-IP: 192.0.2.11\n", b""),
    "arf, report as text": arf(newsletter()).replace(b"message/feedback-report", b"text/plain"),
    "arf, report as text, under the newsletter's subject": arf(newsletter())
    .replace(b"message/feedback-report", b"text/plain")
    .replace(b"Subject: complaint", b"Subject: Re: Out of office: January"),
    "attached report": attached(arf(newsletter()).decode()),
    "attached report in base64": attached(base64.encodebytes(arf(newsletter())).decode()).replace(
        b"message/rfc822", b"message/rfc822\nContent-Transfer-Encoding: base64", 1
    ),
    "provider: JMRP before ARF": as_jmrp(attached(newsletter())),
    "nested": nested(newsletter()),
    "nested, headers only": nested(bare_newsletter(MESSAGE_ID)),
    "damaged": damaged(newsletter()),
    "damaged, broken lines": plain("Feedback-Type: abuse=\n\n" + newsletter().replace("26d7b95", "26d=\n7b95")),
    "escaped in a link": plain(
        "Feedback-Type: abuse\n\nmailto:" + verp("u").replace("+", "%2B").replace("@", "%40") + "\n"
    ),
    "crlf": arf(newsletter()).replace(b"\n", b"\r\n"),
    "NUL bytes": arf(newsletter()).replace(b"Dear", b"\0De\0ar"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_leads_to_the_person(tool, outbox, shape):
    """The operator has one command for whatever providers send (S28, N6)."""
    status, (record,) = tool(SHAPES[shape], options=("--apply",))
    assert status == 0
    assert [(p["job"], p["queue"], p["recipient"]) for p in record["persons"]] == [(7, 100, "ada@gmail.com")]
    assert (record["complaint"], record["verdict"]) == (True, "act")
    assert record["shape"] in ("arf", "nested", "provider")
    assert sent(outbox) == [OPT_OUT]


FORWARDED = {
    "attached": (attached(newsletter()), "attached"),
    "attached as a file": (
        attached(newsletter()).replace(b"message/rfc822", b"application/octet-stream"),
        "attached",
    ),
    "attached in base64": (
        attached(base64.encodebytes(newsletter().encode()).decode()).replace(
            b"message/rfc822", b"message/rfc822\nContent-Transfer-Encoding: base64"
        ),
        "attached",
    ),
    "in the text": (inline(newsletter()), "inline"),
    "in the text, Message-ID": (inline(bare_newsletter(MESSAGE_ID)), "inline"),
    "headers": (newsletter(message_id="x@y").split("\n\n")[0].encode() + b"\n\n", "headers"),
    "headers, just a Message-ID": (f"Message-ID: <{MESSAGE_ID}>\n".encode(), "headers"),
    "headers in the text": (plain(f"Message-ID: <{MESSAGE_ID}>\n"), "headers"),
    "too deep": (
        b"".join(f'Content-Type: multipart/mixed; boundary="b{n}"\n\n--b{n}\n'.encode() for n in range(5000))
        + inline(newsletter()),
        "inline",
    ),
    "by Outlook": (letter("This is spam!", quoted("outlook"), "FW: January"), "inline"),
    "by a German Outlook": (letter("Das ist Spam!", quoted("outlook, German"), "WG: January"), "inline"),
    "by a French Outlook": (letter("C'est du spam !", quoted("outlook, French"), "TR: January"), "inline"),
    "by a Polish Outlook": (letter("To jest spam!", quoted("outlook, Polish"), "PD: January"), "inline"),
    "by a French Outlook, as HTML": (
        letter("<p>C'est du spam !</p>", quoted("outlook, French").replace("\n", "<br>"), "TR: January").replace(
            b"\n\n", b"\nContent-Type: text/html; charset=utf-8\n\n", 1
        ),
        "inline",
    ),
    "somebody else writes JMRP's subject": (
        as_jmrp(attached(newsletter())).replace(b"staff@hotmail.com", b"staff@hotmail.com.example"),
        "attached",
    ),
    "an answer of the provider's desk that quotes the report": (
        letter("We closed it.", "".join(f"> {line}\n" for line in arf(newsletter()).decode().splitlines())),
        "reply",
    ),
    **{
        f"an answer, {style}": (letter("Thank you, I like it.", quoted(style), f"{prefix} January"), "reply")
        for style, prefix in {
            "gmail": "Re:",
            "thunderbird, German": "Re:",
            "apple, French": "Re :",
            "outlook": "RE:",
            "outlook, German": "AW:",
            "outlook, French": "RE:",
            "outlook, Polish": "ODP:",
        }.items()
    },
    "an answer without a prefix": (letter("Thank you!", quoted("outlook"), "January", In_Reply_To="<x@y>"), "reply"),
    "an answer, the subject changed": (letter("Thank you!", quoted("gmail"), "My sister"), "reply"),
    "a colleague forwards a question": (
        letter(
            "Can you answer her?",
            f"From: Ada <ada@gmail.com>\nSubject: Re: January\n\n> {verp('u')}",
            "Fwd: Re: January",
        ),
        "reply",
    ),
    "a question": (plain(f"Hello, what is {verp('u')} for?\n"), "mention"),
    "a bounce in Exim's words": (
        letter(
            "This message was created automatically by mail delivery software.\n  ada@gmail.com\n    unknown user",
            newsletter(),
            "Mail delivery failed: returning message to sender",
            From="Mail Delivery System <Mailer-Daemon@mx.provider.example>",
        ),
        "dsn",
    ),
    "a bounce in qmail's words": (
        letter(
            "Hi. This is the qmail-send program.", newsletter(), "failure notice", From="MAILER-DAEMON@provider.example"
        ),
        "dsn",
    ),
    "a bounce that somebody pasted": (plain("Look:\n" + dsn("ada@gmail.com").decode()), "dsn"),
    "a ticket system's notice": (
        letter("We got your mail.", newsletter(), "[#1] January", X_Auto_Response_Suppress="All"),
        "notice",
    ),
}


@pytest.mark.parametrize("what", FORWARDED)
def test_what_people_and_programs_send_is_shown_with_the_person_and_never_done(tool, outbox, tmp_path, what):
    """Friendly readers were opted out of all mail because the newsletter stood below their answer (P7, N6)."""
    message, shape = FORWARDED[what]
    status, (record,) = tool(message, options=("--apply", "--metrics"))
    assert (status, record["shape"], record["verdict"]) == (0, shape, "show")
    assert [(p["recipient"], p["outcome"]) for p in record["persons"]] == [("ada@gmail.com", "shown")]
    assert record["reason"]
    assert sent(outbox) == []
    assert record["complaint"] is False
    assert not [name for name in metrics(tmp_path) if name.startswith("mail_complaints_total")]
    assert metrics(tmp_path)[f'mail_abuse_reports_total{{shape="{shape}"}}'] == 1


def test_a_person_who_read_it_opts_out_with_one_command(tool, outbox, tmp_path):
    """An answer may say "stop this" as well: who has read the file decides. No provider counts that as a complaint."""
    for number, what in enumerate(("by a German Outlook", "an answer, gmail", "attached")):
        _, (record,) = tool(FORWARDED[what][0], options=("--apply", "--as-complaint", "--metrics"))
        assert [p["outcome"] for p in record["persons"]] == ["opted out"]
        assert sent(outbox) == [OPT_OUT] * (number + 1)
    assert not [name for name in metrics(tmp_path) if name.startswith("mail_complaints_total")]


def test_the_timer_cannot_be_told_that_all_is_a_complaint(settings_file, tmp_path, outbox, capsys):
    """Nobody has read what lies in a Maildir."""
    maildir = make_maildir(tmp_path, FORWARDED["attached"][0])
    assert reports.main(["--config", str(settings_file), "--apply", "--as-complaint", str(maildir)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert sent(outbox) == []


AUTOMATIC = {
    "vacation, RFC 3834": letter("I am away.", quoted("outlook"), Auto_Submitted="auto-replied (vacation)"),
    "vacation, by its own fields": letter("I am away.", quoted("outlook"), X_Autoreply="yes", Precedence="auto_reply"),
    "vacation of Exchange": letter(
        "I am away.", quoted("outlook"), "Automatic reply: January",
        Auto_Submitted="auto-generated", X_Auto_Response_Suppress="All",
    ),
    "vacation, by the subject alone": letter("Ich bin weg.", quoted("outlook, German"), "Abwesenheitsnotiz: January"),
    "vacation with the newsletter attached": b"Auto-Submitted: auto-replied\n" + attached(newsletter()),
    "vacation that quotes a report": b"X-Autoreply: yes\n" + nested(newsletter()),
    "read receipt": attached(newsletter()).replace(
        b"multipart/mixed", b"multipart/report; report-type=disposition-notification"
    ),
    "dsn": dsn("ada@gmail.com"),
    "dsn of SMTPUTF8": dsn("ada@gmail.com").replace(b"message/delivery-status", b"message/global-delivery-status"),
    "delay notice": dsn("ada@gmail.com", action="delayed", status="4.4.1", text="421 try later"),
    "attached dsn": attached(dsn("ada@gmail.com").decode()),
    "attached dsn, its type unknown": dsn("ada@gmail.com").replace(b"message/delivery-status", b"text/plain"),
}  # fmt: skip


@pytest.mark.parametrize("what", AUTOMATIC)
def test_what_a_program_wrote_is_no_complaint(tool, outbox, tmp_path, what):
    """An out-of-office reply at postmaster@ took its author off all lists, and raised the rate (P7, N6, N7)."""
    status, (record,) = tool(AUTOMATIC[what], options=("--apply", "--metrics"))
    assert (status, record["verdict"], record["complaint"]) == (0, "show", False)
    assert record["shape"] in ("auto-reply", "receipt", "dsn")
    assert record["reason"]
    assert sent(outbox) == []
    assert not [name for name in metrics(tmp_path) if name.startswith("mail_complaints_total")]


QUIET = {
    "not-spam": arf(newsletter(), feedback="not-spam"),
    "fraud": arf(newsletter(), feedback="fraud"),
    "no type": arf(newsletter()).replace(b"Feedback-Type: abuse\n", b""),
    "nested not-spam": nested(newsletter(), feedback="not-spam"),
    "damaged not-spam": damaged(newsletter()).replace(b"abuse", b"not-spam"),
    "attached not-spam": attached(arf(newsletter(), feedback="not-spam").decode()),
    "not-spam in the covering text": attached(newsletter(), note="Feedback-Type: not-spam"),
    "two types": attached(arf(newsletter()).decode(), note="Feedback-Type: not-spam"),
    "our own newsletter": newsletter(message_id="a@mx.example.org").encode(),
    "wrong domain": arf(newsletter(domain="crm.example.org.evil.example")),
    "uppercase": arf(newsletter().upper()),
    "unknown Message-ID": arf(bare_newsletter("nobody@mx.example.org")),
    "somebody else's Message-ID": arf(bare_newsletter("other@mx.example.org")),
    "spam": plain("Buy now\n"),
    "empty": b"",
    "only NUL": b"\0" * 5000,
    "not MIME": bytes(range(256)) * 50,
}


@pytest.mark.parametrize("shape", QUIET)
def test_nothing_else_opts_anybody_out(tool, outbox, shape):
    """Only a complaint acts: not-spam is praise, and what names nobody is for a human (P7)."""
    status, (record,) = tool(QUIET[shape], options=("--apply",))
    assert status == 0
    assert record["complaint"] is False
    assert record["reason"]
    assert sent(outbox) == []


ALL = (
    {"report: " + name: message for name, message in SHAPES.items()}
    | QUIET
    | AUTOMATIC
    | {name: message for name, (message, _) in FORWARDED.items()}
)

TYPES = {
    # IANA's registry.
    "abuse": (True, True),
    "fraud": (False, False),
    "virus": (False, False),
    "other": (False, False),
    "not-spam": (False, False),
    "auth-failure": (False, False),
    # Drafts and what is written.
    "opt-out": (True, False),
    "opt-out-list": (True, False),
    "Opt_Out": (True, False),
    "unsubscribe": (True, False),
    "Abuse": (True, True),
    "complaint": (True, True),
    "spam": (True, True),
    "junk": (True, True),
    "miscategorized": (False, False),
    "dkim": (False, False),
    "dmarc": (False, False),
    "xarf": (False, False),
    "of-tomorrow": (False, False),
}


@pytest.mark.parametrize("name", TYPES)
def test_each_type_of_feedback_has_a_meaning(tool, outbox, tmp_path, name):
    """Who presses "unsubscribe" at the provider is let go, and is no complaint; an unknown type is shown (N6)."""
    acts, complains = TYPES[name]
    _, (record,) = tool(arf(newsletter(), feedback=name), options=("--apply", "--metrics"))
    assert sent(outbox) == [OPT_OUT] * acts
    assert record["complaint"] is complains
    assert [p["recipient"] for p in record["persons"]] == ["ada@gmail.com"]
    assert acts or record["reason"]
    found = metrics(tmp_path)
    assert bool([series for series in found if series.startswith("mail_complaints_total")]) == complains
    label = "unknown" if name == "of-tomorrow" else name.lower().replace("_", "-")
    assert found[f'mail_feedback_reports_total{{feedback_type="{label}"}}'] == 1


def test_a_human_can_still_ask_who_it_is(tool, outbox):
    """Praise and questions name the person too, they only do nothing (S28)."""
    _, records = tool(QUIET["not-spam"], FORWARDED["a question"][0])
    assert [[p["recipient"] for p in record["persons"]] for record in records] == [["ada@gmail.com"]] * 2


def test_dry_run_is_the_default(tool, outbox):
    _, (record,) = tool(SHAPES["arf"])
    assert record["persons"][0]["outcome"] == "would opt out"
    assert sent(outbox) == []


def test_the_bounce_address_is_never_written_to(tool, outbox):
    """A mail to it would count as a bounce; whatever verb the report names, the opt-out goes to `o`."""
    reports = [arf(f"Return-Path: <{verp(verb, queue=200 + n)}>\nSubject: x\n\nx\n") for n, verb in enumerate("buoerc")]
    tool(*reports, options=("--apply",))
    assert [address.split(".")[0] for address in sent(outbox)] == ["civicrm+o"] * 6


def test_one_mail_for_each_person_and_report(tool, outbox):
    """The same report again, also with other trace headers, sends nothing; another report of the same person does."""
    again = b"Received: from elsewhere\nDelivered-To: x@example.org\n" + SHAPES["arf"]
    tool(SHAPES["arf"], SHAPES["arf"], again, options=("--apply",))
    assert sent(outbox) == [OPT_OUT]
    _, (record,) = tool(again, options=("--apply",))
    assert record["persons"][0]["outcome"] == "opted out before"
    assert sent(outbox) == [OPT_OUT]
    tool(SHAPES["nested"], options=("--apply",))
    assert sent(outbox) == [OPT_OUT, OPT_OUT]


def test_a_crash_between_sending_and_writing_down_sends_once(tool, outbox, settings_file, tmp_path):
    """The journal says that it was about to send; the mail log says whether it did."""
    program(tmp_path / "sendmail", f'cat >>{tmp_path}/mails; echo "$@" >>{outbox}; kill -9 $PPID')
    if not (pid := os.fork()):
        reports.main(["--config", str(settings_file), "--apply", str(write(tmp_path / "r.eml", SHAPES["arf"]))])
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    (message_id,) = re.findall(r"^Message-ID: <(.*)>", (tmp_path / "mails").read_text(), re.M)
    program(tmp_path / "sendmail", f'cat >/dev/null; echo "$@" >>{outbox}')
    with (tmp_path / "mail.log").open("a") as log:
        log.write(delivery("4jW8WD6NjJzDSVz", "postmaster@mx.example.org", OPT_OUT, message_id))
    _, (record,) = tool(SHAPES["arf"], options=("--apply",))
    assert record["persons"][0]["outcome"] == "opted out before"
    assert sent(outbox) == [OPT_OUT]


def test_a_crash_before_sending_sends_later(tool, outbox, tmp_path):
    with sqlite3.connect(tmp_path / "state.db") as state:
        state.executescript(opt_outs.SCHEMA)
        identity = feedback.identity(SHAPES["arf"])
        state.execute("INSERT INTO sent VALUES (?, ?, 'sending', 'x', 0)", (OPT_OUT, identity))
    tool(SHAPES["arf"], options=("--apply",))
    assert sent(outbox) == [OPT_OUT]


def test_a_refusal_by_sendmail_is_tried_again(tool, outbox, tmp_path):
    """With the queue full or Postfix away the report stays where it is."""
    maildir = make_maildir(tmp_path, SHAPES["arf"])
    program(tmp_path / "sendmail", "echo queue file write error >&2; exit 75")
    status, (record,) = tool(maildir, options=("--apply", "--consume"))
    assert status == 1
    assert record["persons"][0]["outcome"] == "failed"
    program(tmp_path / "sendmail", f'cat >/dev/null; echo "$@" >>{outbox}')
    assert tool(maildir, options=("--apply", "--consume"))[0] == 0
    assert sent(outbox) == [OPT_OUT]
    assert tool(maildir, options=("--apply", "--consume")) == (0, [])


def make_maildir(tmp_path: Path, *messages: bytes) -> Path:
    maildir = tmp_path / "Examined"
    for part in ("tmp", "new", "cur"):
        (maildir / part).mkdir(parents=True)
    for number, message in enumerate(messages):
        (maildir / "new" / f"{number}.x").write_bytes(message)
    return maildir


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_maildir_is_worked_off_and_nothing_is_thrown_away(tool, outbox, tmp_path):
    maildir = make_maildir(tmp_path, *ALL.values())
    (maildir / "new" / "link").symlink_to("/etc/passwd")
    _, records = tool(maildir, options=("--apply", "--consume"))
    assert len(records) == len(ALL)
    # Some differ in their header only: one report, one mail.
    assert sent(outbox) == [OPT_OUT] * len({feedback.identity(message) for message in SHAPES.values()})
    assert len(list((maildir / "cur").iterdir())) == len(records)


def test_every_report_is_a_json_line_and_what_is_no_report_is_kept(tool, outbox, tmp_path):
    """Complaints are evidence; the file names persons, so others may not read it (P6)."""
    tool(SHAPES["arf"], QUIET["spam"], QUIET["unknown Message-ID"])
    lines = [json.loads(line) for line in (tmp_path / "reports.jsonl").read_text().splitlines()]
    assert [line["shape"] for line in lines] == ["arf", "unparsed", "unparsed"]
    assert (tmp_path / "reports.jsonl").stat().st_mode & 0o777 == 0o640
    kept = {path.read_bytes() for path in (tmp_path / "unparsed").iterdir()}
    assert kept == {QUIET["spam"], QUIET["unknown Message-ID"]}


def test_the_last_message_id_wins(conf):
    """A report wraps the reported message, whose Message-ID therefore comes last."""
    text = f"Message-ID: <20260102100000.4jW8WD6NjJzDSVq@mx.example.org>\nMessage-ID: <{MESSAGE_ID}>\n"
    report = feedback.examine(arf(text, kind="text/rfc822-headers"), conf)
    complainants.resolve([report], conf)
    assert [person.recipient for person in report.persons] == ["ada@gmail.com"]


def test_many_persons_in_one_report_need_a_human(tool, outbox):
    """Somebody who collected addresses must not be able to empty a list with one mail."""
    _, (record,) = tool(
        arf("\n".join(f"X-CiviMail-Bounce: {verp(queue=n)}" for n in range(1, 100))), options=("--apply",)
    )
    assert record["complaint"] is False
    assert "more than 20" in record["reason"]
    assert sent(outbox) == []


def zip_bomb() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0", b"\0" * 50_000_000)
    return base64.encodebytes(data.getvalue())


HARD = {
    "50 MB": arf(newsletter()) + b"x" * 999 + (b"0123456789" * 100 + b"\n") * 50_000,
    "10,000 recipients": b"To: " + b", ".join(b"<p%d@example.net>" % n for n in range(10_000)) + b"\n" + SHAPES["arf"],
    "zip bomb": arf(newsletter()).replace(
        b"--limit--",
        b"--limit\nContent-Type: application/zip\nContent-Transfer-Encoding: base64\n\n" + zip_bomb() + b"\n--limit--",
    ),
    "one line": b"Feedback-Type: abuse " + b"civicrm+b.1.2." * 300_000,
    "signs": b"Subject: x\n\n" + b"=" * 2_000_000 + b"%" * 1_000_000 + b"&" * 500_000 + b"> " * 200_000,
    "blank quotes": b"Subject: x\n\n" + b"\n" * 150_000 + b"> " * 1_000_000 + b"Message-ID: x",
    "folded header": b"Subject: " + b"\n x" * 500_000 + b"\n\nx",
}


@pytest.mark.parametrize("name", HARD)
def test_hostile_sizes_are_examined_in_bounded_time_and_memory(tool, outbox, name):
    """abuse@ is open to the world: one message must not stop the examiner."""
    begin = time.monotonic()
    status, _ = tool(HARD[name], options=("--apply",))
    assert status == 0
    assert time.monotonic() - begin < 20
    if name in ("50 MB", "10,000 recipients", "zip bomb"):
        assert sent(outbox) == [OPT_OUT]


def test_memory_stays_flat(settings_file, tmp_path):
    """A hundred reports of 10 MB need no more memory than a few."""
    maildir = make_maildir(tmp_path, *[HARD["50 MB"][:10_000_000]] * 30)
    # Not ru_maxrss, which a new program inherits from the process that started it.
    code = (
        "import re, sys; from civicrm_tools.mail import reports; "
        f"status = reports.main(['--config', {str(settings_file)!r}, {str(maildir)!r}]); "
        "peak = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read()); "
        "print(int(peak[1]) // 1024, file=sys.stderr); sys.exit(status)"
    )
    done = subprocess_run([sys.executable, "-c", code], TOOLS)
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.splitlines()[-1]) < 150  # MiB


def subprocess_run(argv: list[str], library: Path):
    import subprocess

    return subprocess.run(
        argv, capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": str(library)}
    )


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=2000),
        st.tuples(st.sampled_from(sorted(ALL)), st.integers(0, 4000), st.binary(max_size=8)),
    )
)
def test_no_report_raises(conf, change):
    """Cut, changed or random: the examiner goes on."""
    if isinstance(change, tuple):
        name, place, bytes_ = change
        whole = ALL[name]
        change = whole[:place] + bytes_ + whole[place + len(bytes_) :] if place % 2 else whole[:place]
    report = feedback.examine(change, conf)
    complainants.resolve([report], conf)
    json.dumps(report.record())
    for person in report.persons:
        assert conf.site(person.site).parse(person.opt_out)


def metrics(tmp_path: Path) -> dict[str, float]:
    lines = (tmp_path / "metrics/abuse-report.prom").read_text().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_complaints_and_deliveries_are_counted_once_per_provider_and_job(tool, outbox, tmp_path):
    """The rate that providers judge by: complaints per delivery, 0.1 % and 0.3 % (N7)."""
    tool(SHAPES["arf"], SHAPES["arf"], QUIET["not-spam"], options=("--metrics",))
    tool(SHAPES["arf"], options=("--metrics",))
    found = metrics(tmp_path)
    assert found['mail_complaints_total{provider="gmail",site="crm",job="7"}'] == 1
    assert found['mail_complaint_base_deliveries_total{provider="gmail",site="crm",job="7"}'] == 1
    assert found['mail_complaint_base_deliveries_total{provider="orange",site="crm",job="7"}'] == 1
    assert found['mail_complaint_ratio{provider="gmail"}'] == 1.0
    assert found['mail_complaint_ratio{provider="orange"}'] == 0
    assert found['mail_complaint_ratio_limit{level="critical"}'] == 0.003


def test_deliveries_are_counted_across_rotation_and_never_twice(tool, outbox, tmp_path):
    """logrotate moves the log away between two runs."""
    log = tmp_path / "mail.log"
    whole = delivery("4jW8WD6NjJzDSW1", verp(queue=7), "c@gmail.com", "c@x")
    first, second = whole[: len(whole) // 2], whole[len(whole) // 2 :]
    log.write_text(log.read_text() + first)
    tool(SHAPES["arf"], options=("--metrics",))
    with log.open("a") as file:
        file.write(second)
    log.rename(tmp_path / "mail.log.1")
    # Longer than the old one: its place in the file says nothing about the new file.
    log.write_text(delivery("4jW8WD6NjJzDSW2", verp(queue=8), "d@gmail.com", "d@x") + "filler\n" * 1000)
    for _ in range(3):
        tool(SHAPES["arf"], options=("--metrics",))
    assert metrics(tmp_path)['mail_complaint_base_deliveries_total{provider="gmail",site="crm",job="7"}'] == 3


def test_a_deferred_mail_is_no_delivery_whatever_the_reply_says(tool, outbox, tmp_path):
    """The base of the rate: too large, and a bad mailing looks well (N7)."""
    log = tmp_path / "mail.log"
    said = "status=deferred (host mx[192.0.2.1] said: 450 4.2.0 dsn=2.0.0, status=sent (250 ok) (in reply to DATA))"
    whole = delivery("4jW8WD6NjJzDSW1", verp(queue=7), "c@gmail.com", "c@x")
    log.write_text(log.read_text() + whole.replace("status=sent (250 ok)", said))
    tool(SHAPES["arf"], options=("--metrics",))
    assert metrics(tmp_path)['mail_complaint_base_deliveries_total{provider="gmail",site="crm",job="7"}'] == 1


def test_labels_stay_few(tool, outbox, tmp_path):
    """A series per mailing for ever would fill the monitoring (N22)."""
    log = tmp_path / "mail.log"
    text = "".join(
        delivery(f"4jW8WD6NjJz{n:04d}", verp(job=n, queue=n), f"p@d{n}.example", f"{n}@x", "") for n in range(1, 200)
    )
    log.write_text(text)
    tool(SHAPES["arf"], options=("--metrics",))
    assert len([name for name in metrics(tmp_path) if name.startswith("mail_complaint_base")]) <= 21


def test_rotated_and_compressed_logs_are_searched(tool, outbox, tmp_path):
    """Complaints come weeks after the mailing (S31)."""
    import gzip

    (tmp_path / "mail.log.3.gz").write_bytes(gzip.compress((tmp_path / "mail.log").read_bytes()))
    (tmp_path / "mail.log").write_text("")
    (tmp_path / "mail.log.2.gz").write_bytes(b"\x1f\x8b broken")
    _, (record,) = tool(SHAPES["arf, just a Message-ID"])
    assert record["persons"][0]["recipient"] == "ada@gmail.com"


def test_settings_that_cannot_be_used_are_told_in_one_line(tmp_path, capsys):
    (tmp_path / "x.json").write_text('{"hostname": "x"}')
    for path in ("x.json", "missing.json"):
        assert reports.main(["--config", str(tmp_path / path), "-"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert path in error
