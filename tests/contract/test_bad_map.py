"""A wrong network map is refused in one line that names the entry, before anything of the firewall is touched.

The role's own validation runs here, one host for each mistake, all in one play that opens no connection.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from loading import ROOT

SMTP = {"name": "smtp", "direction": "in", "service": "smtp", "why": "Mail comes in."}
SSH = {"name": "shell", "direction": "in", "service": "ssh", "why": "?"}

# For each mistake: the variables that make it, and what the line must say.
MISTAKES = {
    "unknown-service": (
        {"firewall_map": [SMTP | {"service": "smpt"}]},
        r"entry 'smtp': unknown service 'smpt'; use one of dhcp, .*, or add it to firewall_services$",
    ),
    "port-0": (
        {"firewall_services": {"odd": {"tcp": [0]}}},
        r"firewall_services\.odd\.tcp: 0 is no port; use a number from 1 to 65535$",
    ),
    "port-65536": (
        {"firewall_services": {"odd": {"tcp": [65536]}}},
        r"firewall_services\.odd\.tcp: 65536 is no port; use a number from 1 to 65535$",
    ),
    "prefix-33": (
        {"firewall_map": [SMTP | {"where": ["10.0.0.0/33"]}]},
        r"entry 'smtp': '10\.0\.0\.0/33' is no address or network; write for example 192\.0\.2\.1 or 192\.0\.2\.0/24$",
    ),
    "host-bits": (
        {"firewall_map": [SMTP | {"where": ["10.0.0.1/24"]}]},
        r"entry 'smtp': 10\.0\.0\.1/24 has host bits set; write 10\.0\.0\.0/24, or the address without a",
    ),
    "unknown-set": (
        {"firewall_map": [SMTP | {"where": ["@peer"]}]},
        r"entry 'smtp': unknown set @peer; use one of none, or add it to firewall_sets$",
    ),
    "name-twice": (
        {"firewall_map": [SMTP, SMTP | {"service": "https"}]},
        r"'smtp' stands 2 times in the map; give each entry a name of its own$",
    ),
    "contradiction": (
        {"firewall_map": [SMTP, SMTP | {"name": "mail of ext", "where": ["10.77.0.12"]}]},
        r"entry 'smtp' opens tcp 25 to anywhere, but 'mail of ext' limits it; remove one, or give 'smtp' a where$",
    ),
    "ssh-for-all": (
        {"firewall_map": [SSH]},
        r"entry 'shell' opens tcp 22 to anywhere, but 'firewall_admin_sources' limits it; remove one, or",
    ),
    "confined-user-outside": (
        {
            "firewall_map": [{"name": "x", "direction": "out", "who": ["crm"], "service": "https", "why": "?"}],
            "firewall_confined_users": ["crm"],
        },
        r"entry 'x': crm is one of firewall_confined_users but may go to anywhere; take it out of who, or",
    ),
    "no-admin": ({"firewall_admin_sources": []}, r"firewall_admin_sources is empty: nobody could ssh to this host;"),
    "no-time": ({"firewall_rollback_seconds": 5}, r"^firewall_rollback_seconds is 5: a new ssh connection may need"),
}


@pytest.fixture(scope="module")
def messages(tmp_path_factory) -> dict[str, str]:
    """What the role says to each host: its failure, or nothing."""
    directory: Path = tmp_path_factory.mktemp("map")
    good = {"firewall_admin_sources": ["192.0.2.1"], "firewall_map": [SMTP]}
    hosts = {name: good | variables for name, (variables, _) in MISTAKES.items()} | {"good": good}
    (directory / "hosts.json").write_text(
        json.dumps({"all": {"vars": {"ansible_connection": "local"}, "hosts": hosts}})
    )
    role = {"name": "firewall", "tasks_from": "validate.yml"}
    play = {"hosts": "all", "gather_facts": False, "tasks": [{"ansible.builtin.import_role": role}]}
    (directory / "play.yml").write_text(json.dumps([play]))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE_")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
    }
    done = subprocess.run(
        ["ansible-playbook", "-i", directory / "hosts.json", directory / "play.yml"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert set(re.findall(r"^(\S+) +: ok=", done.stdout, re.MULTILINE)) == set(hosts), done.stdout
    blocks = re.findall(r"^fatal: \[(\S+)\]: .*=> \n((?:    .*\n)+)", done.stdout, re.MULTILINE)
    return {host: yaml.safe_load(block)["msg"] for host, block in blocks}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_map_is_said_in_one_line(messages, mistake):
    assert re.search(MISTAKES[mistake][1], messages[mistake]), messages[mistake]
    assert "\n" not in messages[mistake]


def test_a_map_without_a_mistake_passes(messages):
    assert "good" not in messages
