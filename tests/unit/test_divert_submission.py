"""Whose mail goes to the catcher is told by the line that Postfix wrote first, not by what a message brings along."""

from __future__ import annotations

import io
import smtplib
import socket
from types import SimpleNamespace

import pytest

from civicrm_tools.mail import diversion as tool

POLICY = tool.Policy(
    hostname="int.example.org",
    users={"2001": "crm", "2002": "staging-crm", "2003": "test-crm"},
    sites={"crm": "deliver", "staging-crm": "catch", "test-crm": "hold"},
    owner=104,
)


def pickup(uid: int, host: str = "int.example.org") -> str:
    return f"Received: by {host} (Postfix, from userid {uid})\n\tid 4jWKRG0fdJzWSbn; Fri, 20 Nov 2026 15:45:14 +0000\n"


SIGNED = "Authentication-Results: int.example.org; dkim=none\nDKIM-Signature: v=1; d=example.org;\n\tb=abc\n"


def login(name: str, helo: str = "crm") -> str:
    return (
        f"Received: from {helo} (localhost [127.0.0.1])\n\t(Authenticated sender: {name})\n"
        "\tby int.example.org (Postfix) with ESMTPA id 4jWKVl4fgbzWSXy\n\tfor <a@b.example>; Fri, 20 Nov 2026\n"
    )


@pytest.fixture
def handed(monkeypatch):
    """What is handed over instead: [(way, sender, recipient, message)]."""
    found = []

    class Session:
        def __init__(self, *address, timeout, local_hostname="again"):
            self.way, self.said = "listener" if address == tool.LISTENER else local_hostname, []

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def ehlo(self):
            return 250, b""

        def docmd(self, command, argument):
            self.said.append(argument.partition("<")[2].partition(">")[0])
            return 250, b""

        def data(self, message):
            found.append((self.way, *self.said, message.decode()))
            return 250, b""

    monkeypatch.setattr(tool, "Session", Session)
    monkeypatch.setattr(tool, "Again", Session)
    return found


def divert(text: str, reason: str = "submitted") -> str:
    return tool.divert(reason, "a@gmail.test", "real@world.test", "Real@world.test", text.encode(), POLICY)


REST = "Subject: x\n\nReceived: by int.example.org (Postfix, from userid 2002)\nbody\n"


@pytest.mark.parametrize(
    ("head", "goes"),
    [
        (pickup(2002), ("listener", "", "catch@staging-crm.caught.invalid")),
        (pickup(2003), ("listener", "", "hold@test-crm.caught.invalid")),
        (login("staging-crm"), ("listener", "", "catch@staging-crm.caught.invalid")),
        (pickup(2002) + pickup(2001) + login("crm"), ("listener", "", "catch@staging-crm.caught.invalid")),
        (pickup(2002) + pickup(2003), ("listener", "", "catch@staging-crm.caught.invalid")),
        (pickup(2003) + pickup(104) + pickup(2001), ("listener", "", "hold@test-crm.caught.invalid")),
        (pickup(104) + pickup(104) + pickup(2002) + pickup(2001), ("listener", "", "catch@staging-crm.caught.invalid")),
        (pickup(104) + login("test-crm") + pickup(2001), ("listener", "", "hold@test-crm.caught.invalid")),
        (SIGNED + pickup(2002) + SIGNED, ("listener", "", "catch@staging-crm.caught.invalid")),
        (SIGNED + pickup(104) + SIGNED + pickup(2003), ("listener", "", "hold@test-crm.caught.invalid")),
        ("X-Submitted-By: sendmail\n" + pickup(2001) + "X-Submitted-By: sendmail\n" + pickup(2002),
         ("submitted", "a@gmail.test", "real@world.test")),
        (pickup(2001) + pickup(2002), ("submitted", "a@gmail.test", "real@world.test")),
        (login("crm", "(Authenticated sender: staging-crm)"), ("submitted", "a@gmail.test", "real@world.test")),
    ],
    ids=["catch", "hold", "login", "as crm", "as hold", "as requeued", "requeued", "login requeued",
         "signed", "signed again", "seen by the milter",
         "crm", "helo"],
)  # fmt: skip
def test_only_the_first_line_of_this_postfix_tells_who_submitted(handed, head, goes):
    """A forged Received line changes nothing, and neither does a requeue, which adds a line on top (P12)."""
    divert(head + REST)
    assert [one[:3] for one in handed] == [goes]


@pytest.mark.parametrize(
    "head",
    ["", pickup(2002, "elsewhere.example"), "Received: from x (y [192.0.2.1])\n\tby int.example.org (Postfix)\n",
     pickup(104), login("unknown"), "X-Before: 1\n" + pickup(2001)],
)  # fmt: skip
def test_mail_of_nobody_knows_whom_stays_in_the_queue(handed, head, monkeypatch, tmp_path, capsys):
    """Never sent on a guess, and never bounced to an address that the sender chose."""
    with pytest.raises(tool.Unknown):
        divert(head + REST)
    assert handed == []
    monkeypatch.setattr(tool, "CONFIGURATION", tmp_path / "missing")
    monkeypatch.setattr(tool.pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=104))
    assert tool.main(["--", "receipt", "4jW", "a@b", "a@b", ""]) == tool.TEMPFAIL
    assert capsys.readouterr().err == f"divert-submission: {tmp_path}/missing: there is no such file\n"


@pytest.mark.parametrize(
    ("head", "way"),
    [
        (pickup(2001), "receipt"),
        (login("crm"), "receipt"),
        (pickup(0), "submitted"),
        (pickup(2002) + pickup(2001), "listener"),
        (login("test-crm") + pickup(0), "listener"),
    ],
)
def test_only_a_site_that_may_send_has_receipts(handed, head, way):
    """Root's mail takes its ordinary way, and staging's no other than before (N24, P12)."""
    divert(head + REST, "receipt")
    assert handed[0][0] == way


def test_what_was_submitted_can_be_read_in_the_catcher(handed):
    divert(pickup(2002) + "X-Original-To: forged@world.test\n" + REST)
    message = handed[0][3]
    assert message.startswith(
        "X-Original-To: Real@world.test\nX-Original-Sender: <a@gmail.test>\nX-Mail-Policy: catch staging-crm\n"
    )
    assert message.endswith("\n\nReceived: by int.example.org (Postfix, from userid 2002)\nbody\n")


@pytest.mark.parametrize(
    "head", [pickup(2002), pickup(2001) + pickup(2003), pickup(2001) + "RECEIVED : x\n y " + login("test-crm")[10:]]
)
def test_what_is_handed_over_would_not_be_diverted_again(handed, head):
    """Requeued later, it meets header_checks once more: then it must not come here for ever."""
    divert(head + REST)
    header, _ = tool.fields(handed[0][3].encode())
    assert not any(tool.names_diverted(field, POLICY) for field in header)


def test_a_message_that_is_not_taken_stays_in_the_queue(monkeypatch, tmp_path, capsys):
    def refuse(*_, **__):
        raise smtplib.SMTPServerDisconnected("gone")

    configuration = tmp_path / "diversion.json"
    configuration.write_text('{"hostname": "int.example.org", "users": {"2002": "s"}, "sites": {"s": "catch"}}')
    monkeypatch.setattr(tool, "CONFIGURATION", configuration)
    monkeypatch.setattr(tool.pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=104))
    monkeypatch.setattr(tool, "Session", refuse)
    monkeypatch.setattr(tool.sys, "stdin", SimpleNamespace(buffer=io.BytesIO((pickup(2002) + REST).encode())))
    assert tool.main(["--", "receipt", "4jW", "a@b", "a@b", "-x@y"]) == tool.TEMPFAIL
    assert capsys.readouterr().err == "divert-submission: gone\n"


@pytest.mark.parametrize("raised", [KeyError("x"), RuntimeError("a mistake of ours"), MemoryError()])
def test_no_mistake_in_the_program_or_its_call_bounces_mail(monkeypatch, tmp_path, capsys, raised):
    """pipe(8) returns a message to its sender for any status but 0 and 75."""

    def fail(*_):
        raise raised

    assert tool.main(["--", "receipt"]) == tool.TEMPFAIL
    monkeypatch.setattr(tool.pwd, "getpwnam", fail)
    assert tool.main(["--", "receipt", "4jW", "a@b", "a@b", ""]) == tool.TEMPFAIL
    assert [line.partition(": ")[0] for line in capsys.readouterr().err.splitlines()] == ["divert-submission"] * 2


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection, on which nobody waits for long."""
    ends = socket.socketpair()
    for end in ends:
        end.settimeout(5)
    return ends


@pytest.mark.parametrize(
    ("recipient", "sent"),
    [
        ("jörg@world.test", "jörg@world.test".encode()),
        (b"j\xf6rg@world.test".decode(errors="surrogateescape"), b"j\xf6rg@world.test"),
        ('"ada lovelace"@world.test', b'"ada lovelace"@world.test'),
        ('"a,b<c>"@world.test', b'"a,b<c>"@world.test'),
    ],
)
def test_an_address_is_handed_over_as_it_is(monkeypatch, recipient, sent):
    """Whether it can be reached is Postfix' to say; smtplib alone dies of the one and changes the other."""
    ours, theirs = pair()
    answers = (
        b"220 x\r\n250 x\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go on\r\n", b"250 queued\r\n", b"221 bye\r\n",
    )  # fmt: skip
    theirs.sendall(b"".join(answers))
    monkeypatch.setattr(tool.Again, "_get_socket", lambda *_: ours)
    tool.hand_over(tool.Again("localhost", local_hostname="receipt", timeout=5), "", recipient, b"Subject: x\n\n.\n")
    got = theirs.recv(10_000)
    assert b"MAIL FROM:<> BODY=8BITMIME\r\nRCPT TO:<" + sent + b">\r\ndata\r\nSubject: x\n\n..\n" in got


def test_what_is_no_address_bounces_at_once_for_those_who_may_send(monkeypatch, capsys):
    """It would be tried for five days. Staging's mail never bounces: its sender is somebody else's address."""

    def refuse(*_):
        raise smtplib.SMTPResponseException(501, b"5.1.3 Bad recipient address syntax")

    monkeypatch.setattr(tool, "hand_over", refuse)
    for way in ("Session", "Again"):
        monkeypatch.setattr(tool, way, lambda *_, **__: None)
    with pytest.raises(SystemExit) as ended:
        divert(pickup(2001) + REST, "receipt")
    assert ended.value.code == tool.UNAVAILABLE
    assert capsys.readouterr().out == "5.1.3 Bad recipient address syntax\n"
    with pytest.raises(smtplib.SMTPResponseException):
        divert(pickup(2002) + REST)


def test_an_address_in_another_encoding_is_handed_over_once(handed, monkeypatch, tmp_path):
    """An error after the hand-over would have it handed over again and again."""
    configuration = tmp_path / "diversion.json"
    configuration.write_text('{"hostname": "int.example.org", "users": {"2001": "s"}, "sites": {"s": "deliver"}}')
    monkeypatch.setattr(tool, "CONFIGURATION", configuration)
    monkeypatch.setattr(tool.pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=104))
    stdin = SimpleNamespace(buffer=io.BytesIO((pickup(2001) + REST).encode()))
    monkeypatch.setattr(tool.sys, "stdin", stdin)
    address = b"j\xf6rg@world.test".decode(errors="surrogateescape")
    assert tool.main(["--", "receipt", "4jW", address, address, "a@b"]) == 0
    assert [one[2] for one in handed] == [address]


@pytest.mark.parametrize("refusal", [b"450 4.1.1 later\r\n", b"550 5.1.1 no\r\n"])
def test_a_refused_recipient_is_not_taken_for_handed_over(monkeypatch, refusal):
    ours, theirs = pair()
    theirs.sendall(b"220 x\r\n250 x\r\n250 ok\r\n" + refusal + b"221 bye\r\n")
    monkeypatch.setattr(tool.Again, "_get_socket", lambda *_: ours)
    with pytest.raises(smtplib.SMTPResponseException):
        tool.hand_over(tool.Again("localhost", timeout=5), "a@b", "c@d", b"")
    assert b"data" not in theirs.recv(10_000)
