"""A message is cut where MIME says, and where real mail is damaged it still falls apart as a reader would see it."""

from __future__ import annotations

import base64
import re
import time
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import arf, newsletter

from civicrm_tools.mail.feedback import PASSED_ON
from civicrm_tools.mail.parts import PARTS_LIMIT, cut, decoded, read


def shown(raw: bytes, inside: re.Pattern[bytes] | None = None) -> list[tuple[str, str]]:
    """(type, text) of each part that nothing was taken out of."""
    return [(part.kind, part.text().strip()) for part in cut(read(raw), inside) if not part.opened]


def mixed(*parts: str, boundary: str = "b", end: str = "--b--\nepilogue\n--b\n\nno part\n") -> bytes:
    body = "".join(f"--{boundary}\n{part}\n" for part in parts)
    return f'Content-Type: multipart/mixed; boundary="{boundary}"\n\npreamble\n{body}{end}'.encode()


CASES = {
    "preamble and epilogue are nobody's": (mixed("\none", "Content-Type: text/html\n\ntwo"), ["one", "two"]),
    "the last boundary is missing": (mixed("\none", "\ntwo", end=""), ["one", "two"]),
    "CRLF": (mixed("\none", "\ntwo").replace(b"\n", b"\r\n"), ["one", "two"]),
    "a boundary that begins like another": (
        mixed(mixed("\none", "\ntwo", boundary="b2", end="--b2--\n").decode(), "\nthree"),
        ["one", "two", "three"],
    ),
    "a line that only begins like a boundary": (mixed("\none\n--bees\nmore"), ["one\n--bees\nmore"]),
    "another boundary than it announces": (
        mixed("\none", "\ntwo", boundary="cut", end="--cut--\n").replace(b'"cut"', b'"other"'),
        ["one", "two"],
    ),
    "no boundary announced": (mixed("\none", boundary="cut", end="--cut--\n").replace(b'"cut"', b'""'), ["one"]),
    "a blank before a field's colon": (mixed("Content-Transfer-Encoding : base64\n\nb25l"), ["one"]),
    "no boundary at all": (b"Content-Type: multipart/mixed\n\n--b\n\none\n", ["--b\n\none"]),
    "a boundary that never comes": (mixed(boundary="x", end="text\n"), ["preamble\ntext"]),
    "an empty line first, as mail exports have it": (b"\n" + mixed("\none"), ["one"]),
    "no header at all": (b"", [""]),
    "a header alone": (b"Subject: x", [""]),
    "base64": (mixed("Content-Transfer-Encoding: base64\n\n" + base64.encodebytes(b"one").decode()), ["one"]),
    "base64 without its end": (
        mixed("Content-Transfer-Encoding: BASE64\n\n" + base64.b64encode(b"one two").decode().rstrip("=")),
        ["one two"],
    ),
    "quoted-printable": (mixed("Content-Transfer-Encoding: quoted-printable\n\no=6Ee"), ["one"]),
    "type with parameters, folded": (mixed("Content-Type: Text/PLAIN;\n charset=utf-8\n\none"), ["one"]),
}


@pytest.mark.parametrize("what", CASES)
def test_it_falls_apart_as_a_reader_sees_it(what):
    raw, texts = CASES[what]
    assert [text.replace("\r", "") for _, text in shown(raw)] == texts


def test_as_the_library_writes_it():
    """What Python's email package builds is read back part by part."""
    message = EmailMessage()
    message["Subject"] = "January"
    message.set_content("one ü\n")
    message.add_alternative("<p>two ü</p>\n", subtype="html")
    message.add_attachment(b"three", maintype="application", subtype="pdf")
    assert shown(message.as_bytes()) == [
        ("text/plain", "one ü".encode().decode("latin-1")),
        ("text/html", "<p>two ü</p>".encode().decode("latin-1")),
        ("application/pdf", "three"),
    ]


@pytest.mark.parametrize("encoding", ["", "base64"])
def test_a_message_in_a_part_is_opened_for_what_is_looked_for_only(encoding):
    """The returned newsletter is one text; a report that somebody passed on is taken apart for who reads complaints."""

    def forwarded(message: bytes, inside: re.Pattern[bytes] | None = PASSED_ON) -> list[str]:
        text = base64.encodebytes(message).decode() if encoding else message.decode()
        part = f"Content-Type: message/rfc822\nContent-Transfer-Encoding: {encoding or '8bit'}\n\n{text}"
        return [kind for kind, _ in shown(mixed(part), inside)]

    assert forwarded(newsletter().encode()) == ["message/rfc822"]
    assert forwarded(arf(newsletter()), inside=None) == ["message/rfc822"]
    if not encoding:
        upper = arf(newsletter()).replace(b"message/feedback", b"MESSAGE/Feedback")
        assert forwarded(upper) == ["text/plain", "message/feedback-report", "message/rfc822"]
        assert forwarded(arf(newsletter())) == ["text/plain", "message/feedback-report", "message/rfc822"]


HARD = {
    "many parts": mixed(*["\nx"] * 20_000),
    "deep": b"".join(b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (n, n) for n in range(20_000)),
    "boundaries that are none": mixed("\n" + "--b x\n" * 300_000),
    "one line of boundaries": mixed("\n" + "--b" * 1_000_000),
    "headers": b"X: y\n" * 800_000,
    "folded": b"X: y" + b"\n z" * 1_000_000,
}


@pytest.mark.parametrize("what", HARD)
def test_hostile_structures_cost_little(what):
    begin = time.process_time()
    assert 1 <= len(list(cut(read(HARD[what])))) <= PARTS_LIMIT
    assert time.process_time() - begin < 2


@given(st.binary(max_size=500), st.integers(0, 3))
def test_whatever_comes_it_never_raises(noise, times):
    raw = mixed(*[noise.decode("latin-1")] * times) + noise
    for part in cut(read(raw)):
        assert isinstance(part.text(), str)
        assert part.fields is not None


@given(st.binary(max_size=200), st.integers(0, 300))
def test_base64_that_was_cut_off_keeps_its_beginning(content, place):
    letters = base64.encodebytes(content)[:place]
    whole = len(letters.replace(b"\n", b"").rstrip(b"=")) * 6 // 8
    assert decoded(letters, "base64") == content[:whole]


def test_text_behind_the_end_of_base64_is_not_taken_for_more_of_it():
    """A list adds its footer to an encoded part."""
    assert decoded(base64.encodebytes(b"one!") + b"\n__\nfooter\n", "base64") == b"one!"
