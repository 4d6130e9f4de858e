"""Whatever the world writes to the mailbox is filed or refused, and the jobs go on (S8, N8, N9)."""

from __future__ import annotations

import base64
import io
import json
import shlex
import time
import zipfile

import pytest
from newsletters import contact, folder_counts, newsletter, run_job
from reports import dsn

# Bytes as they are: swaks would mend them.
SEND = """
import base64, json, smtplib, sys
source, recipient, messages = json.load(sys.stdin)
for name, text in messages.items():
    with smtplib.SMTP("crm-int-01.torproject.test", 25, "mx.outside.test", 120, (source, 0)) as session:
        try:
            session.sendmail("a@outside.test", [recipient], base64.b64decode(text))
            print(name, 250)
        except smtplib.SMTPResponseException as answer:
            print(name, answer.smtp_code)
"""
HEAD = b"From: a@outside.test\r\nTo: <TO>\r\nMIME-Version: 1.0\r\nMessage-ID: <NAME>\r\n"


def zip_bomb() -> bytes:
    """A few kilobytes that unpack to 2 GB: an archive of ten archives of 200 MB of NUL."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("zeros", "w") as member:
        for _ in range(200):
            member.write(bytes(10**6))
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(10):
            archive.writestr(f"{number}.zip", inner.getvalue())
    return base64.encodebytes(outer.getvalue()).replace(b"\n", b"\r\n")


def report(diagnosis: bytes) -> bytes:
    """A delivery report whose last part is what somebody wants it to be."""
    return (
        HEAD + b'Content-Type: multipart/report; report-type=delivery-status; boundary="x"\r\n\r\n'
        b"--x\r\nContent-Type: message/delivery-status\r\n\r\n" + diagnosis
    )


def bad_messages() -> dict[str, bytes]:
    """{name: a message as no well-behaved program writes it}."""
    level = b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n'
    nested = [level % (number, number) for number in range(300)]
    return {
        "no-header-at-all": b"\r\n",
        "no-body": HEAD,
        "nul-bytes": HEAD + b"Subject: a\0b\r\n\r\na\0b\r\n",
        "eight-bit-noise": HEAD
        + b"Subject: \xff\xfe\x80\r\nContent-Type: \xe9\r\n\r\n"
        + bytes(range(128, 256))
        + b"\r\n",
        "unending-boundary": HEAD
        + b'Content-Type: multipart/mixed; boundary="'
        + b"y" * 900
        + b"\r\n\r\n--y\r\n\r\nx\r\n",
        "ninety-levels": HEAD + b"".join(nested[:90]),
        "three-hundred-levels": HEAD + b"".join(nested),
        "report-of-nothing": report(b""),
        "report-with-noise": report(b"Status: 9999.x\r\nFinal-Recipient: \xff\r\nAction: \r\n: \r\n"),
        "unknown-encodings": HEAD + b"Content-Type: text/plain; charset=nowhere-8\r\n"
        b"Content-Transfer-Encoding: gibberish\r\nSubject: =?nowhere?b?////?=\r\n\r\n=ZZ\r\n",
        "broken-base64": HEAD + b"Content-Transfer-Encoding: base64\r\n\r\n" + b"A===" * 17 + b"\r\n",
        "ten-thousand-recipients": HEAD
        + b"Cc: "
        + b",\r\n ".join(b"someone-%d@outside.test" % number for number in range(10_000))
        + b"\r\nSubject: all of you\r\n\r\nx\r\n",
        "away-from-office": HEAD + b"Auto-Submitted: auto-replied\r\nSubject: Away\r\n\r\nBack on Monday.\r\n",
        "zip-bomb": HEAD + b'Content-Type: multipart/mixed; boundary="x"\r\n\r\n--x\r\n'
        b'Content-Type: application/zip; name="a.zip"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
        + zip_bomb()
        + b"--x--\r\n",
        "mail-loop": HEAD + b"Received: from a by b; Fri, 2 Jan 2026 00:00:00 +0000\r\n" * 120 + b"\r\nx\r\n",
    }


def source(world) -> str:
    """The outside client's address."""
    return world.check_output("sed -n 's/.*--local-interface \\([^ ]*\\) .*/\\1/p' $(command -v outside-swaks)")


def send(world, address: str, messages: dict[str, bytes]) -> dict[str, int]:
    """Send from outside, one session each: {name: SMTP's answer}."""
    coded = {name: base64.b64encode(text).decode() for name, text in messages.items()}
    call = json.dumps([source(world), address, coded])
    directory = world.check_output("mktemp -d")
    for number in range(0, len(call), 60_000):
        world.check_output(f"printf %s {shlex.quote(call[number : number + 60_000])} >>{directory}/call")
    out = world.check_output(f"python3 -c {shlex.quote(SEND)} <{directory}/call; rm -r {directory}")
    return {line.split()[0]: int(line.split()[1]) for line in out.splitlines()}


def send_large(world, address: str, size: int) -> int:
    """Send so many bytes without a word of their number before: SMTP's answer. They are made over there."""
    talk = f"""
import smtplib
with smtplib.SMTP("crm-int-01.torproject.test", 25, "mx.outside.test", 120, ("{source(world)}", 0)) as session:
    session.ehlo(), session.mail("a@outside.test"), session.rcpt("{address}")
    print(session.data("Subject: large\\r\\n\\r\\n" + ("x" * 70 + "\\r\\n") * ({size} // 72))[0])
"""
    return int(world.check_output(f"python3 -c {shlex.quote(talk)}"))


@pytest.fixture
def readers(crm_int):
    """Two readers of a mailing and where their bounces come back to, while no timer fetches: {reader: address}."""
    stamp = time.time_ns()
    people = [f"hostile-{number}-{stamp}@accepting.test" for number in range(2)]
    crm_int.check_output("systemctl stop civicrm-crm-fetch-bounces.timer")
    newsletter(crm_int, f"create --group hostile-{stamp} --contact {people[0]} --contact {people[1]}")
    run_job(crm_int, "process-mailing")
    query = (
        "SELECT e.email, CONCAT_WS('.', q.job_id, q.id, q.hash) FROM crm.civicrm_mailing_event_queue q "  # noqa: S608
        f"JOIN crm.civicrm_email e ON e.id = q.email_id WHERE e.email LIKE 'hostile-_-{stamp}@%' ORDER BY e.email"
    )
    keys = dict(line.split() for line in crm_int.check_output(f'mariadb -NBe "{query}"').splitlines())
    assert list(keys) == people
    yield {reader: f"civicrm+b.{key}@crm.torproject.test" for reader, key in keys.items()}
    crm_int.check_output("systemctl start civicrm-crm-fetch-bounces.timer")


@pytest.mark.mutates
def test_bad_messages_are_filed_or_refused_and_the_bounce_behind_them_counts(crm_int, world, readers, eventually):
    """Size, loops and bottomless nesting are refused at SMTP; the rest ends in one folder each, nothing before it."""
    (_, address), (reader, genuine) = readers.items()
    messages = {
        name: text.replace(b"<TO>", address.encode()).replace(b"<NAME>", b"<%b@outside.test>" % name.encode())
        for name, text in bad_messages().items()
    }
    before = folder_counts(crm_int)
    said = send(world, address, messages)
    refused = {name: code for name, code in said.items() if code != 250}
    assert refused == {"mail-loop": 554, "three-hundred-levels": 550}
    assert send_large(world, address, 50_000_000) == 552
    bounce = dsn(reader, to=genuine).replace(b"\n", b"\r\n")
    assert send(world, genuine, {"bounce": bounce}) == {"bounce": 250}
    accepted = len(messages) - len(refused) + 1
    eventually(lambda: sum(folder_counts(crm_int).values()) == sum(before.values()) + accepted, within=60)
    for _ in range(4):
        run_job(crm_int, "fetch-bounces")
    after = folder_counts(crm_int)
    assert after["INBOX"] == after["INBOX.Incoming"] == 0, after
    assert sum(after.values()) == sum(before.values()) + accepted, "each in exactly one folder"
    assert contact(crm_int, reader)["on_hold"] is True
    assert crm_int.check_output("systemctl is-active bounce-breaker.service dovecot.service") == "active\nactive"


# What some server takes for the end of a message (CVE-2023-51764): only CR LF . CR LF is one.
ENDS = {
    "lf": b"\n.\n",
    "lf-crlf": b"\n.\r\n",
    "crlf-lf": b"\r\n.\n",
    "cr": b"\r.\r",
    "crlf-cr": b"\r\n.\r",
    "cr-crlf": b"\r.\r\n",
    "nul": b"\r\n.\0\r\n",
    "two-cr": b"\r\r\n.\r\r\n",
}
SMUGGLE = """
import base64, json, socket, sys
source, ends = json.load(sys.stdin)
for name, end in ends.items():
    with socket.create_connection(("crm-int-01.torproject.test", 25), 30, (source, 0)) as s:
        lines = s.makefile("rb")
        def answer():
            line = lines.readline()
            while line[3:4] == b"-":
                line = lines.readline()
            return line[:3].decode()
        def say(text):
            s.sendall(text)
            return answer()
        answer()
        to = [b"MAIL FROM:<a@outside.test>", b"RCPT TO:<postmaster@crm.torproject.test>", b"DATA"]
        for text in (b"EHLO mx.outside.test", *to):
            said = say(text + b"\\r\\n")
        assert said == "354", said
        end = base64.b64decode(end)
        first, second = (b"Subject: %b %b\\r\\n\\r\\nx" % (what, name.encode()) for what in (b"outer", b"smuggled"))
        s.sendall(first + end + b"\\r\\n".join([*to, second, b".", b"QUIT", b""]))
        said = []
        while (line := lines.readline()):
            said.append(line[:3].decode())
        print(name, *said)
"""


@pytest.mark.mutates
def test_no_form_of_a_messages_end_smuggles_a_second_one_in(world):
    """A second message would be another's, with whatever a big provider vouches for: one answer, or a refusal."""
    coded = {name: base64.b64encode(end).decode() for name, end in ENDS.items()}
    call = json.dumps([source(world), coded])
    out = world.check_output(f"printf %s {shlex.quote(call)} | python3 -c {shlex.quote(SMUGGLE)}")
    said = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert set(said) == set(ENDS)
    for name, answers in said.items():
        assert answers in (["250", "221"], ["521"], ["550", "221"], ["554", "221"]), (name, answers)


@pytest.mark.mutates
def test_commands_before_their_turn_are_refused(world):
    """Who sends on without waiting for an answer that must come first is no mail server; Debian 12 asks to be told."""
    early = "HELO mx.outside.test\r\nMAIL FROM:<a@outside.test>\r\nRCPT TO:<postmaster@crm.torproject.test>\r\n"
    talk = (
        "import socket\n"
        f"with socket.create_connection(('crm-int-01.torproject.test', 25), 30, ({source(world)!r}, 0)) as s:\n"
        " lines = s.makefile('rb'); lines.readline()\n"
        f" s.sendall({early.encode()!r})\n"
        " print(b' '.join(line[:3] for line in lines).decode())\n"
    )
    assert "5" in {code[0] for code in world.check_output(f"timeout 40 python3 -c {shlex.quote(talk)}").split()}
