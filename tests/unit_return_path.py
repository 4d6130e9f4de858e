"""A mail log and programs that stand for the system's, for tests of the return path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from reports import verp

import civicrm_tools
from civicrm_tools.mail.maildir import Folder

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(civicrm_tools.__file__).parents[1])}
KILLED = """
import os, sys
from civicrm_tools.mail import breaker

step, calls = int(sys.argv[1]), 0
real = os.rename
def rename(*arguments, **options):
    global calls
    calls += 1
    if calls == step and sys.argv[2] == "before":
        os.kill(os.getpid(), 9)
    real(*arguments, **options)
    if calls == step:
        os.kill(os.getpid(), 9)
os.rename = rename
sys.exit(breaker.main(["--config", sys.argv[3], *sys.argv[4:]]))
"""


def delivery(
    queue_id: str, sender: str, recipient: str, message_id: str, provider: str = "gmail", minute: int = 0
) -> str:
    """Postfix's lines about one message that a provider took."""
    stamp = f"2026-01-02T10:{minute:02d}:00.123456+00:00 mx"
    service = f"postfix-{provider}" if provider else "postfix"
    return (
        f"{stamp} postfix/cleanup[7]: {queue_id}: message-id=<{message_id}>\n"
        f"{stamp} postfix/qmgr[8]: {queue_id}: from=<{sender}>, size=900, nrcpt=1 (queue active)\n"
        f"{stamp} {service}/smtp[9]: {queue_id}: to=<{recipient}>, relay=mx1.mail.{provider}.example[192.0.2.1]:25, "
        "delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 ok)\n"
        f"{stamp} postfix/qmgr[8]: {queue_id}: removed\n"
    )


def program(path: Path, text: str) -> Path:
    """A program that stands for one of the system's."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def killed_at(step: int, when: str, settings_file: Path, *arguments: str) -> int:
    """Exit status of a breaker that is killed before or after its step-th rename."""
    argv = [sys.executable, "-c", KILLED, str(step), when, str(settings_file), *arguments]
    return subprocess.run(argv, env=ENVIRONMENT, timeout=60, capture_output=True, check=False).returncode


def write_settings(directory: Path) -> Path:
    """Write settings with two sites and two providers, their mailboxes and a log; everything lies below `directory`."""
    log = directory / "mail.log"
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
    (directory / "metrics").mkdir()
    sites = []
    for name, domain in (("crm", "crm.example.org"), ("staging-crm", "staging.crm.example.org")):
        maildir = directory / name / "Maildir"
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
        "textfile_directory": str(directory / "metrics"),
    }
    (directory / "providers.json").write_text(json.dumps(table))
    (directory / "hosted_domains").write_text("")
    path = directory / "return-path.json"
    path.write_text(
        json.dumps(
            {
                "hostname": "mx.example.org",
                "sites": sites,
                "providers_file": str(directory / "providers.json"),
                "hosted_file": str(directory / "hosted_domains"),
                "mail_log": str(log),
                "textfile_directory": str(directory / "metrics"),
                "abuse_report": {
                    "state_file": str(directory / "state.db"),
                    "log_file": str(directory / "reports.jsonl"),
                    "unparsed_directory": str(directory / "unparsed"),
                    "sendmail": str(directory / "sendmail"),
                },
                "bounce_breaker": {
                    "mode": "active",
                    "state_file": str(directory / "breaker.db"),
                    "pause_command": [str(directory / "pause"), "--provider", "{provider}"],
                    "pause_domains_command": [str(directory / "pause"), "--domain={domain}"],
                },
                "mailbox_watch": {"state_file": str(directory / "watch.db")},
            }
        )
    )
    return path


FOLDERS = ("", "Incoming", "Quarantine", "Quarantine.dropped", "Refused", "Notices")


class Mailbox:
    """One site's folders, seen from outside."""

    def __init__(self, maildir: Path) -> None:
        self.maildir = maildir
        self.made = 0

    def deliver(self, *messages: bytes) -> None:
        new = self.maildir / ".Incoming/new"
        for part in ("tmp", "new", "cur"):
            (self.maildir / ".Incoming" / part).mkdir(parents=True, exist_ok=True)
        for message in messages:
            self.made += 1
            path = new / f"{1700000000 + self.made}.M1P{self.made}.mx,S={len(message)},W={len(message)}"
            path.write_bytes(message)

    def folder(self, name: str = "") -> list[bytes]:
        folder = Folder(self.maildir, name)
        return [folder.read(entry) for entry in folder.entries()]

    def counts(self) -> dict[str, int]:
        """Messages in each folder; of the last two only where there are any."""
        found = {name or "INBOX": len(self.folder(name)) for name in FOLDERS}
        return {name: number for name, number in found.items() if number or name not in ("Refused", "Notices")}

    def everywhere(self) -> list[bytes]:
        return sorted(message for name in FOLDERS for message in self.folder(name))


def change(settings_file: Path, **values: object) -> None:
    raw = json.loads(settings_file.read_text())
    raw["bounce_breaker"] |= values
    settings_file.write_text(json.dumps(raw))


def metric(tmp_path: Path, name: str) -> float:
    lines = (tmp_path / "metrics/bounce-breaker.prom").read_text().splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " "))
