"""Make a message such that no server on the way has to change it: 7-bit, and no line above 998 bytes.

Postfix changes what is not so when it delivers, after the signer: smtp(8) breaks long lines, and turns what is called
8bit into quoted-printable for a server without 8BITMIME (RFC 6152). Either breaks the signature. So texts become
quoted-printable or base64 (RFC 2045, 6) before they are signed, and what is called 8bit is called 7bit where it is.
Bytes of the content stay as they are for the reader.
"""

from __future__ import annotations

import binascii
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from civicrm_tools.mail.parts import decoded

# RFC 5322, 2.1.1, without CR LF.
LIMIT = 998
CRLF = b"\r\n"
HIGH = bytes(range(128, 256))
# Deeper, and with a longer name, things are left as they are.
DEPTH_LIMIT = 20
NAME_LIMIT = 100

TYPE, ENCODING = b"content-type", b"content-transfer-encoding"
# What smtp(8) may change although it is ASCII.
NOT_7BIT = (b"8bit", b"binary")
FIELDS = [
    re.compile(rb"^" + name + rb"[ \t]*:((?:[^\r\n]|\r\n[ \t])*)", re.IGNORECASE | re.MULTILINE)
    for name in (TYPE, ENCODING)
]
BOUNDARY = re.compile(rb';\s*boundary\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))', re.IGNORECASE)
# What follows a boundary on its line; two dashes end the multipart.
REST = re.compile(rb"(--)?[ \t]*(?:\r\n|\Z)")
WORD = re.compile(rb"\s*([\w-]*)")

Header = tuple[bytes, bytes]


def has_long_line(text: bytes) -> bool:
    place = 0
    while len(text) - place > LIMIT:
        newline = text.rfind(b"\n", place, place + LIMIT + 2)
        if newline < 0:
            return True
        place = newline + 1
    return False


def fits(text: bytes) -> bool:
    """Whether a content may travel as it is; its lines end in CR LF."""
    return text.isascii() and b"\0" not in text and not has_long_line(text)


def pieces(line: bytes) -> Iterator[bytes]:
    """A header's line in pieces that fit: cut before a blank, or where smtp(8) would cut it."""
    while len(line) > LIMIT:
        blank = max(line.rfind(letter, LIMIT // 2, LIMIT + 1) for letter in (b" ", b"\t"))
        yield line[:blank] if blank > 0 else line[:LIMIT]
        line = line[blank:] if blank > 0 else b" " + line[LIMIT:]
    yield line


def encoded(kind: bytes, data: bytes) -> tuple[bytes, bytes]:
    """Return an encoding and the content in it: quoted-printable for text that is mostly ASCII, else base64."""
    if kind.startswith(b"text/") and 6 * (len(data) - len(data.translate(None, HIGH))) < len(data):
        lines = binascii.b2a_qp(data).replace(CRLF, b"\n").replace(b"\r", b"=0D")
        return b"quoted-printable", lines.replace(b"\n", CRLF)
    return b"base64", wrapped(binascii.b2a_base64(data, newline=False))


def wrapped(base64: bytes) -> bytes:
    return b"".join(base64[place : place + 76] + CRLF for place in range(0, len(base64), 76))


def rewritten(content_type: bytes, encoding: bytes, body: bytes, depth: int = 0) -> tuple[bytes, bytes]:
    """Return what the encoding is called from now on, and the content."""
    label = b"7bit" if encoding in NOT_7BIT else encoding
    kind = content_type.partition(b";")[0].strip().lower() or b"text/plain"
    has_parts = kind.startswith(b"multipart/")
    if encoding not in (b"base64", b"quoted-printable") and (has_parts or kind == b"message/rfc822"):
        boundary = BOUNDARY.search(content_type) if has_parts else None
        if depth >= DEPTH_LIMIT or (has_parts and not boundary):
            return encoding, body
        if not boundary:
            return label, entity(body, depth + 1)
        return label, multipart(re.sub(rb"\\(.)", rb"\1", boundary[1] or boundary[2] or b""), body, depth)
    if fits(body):
        return label, body
    if encoding == b"base64" and body.isascii():
        return encoding, wrapped(b"".join(body.split()))
    return encoded(kind, decoded(body, encoding.decode("latin-1")))


def multipart(boundary: bytes, body: bytes, depth: int) -> bytes:
    """Return a multipart's content with each of its parts rewritten. What stands around them is for nobody."""
    mark = CRLF + b"--" + boundary.rstrip()
    # [line of the boundary, what follows it]; first what stands before all parts.
    found: list[tuple[bytes, list[bytes]]] = [(b"", [])]
    ended = False
    for number, piece in enumerate((CRLF + body).split(mark)):
        rest = REST.match(piece)
        if number == 0:
            found[0][1].append(piece)
        elif ended or not rest:
            # A longer boundary that begins like this one, or a text behind the end.
            found[-1][1].extend((mark, piece))
        else:
            found.append((mark + rest[0], [piece[rest.end() :]]))
            ended = bool(rest[1])
    if len(found) == 1:
        return body
    around = {0, len(found) - 1 if ended else 0}
    done = []
    for number, (line, content) in enumerate(found):
        text = b"".join(content)
        inside = entity(text, depth + 1) if number not in around else text if fits(text) else b""
        done.append(line + inside)
    return b"".join(done).removeprefix(CRLF)


def entity(text: bytes, depth: int) -> bytes:
    """Return a part, its header and its content, rewritten."""
    head, blank_line, body = (CRLF + text).partition(CRLF + CRLF)
    content_type, encoding = (field.search(head) for field in FIELDS)
    called = word(encoding[1]) if encoding else b""
    label, body = rewritten(content_type[1] if content_type else b"", called, body, depth)
    if label != called:
        field = b"Content-Transfer-Encoding: " + label
        head = head[: encoding.start()] + field + head[encoding.end() :] if encoding else head + CRLF + field
    if has_long_line(head):
        head = CRLF.join(piece for line in head.split(CRLF) for piece in pieces(line))
    return (head + blank_line + body).removeprefix(CRLF)


def word(value: bytes) -> bytes:
    """The first word of a header, in lower case."""
    found = WORD.match(value)
    return found[1].lower() if found else b""


# Name, its how-manieth occurrence counted from 1 or 0 for one more, and the value.
Edit = tuple[bytes, int, bytes]


def edits(headers: Sequence[Header], body: bytes) -> tuple[list[Edit], bytes | None]:
    """Return which headers of a message to change or add, and the new body, or None where it stays.

    headers: as Postfix' milters see them, lines of one header apart by LF; body: its lines end in CR LF.
    """
    found = long_headers(headers)
    content_types = [value for name, value in headers if name.lower() == TYPE]
    encodings = [word(value) for name, value in headers if name.lower() == ENCODING]
    content_type, called = (content_types or [b""])[0], (encodings or [b""])[0]
    if called not in NOT_7BIT and fits(body) and not any(name in body.lower() for name in NOT_7BIT):
        return found, None
    label, new = rewritten(content_type, called, body)
    if label != called:
        places = range(1, len(encodings) + 1) or [0]
        found += [(b"Content-Transfer-Encoding", place, label) for place in places]
        if not any(name.lower() == b"mime-version" for name, _ in headers):
            found.append((b"MIME-Version", 0, b"1.0"))
        if not content_type and not body.isascii():
            found.append((b"Content-Type", 0, b"text/plain; charset=" + charset(body)))
    return found, new if new != body else None


def long_headers(headers: Sequence[Header]) -> list[Edit]:
    """Edits that fold what is too long."""
    found, seen = [], Counter[bytes]()
    for name, value in headers:
        seen[name.lower()] += 1
        if len(name) + len(value) < LIMIT - 2 or len(name) > NAME_LIMIT:
            continue
        lines = (name + b": " + value).split(b"\n")
        if max(map(len, lines)) > LIMIT:
            text = b"\n".join(piece for line in lines for piece in pieces(line))
            found.append((name, seen[name.lower()], text[len(name) + 2 :]))
    return found


def charset(body: bytes) -> bytes:
    """What an undeclared text is most likely in; RFC 1428 has a name for what is not known."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return b"unknown-8bit"
    return b"utf-8"
