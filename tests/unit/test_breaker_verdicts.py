"""Only a person's own fault reaches the application, and in words that it reads right; a person finds all the rest."""

from __future__ import annotations

import email
import json
import signal
import sqlite3
import time

import pytest
from reports import dsn, plain, verp
from unit_return_path import change, killed_at, metric

from civicrm_tools.mail import breaker as tool
from civicrm_tools.mail import delivery_report, storms
from civicrm_tools.mail.maildir import Folder
from civicrm_tools.mail.refusals import organisation
from civicrm_tools.mail.return_path import load_settings

SENDER = {"status": "5.1.8", "text": "553 5.1.8 <b@crm.example.org>... Domain of sender address does not exist"}
ORANGE = {"status": "5.2.0", "text": "550 5.2.0 Mail rejete. Mail rejected. OFR_506 [506]"}
MICROSOFT = {"status": "5.4.1", "text": "550 5.4.1 Recipient address rejected: Access denied. AS(201806281)"}


def to_bounce(text: str, **fields: str) -> bytes:
    return plain(text, To=verp(), Delivered_To=verp(), **fields)


@pytest.mark.parametrize("refusal", [SENDER, ORANGE], ids=["5.1.8", "Orange"])
def test_a_single_refusal_of_us_is_put_aside_for_a_person(breaker, box, paused, tmp_path, refusal):
    """Storm or not: the application never sees it."""
    box.deliver(dsn("ada@orange.fr", **refusal), dsn("grace@orange.fr", queue=2))
    breaker()
    assert box.counts() == {"INBOX": 1, "Incoming": 0, "Quarantine": 0, "Quarantine.dropped": 0, "Refused": 1}
    assert metric(tmp_path, 'bounce_breaker_messages_total{outcome="refused"}') == 1
    assert metric(tmp_path, 'bounce_breaker_recent_bounces{provider="orange",reason="us"}') == 1
    assert paused.exists() is False


@pytest.mark.parametrize("refusal", [SENDER, ORANGE], ids=["5.1.8", "Orange"])
def test_many_of_them_are_a_storm_and_a_dead_address_within_still_counts(breaker, box, paused, tmp_path, refusal):
    dead = [dsn(f"d{n}@orange.fr", queue=n + 1) for n in range(25)]
    box.deliver(*[dsn(f"p{n}@orange.fr", queue=n + 100, **refusal) for n in range(25)], *dead)
    breaker()
    assert box.counts() == {"INBOX": 25, "Incoming": 0, "Quarantine": 25, "Quarantine.dropped": 0}
    assert sorted(box.folder()) == sorted(dead)
    assert metric(tmp_path, 'bounce_breaker_open{provider="orange"}') == 1


NOBODY = [
    dsn("ada@gmail.com", action="delayed", status="4.4.7", text="450 4.2.0 busy"),
    to_bounce("I am away until Monday.", Subject="Abwesend: January", Auto_Submitted="auto-replied"),
    to_bounce("Ada no longer works here.", Subject="January"),
]


def test_what_is_no_bounce_lies_where_a_person_finds_it(breaker, box, paused, tmp_path):
    box.deliver(*NOBODY * 3)
    breaker()
    assert box.counts() == {"INBOX": 0, "Incoming": 0, "Quarantine": 0, "Quarantine.dropped": 0, "Notices": 9}
    assert sorted(box.folder("Notices")) == sorted(NOBODY * 3)
    assert metric(tmp_path, 'bounce_breaker_messages_total{outcome="noticed"}') == 9
    for kind in ("delay", "reply", "notice"):
        assert metric(tmp_path, f'bounce_breaker_verdicts_total{{subject="nobody",kind="{kind}"}}') == 3


def test_an_answer_to_another_address_reaches_the_application(breaker, box, paused):
    """An unsubscribe by an automaton is an unsubscribe: only what comes to the bounce address is judged."""
    mails = [
        plain("I am away.", To=verp(verb), Delivered_To=verp(verb), Auto_Submitted="auto-replied")
        for verb in ("u", "o", "r", "e", "c")
    ]
    box.deliver(*mails)
    breaker()
    assert sorted(box.folder()) == sorted(mails)


# Servers that no table names


def test_a_storm_at_one_server_is_seen_there_and_only_its_domains_are_paused(breaker, box, paused, tmp_path):
    """200 refusals there beside 210 dead addresses elsewhere."""
    refused = [
        dsn(f"p{n}@club{n % 2}.example", queue=n + 1000, remote=f"mx{n % 3}.hoster.example", **SENDER)
        for n in range(200)
    ]
    box.deliver(*refused, *[dsn(f"d{n}@d{n}.example", queue=n + 1, remote=f"mx.d{n}.example") for n in range(210)])
    breaker()
    assert box.counts() == {"INBOX": 210, "Incoming": 0, "Quarantine": 200, "Quarantine.dropped": 0}
    assert metric(tmp_path, 'bounce_breaker_open{provider="hoster.example"}') == 1
    assert metric(tmp_path, 'bounce_breaker_open{provider="default"}') == 0
    assert set(paused.read_text().splitlines()) == {"--domain=club0.example --domain=club1.example"}
    assert "hoster.example: STORM since" in breaker("status")
    assert "200 messages moved" in breaker("drop", "hoster.example")
    assert box.counts() == {"INBOX": 210, "Incoming": 0, "Quarantine": 0, "Quarantine.dropped": 200}
    assert 'provider="hoster.example"' not in (tmp_path / "metrics/bounce-breaker.prom").read_text()


def test_the_mailing_there_stays_paused_when_nothing_comes_back_any_more(breaker, box, paused, monkeypatch):
    """What the mailing queues an hour later is stopped as well, until the operator ends the storm."""
    box.deliver(*[dsn(f"p{n}@club.example", queue=n + 1, remote="mx.hoster.example", **SENDER) for n in range(25)])
    breaker()
    later = time.time() + 3600
    monkeypatch.setattr(tool.time, "time", lambda: later)
    breaker()
    assert paused.read_text().splitlines() == ["--domain=club.example"] * 2
    breaker("drop", "hoster.example")
    breaker()
    assert paused.read_text().count("\n") == 2


def test_an_interrupted_drop_can_be_said_again(breaker, box, paused, settings_file, monkeypatch):
    box.deliver(*[dsn(f"p{n}@club.example", queue=n + 1, remote="mx.hoster.example", **SENDER) for n in range(25)])
    breaker()
    real, moved = Folder.move, []

    def full(folder, entry, target, name=None):
        moved.append(entry)
        if len(moved) == 5:
            raise OSError("no space left")
        return real(folder, entry, target, name)

    monkeypatch.setattr(Folder, "move", full)
    assert tool.main(["--config", str(settings_file), "drop", "hoster.example"]) == 1
    assert "21 messages moved" in breaker("drop", "hoster.example")
    assert box.counts()["Quarantine.dropped"] == 25


def test_refusals_by_many_servers_are_a_storm_of_all_without_a_provider(breaker, box, paused, tmp_path):
    """We are on a list that all the small ones read."""
    box.deliver(*[dsn(f"p@c{n}.example", queue=n + 1, remote=f"mx.c{n}.example", **SENDER) for n in range(25)])
    breaker()
    assert metric(tmp_path, 'bounce_breaker_open{provider="default"}') == 1
    assert set(paused.read_text().splitlines()) == {"--provider default"}


def test_a_storm_at_one_server_is_none_of_the_others(breaker, box, paused, tmp_path):
    there = [dsn(f"p{n}@club.example", queue=n + 1000, remote="mx.hoster.example", **SENDER) for n in range(30)]
    elsewhere = [dsn(f"p{n}@c{n}.example", queue=n + 1, remote=f"mx.c{n}.example", **SENDER) for n in range(3)]
    box.deliver(*there, *elsewhere)
    breaker()
    assert box.counts()["Refused"] == 3
    assert metric(tmp_path, 'bounce_breaker_open{provider="default"}') == 0


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("mx1.hoster.example", "hoster.example"),
        ("mx.club.co.uk", "club.co.uk"),
        ("x.mail.protection.outlook.com", "outlook.com"),
        ("192.0.2.25", "192.0.2.25"),
        ("2001:db8::25", "2001:db8::25"),
        ("mx.club.de.", "club.de"),
        ("localhost", "localhost"),
        ("", ""),
    ],
)
def test_whose_server_it_is(host, domain):
    assert organisation(host) == domain


# In words that the application reads right


def handed_over(box) -> list[email.message.Message]:
    return [email.message_from_bytes(raw) for raw in box.folder()]


@pytest.mark.parametrize(
    ("bounce", "status", "words"),
    [
        (dsn("ada@gmail.com", **MICROSOFT), "5.1.1", "no such user"),
        (dsn("ada@gmail.com", status="5.1.6", text="550 5.1.6 no longer on server"), "5.1.1", "no such user"),
        (dsn("ada@gmail.com", status="5.2.1", text="550 5.2.1 The account is disabled"), "5.2.1", "account inactive"),
        (dsn("ada@gmail.com", status="5.2.2", text="452 4.2.2 out of storage space"), "5.2.2", "mailbox full"),
        (dsn("ada@gmail.com", status="5.7.124", text="550 5.7.124 unknown sender rejected"), "5.0.0", "none of"),
        (
            to_bounce(
                "<ada@gmail.com>:\nno mailbox here by that name\n", Subject="failure notice", From="MAILER-DAEMON@x"
            ),
            "5.1.1",
            "no such user",
        ),
    ],
    ids=["Microsoft", "moved", "disabled", "full", "closed-group", "qmail"],
)
def test_what_the_application_would_read_wrongly_is_wrapped(breaker, box, paused, bounce, status, words):
    """A delivery report in its words, our reasons, and the whole mail as it came."""
    box.deliver(bounce)
    breaker()
    (message,) = handed_over(box)
    assert message["X-Bounce-Breaker"].startswith("address/")
    assert message["To"] == message["Delivered-To"] == verp()
    note, fields, original = message.get_payload()
    assert message.get_content_type() == "multipart/report"
    assert note.get_content_type() == "text/plain"
    assert fields.get_payload()[1]["Final-Recipient"] == "rfc822; ada@gmail.com"
    assert fields.get_payload()[1]["Status"] == status
    assert words in fields.get_payload()[1]["Diagnostic-Code"]
    assert original.get_content_type() == "message/rfc822"
    assert bounce in box.folder()[0]


def test_a_wrapped_one_has_a_name_that_claims_no_size(breaker, box, paused):
    """Dovecot believes S= and W= in a file's name, and refuses a message that has another size."""
    box.deliver(dsn("ada@gmail.com", **MICROSOFT), dsn("grace@gmail.com", queue=2))
    breaker()
    names = sorted(path.name for path in (box.maildir / "new").iterdir())
    assert [",S=" in name for name in names] == [False, True]


@pytest.mark.parametrize(
    "text",
    ["550 5.1.1 no such user", "550 5.1.1 <a@gmail.com>: user unknown", "552 5.2.2 mailbox full"],
)
def test_what_it_reads_right_is_handed_over_as_it_came(breaker, box, paused, text):
    bounce = dsn("a@gmail.com", status=text.split()[1], text=text)
    box.deliver(bounce)
    breaker()
    assert box.folder() == [bounce]


def test_a_failure_of_the_network_stays_one(breaker, box, paused):
    text = "connect to mx.provider.example[192.0.2.25]:25: Connection timed out"
    bounce = dsn("a@provider.example", status="4.4.1", text=text)
    box.deliver(bounce)
    breaker()
    assert box.folder() == [bounce]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", [1, 2])
def test_killed_while_it_wraps_the_message_is_there_once_and_wrapped_once(
    breaker, box, paused, settings_file, step, when
):
    bounce = dsn("ada@gmail.com", **MICROSOFT)
    box.deliver(bounce)
    assert killed_at(step, when, settings_file, "run") == -signal.SIGKILL
    assert len(box.everywhere()) == 1
    breaker()
    (raw,) = box.folder()
    assert bounce in raw
    assert raw.count(b"X-Bounce-Breaker: ") == 1


def test_a_wrapped_bounce_is_understood_by_the_watch_over_ignored_mail(breaker, box, paused, settings_file):
    box.deliver(dsn("ada@gmail.com", **MICROSOFT))
    breaker()
    found = delivery_report.read(box.folder()[0], load_settings(settings_file).sites[0])
    assert (found.action, str(found.verdict)) == ("failed", "address/gone")


# The operator, and hosts that are upgraded


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (ORANGE["text"], ["verdict: us/content", "rule: provider's code OFR_506", "goes to Refused"]),
        (dsn("ada@orange.fr", **ORANGE).decode(), ["verdict: us/content", "recipient: ada@orange.fr, of orange"]),
        (dsn("ada@gmail.com", **MICROSOFT).decode(), ["address/gone", "wrapped in words"]),
        (NOBODY[1].decode(), ["verdict: nobody/reply", "goes to Notices"]),
        (plain("hello").decode(), ["to no bounce address"]),
    ],
    ids=["words", "refusal", "dead", "vacation", "other"],
)
def test_explain_says_what_which_rule_and_what_becomes_of_it(breaker, tmp_path, given, said):
    (tmp_path / "given").write_text(given)
    told = breaker("explain", str(tmp_path / "given"))
    assert [words for words in said if words not in told] == []
    assert list((tmp_path).glob("breaker.db")) == []


def test_explain_of_a_file_that_is_not_there_is_one_line(settings_file, capsys):
    assert tool.main(["--config", str(settings_file), "explain", "/nowhere"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


OLD = """
CREATE TABLE event (
    site TEXT, name TEXT, time REAL, provider TEXT, policy INTEGER, PRIMARY KEY (site, name)) WITHOUT ROWID;
CREATE INDEX event_by_time ON event (provider, time);
CREATE TABLE incident (
    id INTEGER PRIMARY KEY, provider TEXT, mode TEXT, since REAL, until REAL, paused INTEGER, why TEXT);
CREATE TABLE forgiven (provider TEXT PRIMARY KEY, time REAL) WITHOUT ROWID;
CREATE TABLE total (outcome TEXT PRIMARY KEY, messages INTEGER) WITHOUT ROWID;
INSERT INTO event VALUES ('crm', '1700000001.M1P1.mx', 1700000000, 'gmail', 1);
INSERT INTO incident VALUES (1, 'gmail', 'active', 1700000000, NULL, 1, '30 of 30');
INSERT INTO total VALUES ('passed', 5000);
"""


def test_the_state_of_an_earlier_build_goes_on(breaker, box, paused, tmp_path):
    """Its storm is still open, its counters go on, and its messages in Incoming and Quarantine are kept."""
    with sqlite3.connect(tmp_path / "breaker.db") as database:
        database.executescript(OLD)
    database.close()
    refusal = dsn("b@gmail.com", queue=2, **SENDER)
    for part in ("tmp", "new", "cur"):
        (box.maildir / ".Quarantine" / part).mkdir(parents=True)
    (box.maildir / ".Quarantine/cur/1700000009.M9P9.mx:2,S").write_bytes(dsn("c@gmail.com", queue=3, **SENDER))
    box.deliver(dsn("a@gmail.com", queue=1), refusal)
    breaker()
    assert box.counts() == {"INBOX": 1, "Incoming": 0, "Quarantine": 2, "Quarantine.dropped": 0}
    assert metric(tmp_path, 'bounce_breaker_open{provider="gmail"}') == 1
    assert metric(tmp_path, 'bounce_breaker_messages_total{outcome="passed"}') == 5001
    assert "2 messages moved" in breaker("drop", "gmail")
    breaker()
    assert storms.open_storms(tmp_path / "breaker.db").execute("SELECT COUNT(*) FROM event").fetchone()[0] == 2


def test_in_shadow_mode_nothing_is_put_aside_or_wrapped(breaker, box, paused, settings_file, tmp_path):
    change(settings_file, mode="shadow")
    mails = [*NOBODY, dsn("ada@gmail.com", **MICROSOFT), dsn("a@orange.fr", **ORANGE)]
    box.deliver(*mails)
    breaker()
    assert sorted(box.folder()) == sorted(mails)
    assert metric(tmp_path, 'bounce_breaker_messages_total{outcome="would_notice"}') == 3
    assert metric(tmp_path, 'bounce_breaker_messages_total{outcome="would_refuse"}') == 1
    assert json.loads(breaker("status", "--json"))["verdicts"]["address/gone"] == 1
