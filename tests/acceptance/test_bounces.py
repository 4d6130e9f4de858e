"""Bounces come back to CiviCRM and take dead addresses off the list (S8, S26)."""

import json
import time

import pytest
from newsletters import contact, folder_counts, ledger, newsletter, run_job


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


@pytest.mark.mutates
def test_the_world_may_write_to_the_contracts_addresses_and_to_nobody_else(world):
    """Only addresses that CiviMail makes, postmaster and abuse exist; anything else is refused at RCPT (S8)."""
    server = "outside-swaks --server crm-int-01.torproject.test --from a@outside.test --quit-after RCPT --to"
    for accepted in (
        "civicrm+b.2936.7009506.26d7b951968ebe4b@crm.torproject.test",
        "civicrm+u.1.2.0123456789abcdef@staging.crm.torproject.test",
        "civicrm+o.1.2.0123456789ghijkl@test.crm.torproject.test",
        "postmaster@crm.torproject.test",
        "abuse@crm-int-01.torproject.test",
    ):
        done = world.run(f"{server} '{accepted}'")
        assert done.rc == 0, (accepted, done.stdout)
    for refused in (
        "civicrm+x.1.2.0123456789abcdef@crm.torproject.test",
        "civicrm+b.1.2.0123456789abcde@crm.torproject.test",
        "civicrm+b.1.2.0123456789abcdef0@crm.torproject.test",
        "civicrm+b.1.2.0123456789ABCDEF@crm.torproject.test",
        "civicrm@crm.torproject.test",
        "crm@crm-int-01.torproject.test",
        "root@crm-int-01.torproject.test",
        "info@crm.torproject.test",
    ):
        done = world.run(f"{server} '{refused}'")
        assert "<** 5" in done.stdout, (refused, done.stdout)


@pytest.mark.mutates
def test_each_site_gets_its_own_mail_with_the_address_intact(crm_int, world, eventually):
    """Mail to staging's addresses lands in staging's mailbox, To and Delivered-To as they were written (S8)."""
    address = f"civicrm+u.7.8.{time.time_ns() % 10**16:016d}@staging.crm.torproject.test"
    before = folder_counts(crm_int, "crm")
    world.check_output(f"outside-swaks --server crm-int-01.torproject.test --from a@outside.test --to '{address}'")
    text = eventually(
        lambda: crm_int.check_output(f"doveadm fetch -u staging-crm hdr mailbox INBOX header To '{address}'")
    )
    assert f"To: {address}" in text
    assert f"Delivered-To: {address}" in text
    assert folder_counts(crm_int, "crm") == before
    crm_int.check_output(f"doveadm expunge -u staging-crm mailbox INBOX header To '{address}'")


IMAP = """
import imaplib, json, ssl, sys
host, port, user, password = json.load(sys.stdin)
try:
    box = imaplib.IMAP4_SSL(host, port, ssl_context=ssl.create_default_context(), timeout=10)
    box.login(user, password)
    print(box.select("INBOX")[0])
except (OSError, imaplib.IMAP4.error) as error:
    print(type(error).__name__, error)
"""


def imap_login(crm_int, host: str, user: str, password: str) -> str:
    asked = json.dumps([host, 993, user, password])
    return crm_int.check_output(f"printf %s '{asked}' | python3 -c '{IMAP}'")


def test_imap_speaks_tls_on_loopback_only_and_knows_each_site(crm_int, vault):
    """A verified certificate, one password per site, and no other port or address (S8)."""
    password = vault["vault_sites"]["crm"]["mailbox_password"]
    assert imap_login(crm_int, "localhost", "crm", password) == "OK"
    assert "rror" in imap_login(crm_int, "localhost", "staging-crm", password)
    assert "rror" in imap_login(crm_int, "198.51.100.11", "crm", password)
    talk = "import socket; s = socket.create_connection(('localhost', 993), 5); s.sendall(b'a LOGIN crm x\\r\\n'); "
    assert "OK" not in crm_int.run(f'python3 -c "{talk} s.settimeout(5); print(s.recv(99))"').stdout
    assert crm_int.check_output("doveconf -h auth_allow_cleartext") == "no"
    listening = crm_int.check_output("ss -Hlntp | grep dovecot").splitlines()
    assert {line.split()[3] for line in listening} == {"127.0.0.1:993", "[::1]:993"}


@pytest.mark.mutates
@pytest.mark.parametrize(
    "unit", ["dovecot", "postfix", "mariadb", "redis-server@queue", "redis-server@cache-crm", "mtail"]
)
def test_a_killed_daemon_comes_back(crm_int, eventually, unit):
    """Untouched, Debian leaves Postfix and Dovecot dead after a SIGKILL."""
    pid = crm_int.check_output(f"systemctl show -p MainPID --value {unit}.service")
    crm_int.check_output(f"kill -KILL {pid}" if pid != "0" else "pkill -KILL -o -x master")
    eventually(
        lambda: (
            crm_int.service(f"{unit}.service").is_running
            and crm_int.check_output(f"systemctl show -p MainPID --value {unit}.service") not in (pid, "")
        ),
        within=60,
    )
    if unit == "postfix":
        eventually(lambda: crm_int.run("bash -c 'exec 3<>/dev/tcp/127.0.0.1/25; head -c 3 <&3'").stdout == "220")
