"""Hosts, secrets and patience for the acceptance tests.

In the lab the hosts are reached by podman exec; with LAB=0 by Ansible's own ssh and the inventory in
ANSIBLE_INVENTORY. `pytest -m "not mutates"` changes nothing and may run on production.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import testinfra
import yaml
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[1]
T = TypeVar("T")
PATIENCE = 3  # two shared cores were seen to take three times as long as the same two alone

IN_LAB = os.environ.get("LAB", "1") == "1"


def connect(name: str) -> Host:
    if IN_LAB:
        return testinfra.get_host(f"podman://{name}")
    return testinfra.get_host(f"ansible://{name}", ansible_inventory=os.environ["ANSIBLE_INVENTORY"])


@pytest.fixture(scope="session")
def crm_int() -> Host:
    return connect("crm-int-01")


@pytest.fixture(scope="session")
def crm_ext() -> Host:
    return connect("crm-ext-01")


@pytest.fixture(scope="session")
def world() -> Host:
    return connect("world")


@pytest.fixture(scope="session")
def ops() -> Host:
    return connect("ops")


def ansible_environment() -> dict[str, str]:
    """The environment in which a sysadmin runs the playbooks."""
    return dict(os.environ) | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_VAULT_PASSWORD_FILE": str(ROOT / ".lab" / "vault-password"),
        "ANSIBLE_FORCE_COLOR": "false",
        "ANSIBLE_NOCOLOR": "true",
        "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}",
    }


def quick_strategy() -> dict[str, str]:
    """The environment in which a playbook runs through mitogen: for tests that ask what changes, not how."""
    (plugins,) = (ROOT / ".venv").glob("lib/python3*/site-packages/ansible_mitogen/plugins/strategy")
    return {"ANSIBLE_STRATEGY": "mitogen_linear", "ANSIBLE_STRATEGY_PLUGINS": str(plugins)}


@pytest.fixture(scope="session")
def vault() -> dict[str, Any]:
    """The lab's secrets."""
    done = subprocess.run(
        ["ansible-vault", "view", "inventories/lab/group_vars/all/vault.yml"],
        cwd=ROOT,
        env=ansible_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return yaml.safe_load(done.stdout)


@pytest.fixture(scope="session")
def playbook() -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function (arguments..., timeout=900, ENVIRONMENT=...) -> a finished ansible-playbook run."""

    def _playbook(*arguments: str, timeout: int = 900, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ansible-playbook", *arguments],
            cwd=ROOT,
            env=ansible_environment() | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return _playbook


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    """A function (probe, within=60) -> the first true value of probe(), asked for up to `within` seconds.

    That is the time of a quiet machine; a busy one gets PATIENCE times as much, which costs nothing when all is well.
    """

    def _eventually(probe: Callable[[], T], within: float = 60, every: float = 0.5) -> T:
        deadline = time.monotonic() + within * PATIENCE
        while not (value := probe()):
            assert time.monotonic() < deadline, f"still {value!r} after {within * PATIENCE} s"
            time.sleep(every)
        return value

    return _eventually


@pytest.fixture(scope="session")
def browse(world: Host) -> Callable[..., tuple[int, str]]:
    """A function (url, user=None, host=world, **curl options) -> (status, headers and body).

    user is "name:password" for Basic auth. Names resolve by the world's DNS, TLS is verified with the lab's CA.
    Status 0 means that no HTTP answer came.
    """

    def _browse(url: str, user: str | None = None, host: Host | None = None, **options: str) -> tuple[int, str]:
        # Settings go by standard input, as no password belongs in an argument list.
        settings = [f'user = "{user}"'] if user else []
        settings += [f'{name.replace("_", "-")} = "{value}"' for name, value in options.items()]
        curl = ["curl", "-sSi", "--max-time", "60", "--cacert", "/etc/ssl/lab-ca.pem", "-w", "\n%{http_code}"]
        done = (host or world).run(
            f"printf '%s\\n' {shlex.join(settings)} | {shlex.join([*curl, '--config', '-', url])}"
        )
        answer, _, status = done.stdout.rpartition("\n")
        return int(status or 0), answer

    return _browse


@pytest.fixture(scope="session")
def front_door(vault: dict[str, Any]) -> str:
    """name:password of a person who may pass the front door."""
    return f"alice:{vault['vault_people']['alice']['password']}"
