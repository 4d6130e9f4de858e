"""Whatever a message looks like, it arrives as it was signed; whoever it is for, it arrives or is refused at once (P1).

Postfix changes some messages when it delivers, after the signer: long lines, and 8bit for a receiver without 8BITMIME.
"""

from __future__ import annotations

import base64
import email
import json
import shlex
import time
import zlib

import pytest
from newsletters import ledger

pytestmark = [pytest.mark.mutates, pytest.mark.mail]

# As crm on int. smtplib alone would not send an address that is not ASCII; PHP's libraries do.
SUBMIT = """
import base64, json, smtplib, subprocess, sys, zlib
password, messages = json.load(sys.stdin)
for way, sender, recipient, packed in messages:
    text = zlib.decompress(base64.b64decode(packed))
    if way == "sendmail":
        subprocess.run(["/usr/sbin/sendmail", "-i", "-f", sender, recipient], input=text, check=True)
        continue
    with smtplib.SMTP("127.0.0.1", 587, timeout=20) as session:
        session.command_encoding = "utf-8"
        session.login("crm", password)
        session.docmd("MAIL", f"FROM:<{sender}>")
        code, said = session.docmd("RCPT", f"TO:<{recipient}>")
        if code == 250:
            code, said = session.data(text.replace(b"\\n", b"\\r\\n"))
        print(code, said.decode())
"""
NEWSLETTER = "civicrm+b.1.2.0123456789abcdef@crm.torproject.test"
RECEIPT = "info@crm.torproject.test"
HEAD = "From: CRM <news@crm.torproject.test>\nTo: <{to}>\nMIME-Version: 1.0\n"
PARTS = "\n".join(
    f"--x\nContent-Type: text/{kind}; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nGrüße = für alle.\n"
    for kind in ("plain", "html")
)
# Header and body, lines apart by LF.
SHAPES = {
    "1500": ("Content-Type: text/html; charset=us-ascii\n", "<p>" + "word " * 300 + "</p>\n"),
    "50000": ("Content-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: 8bit\n", "wörd " * 8333 + "\n"),
    "8bit": ('Content-Type: multipart/alternative; boundary="x"\n', PARTS + "--x--\n"),
}
WAYS = {"sendmail": "Precedence: bulk\n", "smtp": ""}
# The second one speaks neither 8BITMIME nor SMTPUTF8 here.
DOMAINS = ("accepting.test", "refusing.test")


def submit(crm_int, vault, messages: list[tuple[str, str, str, str]]) -> list[str]:
    """Submit (way, sender, recipient, message) as crm; returns SMTP's answers."""
    packed = [(*envelope, base64.b64encode(zlib.compress(text.encode())).decode()) for *envelope, text in messages]
    asked = json.dumps([vault["vault_sites"]["crm"]["mailbox_password"], packed])
    command = f"printf %s {shlex.quote(asked)} | runuser -u crm -- python3 -c {shlex.quote(SUBMIT)}"
    return crm_int.check_output(command).splitlines()


@pytest.fixture(scope="module")
def old_provider(world):
    world.check_output("provider-mood refusing old")
    yield
    world.check_output("provider-mood refusing normal")


@pytest.fixture(scope="module")
def sent(crm_int, vault, old_provider) -> dict[tuple[str, str, str], str]:
    """Every shape by every way to both providers: {(shape, way, domain): recipient}."""
    stamp = time.time_ns()
    found = {
        (shape, way, domain): f"as-signed-{shape}-{way}-{stamp}@{domain}"
        for shape in SHAPES
        for way in WAYS
        for domain in DOMAINS
    }
    submit(
        crm_int,
        vault,
        [
            (way, NEWSLETTER if way == "sendmail" else RECEIPT, to, head(to, WAYS[way], shape) + SHAPES[shape][1])
            for (shape, way, _), to in found.items()
        ],
    )
    return found


def head(to: str, more: str, shape: str) -> str:
    return HEAD.format(to=to) + f"Subject: {shape}\n{more}{SHAPES[shape][0]}\n"


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_signature_holds_whatever_the_lines(world, sent, eventually, shape, way, domain):
    """DMARC passes by SPF at the first receiver and hides a broken one, until somebody forwards the mail (P1)."""
    (entry,) = eventually(lambda: ledger(world, recipient=sent[shape, way, domain]), within=20)
    judged = world.run(
        f"mail-verdict {entry['message']} --client {entry['peer']} --helo {entry['helo']} --sender '{entry['sender']}'"
    )
    assert json.loads(judged.stdout)["dkim"] == "pass", judged.stdout
    raw = base64.b64decode(world.check_output(f"base64 {entry['message']}"))
    assert raw.isascii()
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    leaves = [part for part in email.message_from_bytes(raw).walk() if not part.is_multipart()]
    text = "".join(part.get_payload(decode=True).decode().replace("\r\n", "\n") for part in leaves)
    expected = SHAPES[shape][1] if shape != "8bit" else "Grüße = für alle.\nGrüße = für alle."
    assert text.rstrip("\n") == expected.rstrip("\n"), "the reader sees what was written"


@pytest.mark.parametrize("way", WAYS)
def test_a_domain_that_is_not_ascii_is_reached(crm_int, world, vault, eventually, way):
    """As a newsletter by sendmail and as a receipt by SMTP: a reader writes the domain as it is read."""
    name = f"idn-{way}-{time.time_ns()}"
    text = HEAD.format(to=f"{name}@bücher.accepting.test") + f"Subject: x\n{WAYS[way]}\nx\n"
    submit(crm_int, vault, [(way, RECEIPT, f"{name}@bücher.accepting.test", text)])
    eventually(lambda: ledger(world, recipient=f"{name}@xn--bcher-kva.accepting.test"), within=20)
    assert "xn--bcher-kva" in crm_int.check_output(f"postfix-trace {name}@bücher.accepting.test")


def test_a_receipt_by_sendmail_to_a_domain_that_is_not_ascii_arrives(crm_int, world, vault, eventually):
    """It takes the way through the diversion, which died of such an address."""
    name = f"idn-receipt-{time.time_ns()}"
    text = HEAD.format(to=f"{name}@bücher.accepting.test") + "Subject: x\n\nx\n"
    submit(crm_int, vault, [("sendmail", RECEIPT, f"{name}@bücher.accepting.test", text)])
    eventually(lambda: ledger(world, recipient=f"{name}@xn--bcher-kva.accepting.test"), within=20)


def test_a_quoted_local_part_is_reached(crm_int, world, vault, eventually):
    stamp = time.time_ns()
    to = f'"ada lovelace {stamp}"@accepting.test'
    submit(crm_int, vault, [("sendmail", RECEIPT, to, HEAD.format(to="x") + "Subject: x\n\nx\n")])
    eventually(lambda: [e for e in ledger(world) if str(stamp) in e["recipient"]], within=20)
    assert "status=sent" in crm_int.check_output(f"postfix-trace {shlex.quote(to)}")


@pytest.mark.parametrize("kind", ["newsletter", "receipt"])
def test_a_local_part_that_is_not_ascii_is_refused_at_once(crm_int, vault, eventually, kind):
    """Five days of retries and a bounce nobody understands, before."""
    stamp = time.time_ns()
    to = f"jörg-{stamp}@accepting.test"
    text = HEAD.format(to="x") + f"Subject: x\n{WAYS['sendmail'] if kind == 'newsletter' else ''}\nx\n"
    submit(crm_int, vault, [("sendmail", RECEIPT, to, text)])
    bounced = eventually(lambda: crm_int.run(f"grep 'j??rg-{stamp}@.*status=bounced' /var/log/mail.log").stdout, 20)
    assert "dsn=5.6.7" in bounced
    assert "SMTPUTF8" in bounced
    (said,) = submit(crm_int, vault, [("smtp", RECEIPT, to, text)])
    assert said.startswith("550 5.6.7"), said


def test_a_raw_header_of_8_bits_bounces_no_mailing(crm_int, world, vault, old_provider, eventually):
    """With smtputf8_enable it would, at each provider that does not speak SMTPUTF8."""
    to = f"raw-header-{time.time_ns()}@refusing.test"
    text = HEAD.format(to=to) + f"Subject: Grüße\n{WAYS['sendmail']}\nx\n"
    submit(crm_int, vault, [("sendmail", NEWSLETTER, to, text)])
    eventually(lambda: ledger(world, recipient=to), within=20)
