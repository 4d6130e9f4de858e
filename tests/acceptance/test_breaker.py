"""A provider's block puts nobody on hold; lost bounces and poison are seen (N8, N9, N10, S27)."""

from __future__ import annotations

import json
import re
import shlex
import time

import pytest
from newsletters import contact, folder_counts, newsletter, run_job

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
        crm_int.run(f"postfix-queue release --provider {provider} --yes")


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
    text = crm_int.check_output("cat /var/lib/prometheus/node-exporter/bounce-breaker.prom")
    assert f'bounce_breaker_open{{provider="{next(iter(storms))}"}} 1' in text


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
