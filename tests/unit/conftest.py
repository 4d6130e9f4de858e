"""What tests of host tools share."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from unit_return_path import Mailbox, program, write_settings

# No __pycache__ among the files that roles install.
sys.dont_write_bytecode = True

FAKE = Path(__file__).parent / "fakes" / "postfix" / "commands"
COMMANDS = ("postconf", "postfix", "postkick", "postmap", "postmulti", "postqueue", "postsuper")
SERVICES = (
    "gmail/unix/syslog_name = postfix-gmail\n"
    "gmail2/unix/syslog_name = postfix-gmail\n"
    "orange/unix/syslog_name = postfix-orange\n"
    "relay/unix/syslog_name = ${multi_instance_name?{$multi_instance_name}:{postfix}}/$service_name\n"
)
TRANSPORT = "gmail.test gmail:\ngooglemail.test gmail2:\n.gmail.test gmail:\norange.test orange:\n"
CONTRACT = r"/civicrm\+[buo]\..*@crm\.test/ lmtp:unix:private/dovecot-lmtp" + "\n"


class Postfix:
    """A Postfix of files, see fakes/postfix/commands. Queue IDs are given in the order of submission."""

    def __init__(self, root: Path, name: str = "postfix") -> None:
        self.root, self.name = root, name
        for queue in ("incoming", "active", "deferred", "hold", "maildrop"):
            (root / "spool" / queue).mkdir(parents=True)
        etc = root / "etc"
        etc.mkdir()
        (etc / "services").write_text(SERVICES)
        (etc / "transport").write_text(TRANSPORT)
        (etc / "contract.pcre").write_text(CONTRACT)
        (etc / "mailing_state.db").write_text("")
        self.main = {
            "queue_directory": str(root / "spool"),
            "transport_maps": f"pcre:{etc}/contract.pcre, texthash:{etc}/transport",
            "header_checks": f"pipemap:{{pcre:{etc}/submitted.pcre,hash:{etc}/mailing_state}}",
            "maximal_queue_lifetime": "5d",
        }
        self.set()
        (root / "mail.log").write_text("")

    def set(self, **parameters: str) -> None:
        """Change main.cf."""
        self.main |= parameters
        (self.root / "etc" / "main.json").write_text(json.dumps(self.main))

    def put(
        self, queue_id: str, queue: str = "hold", to: str = "a@gmail.test", sender: str = "", age: float = 60
    ) -> str:
        """Put a message into a queue; the default sender is that of mailing job 7."""
        entry = {
            "sender": sender or f"civicrm+b.7.{len(queue_id)}.0123456789abcdef@crm.test",
            "recipients": [to],
            "arrived": int(time.time() - age),
        }
        (self.root / "spool" / queue / queue_id).write_text(json.dumps(entry))
        return queue_id

    def queue(self, name: str) -> set[str]:
        return {path.name for path in (self.root / "spool" / name).iterdir()}

    def delivered(self) -> list[tuple[float, str]]:
        """(time, queue ID) of each delivery that was tried."""
        path = self.root / "delivered"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(float(line.split()[0]), line.split()[1]) for line in lines]

    def calls(self, command: str) -> list[str]:
        path = self.root / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(command)]

    def switch(self) -> dict[str, str]:
        """What cleanup does with new mail, by its kind."""
        lines = (self.root / "etc" / "mailing_state.db").read_text().splitlines()
        return dict(line.split(None, 1) for line in lines)


@pytest.fixture
def mta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Postfix:
    """One Postfix instance whose commands are on PATH; the tools' own state lies in the test's directory."""

    from civicrm_tools.mail import mailing_state

    commands = tmp_path / "bin"
    commands.mkdir()
    for name in COMMANDS:
        (commands / name).symlink_to(FAKE)
    made = Postfix(tmp_path / "mta")
    (made.root / "instances").write_text(f"-               -               y         {made.root}/etc\n")
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_POSTFIX", str(made.root))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(mailing_state, "DIRECTORY", tmp_path / "state")
    monkeypatch.setattr(mailing_state, "METRICS", tmp_path / "metrics" / "mailing.prom")
    (tmp_path / "metrics").mkdir(exist_ok=True)
    return made


@pytest.fixture
def second_instance(mta: Postfix) -> Postfix:
    """Another instance beside `mta`, called postfix-receipts."""
    made = Postfix(mta.root / "postfix-receipts", "postfix-receipts")
    with (mta.root / "instances").open("a") as file:
        file.write(f"postfix-receipts mta            y         {made.root}/etc\n")
    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A function (main, arguments...) -> (exit status, output, errors)."""

    def _run(main: Callable[[list[str]], int], *arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return _run


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    """Settings with two sites and two providers; everything lies below tmp_path."""
    return write_settings(tmp_path)


@pytest.fixture
def box(tmp_path: Path) -> Mailbox:
    """The mailbox of the first site."""
    return Mailbox(tmp_path / "crm/Maildir")


@pytest.fixture
def paused(tmp_path: Path) -> Path:
    """Each call of a pause command adds a line."""
    program(tmp_path / "pause", f'echo "$@" >>{tmp_path}/paused')
    return tmp_path / "paused"


@pytest.fixture
def breaker(settings_file: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run bounce-breaker, by default one pass; returns what it prints."""

    from civicrm_tools.mail import breaker as tool

    def _run(*arguments: str) -> str:
        assert tool.main(["--config", str(settings_file), *(arguments or ("run",))]) == 0
        return capsys.readouterr().out

    return _run
