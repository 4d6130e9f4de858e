"""The lab's fake mail providers: what they answer, keep and tell. The acceptance tests believe their ledger."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from loading import load

UNKNOWN = "550 5.1.1 <{recipient}>: Recipient address rejected: User unknown"


@pytest.fixture(scope="session")
def tool() -> ModuleType:
    return load("lab/roles/lab_world/files/usr/local/sbin/fake-provider")


@pytest.fixture
def write(tmp_path: Path):
    """A function (name, **overrides) -> path of a configuration whose storage lies below tmp_path."""

    def _write(name: str = "refusing", **overrides: Any) -> Path:
        config = {
            "listen": "192.0.2.22",
            "hostname": "mx.refusing.test",
            "domains": ["refusing.test"],
            "rules": [{"recipient": "nobody@refusing.test", "reply": UNKNOWN}],
            "storage": str(tmp_path / "storage" / name),
        } | overrides
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(config))
        return path

    return _write


def session(tls: bool = False) -> SimpleNamespace:
    return SimpleNamespace(peer=("192.0.2.11", 40000), host_name="crm-int-01.example.org", ssl={} if tls else None)


def envelope(sender: str = "civicrm+b.1.2.3@crm.example.org", content: bytes = b"") -> SimpleNamespace:
    return SimpleNamespace(mail_from=sender, rcpt_tos=[], rcpt_options=[], original_content=content)


def started(tool: ModuleType, path: Path):
    provider = tool.Provider(tool.load_config(path))
    provider.store.prepare()
    return provider


def deliver(provider, recipients: list[str], content: bytes, sender: str = "a@example.org", tls: bool = False) -> str:
    mail = envelope(sender, content)
    for recipient in recipients:
        asyncio.run(provider.handle_RCPT(None, session(tls), mail, recipient, []))
    return asyncio.run(provider.handle_DATA(None, session(tls), mail))


@pytest.mark.parametrize(
    ("address", "reply"),
    [
        ("somebody@refusing.test", None),
        ("nobody@refusing.test", "550 5.1.1 <nobody@refusing.test>: Recipient address rejected: User unknown"),
        ("NoBody@Refusing.TEST", "550 5.1.1 <NoBody@Refusing.TEST>: Recipient address rejected: User unknown"),
        ("nobody2@refusing.test", None),
        ("somebody@elsewhere.test", "554 5.7.1 <somebody@elsewhere.test>: Relay access denied"),
        ("refusing.test", "554 5.7.1 <refusing.test>: Relay access denied"),
    ],
)
def test_a_recipient_is_decided_by_domain_then_by_rule(tool, write, address, reply):
    assert tool.load_config(write()).decide(address) == reply


def test_postmaster_is_always_accepted(tool, write):
    """RFC 5321: a provider that refuses everybody still takes mail for its postmaster."""
    config = tool.load_config(write(rules=[{"recipient_regex": ".*", "reply": "550 5.7.1 blocked"}]))
    assert config.decide("somebody@refusing.test") == "550 5.7.1 blocked"
    assert config.decide("postmaster@refusing.test") is None
    assert config.decide("Postmaster") is None


def test_the_first_rule_that_matches_decides(tool, write):
    rules = [
        {"recipient": "vip@refusing.test", "reply": "250 2.1.5 Ok"},
        {"recipient_regex": "v.*@refusing\\.test", "reply": "450 4.2.1 later"},
    ]
    config = tool.load_config(write(rules=rules))
    assert config.decide("vip@refusing.test") is None
    assert config.decide("visitor@refusing.test") == "450 4.2.1 later"
    assert config.decide("a.visitor@refusing.test") is None


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"rule": []}, "unknown keys rule"),
        ({"rules": [{"reply": "550 no"}]}, "either recipient or recipient_regex"),
        ({"rules": [{"recipient": "a", "recipient_regex": "b", "reply": "550 no"}]}, "either recipient or"),
        ({"rules": [{"recipient": "a", "reply": "no"}]}, "a reply is one line"),
        ({"rules": [{"recipient": "a", "reply": "550 no\r\n250 yes"}]}, "a reply is one line"),
        ({"rules": [{"recipient_regex": "(", "reply": "550 no"}]}, "recipient_regex"),
        ({"rules": [{"recipient": "a", "replay": "550 no"}]}, "replay"),
        ({"answer_delay_seconds": "1"}, "answer_delay_seconds"),
        ({"answer_delay_seconds": -1}, "answer_delay_seconds"),
        ({"tls_certificate": "/x"}, "both tls_certificate and tls_key"),
    ],
)
def test_a_wrong_configuration_is_refused_in_one_line(tool, write, capsys, overrides, says):
    path = write(**overrides)
    assert tool.main(["check", str(path)]) == 1
    error = capsys.readouterr().err
    assert str(path) in error
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("text", ["", "[]", "{", '{"listen": "192.0.2.22"}'])
def test_a_file_that_is_no_configuration_is_refused(tool, tmp_path, text):
    path = tmp_path / "broken.json"
    path.write_text(text)
    assert tool.main(["check", str(path)]) == 1
    assert tool.main(["check", str(tmp_path / "missing.json")]) == 1


def test_an_accepted_message_is_kept_as_it_came(tool, write):
    content = b"Message-ID: <1@example.org>\r\njob_id: 42\r\n\r\n.dot \xff\r\n"
    provider = started(tool, write())
    reply = deliver(provider, ["a@refusing.test", "b@refusing.test"], content, tls=True)
    lines = list(provider.store.read())
    assert [line["recipient"] for line in lines] == ["a@refusing.test", "b@refusing.test"]
    for line in lines:
        assert Path(line["message"]).read_bytes() == content
        assert line["reply"] == reply
        assert reply.startswith("250 2.0.0 Ok: queued as ")
        assert (line["message_id"], line["job_id"]) == ("<1@example.org>", "42")
        assert (line["peer"], line["helo"], line["tls"]) == ("192.0.2.11", "crm-int-01.example.org", True)
        assert (line["provider"], line["sender"]) == ("refusing", "a@example.org")
        assert datetime.strptime(line["time"], "%Y-%m-%dT%H:%M:%S.%fZ")


def test_each_recipient_has_one_line_refused_or_accepted(tool, write):
    provider = started(tool, write())
    deliver(provider, ["nobody@refusing.test", "somebody@refusing.test"], b"\r\n")
    refused, accepted = provider.store.read()
    assert refused["reply"].startswith("550 5.1.1 <nobody@refusing.test>")
    assert (refused["message"], refused["message_id"]) == (None, None)
    assert accepted["reply"].startswith("250 ")
    assert accepted["message"]


def test_the_null_sender_is_an_empty_string(tool, write):
    provider = started(tool, write())
    deliver(provider, ["somebody@refusing.test"], b"\r\n", sender="<>")
    assert next(provider.store.read())["sender"] == ""


def test_a_recipient_that_is_no_utf8_can_still_be_refused(tool, write):
    provider = started(tool, write())
    reply = asyncio.run(provider.handle_RCPT(None, session(), envelope(), "j\udcff@elsewhere.test", []))
    assert reply.encode().startswith(b"554 ")
    assert len(list(provider.store.read())) == 1


def test_folded_and_damaged_headers_do_not_stop_the_ledger(tool):
    facts = tool.message_facts(b"Message-ID:\r\n <1@example.org>\r\njob_id: \xff\r\n\r\n")
    assert facts["message_id"] == "<1@example.org>"
    assert json.dumps(facts)
    assert tool.message_facts(b"\x00") == {"message_id": None, "job_id": None}


def test_who_gives_up_during_the_delay_has_delivered_nothing(tool, write):
    """A message that the client will send again must not stand in the ledger twice."""
    provider = started(tool, write(answer_delay_seconds=30))
    mail = envelope()
    mail.rcpt_tos.append("somebody@refusing.test")

    async def give_up() -> None:
        await asyncio.wait_for(provider.handle_DATA(None, session(), mail), timeout=0.05)

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    assert list(provider.store.read()) == []
    assert list(provider.store.messages.iterdir()) == []


def test_the_answer_waits_and_the_time_is_that_of_arrival(tool, write):
    provider = started(tool, write(answer_delay_seconds=0.2))
    before = datetime.now(UTC)
    deliver(provider, ["somebody@refusing.test"], b"\r\n")
    after = datetime.now(UTC)
    arrived = datetime.fromisoformat(next(provider.store.read())["time"])
    assert (after - before).total_seconds() >= 0.2
    assert (after - arrived).total_seconds() >= 0.19


def test_reload_takes_a_new_mood_and_refuses_a_broken_one(tool, write):
    provider = started(tool, write())
    provider.reload(write(rules=[{"recipient_regex": ".*", "reply": "421 4.7.28 slow down"}], answer_delay_seconds=1))
    assert provider.config.decide("a@refusing.test") == "421 4.7.28 slow down"
    provider.reload(write(rules="broken"))
    assert provider.config.decide("a@refusing.test") == "421 4.7.28 slow down"
    assert provider.config.answer_delay_seconds == 1


def test_an_internal_error_is_temporary(tool, write):
    """A full disk at the fake must not look like a bounce."""
    provider = started(tool, write())
    assert asyncio.run(provider.handle_exception(OSError("full"))).startswith("451 ")


def test_no_auth_is_offered(tool, write):
    provider = started(tool, write())
    peer = session()
    answer = asyncio.run(
        provider.handle_EHLO(None, peer, None, "client", ["250-mx", "250-AUTH LOGIN PLAIN", "250-STARTTLS", "250 HELP"])
    )
    assert answer == ["250-mx", "250-STARTTLS", "250-PIPELINING", "250 ENHANCEDSTATUSCODES"]
    assert peer.host_name == "client"


def test_an_old_provider_takes_seven_bits(tool, write):
    """What Postfix then makes of a message is what the signature must bear."""
    provider = started(tool, write())
    provider.mood = tool.mood("old", "refusing")
    offered = ["250-mx", "250-SIZE 1", "250-8BITMIME", "250-SMTPUTF8", "250-STARTTLS", "250 HELP"]
    answer = asyncio.run(provider.handle_EHLO(None, session(), None, "client", offered))
    assert answer == ["250-mx", "250-SIZE 1", "250-STARTTLS", "250-PIPELINING", "250 ENHANCEDSTATUSCODES"]


def test_the_ledger_is_filtered_and_in_order_of_time(tool, write, tmp_path, capsys):
    refusing = started(tool, write())
    accepting = started(tool, write("accepting", domains=["accepting.test"], rules=[]))
    deliver(refusing, ["a@refusing.test"], b"\r\n")
    deliver(accepting, ["b@accepting.test"], b"\r\n")
    deliver(refusing, ["nobody@refusing.test", "a@refusing.test"], b"\r\n")

    def ledger(*arguments: str) -> list[dict[str, Any]]:
        assert tool.main(["--config-directory", str(tmp_path), "ledger", *arguments]) == 0
        return json.loads(capsys.readouterr().out)

    everything = ledger()
    assert len(everything) == 4
    assert [line["time"] for line in everything] == sorted(line["time"] for line in everything)
    assert [line["recipient"] for line in ledger("--provider", "accepting")] == ["b@accepting.test"]
    assert len(ledger("--recipient", "A@refusing.test")) == 2
    assert ledger("--since", everything[1]["time"]) == everything[1:]
    assert ledger("--since", "2999-01-01") == []


def test_a_line_in_the_writing_is_left_out(tool, write):
    provider = started(tool, write())
    deliver(provider, ["a@refusing.test"], b"\r\n")
    with provider.store.ledger.open("a") as ledger:
        ledger.write('{"time": "20')
    assert len(list(provider.store.read())) == 1


def test_show_prints_the_last_message_of_a_recipient(tool, write, tmp_path, capfdbinary):
    provider = started(tool, write())
    deliver(provider, ["a@refusing.test"], b"Subject: first\r\n\r\n")
    deliver(provider, ["a@refusing.test"], b"Subject: last\r\n\r\n")
    deliver(provider, ["b@refusing.test"], b"Subject: other\r\n\r\n")
    show = ["--config-directory", str(tmp_path), "show", "--recipient"]
    assert tool.main([*show, "a@refusing.test"]) == 0
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == b"Subject: last\r\n\r\n"
    assert tool.main([*show, "c@refusing.test"]) == 1
    assert capfdbinary.readouterr().err == b"fake-provider: no message for c@refusing.test\n"


def test_clear_forgets_ledger_and_messages_of_one_provider(tool, write, tmp_path):
    refusing = started(tool, write())
    accepting = started(tool, write("accepting", domains=["accepting.test"]))
    deliver(refusing, ["a@refusing.test"], b"\r\n")
    deliver(accepting, ["b@accepting.test"], b"\r\n")
    clear = ["--config-directory", str(tmp_path), "clear"]
    assert tool.main([*clear, "--provider", "refusing"]) == 0
    assert list(refusing.store.read()) == []
    assert list(refusing.store.messages.iterdir()) == []
    assert len(list(accepting.store.read())) == 1
    # The service goes on with the same file.
    deliver(refusing, ["a@refusing.test"], b"\r\n")
    assert len(list(refusing.store.read())) == 1
    assert tool.main(clear) == 0
    assert list(accepting.store.read()) == []


def test_an_unknown_provider_is_an_error(tool, tmp_path, capsys):
    assert tool.main(["--config-directory", str(tmp_path), "ledger"]) == 1
    assert tool.main(["--config-directory", str(tmp_path), "clear", "--provider", "none"]) == 1
    assert "none.json" in capsys.readouterr().err


# Moods


@pytest.fixture
def set_mood(tool, write, tmp_path, monkeypatch):
    """A function (arguments...) -> provider that has read its new mood, as the service would."""

    def _set(*arguments: str, name: str = "refusing"):
        provider = started(tool, write(name))

        def reloaded(argv: list[str], **_: object) -> SimpleNamespace:
            assert argv == ["systemctl", "reload", f"fake-provider@{name}.service"]
            provider.reload(tmp_path / f"{name}.json")
            return SimpleNamespace(returncode=0, stderr="")

        monkeypatch.setattr(tool.subprocess, "run", reloaded)
        assert tool.main(["--config-directory", str(tmp_path), "mood", name, *arguments]) == 0
        return provider

    return _set


def test_a_mood_is_set_while_the_provider_runs_and_ends_by_the_same_command(tool, set_mood, tmp_path):
    """An operator trains with one command (N20)."""
    assert set_mood("angry", name="gmail").decide("a@refusing.test").startswith("421 4.7.28 ")
    assert set_mood("angry", name="yahoo").decide("a@refusing.test").startswith("421 4.7.0 [TSS04]")
    assert set_mood("blocked").decide("a@refusing.test").startswith("550 5.7.1 ")
    assert set_mood("busy").decide("a@refusing.test").startswith("450 4.2.1 ")
    # It outlives a restart of the service and a converge, which writes the configuration only.
    again = started(tool, tmp_path / "refusing.json")
    assert again.decide("a@refusing.test").startswith("450 4.2.1 ")
    normal = set_mood("normal")
    assert normal.decide("a@refusing.test") is None
    assert normal.decide("nobody@refusing.test").startswith("550 5.1.1 ")
    assert not normal.store.mood.exists()


def test_no_mood_touches_postmaster_or_takes_mail_for_others(set_mood):
    provider = set_mood("blocked")
    assert provider.decide("postmaster@refusing.test") is None
    assert provider.decide("a@elsewhere.test").startswith("554 5.7.1 ")


def test_a_mood_takes_an_own_text_delay_and_limits(set_mood, tmp_path, tool, capsys):
    options = ["--reply", "452 4.2.2 Full", "--answer-delay", "0.5", "--tarpit", "2", "--connections", "3"]
    provider = set_mood("busy", *options)
    assert provider.decide("a@refusing.test") == "452 4.2.2 Full"
    assert (provider.mood.answer_delay_seconds, provider.mood.tarpit_seconds) == (0.5, 2.0)
    assert provider.mood.connection_limit == 3
    capsys.readouterr()
    assert tool.main(["--config-directory", str(tmp_path), "mood", "show"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("refusing: busy ")
    assert "reply='452 4.2.2 Full'" in shown
    assert "connection_limit=3" in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["refusing", "furious"], "no mood 'furious': there is normal, slow, angry"),
        (["refusing", "busy", "--reply", "later"], "must be one line such as"),
        (["refusing", "busy", "--reply", "250 fine"], "must be one line such as"),
        (["refusing", "slow", "--answer-delay", "-1"], "answer_delay_seconds must be a number from 0 to 600"),
        (["none", "slow"], "none.json"),
    ],
)
def test_a_wrong_mood_changes_nothing(tool, write, tmp_path, capsys, arguments, says):
    provider = started(tool, write())
    assert tool.main(["--config-directory", str(tmp_path), "mood", *arguments]) == 1
    assert says in capsys.readouterr().err
    assert not provider.store.mood.exists()


def test_every_mood_of_the_help_exists(tool):
    for name in tool.MOODS:
        assert tool.mood(name, "gmail").name == name


def test_421_ends_the_connection(tool, set_mood):
    provider, closed = set_mood("angry"), []
    server = SimpleNamespace(transport=SimpleNamespace(close=lambda: closed.append(True)))

    async def refuse() -> str:
        reply = await provider.handle_RCPT(server, session(), envelope(), "a@refusing.test", [])
        await asyncio.sleep(0.1)
        return reply

    assert asyncio.run(refuse()).startswith("421 ")
    assert closed == [True]
    assert [line["reply"][:3] for line in provider.store.read()] == ["421"]
