"""Staging cannot mail people, whatever it does; a site may send by SMTP; a receipt does not wait (P12, N24, S32).

Nothing that a diverted site submits may show in the fake providers' ledger; a mail of crm's, sent after it through the
same queue, tells when it would have arrived.
"""

from __future__ import annotations

import json
import shlex
import time

import pytest
from newsletters import ledger

pytestmark = [pytest.mark.mutates, pytest.mark.mail]

# Shell on int as a site's user: the message on standard input of sendmail. {to} is a person at a provider.
SHAPES = {
    "plain": "sendmail -i {to}",
    "forged sender": "sendmail -i -f civicrm+b.1.2.0123456789abcdef@crm.torproject.test {to}",
    "empty sender": "sendmail -i -f '' {to}",
    "from headers": "sendmail -t -i",
    "several people": "sendmail -i -f a@crm.torproject.test {to} b-{to} postmaster@crm.torproject.test",
}

SUBMIT = """
import json, smtplib, sys
login, password, sender, count, recipient, headers = json.load(sys.stdin)
with smtplib.SMTP("127.0.0.1", 587, timeout=20) as session:
    session.login(login, password)
    for n in range(1, count + 1):
        text = headers + "Subject: x" + chr(10) * 2 + "body" + chr(10)
        session.sendmail(sender.replace("{n}", str(n)), [recipient.replace("{n}", str(n))], text)
"""


def person(name: str) -> str:
    return f"{name}-{time.time_ns()}@accepting.test"


def received(uid: int) -> str:
    return (
        f"Received: by crm-int-01.torproject.test (Postfix, from userid {uid})\n"
        "\tid 4jWKRG0fdJzWSbn; Fri, 20 Nov 2026 00:00:00 +0000 (UTC)\n"
    )


def sendmail(crm_int, user: str, command: str, to: str, headers: str = "") -> None:
    """Submit one message as a user; a failure of sendmail is an error, as CiviCRM would book a bounce."""
    text = f"{headers}From: CRM <info@crm.torproject.test>\nTo: {to}\nSubject: x\n\nbody\n"
    line = f"printf %s {shlex.quote(text)} | /usr/sbin/{command.format(to=to)}"
    crm_int.check_output(f"runuser -u {user} -- sh -c {shlex.quote(line)}")


def submit(crm_int, user, login, password, sender, recipient, headers="", count=1):
    """Submit by SMTP on port 587, as an OS user with a site's login; returns the command's result."""
    asked = json.dumps([login, password, sender, count, recipient, headers])
    return crm_int.run(f"printf %s {shlex.quote(asked)} | runuser -u {user} -- python3 -c {shlex.quote(SUBMIT)}")


def caught(crm_int, site: str, to: str) -> list[str]:
    """Headers of what the site's catcher holds for an original recipient."""
    query = f"mailbox INBOX.Caught header X-Original-To {to}"
    out = crm_int.run(f"doveadm fetch -u {site} hdr {query}").stdout
    # Dovecot finds parts of an address as well.
    return [part for part in out.split("hdr:\n") if f"X-Original-To: {to}\n" in part]


def held(crm_int, text: str) -> list[dict]:
    lines = crm_int.check_output("postqueue -j").splitlines()
    hold = [m for m in map(json.loads, lines) if m["queue_name"] == "hold"]
    return [m for m in hold if text in crm_int.check_output(f"postcat -hq {m['queue_id']}")]


@pytest.fixture
def nothing_left(crm_int, world, eventually):
    """A function: a mail of crm's that is sent now arrives; none of these people ever got one."""

    def _nothing_left(*people: str) -> None:
        witness = person("witness")
        sendmail(crm_int, "crm", "sendmail -i {to}", witness)
        eventually(lambda: ledger(world, recipient=witness))
        for one in people:
            assert ledger(world, recipient=one) == []

    return _nothing_left


@pytest.mark.parametrize("shape", SHAPES)
def test_staging_is_caught_however_it_calls_sendmail(crm_int, eventually, nothing_left, shape):
    """Sender, recipients and headers are the application's choice; its uid is not (P12)."""
    to = person("staging")
    sendmail(crm_int, "staging-crm", SHAPES[shape], to)
    (headers,) = eventually(lambda: caught(crm_int, "staging-crm", to))
    assert f"X-Original-To: {to}" in headers
    assert "X-Mail-Policy: catch staging-crm" in headers
    nothing_left(to, f"b-{to}")


@pytest.mark.parametrize("other", ["crm", "test-crm", "postfix"])
def test_a_forged_received_line_changes_nothing(crm_int, eventually, nothing_left, other):
    """Only the line counts that Postfix itself put first (P12)."""
    to, uid = person("forged"), crm_int.user(other).uid
    forged = received(uid)
    sendmail(crm_int, "staging-crm", "sendmail -i {to}", to, forged)
    (headers,) = eventually(lambda: caught(crm_int, "staging-crm", to))
    assert "X-Mail-Policy: catch staging-crm" in headers
    assert caught(crm_int, "test-crm", to) == []
    nothing_left(to)


def test_a_forged_received_line_does_not_stop_crms_own_mail(crm_int, world, eventually):
    to, uid = person("own"), crm_int.user("staging-crm").uid
    forged = received(uid)
    sendmail(crm_int, "crm", "sendmail -i {to}", to, forged)
    eventually(lambda: ledger(world, recipient=to))
    assert caught(crm_int, "staging-crm", to) == []


def test_a_requeued_message_of_staging_is_caught_too(crm_int, eventually, nothing_left):
    """`postsuper -r` drops the diversion from the queue file and adds a line on top of the headers (P12)."""
    to = person("requeued")
    crm_int.check_output("pkill -STOP -x qmgr")
    try:
        sendmail(crm_int, "staging-crm", "sendmail -i {to}", to)
        # Found by its recipient, before the queue manager has it.
        (path,) = eventually(lambda: crm_int.run(f"grep -rl -- {to} /var/spool/postfix/incoming").stdout.split())
        queue_id = path.rsplit("/", 1)[1]
        crm_int.check_output(f"postsuper -h {queue_id} && postsuper -r {queue_id}")
    finally:
        crm_int.check_output("pkill -CONT -x qmgr")
    eventually(lambda: caught(crm_int, "staging-crm", to), within=90)
    nothing_left(to)


def test_panic_holds_what_staging_submits_and_resume_catches_it(crm_int, eventually, nothing_left):
    """The one emergency switch may not let a diverted message slip past the diversion (S18, P12)."""
    to = person("panic")
    crm_int.check_output("mailing panic --reason test")
    try:
        sendmail(crm_int, "staging-crm", "sendmail -i {to}", to)
        eventually(lambda: held(crm_int, f"X-Original-To: {to}"))
        assert caught(crm_int, "staging-crm", to) == []
    finally:
        crm_int.check_output("mailing resume --at-once")
    eventually(lambda: caught(crm_int, "staging-crm", to))
    nothing_left(to)


def test_staging_cannot_speak_smtp_to_anybody(crm_int):
    """Neither to this host, the hand-over to the catcher included, nor to a provider (P12)."""
    probe = (
        "import socket\n"
        "for place in [('127.0.0.1', port) for port in (25, 465, 587, 10025)] + [('198.51.100.21', 25)]:\n"
        "    try: socket.create_connection(place, 3); print('reached', place)\n"
        "    except OSError: pass"
    )
    assert crm_int.check_output(f"runuser -u staging-crm -- python3 -c {shlex.quote(probe)}") == ""


def test_crm_submits_by_smtp_with_its_login(crm_int, world, vault, eventually):
    """The second way CiviCRM sends: the envelope stays, Date and Message-ID are added (S32)."""
    to, password = person("smtp"), vault["vault_sites"]["crm"]["mailbox_password"]
    sender = f"civicrm+b.1.{time.time_ns() % 10**9 + 1}.0123456789abcdef@crm.torproject.test"
    done = submit(crm_int, "crm", "crm", password, sender, to)
    assert done.succeeded, done.stderr
    (entry,) = eventually(lambda: ledger(world, recipient=to))
    message = world.file(entry["message"]).content_string
    assert entry["sender"] == sender
    assert "(Authenticated sender: crm)" in message
    assert "\nDate: " in message
    assert "\nMessage-I" in message


def test_stagings_login_is_caught_whoever_uses_it(crm_int, vault, eventually, nothing_left):
    """Should the firewall let it pass one day, the login still tells who it is (P12)."""
    to, password = person("login"), vault["vault_sites"]["staging-crm"]["mailbox_password"]
    uid = crm_int.user("crm").uid
    done = submit(crm_int, "crm", "staging-crm", password, "info@crm.torproject.test", to, received(uid))
    assert done.succeeded, done.stderr
    eventually(lambda: caught(crm_int, "staging-crm", to))
    nothing_left(to)
    assert "535" in submit(crm_int, "crm", "crm", password, "info@crm.torproject.test", to).stderr


@pytest.mark.alone
def test_a_receipt_passes_five_thousand_mails_of_a_newsletter(crm_int, world, vault, eventually):
    """A donor waits for the receipt; the newsletter to the same provider takes an hour and more (N24)."""
    password, stamp = vault["vault_sites"]["crm"]["mailbox_password"], time.time_ns()
    crm_int.check_output("cp -p /etc/postfix/main.cf /run/main.cf.before")
    bulk, to = f"civicrm+b.{stamp % 10**9}.{{n}}.0123456789abcdef@crm.torproject.test", person("receipt")
    try:
        crm_int.check_output("postconf -e accepting_transport_rate_delay=1s && postfix reload")
        many = submit(
            crm_int, "crm", "crm", password, bulk, f"n{{n}}-{stamp}@accepting.test", "Precedence: bulk\n", 5000
        )
        assert many.succeeded, many.stderr
        start = time.monotonic()
        assert submit(crm_int, "crm", "crm", password, "info@crm.torproject.test", to).succeeded
        eventually(lambda: ledger(world, recipient=to), within=10)
        sendmail(crm_int, "crm", "sendmail -i {to}", f"2-{to}")
        eventually(lambda: ledger(world, recipient=f"2-{to}"), within=10)
        assert time.monotonic() - start < 20
        waiting = crm_int.check_output(f"postqueue -j | grep -c {stamp}@accepting.test")
        assert int(waiting) > 4000
    finally:
        crm_int.check_output("cp -p /run/main.cf.before /etc/postfix/main.cf && postfix reload")
        mine = (
            f"postqueue -j | jq -r 'select(.recipients[].address | endswith(\"-{stamp}@accepting.test\")) | .queue_id'"
        )
        crm_int.check_output(f"{mine} | postsuper -d -")
