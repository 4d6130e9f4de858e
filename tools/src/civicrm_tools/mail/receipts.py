"""Tell Postfix which submitted mail is no bulk mail, by Sendmail's milter protocol on a socket from systemd.

header_checks see one header at a time and cannot tell that one is missing. This program sees all of a message's headers
and, unless one says that it is bulk mail, adds `X-Mail-Class: receipt`, which milter_header_checks act on. It sees no
body, and knows neither sender nor recipients. When it is down Postfix treats all mail as bulk.

Protocol: libmilter/mfdef.h of Sendmail 8, version 6. A packet is a length of four bytes, a command letter and its data.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence

from civicrm_tools.core import command, systemd
from civicrm_tools.core.command import DONE

NAME = "receipt-milter"
MARK = b"X-Mail-Class"
# A header that only bulk mail has; with Precedence the value decides.
BULK = {b"list-unsubscribe", b"list-id", b"x-civimail-bounce", MARK.lower()}
PRECEDENCE = {b"bulk", b"list", b"junk"}

VERSION = 6
ADD_HEADERS = 0x01
# Neither connect, helo, mail, rcpt, body, end of headers, unknown commands nor data are sent; a header wants no answer.
LEAVE_OUT = 0x01 | 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x100 | 0x200
NO_ANSWER_TO_HEADERS = 0x80
LARGEST = 1 << 20


def is_bulk(name: bytes, value: bytes) -> bool:
    return name.lower() in BULK or (name.lower() == b"precedence" and value.strip().lower() in PRECEDENCE)


def packet(command: bytes, data: bytes = b"") -> bytes:
    return struct.pack("!I", 1 + len(data)) + command + data


class Talk:
    """One connection. `answer` takes a packet and returns what to write, or None to end."""

    def __init__(self) -> None:
        self.bulk = False

    def answer(self, command: bytes, data: bytes) -> bytes | None:
        if command == b"O":
            return packet(b"O", struct.pack("!III", VERSION, ADD_HEADERS, LEAVE_OUT | NO_ANSWER_TO_HEADERS))
        if command == b"L":
            name, _, value = data.partition(b"\0")
            self.bulk = self.bulk or is_bulk(name, value.rstrip(b"\0"))
            return b""
        if command == b"E":
            added = b"" if self.bulk else packet(b"h", MARK + b"\0receipt\0")
            self.bulk = False
            return added + packet(b"c")
        if command in (b"A", b"K"):
            self.bulk = False
            return b""
        return b"" if command == b"D" else None if command == b"Q" else packet(b"c")


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    talk = Talk()
    try:
        while True:
            (length,) = struct.unpack("!I", await reader.readexactly(4))
            if not 1 <= length <= LARGEST:
                break
            data = await reader.readexactly(length)
            answer = talk.answer(data[:1], data[1:])
            if answer is None:
                break
            writer.write(answer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def run() -> None:
    listening = systemd.listening("receipt-milter.socket")
    async with await asyncio.start_unix_server(serve, sock=listening) as server:
        await server.serve_forever()


def body(argv: Sequence[str] | None) -> int:
    command.Parser(prog=NAME, description=__doc__).parse_args(argv)
    asyncio.run(run())
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
