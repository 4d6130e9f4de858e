"""What tests of host tools share."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from reports import verp
from unit_return_path import Mailbox, delivery, program

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
    log = tmp_path / "mail.log"
    log.write_text(
        delivery("4jW8WD6NjJzDSVp", verp(queue=100), "ada@gmail.com", "20260102100000.4jW8WD6NjJzDSVp@mx.example.org")
        + delivery(
            "4jW8WD6NjJzDSVq",
            verp(queue=101),
            "bob@orange.fr",
            "20260102100000.4jW8WD6NjJzDSVq@mx.example.org",
            "orange",
        )
        + delivery("4jW8WD6NjJzDSVr", "someone@else.example", "eve@gmail.com", "other@mx.example.org")
    )
    (tmp_path / "metrics").mkdir()
    sites = []
    for name, domain in (("crm", "crm.example.org"), ("staging-crm", "staging.crm.example.org")):
        maildir = tmp_path / name / "Maildir"
        for part in ("tmp", "new", "cur"):
            (maildir / part).mkdir(parents=True)
        sites.append(
            {
                "name": name,
                "localpart": "civicrm+",
                "domains": [domain],
                "maildir": str(maildir),
                "fetch_unit": f"fetch-{name}",
            }
        )
    limits = {"budget_per_second": 5, "connections": 5}
    table = {
        "providers": [
            {"name": "gmail", "domains": ["gmail.com"], "mx_suffixes": ["google.example"]} | limits,
            {"name": "orange", "domains": ["orange.fr"]} | limits,
        ],
        "back_off": {"texts": [], "deferrals": 3, "window_seconds": 120, "step_seconds": 60, "recover_seconds": 900},
        "own_domains": ["crm.example.org", "staging.crm.example.org"],
        "default_concurrency": 10,
        "queue_lifetime": "5d",
        "mail_log": str(log),
        "textfile_directory": str(tmp_path / "metrics"),
    }
    (tmp_path / "providers.json").write_text(json.dumps(table))
    (tmp_path / "hosted_domains").write_text("")
    path = tmp_path / "return-path.json"
    path.write_text(
        json.dumps(
            {
                "hostname": "mx.example.org",
                "sites": sites,
                "providers_file": str(tmp_path / "providers.json"),
                "hosted_file": str(tmp_path / "hosted_domains"),
                "mail_log": str(log),
                "textfile_directory": str(tmp_path / "metrics"),
                "abuse_report": {
                    "state_file": str(tmp_path / "state.db"),
                    "log_file": str(tmp_path / "reports.jsonl"),
                    "unparsed_directory": str(tmp_path / "unparsed"),
                    "sendmail": str(tmp_path / "sendmail"),
                },
                "bounce_breaker": {
                    "mode": "active",
                    "state_file": str(tmp_path / "breaker.db"),
                    "pause_command": [str(tmp_path / "pause"), "--provider", "{provider}"],
                    "pause_domains_command": [str(tmp_path / "pause"), "--domain={domain}"],
                },
                "mailbox_watch": {"state_file": str(tmp_path / "watch.db")},
            }
        )
    )
    return path


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
