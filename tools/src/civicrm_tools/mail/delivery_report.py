"""What a bounce says: whose delivery failed, where and why (RFC 3464; other bounces as far as their text goes)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.message import Message

from civicrm_tools.mail.addresses import Address, Verb
from civicrm_tools.mail.mime import content_type, header, parse_message, parts, text_of
from civicrm_tools.mail.return_path import Site

# A delivery report tells all at its beginning; the returned message comes last.
HEAD_BYTES = 256 * 1024
STATUS = re.compile(r"\b([245]\.\d{1,3}\.\d{1,3})\b")
ADDRESS = re.compile(r"<([^<>@\s]{1,128}@[A-Za-z0-9.-]{1,253})>")


@dataclass(frozen=True)
class Bounce:
    """One failed or delayed delivery. `status` is the enhanced code (RFC 3463), empty where none was found.

    `recipient` is an address, or, where the bounce names none, the domain of its author.
    """

    address: Address
    recipient: str
    action: str
    status: str
    text: str


def read(raw: bytes, site: Site) -> Bounce | None:
    """The bounce in a message to one of the site's bounce addresses, or None for any other mail. Never raises.

    Of several recipients the first failed one counts: CiviMail sends to one person at a time.
    """
    message = parse_message(raw[:HEAD_BYTES])
    if message is None:
        return None
    address = _addressed(message, site)
    if address is None:
        return None
    blocks: list[Message] = []
    texts: list[str] = []
    for part in parts(message):
        kind = content_type(part)
        if kind == "message/delivery-status":
            payload = part.get_payload()
            blocks += [block for block in payload if isinstance(block, Message)] if isinstance(payload, list) else []
        elif kind.startswith("text/") and not texts:
            texts.append(text_of(part)[:16384])
    found = [block for block in blocks if header(block, "Action")]
    if not found:
        return _from_text(message, address, "\n".join(texts))
    block = next((block for block in found if header(block, "Action").lower().startswith("failed")), found[0])
    return Bounce(
        address,
        _value(header(block, "Final-Recipient") or header(block, "Original-Recipient")),
        header(block, "Action").lower().partition(" ")[0],
        (STATUS.search(header(block, "Status")) or [""])[0],
        header(block, "Diagnostic-Code"),
    )


def _addressed(message: Message, site: Site) -> Address | None:
    """The bounce address that the message was delivered to."""
    for name in ("Delivered-To", "X-Original-To", "To"):
        for address in site.scan(header(message, name)[:10_000]):
            if address.verb is Verb.BOUNCE:
                return address
    return None


def _from_text(message: Message, address: Address, text: str) -> Bounce | None:
    # Vacation replies and success notices come to bounce addresses too: without a code of failure it is no bounce.
    status = STATUS.search(text)
    if not status or status[1].startswith("2"):
        return None
    recipient = ADDRESS.search(text) or re.search(r"@([A-Za-z0-9.-]{1,253})", header(message, "From"))
    return Bounce(
        address,
        recipient[1] if recipient else "",
        "failed" if status[1].startswith("5") else "delayed",
        status[1],
        text[:2000],
    )


def _value(field: str) -> str:
    """The value of a "type; value" field, such as rfc822; ada@example.net."""
    return field.partition(";")[2].strip(" <>") or field.strip(" <>")
