"""Mail from the world counts in CiviCRM within seconds, and an outage of CiviCRM loses nothing (S43)."""

from __future__ import annotations

import re
import time

import pytest
from newsletters import folder_counts, ledger, newsletter, run_job

pytestmark = pytest.mark.mail

UNIT = "civicrm-crm-fetch-bounces"
BROKEN = f"/run/systemd/system/{UNIT}.service.d"
METRICS = f"/var/lib/prometheus/node-exporter/{UNIT}.prom"


@pytest.fixture
def at_once(crm_int):
    """Mail lets the job run, and no timer does."""
    crm_int.check_output(f"systemctl stop {UNIT}.timer && systemctl start {UNIT}-at-once.path")
    yield
    crm_int.check_output(
        f"rm -rf {BROKEN}; systemctl daemon-reload; "
        f"systemctl stop {UNIT}-at-once.path {UNIT}-at-once.service; systemctl start {UNIT}.timer"
    )


def write(world, address: str) -> None:
    """As a person's mail program does."""
    options = f"--from reader@accepting.test --to {address}"
    world.check_output(f"outside-swaks --server crm-int-01.torproject.test {options}")


def failures(crm_int) -> float:
    """How often the job has failed."""
    text = crm_int.check_output(f"cat {METRICS}")
    return float(re.search(r'^civicrm_job_runs_total\{.*result="failure"\} (\S+)$', text, re.MULTILINE)[1])


@pytest.mark.mutates
def test_an_unsubscribe_counts_within_seconds(crm_int, world, at_once, eventually):
    """From the link in a real newsletter to CiviCRM's own table, with the timer stopped."""
    stamp = time.time_ns()
    group, person = f"at-once-{stamp}", f"reader-{stamp}@accepting.test"
    newsletter(crm_int, f"create --group {group} --contact {person}")
    run_job(crm_int, "process-mailing")
    sent = eventually(lambda: ledger(world, recipient=person))[0]
    address = re.search(r"<mailto:(civicrm\+u\.[^>?]+)", world.check_output(f"cat {sent['message']}"))[1]
    query = """mariadb -NBe "SELECT COUNT(*) FROM crm.civicrm_group_contact WHERE status = 'Removed'" """
    before = int(crm_int.check_output(query))
    write(world, address)
    # The bounce breaker looks every ten seconds.
    eventually(lambda: int(crm_int.check_output(query)) == before + 1, within=30)


@pytest.mark.mutates
def test_while_civicrm_is_away_mail_stays_and_the_job_is_not_tried_again_and_again(crm_int, world, at_once, eventually):
    """The mailbox is the only copy; one failure is enough to know, and the timer's next good run takes all."""
    run_job(crm_int, "fetch-bounces")
    # The job's ending is a change of the mailbox too: wait until nobody looks.
    eventually(
        lambda: crm_int.run(f"systemctl is-active {UNIT}-at-once.service").stdout.strip() == "inactive", within=40
    )
    away = "[Service]\\nExecStart=\\nExecStart=/bin/false\\n"
    crm_int.check_output(f"mkdir -p {BROKEN}; printf '{away}' >{BROKEN}/away.conf; systemctl daemon-reload")
    before, waiting = failures(crm_int), folder_counts(crm_int)["INBOX"]
    addresses = [f"civicrm+u.7.8.{(time.time_ns() + n) % 10**16:016d}@crm.torproject.test" for n in range(3)]
    write(world, addresses[0])
    eventually(lambda: failures(crm_int) == before + 1, within=30)
    for address in addresses[1:]:
        write(world, address)
    eventually(lambda: folder_counts(crm_int)["INBOX"] == waiting + 3, within=30)
    assert failures(crm_int) == before + 1
    assert crm_int.check_output(f"systemctl is-active {UNIT}-at-once.path") == "active"
    # CiviCRM is back, and the timer's hour has come.
    crm_int.check_output(f"rm -rf {BROKEN}; systemctl daemon-reload; systemctl start {UNIT}.service")
    assert folder_counts(crm_int)["INBOX"] == 0
    eventually(
        lambda: crm_int.run(f"systemctl is-active {UNIT}-at-once.service").stdout.strip() == "inactive", within=40
    )
