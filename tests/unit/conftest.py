"""What tests of the return path share: settings, mailboxes and a mail log of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reports import verp
from unit_return_path import delivery


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
    path = tmp_path / "return-path.json"
    path.write_text(
        json.dumps(
            {
                "hostname": "mx.example.org",
                "sites": sites,
                "providers": [
                    {"name": "gmail", "domains": ["gmail.com"], "mx_suffixes": ["google.example"]},
                    {"name": "orange", "domains": ["orange.fr"]},
                ],
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
                },
                "mailbox_watch": {"state_file": str(tmp_path / "watch.db")},
            }
        )
    )
    return path
