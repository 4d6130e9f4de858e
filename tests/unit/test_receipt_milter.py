"""What is bulk mail is told by all headers of a message, each starts anew, and the signer gets what it can sign."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from civicrm_tools.mail import receipts as tool
from civicrm_tools.mail import speakers

KNOWN = speakers.Speakers(
    hostname="int.example.org",
    users={"2001": "crm", "2002": "other"},
    domains={"crm": ["crm.example.org"], "other": ["other.example.org"]},
    silent=[],
    relay=["root@ext.example.org"],
)
DIVERTED = tool.packet(b"h", b"X-Signed-As\0nobody@diverted.invalid\0")
# What a message gets of which nobody can tell who submitted it.
PASSED = DIVERTED + tool.packet(b"c")
MARKED = tool.packet(b"h", b"X-Mail-Class\0receipt\0") + PASSED


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
    assert ask(tool.Talk("sendmail", KNOWN), (b"From", b"a@b"), header, (b"Subject", b"x")) == PASSED


@pytest.mark.parametrize(
    "header", [(b"Precedence", b"first-class"), (b"Subject", b"Precedence: bulk"), (b"To", b"list-id@x")]
)
def test_any_other_mail_is_a_receipt(header):
    assert ask(tool.Talk("sendmail", KNOWN), (b"From", b"a@b"), header) == MARKED


def test_the_next_message_of_a_connection_starts_anew():
    talk = tool.Talk("sendmail", KNOWN)
    assert ask(talk, (b"Precedence", b"bulk")) == PASSED
    assert ask(talk) == MARKED
    talk.answer(b"L", b"Precedence\0bulk\0")
    assert talk.answer(b"A", b"") == b""
    assert ask(talk) == MARKED


def signed(address: str) -> bytes:
    return tool.packet(b"h", b"X-Signed-As\0" + address.encode() + b"\0")


GOES_ON = tool.packet(b"c")
UNSIGNED = signed(speakers.NOBODY) + GOES_ON


def brought(uid: int) -> list[tuple[bytes, bytes]]:
    """A line like pickup's that a message brings along, and what header_checks put before it."""
    line = b"by int.example.org (Postfix, from userid %d)\n\tid 4jWKRG0fdJzWSbn; Fri, 20 Nov 2026 15:45:14 +0000" % uid
    return [*submitted(uid), (b"Received", line)]


def submitted(uid: int) -> list[tuple[bytes, bytes]]:
    return [(b"X-Submitted-By", b"%d" % uid)]


OWN = (b"From", b"news@crm.example.org")


def refusal(answer: bytes) -> str:
    assert answer[4:5] == b"y", answer
    return answer[5:].rstrip(b"\0").decode()


@pytest.mark.parametrize(
    ("headers", "answer"),
    [
        ([*submitted(2001), OWN], signed("news@crm.example.org") + GOES_ON),
        ([*submitted(2001), (b"From", b"a@b.test")], UNSIGNED),
        ([*submitted(2001), *brought(2002), OWN], signed("news@crm.example.org") + GOES_ON),
        ([*submitted(2001), (b"Received", b"from x by y"), OWN], signed("news@crm.example.org") + GOES_ON),
        ([*brought(2001), OWN], PASSED),
        ([(b"X", b"y"), *submitted(2001), OWN], PASSED),
        ([(b"x-submitted-by", b"2001"), OWN], PASSED),
        ([(b"X-Submitted-By", b"2001 x"), OWN], PASSED),
        ([OWN], PASSED),
    ],
    ids=["own", "elsewhere", "own with a forged line", "passed on", "forged", "later", "case", "no uid", "diverted"],
)
def test_what_stands_before_pickups_line_tells_whom_a_message_is_signed_for(headers, answer):
    """Milters do not see the line itself; one that a message brings along they do."""
    talk = tool.Talk("sendmail", KNOWN)
    assert ask(talk, *headers, (b"Precedence", b"bulk")) == answer


def test_by_smtp_the_login_tells_and_the_next_message_starts_anew():
    talk = tool.Talk("smtp", KNOWN)
    own = (b"From", b"News <news@crm.example.org>")
    talk.answer(b"D", b"M{auth_type}\0PLAIN\0{auth_authen}\0crm\0")
    talk.answer(b"M", b"<civicrm+b.1.2.0123456789abcdef@crm.example.org>\0BODY=8BITMIME\0")
    assert ask(talk, own) == signed("news@crm.example.org") + GOES_ON
    assert ask(talk, own) == UNSIGNED
    assert ask(talk, *submitted(2001), own) == UNSIGNED
    talk.answer(b"D", b"M{auth_authen}\0other\0")
    assert refusal(ask(talk, own)) == "550 5.7.1 other may not send as news@crm.example.org"
    talk.answer(b"D", b"M{auth_authen}\0other\0")
    talk.answer(b"M", b"<civicrm+b.1.2.0123456789abcdef@crm.example.org>\0")
    assert refusal(ask(talk, (b"From", b"me@other.example.org"))).endswith("@crm.example.org")


@pytest.mark.parametrize(
    "typed", ['<"news"@crm.example.org>', "<@a.test:news@crm.example.org>", "news@crm.example.org."]
)
def test_by_smtp_an_envelope_in_another_form_is_refused(typed):
    talk = tool.Talk("smtp", KNOWN)
    talk.answer(b"D", b"M{auth_authen}\0other\0")
    talk.answer(b"M", typed.encode() + b"\0BODY=8BITMIME\0")
    assert refusal(ask(talk, (b"From", b"me@other.example.org"))).startswith("550 5.7.1 other may not send as ")


def test_mail_with_anothers_envelope_does_not_bounce_to_it():
    """By sendmail it is dropped and told in the journal: a bounce would count in the other's name."""
    talk = tool.Talk("sendmail", KNOWN)
    talk.answer(b"M", b"<civicrm+b.1.2.0123456789abcdef@crm.example.org>\0")
    assert ask(talk, *submitted(2002), (b"From", b"me@other.example.org")) == tool.packet(b"d")
    assert refusal(ask(talk, *submitted(2002), (b"From", b"news@crm.example.org")))


def test_what_a_message_says_of_its_signer_is_taken_away():
    talk = tool.Talk("smtp", KNOWN)
    gone = [tool.packet(b"m", struct.pack("!I", place) + b"X-Signed-As\0\0") for place in (2, 1)]
    brought = [(name, b"news@crm.example.org") for name in (b"X-Signed-As", b"x-signed-as")]
    assert ask(talk, *brought, (b"From", b"news@crm.example.org")) == b"".join(gone) + UNSIGNED


def test_a_mistake_in_the_judgement_leaves_mail_unsigned(monkeypatch, capsys):
    def fail(*_):
        raise RecursionError("too deep")

    monkeypatch.setattr(speakers, "address", fail)
    talk = tool.Talk("sendmail", KNOWN)
    answer = ask(talk, *submitted(2001), (b"From", b"x"), (b"Precedence", b"bulk"))
    assert answer == UNSIGNED
    assert capsys.readouterr().err == "receipt-milter: signed for nobody: RecursionError: too deep\n"


def talk_over_a_socket(packets: bytes, kind: str = "sendmail") -> bytes:
    """What the program answers, until it hangs up."""

    async def talk() -> bytes:
        ours, theirs = socket.socketpair()
        await asyncio.get_running_loop().create_connection(lambda: tool.Connection(kind, KNOWN), sock=ours)
        reader, writer = await asyncio.open_connection(sock=theirs)
        # In two pieces, neither of which ends where a packet does.
        writer.write(packets[:7])
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(packets[7:])
        got = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return got

    return asyncio.run(talk())


def message(*headers: bytes, body: bytes = b"x\r\n") -> bytes:
    asked = tool.packet(b"O", struct.pack("!III", 6, 0x1FF, 0x1FFFFF)) + tool.packet(b"D", b"Li\0x\0")
    asked += b"".join(tool.packet(b"L", header + b"\0") for header in headers)
    for start in range(0, len(body), 65535):
        asked += tool.packet(b"B", body[start : start + 65535])
    return asked + tool.packet(b"E") + tool.packet(b"Q")


WELCOME = tool.packet(b"O", struct.pack("!III", 6, 0x13, 0x843CB))


def test_a_whole_talk_over_a_socket():
    """It asks for headers and body alone, may change both, and gives up on nonsense."""
    assert talk_over_a_socket(message(b"Subject\0x")) == WELCOME + MARKED
    assert talk_over_a_socket(message(b"Subject\0x") + struct.pack("!I", 1 << 30)) == WELCOME + MARKED
    assert talk_over_a_socket(struct.pack("!I", 1 << 30)) == b""


def test_by_smtp_nothing_is_a_receipt():
    """The envelope tells there; and the diversion does not know a relay client, so that its mail would stay there."""
    assert talk_over_a_socket(message(b"Subject\0x"), "smtp") == WELCOME + UNSIGNED


def test_a_body_that_the_signer_could_not_answer_for_is_replaced():
    """Header and body, in pieces that Postfix takes."""
    got = talk_over_a_socket(message(b"Precedence\0bulk", b"Content-Type\0text/html", body=b"a" * 200_000 + b"\r\n"))
    changed = tool.packet(b"h", b"Content-Transfer-Encoding\0quoted-printable\0") + tool.packet(
        b"h", b"MIME-Version\x001.0\0"
    )
    assert got.startswith(WELCOME + changed)
    body, place = b"", len(WELCOME + changed)
    while got[place + 4 : place + 5] == b"b":
        (length,) = struct.unpack_from("!I", got, place)
        assert length <= 65536
        body += got[place + 5 : place + 4 + length]
        place += 4 + length
    assert got[place:] == PASSED
    assert body.replace(b"=\r\n", b"") == b"a" * 200_000 + b"\r\n"


def test_nobody_else_sets_the_mark(monkeypatch):
    """A header that has it is not handed back to Postfix, which would divert the message."""
    long = b"X-Mail-Class\0receipt " + b"x" * 2000
    assert talk_over_a_socket(message(b"Precedence\0bulk", long)) == WELCOME + PASSED


def test_a_message_that_cannot_be_read_passes(monkeypatch, capsys):
    """Mail that never leaves is worse than a signature that may break."""

    def fail(*_):
        raise RecursionError("too deep")

    monkeypatch.setattr(tool.seven_bit, "edits", fail)
    assert talk_over_a_socket(message(b"Subject\0x")) == WELCOME + MARKED
    assert capsys.readouterr().err == "receipt-milter: passed as it is: RecursionError: too deep\n"


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("ada@bücher.example".encode(), b"OK ada@xn--bcher-kva.example"),
        ("ada@Straße.EXAMPLE".encode(), b"OK ada@xn--strae-oqa.EXAMPLE"),
        ("ada@i❤.example".encode(), b"NOTFOUND "),
        (b"ada@b\xfccher.example", b"NOTFOUND "),
        (b"ada@example.net", b"NOTFOUND "),
        (
            "RCPT TO:<jörg@bücher.example> NOTIFY=NEVER".encode(),
            "OK RCPT TO:<jörg@xn--bcher-kva.example> NOTIFY=NEVER".encode(),
        ),
        ('"a@bücher.example"@straße.example'.encode(), 'OK "a@bücher.example"@xn--strae-oqa.example'.encode()),
    ],
)
def test_postfix_is_told_the_ascii_form_of_a_domain(key, answer):
    """IDNA 2008: ß is a letter of its own. Without a form the address stays, and is refused (unreachable.pcre)."""
    assert asyncio.run(tool.domain_in_ascii("idn", key)) == answer


@pytest.mark.parametrize("number", [4, 1])
def test_each_socket_has_its_own_task(monkeypatch, tmp_path, number):
    """In the order of receipt-milter.socket. One that an older playbook wrote has the first alone."""
    paths = [tmp_path / str(place) for place in range(number)]

    async def ask(path, request: bytes, length: int) -> bytes:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(request)
        got = await asyncio.wait_for(reader.readexactly(length), 5)
        writer.close()
        return got

    async def talk() -> None:
        sockets = [socket.socket(socket.AF_UNIX) for _ in paths]
        for one, path in zip(sockets, paths, strict=True):
            one.bind(str(path))
        monkeypatch.setattr(tool.systemd, "all_listening", lambda _: sockets)
        monkeypatch.setattr(speakers, "load", lambda: KNOWN)
        running = asyncio.create_task(tool.run())
        await asyncio.sleep(0)
        asked = message(b"Subject\0x")
        for path, answer in zip(paths, (WELCOME + MARKED, WELCOME + UNSIGNED), strict=False):
            assert await ask(path, asked, len(answer)) == answer
        if number == 4:
            key = "idn ada@bücher.example".encode()
            answer = b"28:OK ada@xn--bcher-kva.example,"
            assert await ask(paths[2], b"%d:%s," % (len(key), key), len(answer)) == answer
        running.cancel()

    asyncio.run(talk())
