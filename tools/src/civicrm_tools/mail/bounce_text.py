"""Read what comes to a bounce address without a delivery report: bounces in plain words, replies, notices, receipts.

Exim, qmail, Domino and Exchange of old write their bounces for people. A mail counts as a bounce only if its sender is
a mail server and it says that a delivery failed; all else is about nobody, whatever codes it quotes: automatic answers
(RFC 3834), "no longer works here", challenges, receipts (RFC 8098), people.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from civicrm_tools.mail import automatic, bounce_words, quoting, verdict
from civicrm_tools.mail.automatic import RECEIPT, REPLY
from civicrm_tools.mail.parts import Part
from civicrm_tools.mail.return_path import Site
from civicrm_tools.mail.verdict import NOBODY, Verdict

DAEMON, FAILED, FAILED_TEXT, DELAYED, FINAL, SUCCEEDED = map(
    bounce_words.compiled,
    (
        bounce_words.DAEMONS,
        bounce_words.FAILED,
        bounce_words.FAILED_TEXT,
        bounce_words.DELAYED,
        bounce_words.FINAL,
        bounce_words.SUCCEEDED,
    ),
)
# What servers say to servers.
SERVER = re.compile(r"(?<![\d.])5(?:\d\d[ -]|\.\d{1,3}\.\d{1,3}\b)")
EXIM_PHASE = re.compile(
    r"after (?P<phase>initial connection|EHLO|HELO|MAIL FROM|RCPT TO|DATA|end of data|STARTTLS)", re.I
)
POSTFIX_PHASE = re.compile(r"\(in\s+reply\s+to\s+(?:end\s+of\s+)?(?P<phase>[A-Z]+(?:\s+FROM|\s+TO)?)")
SPOKE = re.compile(r"host\s+(?P<host>[\w.-]+)\s*\[[^\]]*\](?::\d+)?[:\s]+(?:said:?\s*)?")
RETURNED = re.compile(
    r"^-{2,} ?(?:Below this line|This is a copy|Original|Unmodified|Returned|Message header|Enclosed)"
    r"|^-{2,} ?The (?:body|header)|^Return-Path:|^Received: from|^-{5,}\s*$\n(?:Received|Return-Path|From|Subject)"
    r"|^Included is a copy|^------ This is a copy|^The header of the original|^Original message headers|^--- Original",
    re.IGNORECASE | re.MULTILINE,
)
ADDRESS = re.compile(r"<?([A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,128}@[A-Za-z0-9.-]{1,253}[A-Za-z0-9])>?")


class Told(NamedTuple):
    """What a text says. recipient and host may be empty."""

    verdict: Verdict
    recipient: str
    host: str
    text: str


def circumstances(text: str) -> tuple[str, str]:
    """(the command that was refused, the host that refused) as servers write it for people; either may be empty."""
    spoke = SPOKE.search(text)
    host = spoke["host"].lower() if spoke else ""
    if "refused" in text and "refused to talk to me" in " ".join(text.split()):
        return "CONNECT", host
    found = POSTFIX_PHASE.search(text) or EXIM_PHASE.search(text)
    phase = " ".join(found["phase"].upper().split()) if found else ""
    return "CONNECT" if phase == "INITIAL CONNECTION" else phase, host


def essence(text: str, recipient: str = "") -> str:
    """The part of a bounce for people that gives the reason, in one line."""
    returned = RETURNED.search(text)
    text = text[: returned.start()] if returned else text
    spoke = SPOKE.search(text)
    begin = spoke.end() if spoke else max(text.find(recipient), 0) if recipient else 0
    return " ".join(text[begin : begin + verdict.LIMIT].split())


def read(message: Part, text: str, site: Site, returned: bool) -> Told:
    """Say what a mail without a delivery report is about.

    text: its readable part; returned: whether it brings a mail with it.
    """
    fields = message.fields
    subject = automatic.shown(fields.get("subject", "")[:500])
    own = " ".join(text[: 2 * verdict.LIMIT].split())
    nobody = _about_nobody(message, subject, own, returned)
    if nobody:
        return Told(nobody, _sender(fields), "", own[: verdict.LIMIT])
    phase, host = circumstances(text)
    recipient = _recipient(fields, text, site)
    reason = essence(text, recipient)
    found = verdict.judge(reason, host=host, phase=phase)
    if found.vague:
        others = (verdict.judge(words, host=host, phase=phase) for words in (essence(text), subject))
        found = next((other for other in others if not other.vague), found)
    return Told(found, recipient or _sender(fields), host, reason)


def _about_nobody(message: Part, subject: str, text: str, returned: bool) -> Verdict | None:
    """The verdict on a mail that is no bounce, else None."""
    fields = message.fields
    written = automatic.kind(fields)
    if written == RECEIPT:
        return Verdict(NOBODY, "receipt", "a receipt, by its form or its heading")
    if "feedback-report" in fields.get("content-type", "").lower():
        return Verdict(NOBODY, "notice", "a complaint, feedback-report")
    server = bool(DAEMON.search(fields.get("from", "")))
    null = fields.get("return-path", "").strip() == "<>"
    codes = bool(SERVER.search(text))
    if (server or null) and DELAYED.search(f"{subject} {text[:1500]}") and not FINAL.search(text):
        return Verdict(NOBODY, "delay", "a delay, in words")
    if (server or null) and SUCCEEDED.search(f"{subject} {text[:300]}"):
        return Verdict(NOBODY, "receipt", "a delivery, in words")
    if "x-failed-recipients" in fields or (server and codes):
        return None
    if automatic.is_challenge(f"{subject} {text}"):
        return Verdict(NOBODY, "notice", "a challenge to its sender")
    # Not by its fields: a bounce may be marked as an automatic reply, too.
    answer = automatic.told_by_subject(subject) == REPLY or quoting.is_answer(subject)
    failed = FAILED.search(subject)
    # Programs without a name for themselves must bring the mail back, or the words of a server.
    if not answer and (failed or FAILED_TEXT.search(text)) and (server or returned or (null and failed and codes)):
        return None
    if answer or written == REPLY:
        return Verdict(NOBODY, "reply", "an answer, by its heading or its fields")
    return Verdict(NOBODY, "notice", "no mail server says that a delivery failed")


def _sender(fields: dict[str, str]) -> str:
    """The domain of the author: all that such a mail tells about where it comes from."""
    found = re.search(r"@([A-Za-z0-9.-]{1,253})", fields.get("from", ""))
    return found[1].lower() if found else ""


def _recipient(fields: dict[str, str], text: str, site: Site) -> str:
    """Whose delivery failed: named in a field, or the first address in the text that is neither ours nor a server's."""
    for value in (fields.get("x-failed-recipients", ""), text[: 4 * verdict.LIMIT]):
        for found in ADDRESS.finditer(value):
            address = found[1]
            if not DAEMON.search(address) and address.rpartition("@")[2].lower() not in site.domains:
                return address
    return ""
