"""Abuse reports and delivery reports as the world writes them, made anew for each test."""

from __future__ import annotations

import quopri

HASH = "26d7b951968ebe4b"


def verp(verb: str = "b", job: int = 7, queue: int = 100, hash: str = HASH, domain: str = "crm.example.org") -> str:
    return f"civicrm+{verb}.{job}.{queue}.{hash}@{domain}"


def newsletter(queue: int = 100, message_id: str = "", **fields: object) -> str:
    """The header and a line of one person's copy of a mailing, recipient blacked out."""
    bounce, leave = verp("b", queue=queue, **fields), verp("u", queue=queue, **fields)
    identity = f"Message-ID: <{message_id}>\n" if message_id else ""
    return (
        f"Return-Path: <{bounce}>\nReceived: from crm-int.example.org by mx.provider.example with ESMTPS; Fri, 2 Jan\n"
        f"{identity}From: News <news@crm.example.org>\nTo: redacted\nSubject: January\nPrecedence: bulk\n"
        f"X-CiviMail-Bounce: {bounce}\nList-Unsubscribe: <mailto:{leave}>\n\nDear reader\n"
    )


def bare_newsletter(message_id: str) -> str:
    """A copy from which the provider has taken every address."""
    return f"From: News <news@crm.example.org>\nSubject: January\nMessage-ID: <{message_id}>\n\nDear reader\n"


def arf(
    original: str, feedback: str = "abuse", kind: str = "message/rfc822", reporter: str = "fbl@provider.example"
) -> bytes:
    """A feedback report (RFC 5965) around an original."""
    text = (
        f"From: Feedback <{reporter}>\nTo: abuse@crm.example.org\nSubject: complaint\n"
        "Message-ID: <report-1@provider.example>\n"
        'MIME-Version: 1.0\nContent-Type: multipart/report; report-type=feedback-report;\n boundary="limit"\n\n'
        "--limit\nContent-Type: text/plain\n\nThis is a report about mail from you.\n\n"
        "--limit\nContent-Type: message/feedback-report\n\n"
        f"Feedback-Type: {feedback}\nUser-Agent: Loop/1\nVersion: 1\nSource-IP: 192.0.2.11\n\n"
        f"--limit\nContent-Type: {kind}\n\n{original}\n--limit--\n"
    )
    return text.encode()


def attached(original: str, note: str = "I never asked for this.") -> bytes:
    text = (
        "From: Ada <ada@reader.example>\nTo: abuse@crm.example.org\nSubject: Fwd: January\n"
        "Message-ID: <fwd-1@reader.example>\n"
        'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="outer"\n\n'
        f"--outer\nContent-Type: text/plain\n\n{note}\n\n"
        f"--outer\nContent-Type: message/rfc822\n\n{original}\n--outer--\n"
    )
    return text.encode()


def plain(text: str, **headers: str) -> bytes:
    """A mail of one text part."""
    top = {
        "From": "Ada <ada@reader.example>",
        "To": "abuse@crm.example.org",
        "Subject": "Fwd: January",
        "Message-ID": "<fwd-2@reader.example>",
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    return ("".join(f"{name}: {value}\n" for name, value in top.items()) + "\n" + text).encode()


def letter(said: str, quoted: str = "", subject: str = "Re: January", **headers: str) -> bytes:
    """What a person writes, or a program in the person's name, with what a mail program quotes below it."""
    return plain(f"{said}\n\n{quoted}", Subject=subject, To="postmaster@crm.example.org", **headers)


def quoted(style: str) -> str:
    """The newsletter of the person with queue entry 100, as a mail program quotes it."""
    leave = f"mailto:{verp('u')}"
    return {
        "gmail": f"On Fri, Jan 2, 2026 at 10:00 AM News <news@crm.example.org>\nwrote:\n\n> Dear reader\n> {leave}\n",
        "thunderbird, German": f"Am 02.01.26 um 10:00 schrieb News:\n> Dear reader\n> {leave}\n",
        "apple, French": f"Le 2 janv. 2026 \u00e0 10:00, News <news@crm.example.org> a \u00e9crit :\n\n> {leave}\n",
        "outlook": "________________________________\nFrom: News <news@crm.example.org>\n"
        f"Sent: Friday, January 2, 2026 10:00\nTo: ada@gmail.com\nSubject: January\n\nDear reader\n{leave}\n",
        "outlook, German": "Von: News <news@crm.example.org>\nGesendet: Freitag, 2. Januar 2026 10:00\n"
        f"An: ada@gmail.com\nBetreff: January\n\nDear reader\n{leave}\n",
        "outlook, French": "De : News <news@crm.example.org>\nEnvoy\u00e9 : vendredi 2 janvier 2026 10:00\n"
        f"\u00c0 : ada@gmail.com\nObjet : January\n\nDear reader\n{leave}\n",
        "outlook, Polish": "Od: News <news@crm.example.org>\nWys\u0142ano: pi\u0105tek, 2 stycznia 2026 10:00\n"
        f"Do: ada@gmail.com\nTemat: January\n\nDear reader\n{leave}\n",
    }[style]


def inline(original: str) -> bytes:
    """Forwarded in the text, as mail programs quote."""
    return plain(
        "Stop this!\n\n----- Forwarded message -----\n" + "".join(f"> {line}\n" for line in original.splitlines())
    )


def nested(original: str, feedback: str = "abuse") -> bytes:
    """A hoster forwards the whole report as text."""
    return plain("We got this about your server:\n\n" + arf(original, feedback).decode(), From="noc@hoster.example")


def damaged(original: str) -> bytes:
    """Parts in quoted-printable although message/* must not be, and the last boundary is missing."""
    head, _, body = arf(original).decode().partition("\n\n")
    pieces = body.split("--limit")
    encoded = []
    for piece in pieces[1:-1]:
        inner_head, _, inner = piece.partition("\n\n")
        soft = quopri.encodestring(inner.replace("+", "\x01").encode()).decode().replace("=01", "=2B")
        encoded.append(f"{inner_head}\nContent-Transfer-Encoding: quoted-printable\n\n{soft}")
    return (head.replace("feedback-report;", "report;") + "\n\n--limit" + "--limit".join(encoded)).encode()


def dsn(
    recipient: str,
    status: str = "5.1.1",
    text: str = "550 5.1.1 no such user",
    queue: int = 100,
    action: str = "failed",
    remote: str = "mx.provider.example",
    to: str | None = None,
    domain: str = "crm.example.org",
) -> bytes:
    """A delivery report (RFC 3464) as Postfix writes one."""
    to = to or verp("b", queue=queue, domain=domain)
    said = (
        f"From: MAILER-DAEMON@mx.example.org\nTo: {to}\nSubject: Undelivered Mail Returned to Sender\n"
        f"Message-Id: <dsn-{queue}-{recipient}@mx.example.org>\nAuto-Submitted: auto-replied\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="cut"\n\n'
        f"--cut\nContent-Type: text/plain\n\n<{recipient}>: host {remote} said: {text}\n\n"
        "--cut\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example.org\n\n"
        f"Final-Recipient: rfc822; {recipient}\nAction: {action}\nStatus: {status}\nRemote-MTA: dns; {remote}\n"
        f"Diagnostic-Code: smtp; {text}\n\n--cut\nContent-Type: message/rfc822\n\n{newsletter(queue)}\n--cut--\n"
    )
    return f"Return-Path: <>\nDelivered-To: {to}\n{said}".encode()
