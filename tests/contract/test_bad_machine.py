"""A machine that cannot hold the lab is told so in one clear line, and nothing on it is changed.

The lab's scripts run from a copy, and every program that could change something is a fake that leaves a note:
no test here reaches the real podman, nft, apt or network.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from loading import ROOT

# What the scripts need to find out that they cannot work. Nothing in it changes a machine.
HARMLESS = ("bash", "cat", "cut", "dirname", "env", "grep", "mktemp", "python3", "rm", "sha256sum", "tail")
CHANGING = ("apt-get", "dpkg-query", "ip", "mmdebstrap", "mount", "nft", "nsenter", "podman", "umount", "unshare")
# As `podman network inspect` and `ip -json route` print them.
PODMAN_NETWORK = {"name": "podman", "driver": "bridge", "network_interface": "podman0", "ipv6_enabled": False}
DEFAULT_ROUTE = {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0", "protocol": "dhcp", "flags": []}


class Machine:
    """A copy of lab/bin and a PATH of harmless programs and fakes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.programs = directory / "programs"
        self.notes = directory / "notes"
        (directory / "lab").mkdir()
        shutil.copytree(ROOT / "lab" / "bin", directory / "lab" / "bin")
        for name in ("requirements.txt", "constraints.txt"):
            shutil.copy(ROOT / name, directory)
        self.programs.mkdir()
        for name in HARMLESS:
            (self.programs / name).symlink_to(shutil.which(name))
        for name in CHANGING:
            self.fake(name, "exit 1")
        self.fake("id", "echo 0", noted=False)

    def fake(self, name: str, script: str, noted: bool = True) -> None:
        """Put a shell script in the program's place; it notes how it was called and what it read."""
        note = f'echo "{name} $*" >>"{self.notes}"\n' if noted else ""
        (self.programs / name).write_text(f"#!/bin/bash\n{note}{script}\n")
        (self.programs / name).chmod(0o755)

    def remove(self, name: str) -> None:
        (self.programs / name).unlink()

    def run(self, *command: str, prefix: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
        program = self.directory / "lab" / "bin" / command[0]
        return subprocess.run(
            [*prefix, program, *command[1:]],
            env={"PATH": str(self.programs), "TMPDIR": str(self.directory), "CIVICRM_LAB_RUN": str(self.directory)}
            | environment,
            capture_output=True,
            text=True,
            timeout=30,
        )

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []


@pytest.fixture
def machine() -> Iterator[Machine]:
    # Not tmp_path: that one is closed to the user nobody.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Machine(Path(directory))


def assert_refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("command", [("launch", "podman", "ps"), ("setup",)], ids=["launch", "setup"])
def test_who_is_not_root_is_told_so(machine, command):
    """With the real id, as the real user nobody, where the tests run as root."""
    (machine.programs / "id").unlink()
    (machine.programs / "id").symlink_to(shutil.which("id"))
    nobody = (shutil.which("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups")
    done = machine.run(*command, prefix=nobody if os.geteuid() == 0 else ())
    assert_refused(done, r"^(lab|setup): run this as root: ")
    assert machine.noted() == []


def test_without_podman_the_launcher_says_who_installs_it(machine):
    machine.remove("podman")
    assert_refused(machine.run("launch", "true"), r"^lab: podman is not installed: 'make lab' installs it")
    assert machine.noted() == []


def test_without_qemu_the_virtual_machine_does_not_run_and_says_who_installs_it(machine):
    """The scenario that needs it fails; it is never left out in silence."""
    done = machine.run("vm-run", "trixie", "1", str(machine.directory / "answers"), "program=program.tar")
    assert_refused(done, r"^lab: qemu-system-x86_64 is missing: 'make setup' installs it from Debian's packages$")
    assert machine.noted() == []


def test_on_another_processor_the_virtual_machine_is_not_made(machine):
    machine.fake("uname", "echo aarch64", noted=False)
    assert_refused(machine.run("vm-image", "trixie"), r"^lab: this machine is aarch64: .* on amd64 only$")
    assert machine.noted() == []


def test_podman_that_cannot_be_had_is_named_and_nothing_is_begun(machine):
    """Debian's mirror does not answer: the last line says what is missing, those before it what apt-get said."""
    machine.fake("apt-get", '[ "$1" = update ] || { echo "E: Unable to locate package podman"; exit 100; }')
    done = machine.run("setup")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == "E: Unable to locate package podman"
    assert re.match(r"setup: apt-get could not install: podman crun ", done.stderr.splitlines()[-1])
    assert {call.split()[0] for call in machine.noted()} == {"dpkg-query", "apt-get"}
    assert not (machine.directory / ".venv").exists()
    assert not (machine.directory / ".lab").exists()


def test_a_machine_that_is_not_debian_is_told_so(machine):
    machine.remove("apt-get")
    assert_refused(machine.run("setup"), r"^setup: apt-get is missing: the lab runs on Debian 12 or 13$")
    assert machine.noted() == []


def test_a_python_that_is_too_old_is_named(machine):
    machine.remove("python3")
    machine.fake("python3", '[ "$1" != --version ] || { echo "Python 3.9.2"; exit 0; }; exit 1', noted=False)
    assert_refused(machine.run("setup"), r"^setup: python3 is 3\.9\.2: Python 3\.11, 3\.12 or 3\.13 is needed$")
    assert machine.noted() == []


def with_networks(machine: Machine, subnets: dict[str, str], routes: list[dict]) -> None:
    """Have podman show networks {name: subnet} and ip show routes besides the default one."""
    networks = [
        PODMAN_NETWORK | {"name": name, "network_interface": f"{name}0", "subnets": [{"subnet": subnet}]}
        for name, subnet in subnets.items()
    ]
    own = [n for n in networks if n["name"] == "civicrm-lab"]
    machine.fake(
        "podman",
        f"""case "$*" in
            "network ls -q") printf '%s\\n' {" ".join(subnets)} ;;
            "network inspect civicrm-lab") echo '{json.dumps(own)}'; exit {0 if own else 125} ;;
            "network inspect "*) echo '{json.dumps(networks)}' ;;
        esac""",
    )
    machine.fake("ip", f"echo '{json.dumps([DEFAULT_ROUTE, *routes])}'")
    machine.fake("nft", f"'{shutil.which('cat')}' >>'{machine.notes}'")


def changes(machine: Machine) -> list[str]:
    """What was called that does more than look."""
    return [c for c in machine.noted() if not re.match(r"podman network (ls|inspect)|ip .*route show", c)]


@pytest.mark.parametrize(
    ("subnets", "routes", "user"),
    [
        ({"podman": "10.88.0.0/16", "office": "10.99.0.0/16"}, [], r"podman network office \(10\.99\.0\.0/16\)"),
        ({"podman": "10.88.0.0/16"}, [{"dst": "10.99.7.128/25", "dev": "wg0"}], r"a route through wg0 \(10\.99\.7\.1"),
        (
            {"podman": "10.88.0.0/16"},
            [{"dst": "10.99.7.20", "dev": "tun3"}],
            r"a route through tun3 \(10\.99\.7\.20/32",
        ),
    ],
    ids=["by podman", "by a route", "by a route to one host"],
)
def test_a_subnet_that_is_taken_is_refused_with_the_one_who_has_it(machine, subnets, routes, user):
    with_networks(machine, subnets, routes)
    done = machine.run("network", "up", LAB_NETWORK="10.99.7")
    assert_refused(done, rf"^lab: 10\.99\.7\.0/24 is taken by {user}.*: choose a free one with LAB_NETWORK=")
    assert changes(machine) == []


@pytest.mark.parametrize("value", ["banana", "10.99", "10.99.7.0/24", "300.1.1", "10.99.7; id", "fd77:", "10.99.7."])
def test_a_network_that_is_none_is_refused(machine, value):
    with_networks(machine, {}, [])
    done = machine.run("network", "up", LAB_NETWORK=value)
    assert_refused(done, rf"^lab: LAB_NETWORK is '{re.escape(value)}': give the first three octets of a free /24")
    assert machine.noted() == []


def test_a_free_subnet_is_made_and_loses_its_way_out_for_mail(machine):
    """The control of the tests above: what is changed does show."""
    with_networks(machine, {"podman": "10.88.0.0/16"}, [])
    assert machine.run("network", "up", LAB_NETWORK="10.99.7").returncode == 0
    assert "podman network create --subnet 10.99.7.0/24 civicrm-lab" in changes(machine)
    assert re.search(r"ip saddr 10\.99\.7\.0/24 .* tcp dport { 25, 465, 587 } .*drop", "\n".join(changes(machine)))


def test_a_bridge_that_podman_lost_is_not_in_the_way(machine):
    """A machine that was cut off can leave the kernel's half of the network behind."""
    with_networks(machine, {"podman": "10.88.0.0/16"}, [])
    (machine.directory / "bridge").write_text("podman7")
    assert machine.run("network", "up", LAB_NETWORK="10.99.7").returncode == 0
    assert "ip link delete podman7" in changes(machine)


def test_the_labs_own_network_is_not_in_its_own_way(machine):
    with_networks(machine, {"civicrm-lab": "10.99.7.0/24"}, [{"dst": "10.99.7.0/24", "dev": "civicrm-lab0"}])
    assert machine.run("network", "up", LAB_NETWORK="10.99.7").returncode == 0
    assert not [call for call in changes(machine) if call.startswith("podman")]


@pytest.mark.parametrize("arguments", [(), ("sideways",), ("up", "down")], ids=str)
def test_a_wrong_word_is_answered_with_the_right_ones(machine, arguments):
    assert_refused(machine.run("network", *arguments), r"^usage: network up \| down$")
    assert machine.noted() == []
