"""Whose mail goes to the catcher is told by the line that Postfix wrote first, not by what a message brings along."""

from __future__ import annotations

import io
import smtplib
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
            self.way = "listener" if address == tool.LISTENER else local_hostname

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def sendmail(self, sender, recipients, message, options):
            found.append((self.way, sender, *recipients, message.decode()))

    monkeypatch.setattr(tool.smtplib, "SMTP", Session)
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
        (pickup(2001) + pickup(2002), ("submitted", "a@gmail.test", "real@world.test")),
        (login("crm", "(Authenticated sender: staging-crm)"), ("submitted", "a@gmail.test", "real@world.test")),
    ],
    ids=["catch", "hold", "login", "as crm", "as hold", "as requeued", "requeued", "login requeued",
         "signed", "signed again",
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
    monkeypatch.setattr(tool.smtplib, "SMTP", refuse)
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
