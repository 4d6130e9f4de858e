"""What is handed to the signer travels unchanged, and the reader sees what was written."""

from __future__ import annotations

import email
import email.policy
import time
from email.message import EmailMessage, Message

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from civicrm_tools.mail import seven_bit as tool

Headers = list[tuple[bytes, bytes]]


def apart(message: bytes) -> tuple[Headers, bytes]:
    """A message with CR LF as a milter gets it."""
    head, _, body = message.partition(b"\r\n\r\n")
    lines = head.replace(b"\r\n ", b"\n ").replace(b"\r\n\t", b"\n\t").split(b"\r\n")
    fields = (line.partition(b":") for line in lines if line)
    return [(name, value.removeprefix(b" ")) for name, _, value in fields], body


def prepared(message: bytes) -> bytes:
    """The message after the edits, as Postfix makes them."""
    headers, body = apart(message)
    edits, new = tool.edits(headers, body)
    for name, place, value in edits:
        places = [n for n, header in enumerate(headers) if header[0].lower() == name.lower()]
        if place:
            headers[places[place - 1]] = (name, value)
        else:
            headers.append((name, value))
    head = b"".join(name + b": " + value.replace(b"\n", b"\r\n") + b"\r\n" for name, value in headers)
    return head + b"\r\n" + (body if new is None else new)


def leaves(message: bytes) -> list[tuple[str, bytes]]:
    """(type, content) of all parts, encoding undone, without line ends at the end."""

    def content(part: Message) -> bytes:
        found = part.get_payload(decode=True)
        assert isinstance(found, bytes)
        return found.replace(b"\r\n", b"\n").rstrip(b"\n")

    parsed = email.message_from_bytes(message.replace(b"\r\n", b"\n"))
    return [(part.get_content_type(), content(part)) for part in parsed.walk() if not part.is_multipart()]


def travels(message: bytes) -> bool:
    """Whether nothing in a message gives smtp(8) a reason to change it."""
    _, _, body = message.partition(b"\r\n\r\n")
    called = [str(part["Content-Transfer-Encoding"]).lower() for part in email.message_from_bytes(message).walk()]
    short = max(map(len, message.split(b"\r\n"))) <= 998
    return short and body.isascii() and b"\0" not in body and not {"8bit", "binary"} & set(called)


def lines(*parts: bytes) -> bytes:
    return b"\r\n".join(parts) + b"\r\n"


TEXT = "Grüße aus Köln = ein Absatz. ".encode()
PARTS = lines(
    b"for nobody", b"--x", b"Content-Type: text/plain; charset=utf-8", b"Content-Transfer-Encoding: 8bit", b"",
    TEXT, b"--x  ", b"content-transfer-encoding:\r\n 8BIT", b"Content-Type: text/html; charset=utf-8", b"", TEXT * 50,
    b"--x--", b"for nobody",
)  # fmt: skip
MESSAGES = {
    "1,500 bytes": lines(b"Content-Type: text/html", b"", b"a" * 1500),
    "50,000 bytes, trailing blanks": lines(b"MIME-Version: 1.0", b"", b"word " * 10_000 + b" ", b".", b"end "),
    "8bit": lines(b"MIME-Version: 1.0", b"Content-Transfer-Encoding: 8bit", b"Content-Type: text/plain", b"", TEXT),
    "called 8bit without need": lines(b"Content-Transfer-Encoding: 8bit", b"", b"a = b"),
    "called 8bit twice": lines(b"Content-Transfer-Encoding: 8bit", b"Content-transfer-encoding: BINARY", b"", b"x"),
    "no header of MIME": lines(b"Subject: x", b"", TEXT),
    "letters that are no Latin": lines(b"Content-Type: text/plain; charset=utf-8", b"", "жё".encode() * 400),
    "bytes of no charset": lines(b"Subject: x", b"", b"\xff\xfe" + b"a" * 50),
    "NUL": lines(b"Subject: x", b"", b"a\0b"),
    "parts": b'Content-Type: multipart/alternative; boundary="x"\r\n\r\n' + PARTS,
    "parts of parts": lines(b"Content-Transfer-Encoding: 8bit", b"Content-Type: multipart/mixed;\r\n boundary=xx", b"",
                            b"--xx", b"Content-Type: multipart/alternative; boundary=x", b"", PARTS, b"--xx--"),
    "a message in it": lines(b"Content-Type: multipart/mixed; boundary=y", b"", b"--y", b"Content-Type: message/rfc822",
                             b"Content-Transfer-Encoding: 8bit", b"", b"Subject: inner", b"", TEXT, b"--y--"),
    "binary": lines(b"Content-Type: image/png", b"Content-Transfer-Encoding: binary", b"", b"\x89PNG\x1a\0" * 300),
    "base64 in one line": lines(b"Content-Type: image/png", b"Content-Transfer-Encoding: base64", b"", b"QUJD" * 500),
    "quoted-printable in one line": lines(b"Content-Type: text/plain", b"Content-Transfer-Encoding: quoted-printable",
                                          b"", b"=C3=BC and more " * 100),
    "never ends": lines(b"Content-Type: multipart/mixed; boundary=y", b"", b"--y", b"", TEXT),
    "header of 3,000 bytes": lines(b"To: " + b"a@example.net, " * 200, b"X-Long: " + b"x" * 1500, b"", b"x"),
    "a part's header of 3,000 bytes": lines(b"Content-Type: multipart/mixed; boundary=y", b"", b"--y",
                                            b"Content-Disposition: x; " + b"y" * 3000, b"", b"x", b"--y--"),
}  # fmt: skip


@pytest.mark.parametrize("name", MESSAGES)
def test_nothing_is_left_to_change_and_nothing_is_lost(name):
    before = MESSAGES[name]
    after = prepared(before)
    assert not travels(before)
    assert travels(after)
    assert leaves(after) == leaves(before)
    assert prepared(after) == after, "the second time there is nothing to do"


@pytest.mark.parametrize(
    "message",
    [
        lines(b"Subject: x", b"", b"a" * 998),
        lines(b"Subject: " + "ü".encode(), b"", b"x"),
        lines(b"Content-Transfer-Encoding: quoted-printable", b"", b"=C3=BC"),
        lines(b'Content-Type: multipart/mixed; boundary="y"', b"", b"--y", b"", b"x", b"--y--"),
        lines(b"Content-Type: multipart/mixed", b"", "parts without a boundary: ü".encode()),
        lines(b"Content-Type: multipart/mixed; boundary=y", b"", b"--x", b"", "another boundary: ü".encode()),
        b"Subject: no body\r\n\r\n",
    ],
)
def test_what_fits_is_not_touched(message):
    """A raw 8-bit header breaks nothing on the way: it is not ours to judge."""
    assert tool.edits(*apart(message)) == ([], None)


def test_what_a_text_is_in_is_said_where_nobody_said_it():
    """Once encoded, a reader's program no longer guesses."""
    parsed = email.message_from_bytes(prepared(MESSAGES["no header of MIME"]))
    assert (parsed["MIME-Version"], parsed.get_content_charset()) == ("1.0", "utf-8")
    assert email.message_from_bytes(prepared(MESSAGES["bytes of no charset"])).get_content_charset() == "unknown-8bit"


CONTENT = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=3000)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(CONTENT, min_size=1, max_size=3), boundary=st.sampled_from(["x", "xx", "=_(a)+"]))
@example(texts=["--x", "--xx"], boundary="x")
def test_any_text_arrives_as_it_was_written(texts, boundary):
    made = EmailMessage(policy=email.policy.SMTP.clone(cte_type="8bit", max_line_length=None))
    made["Subject"] = "x"
    for text in texts:
        made.add_attachment(text + "\n", cte="8bit")
    made.set_boundary(boundary)
    before = made.as_bytes()
    after = prepared(before)
    assert travels(after)
    assert leaves(after) == leaves(before)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"multipart/mixed; boundary=y", b"message/rfc822", b"text/plain"]))
@example(b"--y\r\n--y--\r\n--y", b"multipart/mixed; boundary=y")
def test_noise_stops_nothing(noise, kind):
    edits, body = tool.edits([(b"Content-Type", kind)], noise + b"\r\n")
    assert isinstance(edits, list) and isinstance(body, bytes | None)


def test_a_bottomless_message_takes_no_time():
    """Nor does one full of boundaries."""
    level = b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n'
    start = time.process_time()
    tool.edits(*apart(b"".join(level % (n, n) for n in range(2000)) + b"\xff" * 100_000))
    tool.edits(*apart(b"Content-Type: multipart/mixed; boundary=y\r\n\r\n" + b"\r\n--yy" * 100_000 + b"\xff"))
    assert time.process_time() - start < 2
