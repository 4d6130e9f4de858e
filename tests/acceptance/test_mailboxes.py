"""What comes back lies in its site's mailbox, whole, and waits where it cannot (S8, N9).

Nothing here needs the application: the scenario debian12 runs this file, too.
"""

from __future__ import annotations

import json
import re
import shlex
import time

import pytest
from daemons import is_back, kill
from newsletters import folder_counts

pytestmark = pytest.mark.mail

STAGING = "staging.crm.torproject.test"
TEST = "test.crm.torproject.test"
OUTSIDE = "outside-swaks --server crm-int-01.torproject.test --from a@outside.test"


def fresh(domain: str = STAGING) -> str:
    """An address of the contract that nobody has written to before."""
    return f"civicrm+u.7.8.{time.time_ns() % 10**16:016d}@{domain}"


def found(crm_int, site: str, address: str, folder: str = "INBOX") -> str:
    """Headers of what lies in a folder for an address, or nothing."""
    return crm_int.check_output(f"doveadm fetch -u {site} hdr mailbox {folder} header To '{address}'")


@pytest.fixture
def clean(crm_int):
    """Nobody empties the mailboxes of staging and test but us."""
    yield
    for site in ("staging-crm", "test-crm"):
        crm_int.check_output(f"doveadm expunge -u {site} mailbox INBOX all")


@pytest.mark.mutates
def test_the_world_may_write_to_the_contracts_addresses_and_to_nobody_else(world):
    """Only addresses that CiviMail makes, postmaster and abuse exist; anything else is refused at RCPT (S8)."""
    server = f"{OUTSIDE} --quit-after RCPT --to"
    for accepted in (
        "civicrm+b.2936.7009506.26d7b951968ebe4b@crm.torproject.test",
        "civicrm+u.1.2.0123456789abcdef@staging.crm.torproject.test",
        "civicrm+o.1.2.0123456789ghijkl@test.crm.torproject.test",
        "civicrm+u.1.2.0123456789abcdef@CRM.TorProject.TEST",
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
        "CIVICRM+B.1.2.0123456789abcdef@crm.torproject.test",
        "civicrm+b.1.2.0123456789abcdef+x@crm.torproject.test",
        "civicrm+b.1.2.0123456789abcdef%accepting.test@crm.torproject.test",
        "civicrm@crm.torproject.test",
        "crm@crm-int-01.torproject.test",
        "root@crm-int-01.torproject.test",
        "info@crm.torproject.test",
    ):
        done = world.run(f"{server} '{refused}'")
        assert "<** 5" in done.stdout, (refused, done.stdout)


@pytest.mark.mutates
def test_relay_from_outside_is_refused(world):
    """An open relay is found within the hour and blocked within the day (S42)."""
    for sender, recipient in (
        ("spammer@outside.test", "victim@accepting.test"),
        ("newsletter@crm.torproject.test", "victim@accepting.test"),
        ("<>", "victim@accepting.test"),
        ("a@outside.test", "victim%accepting.test@crm.torproject.test"),
        ("a@outside.test", "@accepting.test:victim@crm.torproject.test"),
        ("a@outside.test", "victim@accepting.test@crm.torproject.test"),
        ("a@outside.test", '"victim@accepting.test"@crm.torproject.test'),
        ("a@outside.test", "accepting.test!victim@crm.torproject.test"),
        ("a@outside.test", "victim%accepting.test@crm-int-01.torproject.test"),
        ("a@outside.test", "victim@[198.51.100.21]"),
        ("root@crm-ext-01.torproject.test", "oncall@accepting.test"),
    ):
        done = world.run(f"outside-swaks --server crm-int-01.torproject.test --from '{sender}' --to '{recipient}'")
        assert re.search(r"<\*\* 5\d\d|<\*\* 4\d\d", done.stdout), done.stdout


@pytest.mark.mutates
@pytest.mark.parametrize("domain", [STAGING, STAGING.title()])
def test_each_site_gets_its_own_mail_with_the_address_intact(crm_int, world, clean, eventually, domain):
    """Mail to staging's addresses lands in staging's mailbox, To and Delivered-To as they were written (S8)."""
    address = fresh(domain)
    before = folder_counts(crm_int, "crm")
    world.check_output(f"{OUTSIDE} --to '{address}'")
    text = eventually(lambda: found(crm_int, "staging-crm", address))
    assert f"To: {address}" in text
    assert f"Delivered-To: {address}" in text
    assert folder_counts(crm_int, "crm") == before


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
    assert crm_int.check_output("doveconf -h ssl") == "required"
    listening = crm_int.check_output("ss -Hlntp | grep dovecot").splitlines()
    assert {line.split()[3] for line in listening} == {"127.0.0.1:993", "[::1]:993"}


@pytest.mark.mutates
def test_a_refused_recipients_report_comes_back(crm_int, clean, eventually):
    """A real DSN of our Postfix, through the breaker, which lets a genuine 5.1.1 pass, to the sender's mailbox (S8)."""
    sender = fresh()
    crm_int.check_output(f"printf 'Subject: x\\n\\nx\\n' | /usr/sbin/sendmail -f '{sender}' nobody@refusing.test")
    fetch = f"doveadm fetch -u staging-crm text mailbox INBOX header To '{sender}'"
    text = eventually(lambda: crm_int.check_output(fetch), within=120)
    assert f"Delivered-To: {sender}" in text
    assert "Status: 5.1.1" in text
    assert re.search(r"^Diagnostic-Code: smtp; 550 5\.1\.1 <nobody@refusing\.test>", text, re.M)
    assert folder_counts(crm_int, "staging-crm")["INBOX.Incoming"] == 0


@pytest.mark.mutates
def test_new_mail_waits_before_inbox_until_the_breaker_has_seen_it(crm_int, world, clean, eventually):
    """Dovecot hands nothing to the application itself (N9)."""
    address = fresh()
    crm_int.check_output("systemctl stop bounce-breaker.service")
    try:
        world.check_output(f"{OUTSIDE} --to '{address}'")
        eventually(lambda: found(crm_int, "staging-crm", address, "INBOX.Incoming"))
        assert found(crm_int, "staging-crm", address) == ""
    finally:
        crm_int.check_output("systemctl start bounce-breaker.service")
    eventually(lambda: found(crm_int, "staging-crm", address))
    assert found(crm_int, "staging-crm", address, "INBOX.Incoming") == ""


# A message of SIZE bytes that takes no room: Dovecot believes the sizes in a Maildir's file name.
FILL = """
import os, pathlib, pwd, sys
size = int(sys.argv[1])
box, owner = pathlib.Path("/srv/mail/test-crm/Maildir/cur"), pwd.getpwnam("vmail-test-crm")
for old in box.glob("*.filler,*"):
    old.unlink()
if size:
    filler = box / f"1.{size}.filler,S={size},W={size}:2,S"
    filler.write_text("Subject: filler\\n\\n")
    os.chown(filler, owner.pw_uid, owner.pw_gid)
"""


@pytest.fixture
def fill(crm_int):
    """A function (share, less=0) that leaves one message, of that share of the quota, in test's INBOX."""

    def _fill(share: float, less: int = 0) -> None:
        table = crm_int.check_output("doveadm -f tab quota get -u test-crm").splitlines()
        limit = next(int(row.split("\t")[3]) for row in table if "\tSTORAGE\t" in row) * 1024
        crm_int.check_output(f"python3 -c '{FILL}' {int(share * limit) - less}")
        crm_int.check_output("doveadm quota recalc -u test-crm")

    yield _fill
    _fill(0)


def submit(crm_int, address: str, size: int) -> None:
    """Hand Postfix a message of so many bytes."""
    headers = f"printf 'To: %s\\nSubject: x\\n\\n' '{address}'"
    body = f"head -c {size} /dev/zero | tr '\\0' x | fold -w 70"
    crm_int.check_output(f"{{ {headers}; {body}; echo; }} | /usr/sbin/sendmail -f root '{address}'")


@pytest.mark.mutates
@pytest.mark.parametrize("percent", [80, 95])
def test_somebody_is_warned_before_a_mailbox_is_full(crm_int, fill, clean, eventually, percent):
    """Once the mailbox grows past a threshold, in the log that alerts are made from (S8)."""
    warning = f"grep -c 'dovecot-quota.*mailbox test-crm is {percent} % full' /var/log/mail.log"
    before = int(crm_int.run(warning).stdout)
    fill(percent / 100, less=10_000)
    address = fresh(TEST)
    submit(crm_int, address, 50_000)
    eventually(lambda: int(crm_int.run(warning).stdout) == before + 1)
    eventually(lambda: found(crm_int, "test-crm", address))


@pytest.mark.mutates
def test_mail_for_a_full_mailbox_waits_in_the_queue(crm_int, fill, clean, eventually):
    """Neither lost nor sent back; once there is room it arrives (S8)."""
    address = fresh(TEST)
    fill(1.1)
    submit(crm_int, address, 100)

    def waiting() -> list[dict]:
        queue = [json.loads(line) for line in crm_int.check_output("postqueue -j").splitlines()]
        return [m for m in queue if any(r["address"] == address and r.get("delay_reason") for r in m["recipients"])]

    (message,) = eventually(waiting)
    assert message["queue_name"] == "deferred"
    assert re.search(r"\b4\.2\.2\b", message["recipients"][0]["delay_reason"]), message
    fill(0)
    crm_int.check_output(f"postqueue -i {message['queue_id']}")
    eventually(lambda: found(crm_int, "test-crm", address))
    assert waiting() == []


@pytest.mark.mutates
def test_dovecot_killed_in_a_storm_loses_nothing(crm_int, world, clean, eventually):
    """Postfix keeps what Dovecot has not acknowledged; a lost acknowledgement may bring a message twice (S8, N9)."""
    address = fresh()
    for number in range(20):
        world.check_output(f"{OUTSIDE} --to '{address}' --header 'Subject: n{number}'")
        if number % 5 == 2:
            crm_int.check_output("systemctl kill --signal KILL dovecot.service")
    fetch = f"doveadm fetch -u staging-crm hdr.subject mailbox INBOX header To '{address}'"

    def arrived() -> bool:
        # The next try would come after minutes.
        crm_int.check_output("postqueue -f")
        return set(re.findall(r"\bn\d+$", crm_int.run(fetch).stdout, re.M)) == {f"n{n}" for n in range(20)}

    eventually(arrived, within=120, every=2)
    eventually(lambda: address not in crm_int.check_output("postqueue -j"))


BURST = """
import smtplib, sys, threading
def send():
    with smtplib.SMTP("crm-int-01.torproject.test", 25, "mx.outside.test", 60) as session:
        for _ in range(40):
            session.sendmail("", sys.argv[1:], "To: " + sys.argv[1] + chr(10) * 2 + "burst" * 800)
threads = [threading.Thread(target=send) for _ in range(10)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.alone
@pytest.mark.mutates
def test_a_burst_to_one_mailbox_waits_for_nothing(crm_int, world, clean, eventually):
    """Bounces come as fast as the mailing went; what Dovecot puts off comes back after minutes (S8)."""
    address = fresh()
    seen = "cat /var/log/mail.log | wc -l"
    start = int(crm_int.check_output(seen))
    world.check_output(f"python3 -c {shlex.quote(BURST)} '{address}'")
    search = f"doveadm search -u staging-crm header To '{address}' | wc -l"
    eventually(lambda: int(crm_int.check_output(search)) == 400, within=60, every=1)
    log = f"tail -n +{start} /var/log/mail.log | grep -F '{address}' | grep -c status=deferred"
    assert crm_int.run(log).stdout.strip() == "0"


@pytest.mark.mutates
@pytest.mark.parametrize("unit", ["dovecot", "postfix", "mtail"])
def test_a_killed_daemon_comes_back(crm_int, eventually, unit):
    """Untouched, Debian leaves Postfix and Dovecot dead after a SIGKILL."""
    killed = kill(crm_int, unit)
    eventually(lambda: is_back(crm_int, unit, killed))
    if unit == "postfix":
        eventually(lambda: crm_int.run("bash -c 'exec 3<>/dev/tcp/127.0.0.1/25; head -c 3 <&3'").stdout == "220")


@pytest.mark.mutates
def test_a_killed_postfix_comes_back_though_a_session_is_open(crm_int, eventually):
    """Its children outlive it for minutes: systemd must not take them for Postfix."""
    session = "exec 3<>/dev/tcp/127.0.0.1/25; head -c 3 <&3; sleep 100"
    crm_int.check_output(f"systemd-run --unit open-session bash -c '{session}'")
    try:
        eventually(lambda: crm_int.run("pgrep -x smtpd").rc == 0)
        killed = kill(crm_int, "postfix")
        eventually(lambda: is_back(crm_int, "postfix", killed))
    finally:
        crm_int.run("systemctl stop open-session.service")


def test_the_documented_count_of_a_mailbox_names_every_folder(crm_int):
    """'INBOX*' alone prints nothing in Dovecot 2.4. The tests before have brought the site mail."""
    said = crm_int.check_output("doveadm mailbox status -u crm messages INBOX 'INBOX.*'")
    lines = [re.fullmatch(r"(INBOX\S*) messages=\d+", line) for line in said.splitlines()]
    assert all(lines), said
    assert {"INBOX", "INBOX.Incoming"} <= {found[1] for found in lines}
