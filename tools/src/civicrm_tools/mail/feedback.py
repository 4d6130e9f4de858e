"""Read an abuse report: what shape it has, whether it is a complaint, and whom or which message it names.

Feedback reports (ARF, RFC 5965; how they are used, RFC 6650), whole or nested in another provider's text, newsletters
forwarded as an attachment or in the text (RFC 2046, 5.2), mere headers, and damaged forms of all of them. Delivery
reports (RFC 3464) and automatic answers (RFC 3834) are told apart: they are no complaints.
"""

from __future__ import annotations

import hashlib
import html
import quopri
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from email.message import Message
from typing import Any
from urllib.parse import unquote

from civicrm_tools.mail.addresses import Address
from civicrm_tools.mail.mime import READ_LIMIT, content_type, header, parameter, parse_message, parts, text_of
from civicrm_tools.mail.provider_table import DEFAULT
from civicrm_tools.mail.return_path import Settings, Site

MESSAGE_IDS_LIMIT = 50

FEEDBACK_TYPE = re.compile(r'^[ \t>|]{0,40}Feedback-Type:[ \t]*"?([A-Za-z-]+)', re.IGNORECASE | re.MULTILINE)
MESSAGE_ID = re.compile(
    r"^[ \t>|*]{0,40}(?:X-)?Message-ID:\s*<?([^<>\s@]{1,200}@[^<>\s]{1,200})>?", re.IGNORECASE | re.MULTILINE
)
# What stands at the beginning of a line in a newsletter's header: two of them make a forwarded message.
HEADER_LINE = re.compile(
    r"^[ \t>|*]{0,40}(Return-Path|Received|List-Unsubscribe|X-CiviMail-Bounce|Message-ID|Precedence|job_id"
    r"|From|To|Subject|Date)\*?:",
    re.IGNORECASE | re.MULTILINE,
)
# The fields of a delivery report's text (RFC 3464).
DSN_LINE = re.compile(r"^[ \t>|]{0,40}(Final-Recipient|Action|Diagnostic-Code)[ \t]*:", re.IGNORECASE | re.MULTILINE)
FIELD_OR_BLANK = re.compile(r"(?:[ \t>|]{0,40}[A-Za-z][A-Za-z0-9-]{0,60}:.*|[ \t].*|\s*)\r?")
TOP_HEADERS = frozenset({"return-path", "received", "list-unsubscribe", "x-civimail-bounce", "precedence", "job_id"})


@dataclass
class Person:
    """Whom a report is about: the site, the mailing's job and queue entry, the opt-out address and what led there."""

    site: str
    job: int
    queue: int
    opt_out: str
    found_by: str
    recipient: str = ""
    provider: str = DEFAULT
    outcome: str = "none"


@dataclass
class Report:
    """What one report says. `shape` is arf, nested, attached, inline, headers, mention, dsn, auto-reply or unparsed."""

    id: str
    source: str
    shape: str = "unparsed"
    feedback_type: str = ""
    reporter: str = ""
    persons: list[Person] = field(default_factory=list)
    complaint: bool = False
    reason: str = ""
    truncated: bool = False
    # Evidence: addresses as found, IDs to look up in the log.
    addresses: list[tuple[Site, Address]] = field(default_factory=list)
    message_ids: list[str] = field(default_factory=list)
    queue_ids: list[str] = field(default_factory=list)

    @property
    def evidence(self) -> int:
        """How much there is to find persons by."""
        return len(self.addresses) + len(self.message_ids) + len(self.queue_ids)

    def record(self) -> dict[str, Any]:
        """The report as it stands in the log: JSON types only."""
        return {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "report": self.id,
            "source": self.source,
            "shape": self.shape,
            "feedback_type": self.feedback_type,
            "reporter": self.reporter,
            "complaint": self.complaint,
            "reason": self.reason,
            "truncated": self.truncated,
            "message_ids": self.message_ids[-3:],
            "queue_ids": self.queue_ids[-3:],
            "persons": [asdict(person) for person in self.persons],
        }


def examine(raw: bytes, settings: Settings, source: str = "-", truncated: bool = False) -> Report:
    """What one message says, without the mail log. Never raises, whatever is in it; `raw` is READ_LIMIT at most."""
    report = Report(identity(raw), source, truncated=truncated)
    try:
        _examine(raw[:READ_LIMIT].replace(b"\0", b""), settings, report)
    except (RecursionError, MemoryError, ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        report.shape, report.reason = "unparsed", f"cannot be read: {type(error).__name__}"
        report.addresses, report.message_ids, report.queue_ids = [], [], []
    return report


def identity(raw: bytes) -> str:
    """The same for every copy of a report: headers that a delivery adds at the top do not count."""
    head, separator, body = raw.partition(b"\r\n\r\n" if b"\r\n\r\n" in raw[:65536] else b"\n\n")
    message_id = re.search(rb"^message-id:\s*(\S+)", head, re.IGNORECASE | re.MULTILINE)
    digest = hashlib.sha256(message_id[1] if message_id else b"")
    digest.update(b"\0" + b"".join((body if separator else head).split()))
    return digest.hexdigest()[:32]


def _examine(raw: bytes, settings: Settings, report: Report) -> None:
    message = parse_message(raw)
    if message is None:
        # Too deep for MIME: what it says at the beginning of lines still counts.
        _read_text(raw.decode("latin-1"), settings, report, "inline")
        _judge(report)
        return
    report.reporter = _domain_of(header(message, "From"))
    answered = header(message, "Auto-Submitted").lower().startswith("auto-replied")
    if parameter(message, "report-type") == "delivery-status" or answered:
        report.shape = "auto-reply" if answered else "dsn"
        report.reason = "no complaint: " + ("an automatic answer" if answered else "a delivery report")
        return
    originals: list[str] = []
    texts: list[str] = []
    inside: set[int] = set()
    feedback = ""
    for part in parts(message):
        kind = content_type(part)
        if id(part) in inside:
            continue
        if kind == "message/delivery-status":
            report.shape, report.reason = "dsn", "no complaint: a delivery report"
            return
        if kind == "message/feedback-report":
            inside |= {id(child) for child in _descendants(part)}
            feedback += "\n" + text_of(part)
            report.shape = "arf" if part in _children(message) else "nested"
        elif kind in ("message/rfc822", "message/global", "text/rfc822-headers", "message/rfc822-headers"):
            below = list(_descendants(part))
            # A whole report that was forwarded: its own parts come next.
            if not {"message/feedback-report", "message/delivery-status"} & {content_type(child) for child in below}:
                inside |= {id(child) for child in below}
                originals.append(text_of(part))
        elif kind.startswith("text/") or (part is message and not part.is_multipart()):
            texts.append(text_of(part))
        elif kind == "application/octet-stream" and (text := text_of(part)) and HEADER_LINE.match(text):
            originals.append(text)
    _collect(message, settings, report, feedback, originals, texts)
    _judge(report)


def _collect(
    message: Message, settings: Settings, report: Report, feedback: str, originals: list[str], texts: list[str]
) -> None:
    if feedback:
        _read_text(feedback, settings, report, "arf")
    for text in originals:
        _read_text(text, settings, report, "nested" if FEEDBACK_TYPE.search(text) else "attached")
    covering = "\n".join(texts)
    if not report.evidence:
        for text in texts:
            _read_text(text, settings, report, "inline")
    else:
        # A type in the covering text counts: "not-spam" there must not act.
        _feedback_types(covering, report)
    if not report.evidence and not originals:
        # Nothing inside: the headers themselves are what somebody saved or sent. With a text below them it may be one
        # of our own newsletters to this address.
        named = {name.lower() for name in message}
        if "message-id" in named or named & TOP_HEADERS:
            top = "\n".join(f"{name}: {value}" for name, value in message.items())
            report.shape = "unparsed"
            _read_text(top, settings, report, "mention" if covering.strip() else "headers")


def _children(part: Message) -> list[Message]:
    payload = part.get_payload()
    return [one for one in payload if isinstance(one, Message)] if isinstance(payload, list) else []


def _descendants(part: Message) -> Iterator[Message]:
    waiting = list(_children(part))
    for _ in range(1000):
        if not waiting:
            return
        child = waiting.pop()
        yield child
        waiting = [*waiting, *_children(child)]


def variants(text: str) -> list[str]:
    """The text as it stands, and as it was before encodings that do not belong there: quoted-printable, URL, HTML."""
    found = [text]
    if "=\n" in text or "=\r\n" in text or re.search(r"=[0-9A-F]{2}", text):
        found.append(quopri.decodestring(text.encode("latin-1", "replace")).decode("latin-1"))
    if re.search(r"%[0-9A-Fa-f]{2}", text):
        found.append(unquote(text, "latin-1"))
    if "&" in text and ";" in text:
        found.append(html.unescape(text))
    return found


def _read_text(text: str, settings: Settings, report: Report, shape: str) -> None:
    """Collect evidence from one text; `shape` is what the report is if there is any."""
    if _feedback_types(text, report) and shape == "inline":
        shape = "nested"
    elif shape in ("inline", "attached") and len(set(map(str.lower, DSN_LINE.findall(text)))) >= 2:
        shape = "dsn"
    elif shape == "inline" and all(FIELD_OR_BLANK.fullmatch(line) for line in text.split("\n")):
        shape = "headers"
    elif shape == "inline" and len({name.lower() for name in HEADER_LINE.findall(text)}) < 2:
        shape = "mention"
    before = report.evidence
    received = rf"\bby {re.escape(settings.hostname)}\s+\(Postfix[^)]{{0,80}}\)\s+(?:with \w+\s+)?id (\w{{6,20}})\b"
    for variant in variants(text):
        for found in settings.scan(variant):
            if found not in report.addresses and len(report.addresses) < 200:
                report.addresses.append(found)
        for message_id in MESSAGE_ID.findall(variant):
            # The last one wins, so one that comes again moves to the end.
            if message_id in report.message_ids:
                report.message_ids.remove(message_id)
            report.message_ids = [*report.message_ids, message_id][-MESSAGE_IDS_LIMIT:]
        for queue_id in re.findall(received, variant):
            if queue_id not in report.queue_ids and len(report.queue_ids) < MESSAGE_IDS_LIMIT:
                report.queue_ids.append(queue_id)
    if report.evidence > before and report.shape == "unparsed":
        report.shape = shape


def _feedback_types(text: str, report: Report) -> bool:
    found = {kind.lower() for variant in variants(text) for kind in FEEDBACK_TYPE.findall(variant)}
    # Of several the one that forbids to act counts.
    others = sorted(found - {"abuse"})
    if others:
        report.feedback_type = others[0]
    elif found and not report.feedback_type:
        report.feedback_type = "abuse"
    return bool(found)


def _judge(report: Report) -> None:
    if not report.evidence:
        report.shape, report.reason = "unparsed", "names no address, queue ID or Message-ID of ours"
    elif report.feedback_type not in ("", "abuse"):
        report.reason = f"no complaint: feedback type {report.feedback_type}"
    elif report.shape == "mention":
        report.reason = "no complaint: neither a report nor a forwarded message; read it"
    elif report.shape == "dsn":
        report.reason = "no complaint: a delivery report"
    else:
        report.complaint = True


def _domain_of(address: str) -> str:
    found = re.search(r"@([A-Za-z0-9.-]{1,253})", address)
    return found[1].lower().rstrip(".") if found else ""
