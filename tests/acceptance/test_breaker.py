"""A provider's block puts nobody on hold; lost bounces and poison are seen (N8, N9, N10, S27)."""

from __future__ import annotations

import base64
import json
import re
import shlex
import time
import zlib

import pytest
from newsletters import contact, folder_counts, newsletter, run_job
from reports import dsn, plain

pytestmark = pytest.mark.mail

MAILDIR = "/srv/mail/crm/Maildir"
BLOCK = {"recipient_regex": r"p.*@refusing\.test", "reply": "550 5.7.1 <{recipient}>: your host is blocked"}
SET_RULES = """
import json, pathlib, sys
path = pathlib.Path("/etc/fake-provider/refusing.json")
text = json.loads(path.read_text())
kept = [rule for rule in text["rules"] if "recipient" in rule]
text["rules"] = kept + ([json.loads(sys.argv[1])] if sys.argv[1] else [])
path.write_text(json.dumps(text))
"""


def refuse(world, rule: dict | None) -> None:
    """Make the fake provider refuse by one more rule, or no longer."""
    world.check_output(f"python3 -c {shlex.quote(SET_RULES)} {shlex.quote(json.dumps(rule) if rule else '')}")
    world.check_output("systemctl reload fake-provider@refusing.service")


@pytest.fixture(autouse=True)
def nobody_fetches(crm_int):
    """CiviCRM's own timer would empty the mailbox in the middle of a test."""
    crm_int.check_output("systemctl stop civicrm-crm-fetch-bounces.timer")
    yield
    crm_int.check_output("systemctl start civicrm-crm-fetch-bounces.timer")


@pytest.fixture
def blocked(crm_int, world):
    """The provider refuses us. Afterwards: the storm is dropped, and the provider's mail on hold released."""
    refuse(world, BLOCK)
    yield
    refuse(world, None)
    for provider in open_storms(crm_int):
        crm_int.check_output(f"bounce-breaker drop {provider}")
    crm_int.run("postfix-queue release --domain refusing.test --yes --if-any")


def status(crm_int) -> dict:
    return json.loads(crm_int.check_output("bounce-breaker status --json"))


def open_storms(crm_int) -> dict:
    return {name: entry for name, entry in status(crm_int)["providers"].items() if entry["open"]}


@pytest.mark.mutates
def test_a_block_puts_nobody_on_hold_and_dead_addresses_still_go(crm_int, world, blocked, eventually):
    """A real mailing, a real block, real DSNs: Quarantine instead of CiviCRM, and the mailing is paused (N9)."""
    stamp = time.time_ns()
    people = [f"p{number}-{stamp}@refusing.test" for number in range(40)]
    newsletter(
        crm_int,
        f"create --group storm-{stamp} --contact nobody@refusing.test:on_hold=0 "
        + " ".join(f"--contact {person}" for person in people),
    )
    before = folder_counts(crm_int).get("INBOX.Quarantine", 0)
    run_job(crm_int, "process-mailing")
    eventually(lambda: folder_counts(crm_int)["INBOX.Quarantine"] >= before + 20, within=180)
    eventually(lambda: folder_counts(crm_int)["INBOX.Incoming"] == 0, within=60)
    run_job(crm_int, "fetch-bounces")
    assert contact(crm_int, "nobody@refusing.test")["on_hold"] is True
    held = newsletter(crm_int, "show " + " ".join(people))["contacts"]
    assert len(held) == len(people)
    assert [c["email"] for c in held if c["on_hold"]] == []
    storms = eventually(lambda: {n: e for n, e in open_storms(crm_int).items() if e["paused"]}, within=60)
    assert len(storms) == 1
    assert list(storms) == ["refusing.test"], "the domain of the servers that refuse, not all that have no provider"
    assert metric(crm_int, 'bounce_breaker_open{provider="refusing.test"}') == 1


def metric(crm_int, sample: str) -> float:
    """A sample that the breaker wrote, 0 if it is not there."""
    text = crm_int.check_output("cat /var/lib/prometheus/node-exporter/bounce-breaker.prom")
    return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{sample} ")), 0)


SEND = """
import base64, json, smtplib, sys, zlib
for_each, host = json.loads(zlib.decompress(base64.b64decode(sys.stdin.read()))), "crm-int-01.torproject.test"
with smtplib.SMTP(host, 25, "mx.outside.test", 120, (sys.argv[1], 0)) as session:
    for recipient, text in for_each:
        session.sendmail("", [recipient], text.encode())
"""


def send(world, mails: list[tuple[str, bytes]]) -> None:
    """Hand in mail from outside with the null sender, as mail servers send reports."""
    packed = json.dumps([(recipient, raw.decode().replace("\n", "\r\n")) for recipient, raw in mails])
    call = base64.b64encode(zlib.compress(packed.encode())).decode()
    source = world.check_output("sed -n 's/.*--local-interface \\([^ ]*\\) .*/\\1/p' $(command -v outside-swaks)")
    world.check_output(f"printf %s {call} | python3 -c {shlex.quote(SEND)} {source}")


def bounce_addresses(crm_int, stamp: int) -> dict[str, str]:
    """{reader: where bounces of the reader's copy come back to} of a mailing."""
    query = (
        "SELECT e.email, CONCAT_WS('.', q.job_id, q.id, q.hash) FROM crm.civicrm_mailing_event_queue q "  # noqa: S608
        f"JOIN crm.civicrm_email e ON e.id = q.email_id WHERE e.email LIKE '%-{stamp}@accepting.test'"
    )
    keys = dict(line.split() for line in crm_int.check_output(f'mariadb -NBe "{query}"').splitlines())
    return {reader: f"civicrm+b.{key}@crm.torproject.test" for reader, key in keys.items()}


SENDER = {"status": "5.1.8", "text": "553 5.1.8 <b@x.test>... Domain of sender address b@x.test does not exist"}
ORANGE = {"status": "5.2.0", "text": "550 5.2.0 Mail rejete. Mail rejected. OFR_506 [506]"}
UNKNOWN = {"status": "5.1.1", "text": "550 5.1.1 <x@orange.test>: User unknown"}
MICROSOFT = {"status": "5.4.1", "text": "550 5.4.1 Recipient address rejected: Access denied. AS(201806281)"}
DELAY = {"action": "delayed", "status": "4.4.7", "text": "450 4.2.0 busy"}
QMAIL = "Hi. This is the qmail-send program at old.test.\n\n<x@old.test>:\nSorry, no mailbox here by that name.\n"


def reports(addresses: dict[str, str]) -> list[tuple[str, bytes]]:
    """(address, mail): what comes back for each reader, by the first word of the reader's name."""
    mails = []
    for number, (reader, to) in enumerate(sorted(addresses.items())):
        kind = reader.partition("-")[0]
        away = {"To": to, "From": reader, "Subject": "Abwesend: January", "Auto_Submitted": "auto-replied"}
        left = {"To": to, "From": reader, "Subject": "January"}
        made = {
            "sender": [dsn(f"p@club{number % 3}.test", to=to, remote="mx1.hoster.test", **SENDER)],
            "orange": [dsn("p@orange.test", to=to, remote="mx.orange.test", **ORANGE)],
            "unknown": [dsn("p@orange.test", to=to, remote="mx.orange.test", **UNKNOWN)],
            "microsoft": [dsn("p@office.test", to=to, remote="mx.office.test", **MICROSOFT)],
            "qmail": [plain(QMAIL, To=to, From="MAILER-DAEMON@old.test", Subject="failure notice")],
            "delay": [dsn("p@slow.test", to=to, remote="mx.slow.test", **DELAY)] * 3,
            "away": [plain("Ich bin bis Montag im Urlaub.", **away)] * 3,
            "left": [plain("Ada no longer works here: 550 5.1.1 user unknown.", **left)],
        }[kind]
        mails += [(to, raw) for raw in made]
    return mails


PEOPLE = {"sender": 25, "orange": 25, "unknown": 25, "microsoft": 1, "qmail": 1, "delay": 1, "away": 1, "left": 1}
DEAD = ("unknown", "microsoft", "qmail")


@pytest.mark.mutates
def test_only_a_persons_own_fault_puts_a_person_on_hold(crm_int, world, eventually):
    """Refusals of us, delays and answers to one real mailing: whoever lives stays on the list (N9)."""
    stamp = time.time_ns()
    people = [f"{kind}-{n}-{stamp}@accepting.test" for kind, number in PEOPLE.items() for n in range(number)]
    newsletter(crm_int, f"create --group verdicts-{stamp} " + " ".join(f"--contact {person}" for person in people))
    run_job(crm_int, "process-mailing")
    addresses = bounce_addresses(crm_int, stamp)
    assert sorted(addresses) == sorted(people)
    before, noticed = folder_counts(crm_int), metric(crm_int, 'bounce_breaker_messages_total{outcome="noticed"}')
    mails = reports(addresses)
    send(world, mails)
    eventually(lambda: sum(folder_counts(crm_int).values()) >= sum(before.values()) + len(mails), within=60)
    run_job(crm_int, "fetch-bounces")
    try:
        held = newsletter(crm_int, "show " + " ".join(people))["contacts"]
        dead = [person for person in people if person.startswith(DEAD)]
        assert sorted(c["email"] for c in held if c["on_hold"]) == sorted(dead)
        after = folder_counts(crm_int)
        assert after["INBOX.Notices"] - before.get("INBOX.Notices", 0) == 7
        assert after["INBOX.Quarantine"] - before.get("INBOX.Quarantine", 0) == 50
        for name in ("hoster.test", "orange"):
            assert metric(crm_int, f'bounce_breaker_open{{provider="{name}"}}') == 1
        assert metric(crm_int, 'bounce_breaker_messages_total{outcome="noticed"}') == noticed + 7
    finally:
        for name in open_storms(crm_int):
            crm_int.check_output(f"bounce-breaker drop {name}")
    assert open_storms(crm_int) == {}


@pytest.mark.mutates
def test_with_the_breaker_dead_mail_waits_and_a_metric_tells(crm_int, world, eventually):
    """Nothing is dropped, nothing goes round it (N9)."""
    address = f"civicrm+u.7.8.{time.time_ns() % 10**16:016d}@crm.torproject.test"
    crm_int.check_output("systemctl stop bounce-breaker.service")
    try:
        world.check_output(f"outside-swaks --server crm-int-01.torproject.test --from a@outside.test --to '{address}'")
        find = "doveadm search -u crm mailbox {} header To " + f"'{address}'"
        eventually(lambda: crm_int.check_output(find.format("INBOX.Incoming")))
        crm_int.check_output("sleep 2; systemctl start mailbox-watch.service")
        text = crm_int.check_output("cat /var/lib/prometheus/node-exporter/mailbox-watch.prom")
        assert 'mailbox_oldest_seconds{site="crm",folder="incoming"} 0' not in text
        assert crm_int.check_output(find.format("INBOX")) == ""
    finally:
        crm_int.check_output("systemctl start bounce-breaker.service")
    eventually(lambda: crm_int.check_output(find.format("INBOX")))
    assert crm_int.check_output(find.format("INBOX.Incoming")) == ""
    crm_int.check_output(f"doveadm expunge -u crm mailbox INBOX header To '{address}'")


@pytest.mark.mutates
def test_killed_again_and_again_each_message_arrives_once(crm_int, world, eventually):
    """SIGKILL while mail comes in: every message is in exactly one folder (N9)."""
    stamp = time.time_ns() % 10**12
    recipient = f"civicrm+u.7.8.{stamp:016d}@crm.torproject.test"
    for number in range(20):
        world.check_output(
            f"outside-swaks --server crm-int-01.torproject.test --from a@outside.test --to '{recipient}' "
            f"--header 'Subject: n{number}'"
        )
        if number % 4 == 0:
            crm_int.run("systemctl kill -s KILL bounce-breaker.service")
    fetch = f"doveadm fetch -u crm hdr.subject mailbox INBOX header To '{recipient}'"
    found = eventually(
        lambda: (lines := re.findall(r"\bn\d+$", crm_int.check_output(fetch), re.M)) and len(lines) >= 20 and lines,
        within=120,
    )
    assert sorted(found) == sorted(f"n{number}" for number in range(20))
    crm_int.check_output(f"doveadm expunge -u crm mailbox INBOX header To '{recipient}'")


@pytest.mark.mutates
def test_a_bounce_that_was_ignored_is_counted_and_put_back(crm_int, world, eventually):
    """A changed hash format has lost bounces for weeks elsewhere: they are seen, and processed after all (N8)."""
    stamp = time.time_ns()
    newsletter(crm_int, f"create --group lost-{stamp} --contact nobody@refusing.test:on_hold=0")
    run_job(crm_int, "fetch-bounces")
    run_job(crm_int, "process-mailing")
    eventually(lambda: folder_counts(crm_int)["INBOX"] == 1, within=120)
    crm_int.check_output("doveadm move -u crm INBOX.CiviMail.ignored mailbox INBOX header Subject Undelivered")
    crm_int.check_output("systemctl start mailbox-watch.service")
    metrics = "cat /var/lib/prometheus/node-exporter/mailbox-watch.prom"
    assert 'mailbox_ignored_valid_bounces{site="crm"} 0' not in crm_int.check_output(metrics)
    assert "0 messages" not in crm_int.check_output("mailbox-watch replay-ignored crm")
    run_job(crm_int, "fetch-bounces")
    assert contact(crm_int, "nobody@refusing.test")["on_hold"] is True
    assert crm_int.check_output("mailbox-watch replay-ignored crm --dry-run").startswith("0 messages")
