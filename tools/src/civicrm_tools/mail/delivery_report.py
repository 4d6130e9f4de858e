"""What a mail to a bounce address says: whose delivery failed, where and why, or that it is no bounce at all.

Delivery reports (RFC 3464, RFC 6533) as mail servers really write them; other bounces as far as their text goes
(`bounce_text`). What is about nobody is said, too: delays, replies, receipts (RFC 3834, RFC 8098).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from civicrm_tools.mail import automatic, bounce_text, parts, verdict
from civicrm_tools.mail.addresses import Address, Verb
from civicrm_tools.mail.bounce_text import Told
from civicrm_tools.mail.parts import Part, as_read
from civicrm_tools.mail.return_path import Site
from civicrm_tools.mail.verdict import ADDRESS, NOBODY, Verdict

# A delivery report tells all at its beginning; the returned message comes last.
HEAD_BYTES = 256 * 1024
STATUS_KINDS = ("message/delivery-status", "message/global-delivery-status")
RETURNED = ("message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers")
TEXT_LIMIT = 16 * 1024
FIELD_LIMIT = 2000
FIELD = re.compile(r"[A-Za-z][A-Za-z0-9-]*\s*:")
LOOSE = re.compile(r"^(?:Reporting-MTA|Final-Recipient|Original-Recipient|Action):", re.IGNORECASE | re.MULTILINE)
TYPE = re.compile(r"\s*[A-Za-z][\w-]*\s*;\s*")
COMMENT = re.compile(r"\([^()]*\)")
WITHIN = re.compile(r"<([^<>\s]+@[^<>\s]+)>|([^\s<>;]+@[^\s<>;,]+)")
STATUS = re.compile(r"\b([245]\.\d{1,3}\.\d{1,3})\b")
ACTIONS = {
    **dict.fromkeys(("failed", "failure", "fail", "error", "undeliverable", "undelivered"), "failed"),
    **dict.fromkeys(("delayed", "delay", "deferred"), "delayed"),
    **dict.fromkeys(("delivered", "relayed", "expanded", "success", "deliverable"), "delivered"),
}
NOTHING_FAILED = {"delayed": "delay", "delivered": "receipt"}


@dataclass(frozen=True)
class Bounce:
    """What came to a bounce address, and what it is about.

    recipient: whose delivery it is, maybe only a domain; host: who refused. Both may be empty.
    action: failed, delayed, delivered, or empty for what is no bounce. status: the enhanced code (RFC 3463), or empty.
    text: what the server said, or the mail's own words. plain: whether the one group of fields of an ordinary delivery
    report says so, which any program can read.
    """

    address: Address
    recipient: str
    host: str
    action: str
    status: str
    text: str
    verdict: Verdict
    plain: bool = False


def read(raw: bytes, site: Site) -> Bounce | None:
    """What a mail to one of the site's bounce addresses says, or None for a mail to any other. Never raises.

    Of several recipients the first failed one counts: CiviMail sends to one person at a time.
    """
    message = parts.read(raw[:HEAD_BYTES])
    address = delivered_to(message, site)
    if address is None:
        return None
    found = list(parts.cut(message))
    readable = next((part for part in found if part.kind.startswith("text/")), None)
    # Of a report that lost its boundaries all is text.
    whole = message if message.kind.startswith("multipart/") and not message.opened else readable
    text = as_read(whole.text(TEXT_LIMIT)).replace("\r\n", "\n") if whole else ""
    report = next((part for part in found if part.kind in STATUS_KINDS), None)
    fields = as_read(report.text()) if report else _loose(message)
    groups = _groups(fields) if fields else []
    told = [group for group in groups if group.get("action") or group.get("status")]
    if not told:
        returned = any(part.kind in RETURNED for part in found)
        return _from_text(bounce_text.read(message, text, site, returned), address)
    group = next((group for group in told if _action(group) == "failed"), told[0])
    plain = len(told) == 1 and report is not None and report.kind == STATUS_KINDS[0] and report.unencoded
    return _from_report(group, groups[0], address, text, site, plain)


def _loose(message: Part) -> str:
    """The fields of a report that lost its boundaries on the way, or stands in a text."""
    if not message.kind.startswith("multipart/report"):
        return ""
    body = message.text()
    return body[found.start() :] if (found := LOOSE.search(body)) else ""


def delivered_to(message: Part, site: Site) -> Address | None:
    """The bounce address that a mail was delivered to; None where it came to another address of the application's."""
    for name in ("delivered-to", "x-original-to", "to"):
        found = list(site.scan(message.fields.get(name, "")[:10_000]))
        if found:
            return next((address for address in found if address.verb is Verb.BOUNCE), None)
    return None


def _groups(text: str) -> list[dict[str, str]]:
    """The groups of fields of a report. A line that is no field goes on with the one before, indented or not."""
    found = []
    for group in re.split(r"\n\s*\n", text.replace("\r\n", "\n").strip()):
        lines: list[str] = []
        for line in group.split("\n"):
            if lines and (line[:1] in (" ", "\t", "") or not FIELD.match(line)):
                lines[-1] += f" {line.strip()}"
            else:
                lines.append(line)
        found.append(parts.fields("\n".join(lines)))
    return found


def _action(group: dict[str, str]) -> str:
    """failed, delayed or delivered; without an Action, by the Status."""
    word = re.match(r"[a-z]*", group.get("action", "").lower())
    told = ACTIONS.get(word[0] if word else "", "")
    return told or {"5": "failed", "4": "delayed", "2": "delivered"}.get(group.get("status", "")[:1], "failed")


def _from_report(
    group: dict[str, str], first: dict[str, str], address: Address, text: str, site: Site, plain: bool
) -> Bounce:
    action = _action(group)
    status = (STATUS.search(group.get("status", "")) or [""])[0]
    said = TYPE.sub("", group.get("diagnostic-code", "")[:FIELD_LIMIT], count=1)
    recipient = _recipient(group, site)
    phase, spoke = bounce_text.circumstances(text)
    host = _host(group.get("remote-mta", "")) or spoke or _host(first.get("reporting-mta", ""))
    if action in NOTHING_FAILED:
        found = Verdict(NOBODY, NOTHING_FAILED[action], f"Action: {action}")
    else:
        found = verdict.of_reply(said, status=status, host=host, phase=phase)
        if not said or found.vague:
            found = _second(found, text, status, host, phase)
    return Bounce(address, recipient, host or _domain(recipient), action, status, said, found, plain)


def _second(first: Verdict, text: str, status: str, host: str, phase: str) -> Verdict:
    """The human's part of a report whose fields say nothing, if that says something."""
    found = verdict.judge(bounce_text.essence(text), status=status, host=host, phase=phase)
    if found.vague and automatic.is_challenge(text):
        return Verdict(NOBODY, "notice", "a challenge to its sender")
    return first if found.vague else found


def _recipient(group: dict[str, str], site: Site) -> str:
    """The address in Final-Recipient, else Original-Recipient; never our own."""
    for name in ("final-recipient", "original-recipient", "x-actual-recipient"):
        value = COMMENT.sub(" ", group.get(name, "")[:FIELD_LIMIT])
        for found in WITHIN.finditer(value):
            address = found[1] or found[2]
            if not site.parse(address):
                return address
    return ""


def _host(value: str) -> str:
    """The name in a "dns; mx.example.net (192.0.2.1)" field."""
    words = COMMENT.sub(" ", TYPE.sub("", value[:FIELD_LIMIT], count=1)).split()
    return words[0].strip("[]<>.").lower() if words else ""


def _domain(address: str) -> str:
    return address.rpartition("@")[2].lower()


def _from_text(found: Told, address: Address) -> Bounce:
    status = (verdict.STATUS.search(found.text) or [""])[0]
    action = {ADDRESS: "failed", NOBODY: ""}.get(found.verdict.subject, "failed")
    if found.verdict.kind == "delay":
        action = "delayed"
    host = found.host or _domain(found.recipient)
    return Bounce(address, found.recipient, host, action, status, found.text, found.verdict)
