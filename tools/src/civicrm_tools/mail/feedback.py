"""Read an abuse report: what shape it has, what is to be done with it, and whom or which message it names.

Acted on without a person is only a feedback report (ARF, RFC 5965; how they are used, RFC 6650), whole, nested in
another provider's text or damaged, of a type that means "I do not want this mail" (`feedback_types`), and what a
provider is known to send instead. Everything else is shown: newsletters forwarded as an attachment or in the text
(RFC 2046, 5.2), mere headers, answers that quote a newsletter, delivery reports (RFC 3464), and what a program wrote by
itself (`automatic`).
"""

from __future__ import annotations

import hashlib
import html
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import unquote

from civicrm_tools.core.paths import READ_LIMIT
from civicrm_tools.mail import automatic, feedback_types, parts, quoting
from civicrm_tools.mail.addresses import Address
from civicrm_tools.mail.feedback_types import ACT, SHOW
from civicrm_tools.mail.parts import MESSAGES, Part, decoded
from civicrm_tools.mail.provider_table import DEFAULT
from civicrm_tools.mail.return_path import Settings, Site

MESSAGE_IDS_LIMIT = 50
ADDRESSES_LIMIT = 200

OWN_MESSAGE_ID = re.compile(rb"^message-id:\s*(\S+)", re.IGNORECASE | re.MULTILINE)
MESSAGE_ID = re.compile(r"message-id:\s*<?([^<>\s@]{1,200}@[^<>\s]{1,200})>?", re.IGNORECASE)
# What may stand before it on its line.
BEFORE_MESSAGE_ID = re.compile(r"[ \t>|*]{0,40}(?:(?:X|Original)-)?", re.IGNORECASE)
# The fields of a delivery report's text (RFC 3464).
DSN_LINE = re.compile(r"^[ \t>|]{0,40}(Final-Recipient|Action|Diagnostic-Code)[ \t]*:", re.IGNORECASE | re.MULTILINE)
# Programs that return mail in their own words (qmail, Exim, old Exchange), by author or subject.
RETURNS = re.compile(r"mailer-daemon|mail delivery (?:failed|failure|status|sub)|undeliver|failure notice|unzustellbar")
# What a forwarded message is opened for: a report that somebody passed on. The first letter is found fast.
PASSED_ON = re.compile(
    rb"/(?i:(?<=message/)(?:feedback-report|(?:global-)?(?:delivery-status|disposition-notification)))"
)
HEADERS = ("text/rfc822-headers", "message/rfc822-headers")
TOP_HEADERS = frozenset({"return-path", "received", "list-unsubscribe", "x-civimail-bounce", "precedence", "job_id"})

# Providers that send the newsletter itself in place of a report: whose domain, and the subject. Microsoft's JMRP until
# it changed to ARF: https://sendersupport.olc.protection.outlook.com/snds/FAQ
KNOWN_FORMS = (
    (re.compile(r"(?:hotmail|outlook|microsoft)\.com"), re.compile(r"complaint about message from [\da-f.:]+")),
)

# Shapes that are acted on, as far as their type says so.
REPORTS = frozenset({"arf", "nested", "provider"})
FORWARDED = "a forwarded newsletter, no report: read it; if it is a complaint, abuse-report --apply --as-complaint FILE"
# Every other shape, and what a person is told of it.
SHOWN = {
    "attached": FORWARDED,
    "inline": FORWARDED,
    "headers": FORWARDED,
    "reply": "no complaint: an answer to a newsletter; read it",
    "mention": "no complaint: neither a report nor a forwarded message; read it",
    "dsn": "no complaint: a delivery report",
    "auto-reply": "no complaint: an automatic answer",
    "notice": "no complaint: a program's notice",
    "receipt": "no complaint: a receipt",
}


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
    """What one report says. `shape`: one of REPORTS or SHOWN, or unparsed; `verdict`: act, show or count.

    `complaint`: counts in the rate by which providers judge a sender.
    """

    id: str
    source: str
    shape: str = "unparsed"
    feedback_type: str = ""
    reporter: str = ""
    persons: list[Person] = field(default_factory=list)
    verdict: str = SHOW
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

    def show(self, reason: str) -> None:
        """Leave it to a person."""
        self.verdict, self.complaint, self.reason = SHOW, False, reason

    def record(self) -> dict[str, Any]:
        """The report as it stands in the log: JSON types only."""
        return {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "report": self.id,
            "source": self.source,
            "shape": self.shape,
            "feedback_type": self.feedback_type,
            "reporter": self.reporter,
            "verdict": self.verdict,
            "complaint": self.complaint,
            "reason": self.reason,
            "truncated": self.truncated,
            "message_ids": self.message_ids[-3:],
            "queue_ids": self.queue_ids[-3:],
            "persons": [dict(vars(person)) for person in self.persons],
        }


@dataclass
class Contents:
    """A message taken apart: its own header, and the texts of reports, of the reported mail, and of people."""

    top: Part
    feedback: list[str] = field(default_factory=list)
    originals: list[str] = field(default_factory=list)
    # Text, and whether it is HTML.
    texts: list[tuple[str, bool]] = field(default_factory=list)
    # The message itself is a report, well-made or damaged; there is a delivery report in it.
    direct: bool = False
    delivery: bool = False

    @cached_property
    def written(self) -> str | None:
        """What a program wrote this as, if one did."""
        return automatic.kind(self.top.fields)

    @property
    def has_text(self) -> bool:
        """Without any, a header is no message's own: somebody saved or sent it."""
        return any(text.strip() for text, _ in self.texts) or bool(self.originals)

    @property
    def subject(self) -> str:
        return self.top.fields.get("subject", "")

    def told_by_header(self) -> str:
        """The shape of what a program sent and is no feedback report; nothing more of it is read. Else empty."""
        if self.direct:
            return ""
        if self.delivery or "delivery-status" in self.top.fields.get("content-type", "").lower():
            return "dsn"
        return {automatic.REPLY: "auto-reply", automatic.RECEIPT: "receipt"}.get(self.written or "", "")

    def is_known_form(self, reporter: str) -> bool:
        """Whether a provider is known to report like this, with the newsletter itself."""
        subject = automatic.plain(self.subject)
        forms = (domain.fullmatch(reporter) and words.match(subject) for domain, words in KNOWN_FORMS)
        return bool(self.originals) and any(forms)

    def is_returned(self) -> bool:
        """Whether a program returned mail in its own words, or somebody quotes that."""
        said = f"{self.top.fields.get('from', '')} {self.subject}".lower()
        texts = [*self.originals, *(text for text, _ in self.texts)]
        return bool(RETURNS.search(said)) or any(
            len({found.lower() for found in DSN_LINE.findall(text)}) >= 2 for text in texts
        )


def examine(raw: bytes, settings: Settings, source: str = "-", truncated: bool = False) -> Report:
    """What one message says, without the mail log. Never raises, whatever is in it; `raw` is READ_LIMIT at most."""
    report = Report(identity(raw), source, truncated=truncated)
    try:
        text = raw[:READ_LIMIT].replace(b"\0", b"")
        # Some archives keep mail with the line ends of an old Mac.
        contents = _contents(text if b"\n" in text else text.replace(b"\r", b"\n"))
        report.reporter = _domain_of(contents.top.fields.get("from", ""))
        report.shape = contents.told_by_header() or _collect(contents, settings, report)
        _judge(report)
    except (RecursionError, MemoryError, ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        report.shape, report.reason = "unparsed", f"cannot be read: {type(error).__name__}"
        report.addresses, report.message_ids, report.queue_ids = [], [], []
    return report


def identity(raw: bytes) -> str:
    """The same for every copy of a report: headers that a delivery adds at the top do not count."""
    gap = b"\r\n\r\n" if b"\r\n\r\n" in raw[:65536] else b"\n\n"
    end = raw.find(gap)
    message_id = OWN_MESSAGE_ID.search(raw, 0, end if end >= 0 else len(raw))
    digest = hashlib.sha256(message_id[1] if message_id else b"")
    digest.update(b"\0")
    for place in range(end + len(gap) if end >= 0 else 0, len(raw), 65536):
        digest.update(raw[place : place + 65536].translate(None, b" \t\n\r\x0b\f"))
    return digest.hexdigest()[:32]


def _contents(raw: bytes) -> Contents:
    found = Contents(top := parts.read(raw))
    found.direct = "feedback-report" in top.fields.get("content-type", "").lower()
    for part in parts.cut(top, inside=PASSED_ON):
        kind = part.kind
        if kind in ("message/delivery-status", "message/global-delivery-status"):
            found.delivery = True
        elif kind == "message/feedback-report":
            found.feedback.append(part.text())
            found.direct |= part.depth <= 1
        elif part.opened:
            continue
        elif kind in HEADERS or kind in MESSAGES:
            found.originals.append(part.text())
        elif kind.startswith(("text/", "multipart/")) or part is top:
            found.texts.append((part.text(), kind == "text/html"))
        elif kind == "application/octet-stream" and quoting.BLOCK.match((text := part.text())[:200].lower()):
            found.originals.append(text)
    return found


def _collect(contents: Contents, settings: Settings, report: Report) -> str:
    """Gather what there is to find persons by, and the type; returns the shape."""
    types: set[str] = set()
    for text in (*contents.feedback, *contents.originals):
        types |= _read_text(text, settings, report)
    inside = bool(report.evidence)
    for text, _ in contents.texts:
        # A type in the covering text counts: "not-spam" there must not act.
        types |= _read_text(text, settings, None if inside else report)
    report.feedback_type = feedback_types.most_cautious(types)
    answer = quoting.is_answer(contents.subject, contents.top.fields.get("in-reply-to", ""))
    if contents.feedback:
        return "arf" if contents.direct else "nested"
    if types:
        # A whole report as text; one that is quoted in an answer was acted on when it came.
        return "reply" if answer and not contents.direct else "nested"
    if contents.is_known_form(report.reporter):
        return "provider"
    if contents.is_returned():
        return "dsn"
    if contents.has_text and (contents.written or contents.top.fields.get("return-path") == "<>"):
        return "notice"
    if inside:
        return "attached"
    return _in_text(contents, settings, report, answer)


def _in_text(contents: Contents, settings: Settings, report: Report, answer: bool) -> str:
    """The shape of a letter that names somebody in its text, or else in its own header."""
    if report.evidence:
        styles = {quoting.style(text, is_html) for text, is_html in contents.texts}
        return "reply" if answer else next(s for s in ("inline", "headers", "reply", "mention") if s in styles)
    fields = contents.top.fields.keys()
    if not contents.originals and ("message-id" in fields or fields & TOP_HEADERS):
        # The headers themselves are what somebody saved or sent. With a text below them it may be one of our own
        # newsletters to this address.
        _read_text(contents.top.head, settings, report)
    return "mention" if contents.has_text else "headers"


def variants(text: str) -> Iterator[str]:
    """The text as it was before encodings that do not belong there: quoted-printable, URL, HTML."""
    if "=" in text and re.search(r"=(?:\r?\n|[0-9A-F]{2})", text):
        yield decoded(text.encode("latin-1", "replace"), "quoted-printable").decode("latin-1")
    if "%" in text and re.search(r"%[0-9A-Fa-f]{2}", text):
        yield unquote(text, "latin-1")
    if "&" in text and ";" in text:
        yield html.unescape(text)


def _read_text(text: str, settings: Settings, report: Report | None) -> set[str]:
    """Collect evidence from one text, unless there is enough; returns the types of feedback that it names."""
    types = feedback_types.named(text)
    if report:
        _gather(text, settings, report)
        # Costs more than all the rest, and an address says it all.
        for form in () if report.addresses else variants(text):
            types |= feedback_types.named(form)
            _gather(form, settings, report)
    return types


def _gather(text: str, settings: Settings, report: Report) -> None:
    for found in settings.scan(text):
        if found not in report.addresses and len(report.addresses) < ADDRESSES_LIMIT:
            report.addresses.append(found)
    for message_id in _message_ids(text):
        # The last one wins, so one that comes again moves to the end.
        if message_id in report.message_ids:
            report.message_ids.remove(message_id)
        report.message_ids = [*report.message_ids, message_id][-MESSAGE_IDS_LIMIT:]
    for queue_id in _queue_ids(text, settings.hostname):
        if queue_id not in report.queue_ids and len(report.queue_ids) < MESSAGE_IDS_LIMIT:
            report.queue_ids.append(queue_id)


def _message_ids(text: str) -> Iterator[str]:
    """Message-IDs in header lines, quoted or not, in order."""
    lower = text.lower()
    place = lower.find("message-id:")
    while place >= 0:
        line = text.rfind("\n", max(0, place - 60), place) + 1
        found = MESSAGE_ID.match(text, place)
        if found and (line or place < 60) and BEFORE_MESSAGE_ID.fullmatch(text, line, place):
            yield found[1]
        place = lower.find("message-id:", place + 11)


def _queue_ids(text: str, hostname: str) -> list[str]:
    if hostname not in text:
        return []
    received = rf"\bby {re.escape(hostname)}\s+\(Postfix[^)]{{0,80}}\)\s+(?:with \w+\s+)?id (\w{{6,20}})\b"
    return re.findall(received, text)


def _judge(report: Report) -> None:
    if report.shape in SHOWN and (report.evidence or report.shape in ("dsn", "auto-reply", "receipt", "notice")):
        report.show(SHOWN[report.shape])
    elif not report.evidence:
        report.shape = "unparsed"
        report.show("names no address, queue ID or Message-ID of ours")
    elif report.shape == "provider":
        report.verdict, report.complaint = ACT, True
    else:
        meaning = feedback_types.meaning(report.feedback_type)
        report.verdict, report.complaint = meaning.verdict, meaning.complaint
        if meaning.verdict != ACT:
            report.reason = f"no complaint: feedback type {report.feedback_type or 'missing'}: {meaning.words}"


def _domain_of(address: str) -> str:
    found = re.search(r"@([A-Za-z0-9.-]{1,253})", address)
    return found[1].lower().rstrip(".") if found else ""
