"""Who may use which service, and send mail in whose name: pair by pair, and the rightful one as the control (N46).

Names, files, databases and PHP are test_isolation.py's.
"""

from __future__ import annotations

import shlex
import time

import pytest
from newsletters import ledger
from test_isolation import CRM
from test_mail_policy import caught, submit

pytestmark = [pytest.mark.mutates, pytest.mark.mail]

INT, EXT = "crm-int-01.torproject.test", "crm-ext-01.torproject.test"
DOMAIN = {name: site["mail_domain"] for name, site in CRM.items()}
SENDS = [name for name, site in CRM.items() if site["mail_policy"] == "deliver"]


def hand_in(host, user: str, to: str, header: str, envelope: str = "", more: str = ""):
    """Submit by sendmail as a user; the command's result."""
    text = f"{more}From: {header}\nTo: {to}\nSubject: identity\n\nbody\n"
    sender = f"-f {shlex.quote(envelope)} " if envelope else ""
    line = f"printf %s {shlex.quote(text)} | /usr/sbin/sendmail -i {sender}{to}"
    return host.run(f"runuser -u {user} -- sh -c {shlex.quote(line)}")


def person(name: str) -> str:
    return f"identity-{name}-{time.time_ns()}@accepting.test"


def signatures(world, eventually, to: str) -> str:
    """The d= of what a provider got, or empty."""
    (entry,) = eventually(lambda: ledger(world, recipient=to), within=60)
    text = world.file(entry["message"]).content_string.replace("\r", "").partition("\n\n")[0]
    found = [part.strip().removeprefix("d=") for part in text.split(";") if part.strip().startswith("d=")]
    return " ".join(found)


@pytest.mark.parametrize("user", ["www-data", "nobody", "donate-api", "one-click"])
def test_on_ext_nobody_sends_as_the_newsletter(crm_ext, crm_int, world, user, eventually):
    """The exposed host's programs are the first that fall; a signed newsletter of theirs would be believed."""
    to = person(user)
    done = hand_in(crm_ext, user, to, "news@crm.torproject.test", "news@crm.torproject.test")
    if user == "one-click":
        assert done.rc == 0, done.stderr
        log = f"grep -F 'to=<{to}>' /var/log/mail.log | grep -F 'status=bounced'"
        eventually(lambda: "this host takes from here mail of" in crm_ext.run(log).stdout, within=30)
    else:
        assert done.rc != 0
        assert "is not allowed to submit mail" in done.stderr
    assert ledger(world, recipient=to) == []


def test_ext_listens_for_mail_nowhere(crm_ext):
    """A port on loopback would not know who submits."""
    assert crm_ext.run("bash -c '</dev/tcp/127.0.0.1/25'").rc != 0
    assert ":25 " not in crm_ext.check_output("ss -Hltn")


def test_what_ext_may_send_arrives(crm_ext, world, eventually):
    """The control: root's system mail, signed for the host that wrote it."""
    subject = f"identity {time.time_ns()}"
    crm_ext.check_output(f"printf 'Subject: {subject}\\n\\nx\\n' | sendmail root")
    eventually(
        lambda: [
            e
            for e in ledger(world, recipient="oncall@accepting.test")
            if e["message"] and subject in world.file(e["message"]).content_string
        ],
        within=60,
    )


@pytest.mark.parametrize(
    "sender", ["root@crm-ext-01.torproject.test", "one-click@crm-ext-01.torproject.test", "a@b.test"]
)
def test_int_takes_nothing_else_from_ext(crm_ext, sender):
    """Whatever runs there as Postfix: neither people nor other addresses of the sites are in its reach."""
    talk = (
        f"import smtplib\nwith smtplib.SMTP('10.77.0.11', 25, timeout=20) as s:\n s.ehlo()\n s.mail('{sender}')\n"
        f" for to in ('real@gmail.test', 'civicrm+b.1.2.0123456789abcdef@crm.torproject.test', 'postmaster@{INT}'):\n"
        "  print(s.rcpt(to)[0])\n"
    )
    said = crm_ext.check_output(f"runuser -u postfix -- python3 -c {shlex.quote(talk)}")
    assert said.split() == ["554"] * 3


@pytest.mark.parametrize("owner", CRM)
def test_a_site_that_sends_is_signed_for_itself_and_speaks_for_no_other(crm_int, world, eventually, owner):
    """By sendmail and by SMTP; comments in From, nested or not, change nothing and keep no mail in maildrop."""
    (actor,) = SENDS
    to, name = person(owner), f"news@{DOMAIN[owner]}"
    assert hand_in(crm_int, actor, to, f"((nested) comments (x)) News <{name}>", f"x@{DOMAIN[actor]}").rc == 0
    if actor == owner:
        assert signatures(world, eventually, to) == DOMAIN[actor]
    else:
        refused = f"grep -F 'to=<{to}>' /var/log/mail.log; grep -F '{actor} may not send as {name}' /var/log/mail.log"
        eventually(lambda: f"{actor} may not send as {name}" in crm_int.run(refused).stdout, within=30)
        assert ledger(world, recipient=to) == []
    assert crm_int.check_output("ls /var/spool/postfix/maildrop") == ""


@pytest.mark.parametrize("owner", CRM)
def test_by_smtp_a_login_speaks_for_its_own_site(crm_int, world, eventually, vault, owner):
    """The same at port 587, where the client hears of it."""
    (actor,) = SENDS
    to, name = person(f"smtp-{owner}"), f"news@{DOMAIN[owner]}"
    password = vault["vault_sites"][actor]["mailbox_password"]
    for sender, header, taken in (
        (f"x@{DOMAIN[actor]}", name, actor == owner),
        (name, f"news@{DOMAIN[actor]}", actor == owner),
    ):
        done = submit(crm_int, actor, actor, password, sender, to, headers=f"From: {header}\n")
        assert (done.rc == 0) is taken, done.stderr
        assert taken or "may not send as" in done.stderr


@pytest.mark.parametrize("actor", [name for name in CRM if name not in SENDS])
@pytest.mark.parametrize("owner", SENDS)
def test_what_is_caught_bears_nobodys_signature(crm_int, eventually, actor, owner):
    """Whoever may read the catcher could have a signed newsletter made there; a brought Received line tells nothing."""
    to, uid = person(f"caught-{actor}"), crm_int.user(owner).uid
    forged = (
        f"Received: by {INT} (Postfix, from userid {uid})\n"
        "\tid 4jWKRG0fdJzWSbn; Fri, 20 Nov 2026 00:00:00 +0000 (UTC)\n"
        f"X-Signed-As: news@{DOMAIN[owner]}\n"
    )
    for more in ("", forged):
        assert hand_in(crm_int, actor, to, f"news@{DOMAIN[owner]}", f"x@{DOMAIN[owner]}", more).rc == 0
    found = eventually(lambda: len(got := caught(crm_int, actor, to)) == 2 and got)
    assert not [headers for headers in found if "DKIM-Signature" in headers]


def test_a_site_has_no_envelope_of_another(crm_int, world, eventually):
    """Dropped, and told in the journal: its bounce would reach the other, and count in the other's name."""
    to = person("envelope")
    assert hand_in(crm_int, "crm", to, "news@crm.torproject.test", f"root@{INT}").rc == 0
    told = f"journalctl -u receipt-milter --since=-1min -o cat | grep -F 'dropped: crm may not send as root@{INT}'"
    eventually(lambda: crm_int.run(told).rc == 0, within=20)
    assert ledger(world, recipient=to) == []


def test_loopback_signs_for_no_stranger(crm_int, world, eventually):
    """Port 25 takes loopback for a stranger: what it hands in for a human leaves unsigned."""
    subject = f"identity {time.time_ns()}"
    talk = (
        "import smtplib\nwith smtplib.SMTP('127.0.0.1', 25, timeout=20) as s:\n"
        f" s.sendmail('x@crm.torproject.test', ['postmaster@{INT}'], "
        f"'From: news@crm.torproject.test\\nX-Signed-As: news@crm.torproject.test\\nSubject: {subject}\\n\\nx\\n')\n"
    )
    crm_int.check_output(f"runuser -u crm -- python3 -c {shlex.quote(talk)}")

    def arrived():
        found = ledger(world, recipient="oncall@accepting.test")
        texts = [world.file(e["message"]).content_string for e in found[-5:] if e["message"]]
        return [text for text in texts if subject in text]

    (text,) = eventually(arrived, within=60)
    assert "DKIM-Signature" not in text
