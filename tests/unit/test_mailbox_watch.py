"""What comes back is taken, and nobody has to look: ages, ignored bounces, poison (N8, S27)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from loading import TOOLS
from reports import attached, dsn, newsletter, plain, verp
from unit_return_path import program

from civicrm_tools.mail import watch as tool
from civicrm_tools.mail.maildir import Folder

INCOMING, IGNORED, POISON = "Incoming", "CiviMail.ignored", "Poison"


class Mailbox:
    """One site's folders, seen from outside."""

    def __init__(self, maildir: Path) -> None:
        self.maildir = maildir
        self.made = 0

    def put(self, folder: str, *messages: bytes, ago: float = 0) -> None:
        place = Folder(self.maildir, folder)
        place.make()
        for message in messages:
            self.made += 1
            path = place.path / "cur" / f"{1700000000 + self.made}.M1P{self.made}.mx,S={len(message)}:2,S"
            path.write_bytes(message)
            os.utime(path, (time.time() - ago,) * 2)

    def all(self, folder: str = "") -> list[bytes]:
        place = Folder(self.maildir, folder)
        return sorted(place.read(entry) for entry in place.entries())

    def take(self, folder: str) -> None:
        """What the application does: a copy under a new name in another folder, the original gone."""
        for entry in Folder(self.maildir).entries():
            self.put(folder, Folder(self.maildir).read(entry))
            (self.maildir / entry.subdirectory / entry.name).unlink()


@pytest.fixture
def box(tmp_path) -> Mailbox:
    return Mailbox(tmp_path / "crm/Maildir")


@pytest.fixture
def watch(settings_file, tmp_path, capsys):
    """Run the command; returns what it prints, or the metrics after "run"."""

    def _run(*arguments: str):
        assert tool.main(["--config", str(settings_file), *(arguments or ("run",))]) == 0
        said = capsys.readouterr().out
        if arguments:
            return said
        lines = (tmp_path / "metrics/mailbox-watch.prom").read_text().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    return _run


def test_age_and_count_of_each_folder(watch, box):
    """If the job or the breaker stands still, the oldest message says so."""
    box.put("", plain("x"), ago=3600)
    box.put("", plain("y"), ago=60)
    box.put(INCOMING, plain("z"), ago=120)
    found = watch()
    assert found['mailbox_oldest_seconds{site="crm",folder="inbox"}'] == pytest.approx(3600, abs=30)
    assert found['mailbox_oldest_seconds{site="crm",folder="incoming"}'] == pytest.approx(120, abs=30)
    assert found['mailbox_oldest_seconds{site="crm",folder="quarantine"}'] == 0
    assert found['mailbox_messages{site="crm",folder="inbox"}'] == 2
    assert found['mailbox_messages{site="staging-crm",folder="inbox"}'] == 0


def odd() -> list[bytes]:
    """What belongs into ignored."""
    return [
        plain("spam"),
        plain("I am away", To=verp("b"), Auto_Submitted="auto-replied"),
        dsn("a@gmail.com", action="delayed", status="4.4.1"),
        dsn("a@gmail.com", to=verp("b", hash="x" * 15)),
        dsn("a@gmail.com", to=verp("b", domain="else.example")),
        dsn("a@gmail.com", to=verp("u")),
        dsn("a@gmail.com", status="5.7.1", text="550 5.7.1 your host is blocked"),
        attached(dsn("a@gmail.com").decode()),
        newsletter().encode(),
        b"\0",
    ]


def test_valid_bounces_in_ignored_are_counted(watch, box):
    """A changed hash format has silently lost bounces for weeks (N8)."""
    box.put(IGNORED, *odd(), *[dsn(f"p{n}@gmail.com", queue=n + 1) for n in range(3)])
    assert watch()['mailbox_ignored_valid_bounces{site="crm"}'] == 3
    box.put(IGNORED, dsn("q@gmail.com", queue=9))
    assert watch()['mailbox_ignored_valid_bounces{site="crm"}'] == 4


def test_replay_puts_each_valid_bounce_back_once(watch, box):
    """What comes back a second time stays: no circle between two folders (N8)."""
    bounces = sorted(dsn(f"p{n}@gmail.com", queue=n + 1) for n in range(3))
    box.put(IGNORED, *odd(), *bounces)
    assert "3 messages would go" in watch("replay-ignored", "crm", "--dry-run")
    assert box.all() == []
    assert "3 messages went" in watch("replay-ignored", "crm")
    assert box.all() == bounces
    assert box.all(IGNORED) == sorted(odd())
    box.take(IGNORED)
    assert "0 messages" in watch("replay-ignored", "crm")
    assert box.all(IGNORED) == sorted(odd() + bounces)
    assert watch()['mailbox_ignored_valid_bounces{site="crm"}'] == 0


def test_a_replayed_message_has_a_name_that_dovecot_never_saw(watch, box):
    """Dovecot remembers names; its hint about the size must stay true."""
    box.put(IGNORED, dsn("p@gmail.com"))
    (old,) = Folder(box.maildir, IGNORED).entries()
    watch("replay-ignored", "crm")
    (new,) = Folder(box.maildir).entries()
    assert new.name.split(",")[0] != old.name.split(",")[0]
    assert f",S={new.size}" in new.name
    assert new.subdirectory == "new"


KILLED = """
import os, sys
from civicrm_tools.mail import watch

real = os.rename
def rename(*arguments, **options):
    if sys.argv[1] == "after":
        real(*arguments, **options)
    os.kill(os.getpid(), 9)
os.rename = rename
watch.main(["--config", sys.argv[2], "replay-ignored", "crm"])
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_it_replays_each_bounce_goes_back_once(watch, box, settings_file, when):
    bounces = sorted(dsn(f"p{n}@gmail.com", queue=n + 1) for n in range(4))
    box.put(IGNORED, *bounces)
    environment = os.environ | {"PYTHONPATH": str(TOOLS)}
    for _ in range(2):
        argv = [sys.executable, "-c", KILLED, when, str(settings_file)]
        assert subprocess.run(argv, env=environment, timeout=60, check=False).returncode == -signal.SIGKILL
        assert sorted(box.all() + box.all(IGNORED)) == bounces
    watch("replay-ignored", "crm")
    assert box.all() == bounces
    box.take(IGNORED)
    watch("replay-ignored", "crm")
    assert box.all() == []


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A stand-in for systemd: job() is one more run of the application's job that has ended."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    program(tmp_path / "systemctl", f"cat {tmp_path}/times")
    (tmp_path / "times").write_text("ExecMainStartTimestamp=\nExecMainExitTimestamp=\n")
    last = [time.time() + 10]

    def _run(ended: bool = True) -> None:
        last[0] += 900
        end = f"@{int(last[0] + 5)}" if ended else ""
        (tmp_path / "times").write_text(f"ExecMainStartTimestamp=@{int(last[0])}\nExecMainExitTimestamp={end}\n")
        # The watch looks a minute later.
        monkeypatch.setattr(tool.time, "time", lambda: last[0] + 60)

    return _run


def bad() -> bytes:
    return plain("nobody can read this")


def uids(box: Mailbox, *messages: bytes) -> None:
    """Dovecot's numbering: messages in this order."""
    folder = Folder(box.maildir)
    names = {folder.read(entry): entry.name.partition(":2,")[0] for entry in folder.entries()}
    lines = [f"{n} W20 :{names[message]}" for n, message in enumerate(messages, 1) if message in names]
    (box.maildir / "dovecot-uidlist").write_text("3 V1 N9 Gx\n" + "\n".join(lines) + "\n")


def test_a_message_that_blocks_the_job_is_set_aside(watch, box, job):
    """One unparseable message would stop all bounces and unsubscribes for ever; it is kept and told (N8)."""
    good = [dsn(f"p{n}@gmail.com", queue=n + 1) for n in range(2)]
    box.put("", *good, bad())
    # Numbered first although it came last.
    uids(box, bad(), *good)
    watch()
    for _ in range(2):
        job()
        watch()
        watch()
    assert box.all(POISON) == []
    job()
    found = watch()
    assert box.all(POISON) == [bad()]
    assert box.all() == sorted(good)
    assert found['mailbox_messages{site="crm",folder="poison"}'] == 1
    job()
    box.take("CiviMail.processed")
    assert watch()['mailbox_job_stuck{site="crm"}'] == 0
    for _ in range(5):
        job()
        watch()
    assert box.all(POISON) == [bad()]


def test_in_an_outage_no_mail_is_taken_away(watch, box, job):
    """With CiviCRM down every message stands still; the first one is no poison (N8)."""
    messages = sorted(dsn(f"p{n}@gmail.com", queue=n + 1) for n in range(5))
    box.put("", *messages)
    for _ in range(20):
        job()
        found = watch()
        assert len(box.all(POISON)) <= 1
    assert box.all(POISON) == []
    assert box.all() == messages
    assert found['mailbox_job_stuck{site="crm"}'] == 1
    box.take("CiviMail.processed")
    job()
    assert watch()['mailbox_job_stuck{site="crm"}'] == 0


def test_only_runs_that_ended_count(watch, box, job):
    """A long run over a full mailbox is at work, and looking often is no run."""
    box.put("", bad())
    for _ in range(10):
        job(ended=False)
        watch()
    assert box.all() == [bad()]


def test_wrong_words_are_told_in_one_line(settings_file, capsys):
    assert tool.main(["--config", str(settings_file), "replay-ignored", "nobody"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "known: crm, staging-crm" in error
    assert json.loads(settings_file.read_text())
