"""Commands are links to one launcher, and what runs the programs for long is restarted after a change."""

import re

import pytest
import yaml
from loading import ROOT
from test_sets import sets

from civicrm_tools.__main__ import COMMANDS

LAUNCHER = "/usr/local/lib/civicrm-tools/bin/civicrm-tools"
TARGET = "../lib/civicrm-tools/bin/civicrm-tools"
SERVICES = sorted(ROOT.glob("roles/*/templates/etc/systemd/system/*.service.j2"))


def links() -> dict[str, dict]:
    """{path on the host: entry} of all links to the launcher."""
    found = {}
    for _, one in sets():
        for entry in one.get("entries", []):
            if "civicrm-tools" in entry.get("target", ""):
                assert entry["state"] == "link" and entry["target"] == TARGET, entry
                for item in entry.get("loop", [""]):
                    found[entry["dest"].replace("{{ item }}", item)] = entry
    return found


def test_each_command_has_a_link_and_each_link_a_command():
    """A link by another name would print the list of commands, and nothing more."""
    found = [path.rpartition("/")[2] for path in links()]
    assert sorted(found) == sorted([*COMMANDS, "civicrm-tools"])


def hosts() -> dict[str, list[str]]:
    """{file: roles in their order} of all profiles and of all plays that list roles of ours."""
    found = {}
    for path in [*ROOT.glob("roles/civicrm_*/tasks/main.yml")]:
        imports = [task.get("ansible.builtin.import_role", {}) for task in yaml.safe_load(path.read_text())]
        found[path.parts[-3]] = [one["name"] for one in imports if one and "tasks_from" not in one]
    for path in [*ROOT.glob("playbooks/*.yml"), *ROOT.glob("lab/playbooks/*.yml"), *ROOT.glob("molecule/*/*.yml")]:
        for number, play in enumerate(yaml.safe_load(path.read_text()) if path.name != "molecule.yml" else []):
            found[f"{path.parent.name}/{path.name} {number}"] = play.get("roles", [])
    return found


def test_the_launcher_comes_before_the_links_to_it():
    """Also on ops, which has one role of a host."""
    linking = {path.relative_to(ROOT / "roles").parts[0] for path, one in sets() if TARGET in str(one)}
    linking -= {"host_tools", "civicrm_int", "civicrm_ext"}
    checked = 0
    for where, roles in hosts().items():
        if first := next((role for role in roles if role in linking), None):
            assert "host_tools" in roles[: roles.index(first)], where
            checked += 1
    assert checked == 3


def test_no_program_of_ours_lies_elsewhere():
    """Of Python in roles there is only what Ansible itself uses."""
    scripts = [path for path in ROOT.glob("roles/*/files/**/*") if path.is_file() and path.stat().st_size]
    assert not [path for path in scripts if b"python" in path.read_bytes().partition(b"\n")[0]]


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_unit_starts_commands_by_links_that_exist(path):
    """A command keeps its path: in units, in documents and in an operator's fingers."""
    for program in re.findall(r"^Exec\w+=[-+@!]*(/usr/local/(?:s?bin|libexec)/\S+)", path.read_text(), re.M):
        assert program in links(), program


def daemons() -> dict[str, str]:
    """{unit: command} of our programs that run for long."""
    found = {}
    for path in SERVICES:
        text = path.read_text()
        command = re.search(r"^ExecStart=(/usr/local/\S+)", text, re.M)
        if command and command[1] in links() and "Type=oneshot" not in text:
            found[path.name.removesuffix(".j2")] = command[1]
    return found


def test_a_daemon_is_restarted_when_its_program_changes():
    """By the set of its own role: it is named to host_tools, which knows no daemon, and by its link."""
    text = yaml.safe_load((ROOT / "roles/civicrm_int/vars/main.yml").read_text())["__civicrm_int_tool_daemons"]
    assert len(daemons()) >= 4
    for unit, command in daemons().items():
        assert f"'{unit.partition('@')[0]}" in text, unit
        assert "restart" in links()[command], command


def test_the_checks_of_a_set_call_the_launcher_itself():
    """A link may come with the very set that is checked."""
    commands = [check["command"] for _, one in sets() for check in one.get("checks", [])]
    ours = [command for command in commands if "civicrm-tools" in command]
    assert len(ours) == 2
    assert all(command.startswith(LAUNCHER + " ") and command.split()[1] in COMMANDS for command in ours)
