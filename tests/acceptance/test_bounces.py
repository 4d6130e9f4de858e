"""Bounces come back to CiviCRM and take dead addresses off the list (S8, S26)."""

import time

import pytest
from newsletters import contact, folder_counts, ledger, newsletter, run_job

pytestmark = pytest.mark.mail


@pytest.mark.mutates
def test_user_unknown_puts_the_contact_on_hold_and_the_next_mailing_skips_him(crm_int, world, eventually):
    """A genuine DSN 5.1.1 from our Postfix, through LMTP and IMAP, is counted once and acts at once (S26)."""
    stamp = time.time_ns()
    group, good, bad = f"bounce-{stamp}", f"good-{stamp}@accepting.test", "nobody@refusing.test"
    newsletter(crm_int, f"create --group {group} --contact {good} --contact {bad}:on_hold=0")
    assert contact(crm_int, bad)["on_hold"] is False
    before = folder_counts(crm_int)
    run_job(crm_int, "process-mailing")
    eventually(lambda: sum(folder_counts(crm_int).values()) == sum(before.values()) + 1)
    run_job(crm_int, "fetch-bounces")
    assert contact(crm_int, bad)["on_hold"] is True
    assert contact(crm_int, good)["on_hold"] is False
    assert folder_counts(crm_int)["INBOX"] == 0

    attempts = len(ledger(world, recipient=bad))
    newsletter(crm_int, f"create --group {group}")
    run_job(crm_int, "process-mailing")
    eventually(lambda: len(ledger(world, recipient=good)) == 2)
    assert len(ledger(world, recipient=bad)) == attempts, "a contact on hold was written to"


@pytest.mark.mutates
def test_a_bounce_is_counted_once(crm_int):
    """The processed message has left the inbox: another run of the job finds nothing (S26)."""
    query = "mariadb -NBe 'SELECT COUNT(*) FROM crm.civicrm_mailing_event_bounce'"
    before = crm_int.check_output(query)
    run_job(crm_int, "fetch-bounces")
    assert crm_int.check_output(query) == before


@pytest.mark.mutates
def test_a_delay_changes_nothing(crm_int, world, eventually):
    """A provider that is away defers mail; no warning goes to a bounce address, for CiviCRM would count it (S26)."""
    assert crm_int.check_output("postconf -h delay_warning_time") == "0h"
    stamp = time.time_ns()
    address = f"later-{stamp}@refusing.test"
    query = "mariadb -NBe 'SELECT COUNT(*) FROM crm.civicrm_mailing_event_bounce'"
    before = crm_int.check_output(query)
    world.check_output("systemctl stop fake-provider@refusing.service")
    try:
        newsletter(crm_int, f"create --group later-{stamp} --contact {address}")
        run_job(crm_int, "process-mailing")
        eventually(
            lambda: any(address in q for q in crm_int.check_output("postqueue -j").splitlines() if '"deferred"' in q)
        )
        run_job(crm_int, "fetch-bounces")
        assert contact(crm_int, address)["on_hold"] is False
        assert crm_int.check_output(query) == before
    finally:
        world.check_output("systemctl start fake-provider@refusing.service")
    crm_int.check_output("postqueue -f")
    eventually(lambda: ledger(world, recipient=address), within=120)
