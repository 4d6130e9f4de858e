"""Find the parts of a mail in its bytes (RFC 2045, RFC 2046), without the library's parser, which takes far longer.

For reports that come by the thousand; bounded, and without an exception whatever strangers wrote. What is returned with
a report, message/rfc822, is not looked into.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from typing import NamedTuple

FOLD = re.compile(r"\n[ \t]+")
BOUNDARY = re.compile(r"""boundary\s*=\s*(?:"([^"\n]{1,200})"|([^\s;"]{1,200}))""", re.IGNORECASE)
GUESS = re.compile(rb"\n--[!-~]{2,200}(?=[ \t]*\n)")
REPORT = re.compile(r"report-type\s*=\s*\"?([\w-]+)", re.IGNORECASE)
HEAD_LIMIT = 32 * 1024
PARTS_LIMIT = 60
DEPTH_LIMIT = 5


class Part(NamedTuple):
    """A mail or a part of one. fields: {name in lower case: first value, unfolded}; body: as it was sent."""

    kind: str
    fields: dict[str, str]
    body: bytes

    @property
    def report_type(self) -> str:
        """Of a multipart/report, in lower case."""
        found = REPORT.search(self.fields.get("content-type", ""))
        return found[1].lower() if found else ""

    @property
    def unencoded(self) -> bool:
        """Whether its body is as it reads."""
        return self.fields.get("content-transfer-encoding", "7bit").strip().lower() in ("7bit", "8bit", "binary")

    def decoded(self, limit: int) -> str:
        """The body with its transfer encoding undone, bytes one to one; UTF-8 as such where it is."""
        encoding, raw = self.fields.get("content-transfer-encoding", "").strip().lower(), self.body[: limit * 2]
        if encoding == "base64":
            raw = _base64(raw)
        elif encoding == "quoted-printable":
            raw = binascii.a2b_qp(raw)
        raw = raw[:limit]
        return raw.decode("latin-1") if raw.isascii() else _letters(raw)


def _base64(raw: bytes) -> bytes:
    """What can be decoded: a cut-off end does not lose the beginning."""
    clean = re.sub(rb"[^A-Za-z0-9+/]", b"", raw)
    try:
        return binascii.a2b_base64(clean[: len(clean) // 4 * 4])
    except binascii.Error:
        return raw


def _letters(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def fields(head: str) -> dict[str, str]:
    """{name in lower case: value} of a block of header fields; of several with one name the first."""
    found: dict[str, str] = {}
    for line in FOLD.sub(" ", head).split("\n"):
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.rstrip().lower(), value.strip())
    return found


def read(raw: bytes) -> Part:
    """The whole mail. raw: its lines end in LF."""
    head, _, body = raw.partition(b"\n\n")
    return _part(head, body)


def _part(head: bytes, body: bytes) -> Part:
    found = fields(head[:HEAD_LIMIT].decode("latin-1"))
    kind = found.get("content-type", "text/plain").partition(";")[0].strip().lower()
    return Part(kind, found, body)


def leaves(part: Part, depth: int = 0) -> Iterator[Part]:
    """The parts that hold something, in order; a mail without parts is its own."""
    if not part.kind.startswith("multipart/") or depth == DEPTH_LIMIT:
        yield part
        return
    boundary = BOUNDARY.search(part.fields.get("content-type", ""))
    body, mark = b"\n" + part.body, f"\n--{boundary[1] or boundary[2] if boundary else chr(0)}".encode("latin-1")
    if mark not in body:
        # Some relays write another boundary than they announce.
        found = GUESS.search(body)
        mark = found[0] if found else mark
    for piece in body.split(mark, PARTS_LIMIT)[1:]:
        if piece.startswith(b"--"):
            break
        # The rest of the boundary's line; a part without fields begins with an empty line.
        piece = piece.partition(b"\n")[2]
        head, _, body = piece.partition(b"\n\n") if not piece.startswith(b"\n") else (b"", b"", piece[1:])
        yield from leaves(_part(head, body), depth + 1)
