"""Hand mail of a site that may not reach anybody to the site's catcher, as Postfix's pipe(8) calls it.

header_checks send a message here when any of its Received lines names such a site, and a message can bring such a line
with it. Here only the first header counts, which Postfix itself wrote, after those of a signer, of header_checks and of
`postsuper -r`: of a site with policy catch or hold the message goes to catch@ or hold@SITE.caught.invalid by the
listener on loopback, which knows no other address; of anybody else on to the recipient, by the service "again". Lines
that would send it here once more are renamed to X-Submitted-Received.

Receipts come here too, for nobody else may tell that their submitter may send.

Exit status: 0; 75, the message stays in the queue; 69, it bounces at once, as its recipient is no address and its site
may send to the world. Nothing else bounces.
"""

from __future__ import annotations

import pwd
import re
import smtplib
import socket
import sys
import syslog
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from civicrm_tools.core import command, files
from civicrm_tools.core.command import DONE, Failure

NAME = "divert-submission"
CONFIGURATION = Path("/etc/postfix/diversion.json")
LISTENER = ("127.0.0.1", 10025)
AGAIN = Path("/run/mail-policy-again.sock")
TIMEOUT = 20  # seconds
TEMPFAIL, UNAVAILABLE = 75, 69  # sysexits.h: EX_TEMPFAIL, EX_UNAVAILABLE
SYNTAX = 501  # RFC 5321, 4.2.2: syntax error in parameters or arguments
FIELD = re.compile(rb"[^\n]*\n(?:[ \t][^\n]*\n)*")


class Unknown(Failure):
    """It cannot be told who submitted the message."""

    def __init__(self, why: str) -> None:
        super().__init__(f"it cannot be told who submitted the message: {why}")


@dataclass(frozen=True)
class Policy:
    """hostname as in Received; users: uid -> site; sites: name -> deliver, catch or hold; owner: the uid
    of Postfix itself."""

    hostname: str
    users: dict[str, str]
    sites: dict[str, str]
    owner: int


def fields(message: bytes) -> tuple[list[bytes], bytes]:
    """The header's fields, each with its continuation lines, and what follows them."""
    head, separator, body = message.partition(b"\n\n")
    return FIELD.findall(head + b"\n"), separator[1:] + body


def submitter(header: list[bytes], policy: Policy) -> tuple[str, str]:
    """("uid" or "login", value) in the Received field that pickup(8) or smtpd(8) of this host put first.

    A requeued message gets one more on top, from the uid of Postfix itself, whom nobody else can be. Raises Unknown.
    """
    host = re.escape(policy.hostname.encode())
    for field in header:
        # A signer and header_checks put their lines on top. What the submitter wrote stands below the line of Postfix.
        if field.partition(b":")[0].lower() in (b"dkim-signature", b"authentication-results", b"x-submitted-by"):
            continue
        pickup = re.match(rb"Received: by " + host + rb" \(Postfix, from userid (\d+)\)\n\tid \S+; ", field)
        if pickup and int(pickup[1]) == policy.owner:
            continue
        if pickup:
            return "uid", pickup[1].decode()
        # smtpd writes what the client claims only in the first line.
        login = rb"\t\(Authenticated sender: ([a-z0-9-]+)\)\n"
        smtpd = re.match(rb"Received: from [^\n]*\n(?:\t\([^\n]*\)\n)*" + login + rb"\tby " + host + rb" ", field)
        if smtpd:
            return "login", smtpd[1].decode()
        raise Unknown(field.split(b"\n", 1)[0].decode(errors="replace"))
    raise Unknown("no header")


def names_diverted(field: bytes, policy: Policy) -> bool:
    """Whether header_checks would divert a message for this field; as broad as diverted.pcre."""
    names = [name for name, what in policy.sites.items() if what != "deliver"]
    diverted = [uid for uid, site in policy.users.items() if site in names]
    uids = rb"\(Postfix, from userid (" + "|".join(diverted).encode() + rb")\)"
    logins = rb"\(Authenticated sender: (" + "|".join(map(re.escape, names)).encode() + rb")\)"
    return bool(re.match(rb"Received[ \t]*:.*(" + uids + rb"|" + logins + rb")", field, re.IGNORECASE | re.DOTALL))


def rewritten(message: bytes, policy: Policy, added: list[str]) -> bytes:
    """The message with lines added on top, and without what would divert it again."""
    header, rest = fields(message)
    kept = [b"X-Submitted-" + field if names_diverted(field, policy) else field for field in header]
    return "".join(f"{line}\n" for line in added).encode(errors="surrogateescape") + b"".join(kept) + rest


class Session(smtplib.SMTP):
    """smtplib that hands over an address byte by byte, ASCII or not."""

    def send(self, s: Any) -> None:
        super().send(s.encode(errors="surrogateescape") if isinstance(s, str) else s)


class Again(Session):
    """The same over the socket that leads to Postfix' service "again"."""

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        connection.connect(str(AGAIN))
        return connection


def hand_over(session: smtplib.SMTP, sender: str, recipient: str, message: bytes) -> None:
    """Raise SMTPException unless the other side takes the message. Addresses as pipe(8) quotes them (flag q)."""
    with session:
        session.ehlo()
        for command, argument in (("MAIL", f"FROM:<{sender}> BODY=8BITMIME"), ("RCPT", f"TO:<{recipient}>")):
            accepted(*session.docmd(command, argument))
        accepted(*session.data(message))


def accepted(code: int, text: bytes) -> None:
    if code // 100 != 2:
        raise smtplib.SMTPResponseException(code, text)


def divert(reason: str, sender: str, recipient: str, original: str, message: bytes, policy: Policy) -> str:
    """Send one message where its submitter's policy says, and return that in words.

    reason: "receipt", or "submitted" for mail that only looked like a diverted site's.
    """
    header, _ = fields(message)
    kind, value = submitter(header, policy)
    site = policy.users.get(value) if kind == "uid" else value
    what = policy.sites.get(site, "deliver") if site else "deliver"
    if kind == "login" and site not in policy.sites:
        raise Unknown(f"login {value}")
    if what == "deliver":
        # By this name in HELO the service knows a receipt. Mail of root and other users takes no such way.
        helo = "receipt" if site and reason == "receipt" else "submitted"
        again = Again("localhost", local_hostname=helo, timeout=TIMEOUT)
        try:
            hand_over(again, sender, recipient, rewritten(message, policy, []))
        except smtplib.SMTPResponseException as refusal:
            if refusal.smtp_code != SYNTAX:
                raise
            # pipe(8) takes status code and text of the bounce from here.
            text = refusal.smtp_error
            print(text if isinstance(text, str) else text.decode(errors="replace"), flush=True)
            raise SystemExit(UNAVAILABLE) from refusal
        return f"{kind} {value} may send"
    marks = [f"X-Original-To: {original}", f"X-Original-Sender: <{sender}>", f"X-Mail-Policy: {what} {site}"]
    # With an empty sender: whatever goes wrong later, nothing bounces to the world.
    catcher = f"{what}@{site}.caught.invalid"
    hand_over(Session(*LISTENER, timeout=TIMEOUT), "", catcher, rewritten(message, policy, marks))
    return f"{what} for {site}"


def body(argv: Sequence[str] | None) -> int:
    parser = command.Parser(prog=NAME, description=__doc__)
    parser.add_argument("reason", help="what FILTER names: submitted or receipt")
    parser.add_argument("queue_id", help="for the log")
    parser.add_argument("original", help="the recipient as it was submitted")
    parser.add_argument("recipient", help="the recipient after aliases")
    parser.add_argument("sender", nargs="?", default="", help="envelope sender, which may be empty")
    options = parser.parse_args(argv)
    syslog.openlog("postfix/divert", 0, syslog.LOG_MAIL)
    owner = pwd.getpwnam("postfix").pw_uid
    policy = files.read_json(CONFIGURATION, lambda raw: Policy(**raw, owner=owner))
    message = sys.stdin.buffer.read()
    original = options.original or options.recipient
    done = divert(options.reason, options.sender, options.recipient, original, message, policy)
    line = f"{options.queue_id}: to=<{options.recipient}>, {done}"
    syslog.syslog(syslog.LOG_INFO, line.encode(errors="backslashreplace").decode())
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    # Whatever went wrong, a mistake in this program included.
    return TEMPFAIL if command.run(NAME, body, argv, also=(Exception,)) else DONE
