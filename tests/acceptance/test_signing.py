"""What leaves is signed, and the published records prove it to a stranger (P1, P2)."""

from __future__ import annotations

import hashlib
import json
import re
import time

import pytest
from newsletters import ledger, newsletter, run_job

HELO = "crm-int-01.torproject.test"


def verdict(world, path: str, entry: dict) -> dict:
    """What a provider thinks of a stored message (mail-verdict on world)."""
    done = world.run(
        f"mail-verdict {path} --client {entry['peer']} --helo {entry['helo']} --sender '{entry['sender'] or ''}'"
    )
    assert done.rc in (0, 1), done.stderr
    return json.loads(done.stdout)


def received(world, eventually, recipient: str) -> dict:
    return eventually(lambda: ledger(world, recipient=recipient), within=60)[0]


@pytest.fixture(scope="module")
def mailing(crm_int, world, eventually) -> dict:
    """The provider's entry for one newsletter that was accepted."""
    address = f"signed-{time.time_ns()}@accepting.test"
    newsletter(crm_int, f"create --group signed-{time.time_ns()} --contact {address}")
    run_job(crm_int, "process-mailing")
    return received(world, eventually, address)


@pytest.mark.mutates
def test_a_mailing_passes_every_check_of_a_provider(world, mailing):
    """Signature, alignment with From, SPF of the envelope, and a PTR that points back (P1, P2)."""
    found = verdict(world, mailing["message"], mailing)
    assert (found["dkim"], found["spf"], found["dmarc"]) == ("pass", "pass", "pass"), found
    assert found["domain"] == "crm.torproject.test"
    assert (found["ptr"], found["ptr_confirmed"]) == (HELO, True)
    assert found["policy"] == "reject"
    # From is signed once more than it occurs; the headers of unsubscribing are signed at all.
    assert found["signed"].count("from") == 2
    assert {"list-unsubscribe", "list-unsubscribe-post", "feedback-id", "subject", "to"} <= set(found["signed"])


@pytest.mark.mutates
@pytest.mark.parametrize(
    "change",
    [
        "s/^Subject: /Subject: not /",
        r"s#^\(List-Unsubscribe: <https://\)#\1evil.#",
        "$ a one more line",
        "0,/^From:/s/^From:/From: eve@crm.torproject.test\\nFrom:/",
    ],
    ids=["subject", "unsubscribe", "body", "second-from"],
)
def test_whoever_changes_a_mailing_breaks_its_signature(world, mailing, change):
    """The verifier does look: what passes above fails once a signed part is another (P1)."""
    copy = "/tmp/changed-mail"
    world.check_output(f"sed '{change}' {mailing['message']} >{copy} && ! cmp -s {mailing['message']} {copy}")
    assert verdict(world, copy, mailing)["dkim"].startswith("fail")


@pytest.mark.mutates
def test_google_can_tell_mailings_apart(world, mailing):
    """Feedback-ID names mailing, site and sender (P1)."""
    message = world.file(mailing["message"]).content_string.replace("\r", "")
    (job,) = re.findall(r"(?m)^job_id: (\d+)", message)
    assert re.findall(r"(?m)^Feedback-ID: (.*)$", message) == [f"{job}:crm:mailing:torproject"]


@pytest.mark.mutates
@pytest.mark.parametrize("host", ["crm_int", "crm_ext"])
def test_system_mail_is_signed_too(request, world, eventually, host):
    """Root's mail of both hosts leaves int, in the name of the host that wrote it (P1)."""
    origin = request.getfixturevalue(host)
    subject, since = f"signed {time.time_ns()}", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 5))
    origin.check_output(f"printf 'Subject: {subject}\\n\\nx\\n' | sendmail root")

    def arrived():
        found = ledger(world, recipient="oncall@accepting.test", since=since)
        return [e for e in found if e["message"] and subject in world.file(e["message"]).content_string]

    (entry,) = eventually(arrived, within=60)
    found = verdict(world, entry["message"], entry)
    name = origin.check_output("postconf -h myhostname")
    assert (found["dkim"], found["domain"], found["dmarc"]) == ("pass", name, "pass"), found


@pytest.mark.mutates
def test_mail_from_the_world_is_not_signed(crm_int, world, eventually):
    """Who writes to us in our name gets no signature, although the message passes on to a human (P1)."""
    subject, since = f"forged {time.time_ns()}", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 5))
    world.check_output(
        f"outside-swaks --server {HELO} --from news@crm.torproject.test --to postmaster@crm.torproject.test "
        f"--header 'Subject: {subject}'"
    )

    def arrived():
        found = ledger(world, recipient="oncall@accepting.test", since=since)
        return [e for e in found if e["message"] and subject in world.file(e["message"]).content_string]

    (entry,) = eventually(arrived, within=60)
    assert "DKIM-Signature:" not in world.file(entry["message"]).content_string


@pytest.mark.mutates
def test_without_the_signer_mail_waits_and_sendmail_succeeds(crm_int, world, eventually):
    """CiviMail books any failure of sendmail as a bounce for good; and nothing may leave unsigned (P1)."""
    address = f"waits-{time.time_ns()}@accepting.test"
    crm_int.check_output("systemctl stop opendkim.service")
    try:
        handed = crm_int.run(
            f"printf 'From: news@crm.torproject.test\\nSubject: x\\n\\nx\\n' | runuser -u crm -- sendmail {address}"
        )
        assert handed.rc == 0, handed.stderr
        eventually(lambda: crm_int.check_output("ls /var/spool/postfix/maildrop"), within=20)
        assert not ledger(world, recipient=address)
    finally:
        crm_int.check_output("systemctl start opendkim.service")
    # pickup looks again each minute; whoever cannot wait tells it.
    eventually(lambda: crm_int.run('postkick public pickup W; test -z "$(ls /var/spool/postfix/maildrop)"').rc == 0)
    entry = received(world, eventually, address)
    assert verdict(world, entry["message"], entry)["dkim"] == "pass"


@pytest.mark.mutates
def test_a_killed_signer_comes_back(crm_int, eventually):
    """While it is down all outgoing mail waits."""
    pid = crm_int.check_output("systemctl show -p MainPID --value opendkim.service")
    crm_int.check_output(f"kill -KILL {pid}")
    eventually(
        lambda: (
            crm_int.service("opendkim.service").is_running
            and crm_int.check_output("systemctl show -p MainPID --value opendkim.service") not in (pid, "0", "")
        )
    )


def test_only_the_signer_reads_the_keys(crm_int):
    """Whoever has a key signs in our name (P1)."""
    files = crm_int.check_output("find /etc/dkimkeys -name '*.pem' -printf '%m %u %f\\n'").splitlines()
    assert len(files) == 3
    assert {line.rsplit(" ", 1)[0] for line in files} == {"600 opendkim"}
    assert crm_int.run("runuser -u crm -- ls /etc/dkimkeys").rc != 0
    # Nor does a site get signatures for what it likes.
    assert crm_int.run("test -S /run/opendkim/opendkim.sock").rc == 0
    assert crm_int.run("runuser -u crm -- test -w /run/opendkim/opendkim.sock").rc != 0


def test_the_published_key_of_port_25_is_the_one_in_use(crm_int, world):
    """DANE: a sender that finds another key refuses to deliver, for days and in silence (P2)."""
    published = world.check_output(f"dig +short _25._tcp.{HELO} TLSA").split(maxsplit=3)
    assert published[:3] == ["3", "1", "1"]
    der = world.run(
        f"openssl s_client -starttls smtp -connect {HELO}:25 </dev/null 2>/dev/null | openssl x509 -noout -pubkey "
        "| openssl pkey -pubin -outform DER | sha256sum"
    ).stdout.split()[0]
    assert re.fullmatch(r"[0-9a-f]{64}", der)
    assert published[3].replace(" ", "").lower() == der != hashlib.sha256(b"").hexdigest()


def test_sites_that_never_send_say_so(world):
    """Nobody may use the name of staging or test (P2)."""
    for name in ("staging.crm.torproject.test", "test.crm.torproject.test"):
        assert world.check_output(f"dig +short {name} TXT") == '"v=spf1 -all"'
        assert "; p=reject; " in world.check_output(f"dig +short _dmarc.{name} TXT")
        assert world.check_output(f"dig +short {name} MX") == f"10 {HELO}."


def test_receivers_know_where_to_report(world):
    """Reports show a broken signature before the mailings land in spam (P2)."""
    assert "rua=mailto:" in world.check_output("dig +short _smtp._tls.crm.torproject.test TXT")
    assert "rua=mailto:" in world.check_output("dig +short _dmarc.crm.torproject.test TXT")
