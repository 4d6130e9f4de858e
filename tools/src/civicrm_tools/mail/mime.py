"""Read mail that strangers wrote, within bounds and without an exception (RFC 2045, RFC 2046)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from email.message import Message

from civicrm_tools.mail.maildir import READ_LIMIT

# The parser of the standard library compares every line with every open boundary and calls itself for every level.
BOUNDARY_LIMIT = 64
PARTS_LIMIT = 200


def parse_message(raw: bytes) -> Message | None:
    """The message as MIME parts, or None where its structure would cost too much: then only its text counts."""
    from email.parser import BytesParser  # 4 MB and 0.03 s, which --help does without
    from email.policy import compat32

    if raw.lower().count(b"boundary") > BOUNDARY_LIMIT or raw.count(b"\n") > 200_000:
        return None
    try:
        return BytesParser(policy=compat32).parsebytes(raw)
    except (RecursionError, ValueError, LookupError, TypeError, AttributeError, IndexError):
        return None


def parts(message: Message) -> Iterator[Message]:
    """The leaves and branches of a message, from the outside in, bounded."""
    waiting, seen = [message], 0
    while waiting and seen < PARTS_LIMIT:
        part = waiting.pop(0)
        seen += 1
        yield part
        payload = part.get_payload()
        if isinstance(payload, list):
            waiting = [*payload, *waiting]


def content_type(part: Message) -> str:
    """maintype/subtype in lower case; text/plain where the header is damaged."""
    try:
        return part.get_content_type()
    except (ValueError, LookupError, TypeError, AttributeError, IndexError):
        return "text/plain"


def parameter(part: Message, name: str) -> str:
    """A parameter of Content-Type in lower case, or an empty string."""
    try:
        value = part.get_param(name)
    except (ValueError, LookupError, TypeError, AttributeError, IndexError):
        return ""
    return value.strip().lower() if isinstance(value, str) else ""


def header(part: Message, name: str) -> str:
    """A header as it stands, unfolded, or an empty string."""
    try:
        value = part.get(name)
    except (ValueError, LookupError, TypeError, AttributeError, IndexError):
        return ""
    return " ".join(str(value).split()) if value is not None else ""


def text_of(part: Message) -> str:
    """A part as text: transfer encoding undone, bytes one to one (latin-1), never an archive unpacked."""
    from email.message import Message

    try:
        if part.is_multipart():
            inner = part.get_payload()
            pieces = inner if isinstance(inner, list) else []
            raw = b"\n".join(bytes(piece) for piece in pieces if isinstance(piece, Message))
            # The library leaves the encoding of a message/* part alone, although real reports carry one.
            raw = decoded(raw, header(part, "Content-Transfer-Encoding").lower())
        else:
            found = part.get_payload(decode=True)
            raw = found if isinstance(found, bytes) else b""
    except (ValueError, LookupError, TypeError, AttributeError, IndexError, RecursionError, AssertionError):
        raw = b""
    return raw[:READ_LIMIT].decode("latin-1")


def decoded(raw: bytes, encoding: str) -> bytes:
    """Undo base64 or quoted-printable; what is neither stays as it is."""
    import binascii
    import quopri

    if encoding == "base64":
        with suppress(binascii.Error, ValueError):
            return binascii.a2b_base64(raw)
    if encoding == "quoted-printable":
        return quopri.decodestring(raw)
    return raw
