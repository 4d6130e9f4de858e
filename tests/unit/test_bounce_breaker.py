"""A provider's refusals of us put nobody on hold, and no message is lost or doubled (N9, N10)."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reports import attached, dsn, newsletter, plain, verp
from unit_return_path import ENVIRONMENT, change, killed_at, metric, program

from civicrm_tools.mail import breaker as tool
from civicrm_tools.mail import delivery_report
from civicrm_tools.mail.refusals import Limits
from civicrm_tools.mail.return_path import load_settings
from civicrm_tools.mail.verdict import KINDS

BLOCKED = {"status": "5.7.1", "text": "550 5.7.1 your host is blocked"}


@pytest.fixture
def clock(monkeypatch):
    """Makes the breaker's time pass: clock(60) is a minute later."""
    real, ahead = tool.time, [0.0]

    def _pass(seconds: float) -> None:
        ahead[0] += seconds

    shifted = SimpleNamespace(time=lambda: real.time() + ahead[0], strftime=real.strftime, gmtime=real.gmtime)
    monkeypatch.setattr(tool, "time", shifted)
    return _pass


def storm(number: int, provider: str = "gmail.com", first: int = 1000) -> list[bytes]:
    return [dsn(f"p{n}@{provider}", queue=first + n, **BLOCKED) for n in range(number)]


def test_a_storm_is_diverted_the_mailing_paused_and_dead_addresses_pass(breaker, box, paused, tmp_path):
    """200 times `5.7.1 blocked` from one provider: nobody is put on hold for it, and 5.1.1 is processed (N9)."""
    dead = [dsn(f"dead{n}@gmail.com", queue=n + 1) for n in range(20)]
    leave = [plain("unsubscribe", To=verp("u"), Delivered_To=verp("u"))]
    box.deliver(*storm(100), *dead, *leave, *storm(100, first=5000))
    breaker()
    assert box.counts() == {"INBOX": 21, "Incoming": 0, "Quarantine": 200, "Quarantine.dropped": 0}
    assert sorted(box.folder()) == sorted(dead + leave)
    assert set(paused.read_text().splitlines()) == {"--provider gmail"}
    assert metric(tmp_path, 'bounce_breaker_open{provider="gmail"}') == 1
    assert metric(tmp_path, 'bounce_breaker_open{provider="orange"}') == 0
    box.deliver(*storm(3, first=9000))
    breaker()
    assert box.counts()["Quarantine"] == 203


def test_what_the_mailing_queues_meanwhile_is_stopped_as_well(breaker, box, paused):
    """The application goes on submitting: the command runs at every pass, until the operator ends the storm."""
    box.deliver(*storm(30))
    for _ in range(3):
        breaker()
    assert paused.read_text().splitlines() == ["--provider gmail"] * 3
    breaker("drop", "gmail")
    breaker()
    assert paused.read_text().count("\n") == 3


def test_the_other_providers_are_left_alone(breaker, box, paused):
    """Their few refusals are put aside, and nothing is paused for them."""
    box.deliver(*storm(30), dsn("a@orange.fr", queue=3), dsn("b@orange.fr", queue=4, **BLOCKED))
    breaker()
    assert box.counts() == {"INBOX": 1, "Incoming": 0, "Quarantine": 30, "Quarantine.dropped": 0, "Refused": 1}
    assert set(paused.read_text().splitlines()) == {"--provider gmail"}


def test_custom_domains_at_a_provider_are_the_providers(breaker, box, paused, tmp_path):
    """Hosted domains refuse together: Postfix was told whose they are (N1)."""
    (tmp_path / "hosted_domains").write_text("".join(f"shop{n}.example gmail\n" for n in range(25)))
    box.deliver(*[dsn(f"x@shop{n}.example", queue=n + 1, remote="mx7.google.example", **BLOCKED) for n in range(25)])
    breaker()
    assert set(paused.read_text().splitlines()) == {"--provider gmail"}


def test_a_few_refusals_never_reach_the_application(breaker, box, paused, clock):
    """They are everyday life, and no person's fault: they lie in Refused, also an hour later."""
    box.deliver(*storm(4))
    for seconds in (0, 60, 3600):
        clock(seconds)
        breaker()
        assert box.counts() == {"INBOX": 0, "Incoming": 0, "Quarantine": 0, "Quarantine.dropped": 0, "Refused": 4}
    assert paused.exists() is False


def test_a_slow_storm_is_one_with_its_beginning(breaker, box, paused, clock):
    """One refusal every 25 s: when there are enough the first ones are fetched from Refused."""
    for number in range(20):
        box.deliver(*storm(1, first=1000 + number))
        clock(25)
        breaker()
    assert box.counts() == {"INBOX": 0, "Incoming": 0, "Quarantine": 20, "Quarantine.dropped": 0}
    assert paused.exists()


def test_a_storm_while_the_breaker_was_away_is_seen(breaker, box, paused):
    """Mail waits in Incoming for hours; its age must not make it pass."""
    box.deliver(*storm(30))
    for path in (box.maildir / ".Incoming/new").iterdir():
        os.utime(path, (1, 1))
    breaker()
    assert box.counts()["Quarantine"] == 30


def test_a_storm_that_is_judged_in_steps_is_one_storm(breaker, box, paused, monkeypatch):
    monkeypatch.setattr(tool, "STEP", 5)
    box.deliver(*storm(24), plain("unsubscribe", To=verp("u")))
    breaker()
    assert box.counts() == {"INBOX": 1, "Incoming": 0, "Quarantine": 24, "Quarantine.dropped": 0}


def test_dead_addresses_do_not_dilute_refusals(breaker, box, paused):
    """20 refusals among 210 dead addresses: an old list, and a block all the same."""
    box.deliver(*storm(20), *[dsn(f"d{n}@gmail.com", queue=n + 1) for n in range(210)])
    breaker()
    assert set(paused.read_text().splitlines()) == {"--provider gmail"}
    assert box.counts() == {"INBOX": 210, "Incoming": 0, "Quarantine": 20, "Quarantine.dropped": 0}


def test_a_provider_that_fails_altogether_does_not_refuse_us(breaker, box, paused):
    """20 refusals among 30 failures of the provider's own servers are less than half."""
    broken = {"status": "5.3.5", "text": "554 5.3.5 system config error"}
    box.deliver(*storm(20), *[dsn(f"d{n}@gmail.com", queue=n + 1, **broken) for n in range(30)])
    breaker()
    assert paused.exists() is False
    assert box.counts()["Refused"] == 20


def test_shadow_mode_says_what_would_happen_and_changes_nothing(breaker, box, paused, settings_file, tmp_path):
    """Before it may act, it is watched for a while (N10)."""
    change(settings_file, mode="shadow")
    box.deliver(*storm(50))
    said = breaker()
    assert "would divert and pause gmail: 50 of 50" in said
    assert box.counts() == {"INBOX": 50, "Incoming": 0, "Quarantine": 0, "Quarantine.dropped": 0}
    assert paused.exists() is False
    assert metric(tmp_path, 'bounce_breaker_messages_total{outcome="would_quarantine"}') == 50
    assert metric(tmp_path, 'bounce_breaker_unpaused{provider="gmail"}') == 0


def test_the_operator_releases(breaker, box, paused):
    """They were true: the application gets them, once, and the same messages make no new storm."""
    box.deliver(*storm(30), *storm(30, "orange.fr", 5000))
    breaker()
    assert "30 messages moved" in breaker("release", "gmail")
    assert box.counts() == {"INBOX": 30, "Incoming": 0, "Quarantine": 30, "Quarantine.dropped": 0}
    box.deliver(*storm(2, first=8000))
    breaker()
    assert box.counts() == {"INBOX": 30, "Incoming": 0, "Quarantine": 30, "Quarantine.dropped": 0, "Refused": 2}


def test_the_operator_drops_and_nothing_is_deleted(breaker, box, paused):
    box.deliver(*storm(30))
    breaker()
    breaker("drop", "gmail")
    assert box.counts() == {"INBOX": 0, "Incoming": 0, "Quarantine": 0, "Quarantine.dropped": 30}
    state = json.loads(breaker("status", "--json"))
    assert state["providers"]["gmail"]["open"] is False


def test_status_is_for_a_human_at_night(breaker, box, paused):
    box.deliver(*storm(30))
    breaker()
    said = breaker("status")
    assert "gmail: STORM since" in said
    assert "mailing paused" in said
    assert "mailbox crm: 0 in incoming, 30 in quarantine" in said
    assert "30 refuse us, 0 addresses do not work, 0 others" in said


def test_a_pause_that_fails_is_tried_again_and_told(breaker, box, paused, tmp_path):
    """The refusals are diverted all the same."""
    program(tmp_path / "pause", "echo no such transport >&2; exit 1")
    box.deliver(*storm(30))
    breaker()
    assert box.counts()["Quarantine"] == 30
    assert metric(tmp_path, 'bounce_breaker_unpaused{provider="gmail"}') == 1
    program(tmp_path / "pause", f'echo "$@" >>{tmp_path}/paused')
    breaker()
    assert set(paused.read_text().splitlines()) == {"--provider gmail"}
    assert metric(tmp_path, 'bounce_breaker_unpaused{provider="gmail"}') == 0


def test_texts_of_the_operator_come_before_all_else(breaker, box, settings_file):
    """policy_texts in the inventory: this provider says it in its own way."""
    odd = dsn("a@gmail.com", text="550 5.1.1 no such user, says the wall")
    box.deliver(odd)
    breaker()
    assert box.folder() == [odd]
    change(settings_file, policy_texts=["says the wall"])
    box.deliver(odd)
    breaker()
    assert box.folder("Refused") == [odd]


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 3000), st.binary(max_size=6))
def test_no_message_stops_the_breaker(settings_file, place, bytes_):
    conf = load_settings(settings_file)
    whole = dsn("a@gmail.com", **BLOCKED)
    for message in (whole[:place] + bytes_ + whole[place + 1 :], whole[:place], bytes_ * 100):
        bounce = delivery_report.read(message, conf.sites[0])
        assert bounce is None or Limits.of({}).verdict(bounce).subject in KINDS
        assert bounce is None or conf.owners().of(bounce.recipient)


def test_mail_that_cannot_be_understood_passes(breaker, box, paused):
    """The application files it as ignored; it must not wait here for ever."""
    odd = [
        b"",
        b"\0" * 100,
        b"\xff" * 5000,
        attached(newsletter()),
        b"Content-Type: multipart/x; boundary=a\n\n--a\n" * 500,
    ]
    box.deliver(*odd)
    (box.maildir / ".Incoming/new/link").symlink_to("/etc/passwd")
    breaker()
    assert sorted(box.folder()) == sorted(odd)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("command", ["run", "release", "drop"])
def test_killed_at_any_move_each_message_is_in_exactly_one_folder(breaker, box, paused, settings_file, command, when):
    """kill -9 before or after each rename, and again until all is done: nothing lost, nothing doubled."""
    messages = storm(21) + [dsn(f"d{n}@gmail.com", queue=n + 1) for n in range(3)]
    box.deliver(*messages)
    arguments = ["run"]
    if command != "run":
        breaker()
        arguments = [command, "gmail"]
    step, killed = 1, 0
    while killed_at(step, when, settings_file, *arguments) == -signal.SIGKILL:
        killed += 1
        step += when == "before" and step < 4
        if step == 4:
            break
        assert box.everywhere() == sorted(messages)
    assert killed >= 3
    breaker(*arguments)
    breaker()
    assert box.everywhere() == sorted(messages)
    end = {"run": "Quarantine", "release": "", "drop": "Quarantine.dropped"}[command]
    assert len(box.folder(end)) == (24 if command == "release" else 21)
    assert set(paused.read_text().splitlines()) == {"--provider gmail"}


def test_killed_at_random_moments_nothing_is_lost(box, paused, settings_file):
    """The same with the kernel's clock choosing the moment, while mail goes on coming."""
    messages = storm(300)
    for round_ in range(6):
        box.deliver(*messages[round_ * 50 : round_ * 50 + 50])
        process = subprocess.Popen(
            [sys.executable, "-m", "civicrm_tools", "bounce-breaker", "--config", str(settings_file), "run"],
            env=ENVIRONMENT,
        )
        try:
            process.wait(timeout=0.08 + 0.05 * round_)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    done = subprocess.run(
        [sys.executable, "-m", "civicrm_tools", "bounce-breaker", "--config", str(settings_file), "run"],
        env=ENVIRONMENT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert box.everywhere() == sorted(messages)
    assert box.folder("Incoming") == []


def test_wrong_settings_are_told_in_one_line(settings_file, capsys):
    for values in ({"mode": "off"}, {"storm_messages": "many"}, {"mode": "active", "policy_texts": ["("]}):
        change(settings_file, **values)
        assert tool.main(["--config", str(settings_file), "run"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        change(settings_file, mode="active", storm_messages=20, policy_texts=[])
    assert tool.main(["--config", str(settings_file), "release", "nobody"]) == 2
    assert "known: gmail, orange, default" in capsys.readouterr().err


def test_a_pass_leaves_no_file_open(breaker, box):
    """The service passes every ten seconds for months; the collector of garbage may come late."""
    gc.disable()
    try:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for number in range(5):
            box.deliver(dsn("a@x.example", queue=number))
            breaker()
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    finally:
        gc.enable()
