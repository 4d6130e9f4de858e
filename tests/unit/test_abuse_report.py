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
from reports import HASH, arf, attached, bare_newsletter, damaged, dsn, inline, nested, newsletter, plain, verp
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
    "attached": attached(newsletter()),
    "attached report": attached(arf(newsletter()).decode()),
    "attached as a file": attached(newsletter()).replace(b"message/rfc822", b"application/octet-stream"),
    "attached in base64": attached(base64.encodebytes(newsletter().encode()).decode()).replace(
        b"message/rfc822", b"message/rfc822\nContent-Transfer-Encoding: base64"
    ),
    "inline": inline(newsletter()),
    "inline, Message-ID": inline(bare_newsletter(MESSAGE_ID)),
    "nested": nested(newsletter()),
    "nested, headers only": nested(bare_newsletter(MESSAGE_ID)),
    "headers": newsletter(message_id="x@y").split("\n\n")[0].encode() + b"\n\n",
    "headers, just a Message-ID": f"Message-ID: <{MESSAGE_ID}>\n".encode(),
    "headers in the text": plain(f"Message-ID: <{MESSAGE_ID}>\n"),
    "damaged": damaged(newsletter()),
    "damaged, broken lines": plain("Feedback-Type: abuse=\n\n" + newsletter().replace("26d7b95", "26d=\n7b95")),
    "escaped in a link": plain(
        "Feedback-Type: abuse\n\nmailto:" + verp("u").replace("+", "%2B").replace("@", "%40") + "\n"
    ),
    "crlf": arf(newsletter()).replace(b"\n", b"\r\n"),
    "NUL bytes": arf(newsletter()).replace(b"Dear", b"\0De\0ar"),
    "too deep": b"".join(f'Content-Type: multipart/mixed; boundary="b{n}"\n\n--b{n}\n'.encode() for n in range(5000))
    + inline(newsletter()),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_leads_to_the_person(tool, outbox, shape):
    """The operator has one command for whatever providers and people send (S28, N6)."""
    status, (record,) = tool(SHAPES[shape], options=("--apply",))
    assert status == 0
    assert [(p["job"], p["queue"], p["recipient"]) for p in record["persons"]] == [(7, 100, "ada@gmail.com")]
    assert record["complaint"] is True
    assert sent(outbox) == [OPT_OUT]


QUIET = {
    "not-spam": arf(newsletter(), feedback="not-spam"),
    "fraud": arf(newsletter(), feedback="fraud"),
    "nested not-spam": nested(newsletter(), feedback="not-spam"),
    "damaged not-spam": damaged(newsletter()).replace(b"abuse", b"not-spam"),
    "attached not-spam": attached(arf(newsletter(), feedback="not-spam").decode()),
    "not-spam in the covering text": attached(newsletter(), note="Feedback-Type: not-spam"),
    "two types": attached(arf(newsletter()).decode(), note="Feedback-Type: not-spam"),
    "dsn": dsn("ada@gmail.com"),
    "attached dsn": attached(dsn("ada@gmail.com").decode()),
    "dsn in the text": plain("Look:\n" + dsn("ada@gmail.com").decode()),
    "vacation": plain(newsletter(), Auto_Submitted="auto-replied"),
    "a question": plain(f"Hello, what is {verp('u')} for?\n"),
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
    """Only a complaint acts: not-spam is praise, a bounce is no complaint, and a question is for a human (P7)."""
    status, (record,) = tool(QUIET[shape], options=("--apply",))
    assert status == 0
    assert record["complaint"] is False
    assert record["reason"]
    assert sent(outbox) == []


def test_a_human_can_still_ask_who_it_is(tool, outbox):
    """Praise and questions name the person too, they only do nothing (S28)."""
    _, records = tool(QUIET["not-spam"], QUIET["a question"])
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
    tool(SHAPES["attached"], options=("--apply",))
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
    maildir = make_maildir(tmp_path, *SHAPES.values(), *QUIET.values())
    (maildir / "new" / "link").symlink_to("/etc/passwd")
    _, records = tool(maildir, options=("--apply", "--consume"))
    assert len(records) == len(SHAPES) + len(QUIET)
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
    "zip bomb": attached(newsletter()).replace(
        b"--outer--",
        b"--outer\nContent-Type: application/zip\nContent-Transfer-Encoding: base64\n\n" + zip_bomb() + b"\n--outer--",
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
        st.tuples(st.sampled_from([*SHAPES, *QUIET]), st.integers(0, 4000), st.binary(max_size=8)),
    )
)
def test_no_report_raises(conf, change):
    """Cut, changed or random: the examiner goes on."""
    if isinstance(change, tuple):
        name, place, bytes_ = change
        whole = (SHAPES | QUIET)[name]
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
