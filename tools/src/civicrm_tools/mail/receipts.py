"""Prepare submitted mail for the signer, and tell Postfix which of it is no bulk mail: Sendmail's milter protocol.

It stands before the signer among Postfix' milters. Whatever a later server might have to change in a message is changed
here (`seven_bit`), so that the signature holds.

Of mail that sendmail submits it tells receipts, too: header_checks see one header at a time and cannot tell that one is
missing. This program sees all of a message's headers and, unless one says that it is bulk mail, adds
`X-Mail-Class: receipt`, which milter_header_checks act on. It does not know the recipients.

It says, too, for whom a message may be signed, in X-Signed-As, and refuses one in the name of another (`speakers`).
By SMTP the login tells who submits, of sendmail's mail X-Submitted-By, which header_checks put before the line of
pickup(8) and before each that a message brings along like it. Milters do not see the first Received line. So where
X-Submitted-By comes first, with no such line behind it, it is about the hidden one. Diverted mail has none: there
nobody can tell.

On another socket it answers cleanup(8) and smtpd(8), which ask for a domain's ASCII form in an address or a command.

While it is down mail waits, as for the signer. A message that it cannot read passes as it is.

Protocol: libmilter/mfdef.h of Sendmail 8, version 6. A packet is a length of four bytes, a command letter and its data.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Sequence

from civicrm_tools.core import command, systemd
from civicrm_tools.core.command import DONE
from civicrm_tools.mail import seven_bit, socketmap, speakers
from civicrm_tools.mail.international import in_ascii
from civicrm_tools.mail.speakers import Judgement, Speakers, Submitter

NAME = "receipt-milter"
MARK = b"X-Mail-Class"
SIGNED_AS, SUBMITTED_BY = b"X-Signed-As", b"X-Submitted-By"
# A header that only bulk mail has; with Precedence the value decides.
BULK = {b"list-unsubscribe", b"list-id", b"x-civimail-bounce", MARK.lower()}
PRECEDENCE = {b"bulk", b"list", b"junk"}

VERSION = 6
ADD_HEADERS, CHANGE_BODY, CHANGE_HEADERS = 0x01, 0x02, 0x10
# Neither connect, helo, rcpt, end of headers, unknown commands nor data are sent; mail, header and body want no answer.
LEAVE_OUT = 0x01 | 0x02 | 0x08 | 0x40 | 0x100 | 0x200
NO_ANSWER = 0x80 | 0x4000 | 0x80000
LARGEST = 1 << 20
CHUNK = 65535
# What may stand in an answer to an SMTP client.
UNPRINTABLE = re.compile(r"[^ -~]|%")
WELCOME = struct.pack("!III", VERSION, ADD_HEADERS | CHANGE_BODY | CHANGE_HEADERS, LEAVE_OUT | NO_ANSWER)


def is_bulk(name: bytes, value: bytes) -> bool:
    return name.lower() in BULK or (name.lower() == b"precedence" and value.strip().lower() in PRECEDENCE)


def packet(command: bytes, data: bytes = b"") -> bytes:
    return struct.pack("!I", 1 + len(data)) + command + data


class Talk:
    """One connection. `answer` takes a packet and returns what to write, or None to end.

    kind: "sendmail", whose receipts get their mark, "smtp" or "host", for mail that Postfix writes itself.
    """

    def __init__(self, kind: str, known: Speakers) -> None:
        self.kind, self.known = kind, known
        self.forget()

    def forget(self) -> None:
        self.headers: list[seven_bit.Header] = []
        self.body: list[bytes] = []
        self.login = self.sender = ""

    def answer(self, command: bytes, data: bytes) -> bytes | None:
        if command == b"O":
            return packet(b"O", WELCOME)
        if command == b"L":
            name, _, value = data.partition(b"\0")
            self.headers.append((name, value.rstrip(b"\0")))
            return b""
        if command == b"B":
            self.body.append(data)
            return b""
        if command == b"D":
            if data[:1] == b"M":
                macros = data[1:].split(b"\0")
                self.login = (
                    dict(zip(macros[::2], macros[1::2], strict=False)).get(b"{auth_authen}", b"").decode("latin-1")
                )
            return b""
        if command == b"M":
            self.sender = data.partition(b"\0")[0].strip(b"<>").decode("latin-1")
            return b""
        if command == b"E":
            self.body.append(data)
            done = self.end()
            self.forget()
            return done
        if command in (b"A", b"K"):
            self.forget()
            return b""
        return None if command == b"Q" else packet(b"c")

    def end(self) -> bytes:
        """Packets that refuse the message, or change it and let it go on."""
        submitter = self.submitter()
        try:
            judged = self.known.judge(submitter, self.sender, [v for n, v in self.headers if n.lower() == b"from"])
        except Exception as error:
            # Unsigned, it goes on: a message that no program here can read must not wait for ever.
            command.tell(NAME, f"signed for nobody: {type(error).__name__}: {error}")
            judged = Judgement()
        if judged.refused:
            text = UNPRINTABLE.sub("?", judged.refused)[:200]
            command.tell(NAME, f"{'dropped' if judged.silent else 'refused'}: {text}")
            # sendmail's mail would come back to its envelope sender, who is somebody else.
            if judged.silent and self.kind == "sendmail":
                return packet(b"d")
            return packet(b"y", f"550 5.7.1 {text}".encode() + b"\0")
        signed = SIGNED_AS + b"\0" + judged.signed_as.encode("latin-1") + b"\0"
        return b"".join(self.changes()) + packet(b"h", signed) + packet(b"c")

    def submitter(self) -> Submitter:
        if self.kind == "host":
            return Submitter("host")
        if self.kind == "smtp":
            return Submitter("login", self.login) if self.login else Submitter("relay")
        (name, value), (after, line) = (*self.headers[:2], (b"", b""), (b"", b""))[:2]
        brought = after.strip().lower() == b"received" and b"from userid" in line.lower()
        if name != SUBMITTED_BY or brought or not value.strip().isdigit():
            return Submitter("hidden")
        return Submitter("uid", value.strip().decode())

    def changes(self) -> Iterator[bytes]:
        """Packets that change the message."""
        for place in range(sum(name.lower() == SIGNED_AS.lower() for name, _ in self.headers), 0, -1):
            yield packet(b"m", struct.pack("!I", place) + SIGNED_AS + b"\0\0")
        if self.kind == "sendmail" and not any(is_bulk(*header) for header in self.headers):
            yield packet(b"h", MARK + b"\0receipt\0")
        try:
            edits, body = seven_bit.edits(self.headers, b"".join(self.body))
        except Exception as error:
            # Better a signature that may break than mail that never leaves.
            command.tell(NAME, f"passed as it is: {type(error).__name__}: {error}")
            return
        for name, place, value in edits:
            # These are for this program alone to set.
            if name.lower() not in (MARK.lower(), SIGNED_AS.lower()):
                text = name + b"\0" + value + b"\0"
                yield packet(b"m", struct.pack("!I", place) + text) if place else packet(b"h", text)
        if body is not None:
            for start in range(0, len(body), CHUNK):
                yield packet(b"b", body[start : start + CHUNK])


class Connection(asyncio.Protocol):
    """Bytes to packets and back. A message comes in a few pieces of many packets each: none of them waits alone."""

    def __init__(self, kind: str, known: Speakers) -> None:
        self.talk = Talk(kind, known)
        self.unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        data = self.unread + data
        place = 0
        while len(data) - place >= 4:
            (length,) = struct.unpack_from("!I", data, place)
            if not 1 <= length <= LARGEST:
                return self.transport.close()
            end = place + 4 + length
            if end > len(data):
                break
            answer = self.talk.answer(data[place + 4 : place + 5], data[place + 5 : end])
            if answer is None:
                return self.transport.close()
            self.transport.write(answer)
            place = end
        self.unread = data[place:]


async def domain_in_ascii(_table: str, key: bytes) -> bytes:
    """The answer to cleanup(8) or smtpd(8): the address with its domain in ASCII, if it has such a form."""
    address = key.decode(errors="surrogateescape")
    changed = in_ascii(address)
    return b"OK " + changed.encode(errors="surrogateescape") if changed != address else b"NOTFOUND "


async def run() -> None:
    """Serve the sockets of receipt-milter.socket, in its order; one written by an older playbook has fewer."""
    loop = asyncio.get_running_loop()
    known = speakers.load()
    kinds: list[Callable[[socket.socket], Awaitable[asyncio.Server]]] = [
        lambda sock: loop.create_unix_server(lambda: Connection("sendmail", known), sock=sock),
        lambda sock: loop.create_unix_server(lambda: Connection("smtp", known), sock=sock),
        lambda sock: asyncio.start_unix_server(
            lambda reader, writer: socketmap.serve(reader, writer, domain_in_ascii), sock=sock
        ),
        lambda sock: loop.create_unix_server(lambda: Connection("host", known), sock=sock),
    ]
    given = systemd.all_listening("receipt-milter.socket")
    servers = [await serve(sock) for serve, sock in zip(kinds, given, strict=False)]
    await asyncio.gather(*(server.serve_forever() for server in servers))


def body(argv: Sequence[str] | None) -> int:
    command.Parser(prog=NAME, description=__doc__).parse_args(argv)
    asyncio.run(run())
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
