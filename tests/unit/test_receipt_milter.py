"""What is bulk mail is told by all headers of a message, and each message starts anew."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from civicrm_tools.mail import receipts as tool

MARKED = tool.packet(b"h", b"X-Mail-Class\0receipt\0") + tool.packet(b"c")
PASSED = tool.packet(b"c")


def ask(talk, *headers: tuple[bytes, bytes]) -> bytes:
    for name, value in headers:
        assert talk.answer(b"L", name + b"\0" + value + b"\0") == b""
    return talk.answer(b"E", b"")


@pytest.mark.parametrize(
    "header",
    [(b"Precedence", b"bulk"), (b"PRECEDENCE", b" List "), (b"List-Unsubscribe", b"<https://x>"), (b"List-Id", b"<x>"),
     (b"X-CiviMail-Bounce", b"civicrm+b.1.2.x@y"), (b"X-Mail-Class", b"receipt")],
)  # fmt: skip
def test_bulk_mail_gets_no_mark(header):
    """And what carries the mark already is not marked again, or it would go round for ever (N24)."""
    assert ask(tool.Talk(), (b"From", b"a@b"), header, (b"Subject", b"x")) == PASSED


@pytest.mark.parametrize(
    "header", [(b"Precedence", b"first-class"), (b"Subject", b"Precedence: bulk"), (b"To", b"list-id@x")]
)
def test_any_other_mail_is_a_receipt(header):
    assert ask(tool.Talk(), (b"From", b"a@b"), header) == MARKED


def test_the_next_message_of_a_connection_starts_anew():
    talk = tool.Talk()
    assert ask(talk, (b"Precedence", b"bulk")) == PASSED
    assert ask(talk) == MARKED
    talk.answer(b"L", b"Precedence\0bulk\0")
    assert talk.answer(b"A", b"") == b""
    assert ask(talk) == MARKED


def test_a_whole_talk_over_a_socket():
    """It asks for headers alone, may add one, and gives up on nonsense."""

    async def talk() -> bytes:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=theirs)
        served = asyncio.create_task(tool.serve(*await asyncio.open_connection(sock=ours)))
        writer.write(tool.packet(b"O", struct.pack("!III", 6, 0x1FF, 0x1FFFFF)))
        writer.write(tool.packet(b"D", b"Li\0x\0") + tool.packet(b"L", b"Subject\0x\0") + tool.packet(b"E"))
        writer.write(struct.pack("!I", 1 << 30))
        got = await asyncio.wait_for(reader.read(), 5)
        await served
        writer.close()
        return got

    got = asyncio.run(talk())
    assert got == tool.packet(b"O", struct.pack("!III", 6, 1, 0x3DF)) + MARKED
