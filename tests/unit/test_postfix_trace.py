"""postfix-trace finds all that was logged about a message, by whatever the operator has in hand."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import resource
import sys
import time
from pathlib import Path

import pytest

from civicrm_tools.mail import addresses, search, trace
from civicrm_tools.mail import log as maillog
from civicrm_tools.mail.trace import main

VERP = "civicrm+b.2936.7009506.26d7b951968ebe4b@crm.test"
MESSAGE_ID = "20261120083345.4711@crm.test"

# One person's copy: submitted, put on hold, requeued after some days, bounced; each with a queue ID of its own.
FIRST, AGAIN, BOUNCE = "4jWDw24YqRzLW2H", "4jWDwY2K6czLW3T", "4jWDwW45XXzLW2W"
DAYS = [
    [
        ("postfix/pickup", f"{FIRST}: uid=997 from=<{VERP}>"),
        ("postfix/cleanup", f"{FIRST}: message-id=<{MESSAGE_ID}>"),
        ("postfix/qmgr", f"{FIRST}: from=<{VERP}>, size=419, nrcpt=1 (queue active)"),
        ("postfix/postsuper", f"{FIRST}: placed on hold"),
    ],
    [
        ("postfix/postsuper", f"{FIRST}: requeued"),
        ("postfix/pickup", f"{AGAIN}: uid=100 from=<{VERP}> orig_id={FIRST}"),
        ("postfix/cleanup", f"{AGAIN}: message-id=<{MESSAGE_ID}>"),
        (
            "postfix-gmail/smtp",
            f"{AGAIN}: to=<Nobody@gmail.test>, relay=mx[192.0.2.1]:25, dsn=5.1.1, status=bounced (550 unknown)",
        ),
        ("postfix/cleanup", f"{BOUNCE}: message-id=<bounce@int>"),
        ("postfix/bounce", f"{AGAIN}: sender non-delivery notification: {BOUNCE}"),
        ("postfix/qmgr", f"{AGAIN}: removed"),
    ],
    [
        ("postfix/lmtp", f"{BOUNCE}: to=<{VERP}>, relay=int[private/lmtp], delay=1, dsn=2.0.0, status=sent (250 ok)"),
        ("postfix/qmgr", f"{BOUNCE}: removed"),
    ],
]
STRANGERS = [
    ("postfix/pickup", "4jWDsT03WxzLW29: uid=997 from=<someone@else.test>"),
    ("postfix/smtp", "4jWDsT03WxzLW29: to=<x@gmail.test>, relay=mx, dsn=2.0.0, status=sent (250 ok)"),
    ("postfix/smtpd", "connect from unknown[192.0.2.9]"),
]
STYLES = {
    "rfc3339": lambda day, n: f"2026-11-{17 + day}T08:{n:02}:45.123456+00:00",
    "traditional": lambda day, n: f"Nov {17 + day} 08:{n:02}:45",
    "traditional, one digit": lambda day, n: f"Nov  {1 + day} 08:{n:02}:45",
}


def write_logs(directory: Path, style: str = "rfc3339") -> Path:
    """Three days: mail.log.2.gz, mail.log.1, mail.log, with strangers in between."""
    for day, (name, lines) in enumerate(zip(("mail.log.2.gz", "mail.log.1", "mail.log"), DAYS, strict=True)):
        text = ""
        for n, (service, line) in enumerate([*STRANGERS, *lines, *STRANGERS]):
            text += f"{STYLES[style](day, n)} int {service}[{100 + n}]: {line}\n"
        path = directory / name
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return directory / "mail.log"


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
    written = write_logs(tmp_path)
    monkeypatch.setattr(maillog, "LOG", written)
    return written


@pytest.mark.parametrize(
    "key",
    [
        FIRST, AGAIN, BOUNCE,
        MESSAGE_ID, f"<{MESSAGE_ID}>", MESSAGE_ID.upper(),
        VERP, f"<{VERP}>",
        VERP.replace("+b.", "+u."), VERP.replace("+b.", "+o."),
        "nobody@gmail.test", "Nobody@Gmail.test",
    ],
)  # fmt: skip
def test_each_key_leads_to_the_whole_story(log, run, key):
    """Whatever stands in the complaint: a queue ID, the Message-ID, the return address, the person (S29, S30)."""
    status, said, _ = run(main, key)
    assert status == 0
    for line in [text for day in DAYS for _, text in day]:
        assert said.count(line) == 1, line
    assert "4jWDsT03WxzLW29" not in said


@pytest.mark.parametrize("style", STYLES)
def test_both_timestamp_styles(tmp_path, style):
    log = write_logs(tmp_path, style)
    groups = trace.trace(VERP, maillog.rotated(log))
    assert [g.queue_id for g in groups] == [FIRST, AGAIN, BOUNCE]
    assert [len(g.lines) for g in groups] == [5, 5, 3]
    parsed = maillog.parse(groups[1].lines[2])
    assert parsed.time == STYLES[style](1, 6)
    assert (parsed.tag, parsed.service, parsed.queue_id) == ("postfix-gmail", "smtp", AGAIN)


def test_lines_are_grouped_by_queue_id_in_the_order_of_the_log(log, run):
    """From the oldest rotated file to the newest line, and what came from what."""
    _, said, _ = run(main, FIRST)
    blocks = said.rstrip("\n").split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [
        FIRST, f"{AGAIN}, from {FIRST}", f"{BOUNCE}, from {AGAIN}",
    ]  # fmt: skip
    times = [line.split()[0] for line in blocks[0].splitlines()[1:]]
    assert times == sorted(times)
    assert times[0].startswith("2026-11-17")
    assert times[-1].startswith("2026-11-18")


def test_json_has_the_fields_of_each_line(log, run):
    _, said, _ = run(main, "--json", MESSAGE_ID)
    found = json.loads(said)
    assert [(g["queue_id"], g["children"]) for g in found["groups"]] == [
        (FIRST, [AGAIN]), (AGAIN, [BOUNCE]), (BOUNCE, []),
    ]  # fmt: skip
    line = found["groups"][1]["lines"][2]
    assert (line["tag"], line["service"], line["pid"]) == ("postfix-gmail", "smtp", 106)
    assert line["text"].endswith("status=bounced (550 unknown)")


# What was asked for, and how the log has it: smtp(8) writes a question mark for each byte that is not ASCII.
FOREIGN = {
    "jörg@gmail.test": "to=<j??rg@gmail.test>,",
    "JÖRG@gmail.test": "to=<J??RG@gmail.test>,",
    "ada@bücher.test": "to=<ada@xn--bcher-kva.test>, orig_to=<ada@b??cher.test>,",
    '"ada lovelace"@gmail.test': 'to=<"ada lovelace"@gmail.test>,',
    "j\udcf6rg@gmail.test": "to=<j?rg@gmail.test>,",
}


@pytest.mark.parametrize("key", FOREIGN)
def test_an_address_that_is_not_ascii_or_quoted_is_found(log, run, key):
    """Whatever the person's address: it is what the operator has in hand."""
    with log.open("a") as file:
        for number, logged in enumerate(FOREIGN.values()):
            file.write(
                f"2026-11-19T09:00:00.000000+00:00 int postfix/smtp[9]: 4jWDzz{number}zzzzLWzz: {logged} relay=x\n"
            )
    status, said, _ = run(main, key)
    assert status == 0
    assert FOREIGN[key] in said
    assert ("lovelace" in said, "xn--" in said) == ("lovelace" in key, "bücher" in key), "and nobody else"


def test_what_was_refused_before_it_had_a_queue_id_is_shown_too(log, run):
    """A person whose mail never came in has no queue ID at all."""
    refusal = "NOQUEUE: reject: RCPT from x[192.0.2.9]: 550 5.1.1 unknown; from=<p@x.test> to=<typo@crm.test>"
    with log.open("a") as file:
        file.write(f"2026-11-19T09:00:00.000000+00:00 int postfix/smtpd[9]: {refusal}\n")
    status, said, _ = run(main, "typo@crm.test")
    assert status == 0
    assert said.splitlines()[0] == "NOQUEUE"
    assert refusal in said


def test_short_queue_ids(tmp_path):
    log = tmp_path / "mail.log"
    log.write_text(
        "Nov 20 08:33:45 int postfix/qmgr[1]: 9A3F2C0B1D: removed\n"
        "Nov 20 08:33:45 int postfix/qmgr[1]: ABCDEF01: removed\n"
    )
    (group,) = trace.trace("9A3F2C0B1D", [log])
    assert group.lines == ["Nov 20 08:33:45 int postfix/qmgr[1]: 9A3F2C0B1D: removed"]


def test_a_requeue_of_a_requeue_is_followed_to_its_origin(tmp_path):
    """Each step is found only once the next is known, so the logs are read until nothing new turns up."""
    ids = [f"4jWDw24Yq{letter}zLW2H" for letter in "BCDFG"]
    lines = [f"{ids[0]}: message-id=<x@y>"]
    lines += [f"{new}: uid=1 from=<s> orig_id={old}" for old, new in itertools.pairwise(ids)]
    log = tmp_path / "mail.log"
    log.write_text("".join(f"Nov 20 08:33:45 int postfix/pickup[1]: {line}\n" for line in lines))
    for key in (ids[0], ids[2], ids[4], "x@y"):
        assert [g.queue_id for g in trace.trace(key, [log])] == ids


def test_a_line_that_only_quotes_a_queue_id_is_not_its_line(tmp_path):
    log = tmp_path / "mail.log"
    log.write_text(
        f"Nov 20 08:33:45 int postfix/smtpd[1]: {AGAIN}: client=x[1.2.3.4], orig_queue_id={FIRST}, helo={FIRST}\n"
    )
    assert trace.trace(FIRST, [log]) == []


def test_lines_at_the_border_of_two_reads_are_whole(tmp_path, monkeypatch):
    """Logs are read in pieces; no line may be lost or cut at a border."""
    log = write_logs(tmp_path)
    logs = maillog.rotated(log)
    whole = [(g.queue_id, g.lines) for g in trace.trace(VERP, logs)]
    for size in (1, 7, 64, 151, 1000):
        monkeypatch.setattr(search, "CHUNK", size)
        assert [(g.queue_id, g.lines) for g in trace.trace(VERP, logs)] == whole


def test_a_last_line_without_its_end_is_read(tmp_path):
    log = tmp_path / "mail.log"
    log.write_text(f"Nov 20 08:33:45 int postfix/qmgr[1]: {FIRST}: removed")
    assert len(trace.trace(FIRST, [log])[0].lines) == 1


def test_rotated_files_come_oldest_first(tmp_path):
    for name in ("mail.log", "mail.log.1", "mail.log.2.gz", "mail.log.10.gz", "mail.log.bak", "mail.logx"):
        (tmp_path / name).touch()
    names = [p.name for p in maillog.rotated(tmp_path / "mail.log")]
    assert names == ["mail.log.10.gz", "mail.log.2.gz", "mail.log.1", "mail.log"]
    for name in ("mail.log-20261118.gz", "mail.log-20261119"):
        (tmp_path / name).touch()
    names = [p.name for p in maillog.rotated(tmp_path / "mail.log")]
    assert names[:2] == ["mail.log-20261118.gz", "mail.log-20261119"]


@pytest.mark.parametrize(
    "arguments, status, error",
    [
        (["nobody@nowhere.test"], 3, "nothing about nobody@nowhere.test in 3 log files"),
        (["two words"], 2, "no queue ID, Message-ID or address"),
        ([""], 2, "no queue ID"),
        ([], 2, "KEY"),
        (["--log", "/nonexistent", "x@y"], 1, "/nonexistent"),
    ],
)
def test_each_mistake_is_one_line(log, run, arguments, status, error):
    found, _, said = run(main, *arguments)
    assert found == status
    assert said.startswith("postfix-trace: ")
    assert error in said
    assert said.count("\n") == 1


def test_nothing_found_is_still_json(log, run):
    status, said, _ = run(main, "--json", "nobody@nowhere.test")
    assert status == 3
    assert json.loads(said) == {"key": "nobody@nowhere.test", "groups": []}


@pytest.mark.parametrize(
    "address, found",
    [
        (VERP, (2936, VERP)),
        (VERP.replace("+b.", "+u."), (2936, VERP)),
        ("b.1.2.0123456789abcdef@crm.test", (1, "b.1.2.0123456789abcdef@crm.test")),
        ("news-r.1.2.zzzz456789abcdef@crm.test", (1, "news-b.1.2.zzzz456789abcdef@crm.test")),
        ("person@crm.test", None),
        ("civicrm+b.1.2.short@crm.test", None),
        ("civicrm+x.1.2.0123456789abcdef@crm.test", None),
        ("", None),
    ],
)
def test_the_mailing_in_an_address(address, found):
    assert addresses.parse_any(address) == (found and addresses.Verp(*found))


def test_a_million_lines_in_seconds_and_little_memory(tmp_path):
    """At three in the morning nobody waits minutes for an answer. The figure for two cores is in the bench."""
    random.seed(7)
    log = tmp_path / "mail.log"
    with log.open("w") as file:
        for n in range(50_000):
            stamp, queue_id = "2026-11-20T08:33:45.123456+00:00", f"4jW{n:05}X7zLWbx".replace("A", "B")
            file.write(
                f"{stamp} int postfix/pickup[1]: {queue_id}: uid=997 from=<civicrm+b.7.{n}.0123456789abcdef@crm.test>\n"
                f"{stamp} int postfix/cleanup[1]: {queue_id}: message-id=<{n}@crm.test>\n"
                f"{stamp} int postfix/qmgr[1]: {queue_id}: from=<civicrm+b.7.{n}.0123456789abcdef@crm.test>, size=4\n"
                f"{stamp} int postfix-gmail/smtp[1]: {queue_id}: to=<p{n}@gmail.test>, relay=mx, status=sent (250 ok)\n"
                f"{stamp} int postfix/qmgr[1]: {queue_id}: removed\n"
            )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    for key in ("4jW49999X7zLWbx", "p49999@gmail.test"):
        (group,) = trace.trace(key, [log])
        assert len(group.lines) == 5
    took = time.process_time() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert took < 5, f"{took:.1f} s of processor for twice 250,000 lines"
    assert grown < 100, f"{grown:.0f} MB more"
    print(f"{took / 2 * 4:.1f} s a million lines", file=sys.stderr)
