"""Roles put files and units on a host as sets, and in no other way (N33)."""

import re
from pathlib import Path

import pytest
import yaml
from loading import ROOT

TASKS = sorted([*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("roles/*/handlers/*.yml")])
SETS = ("file_set", "unit_set")
# What a set replaces. An exception stands with its reason.
REPLACED = {
    f"ansible.builtin.{name}"
    for name in (
        "template",
        "copy",
        "file",
        "find",
        "systemd_service",
        "service",
        "user",
        "group",
        "lineinfile",
        "blockinfile",
        "replace",
        "assemble",
        "unarchive",
        "get_url",
        "git",
        "getent",
    )
}
EXCEPTIONS = {
    ("site_release", "ansible.builtin.copy"): "archives of a hundred megabytes are no configuration",
    ("site_release", "ansible.builtin.file"): "a directory on the machine that runs Ansible",
    ("site_release", "ansible.builtin.get_url"): "on the machine that runs Ansible",
    ("site_release", "ansible.builtin.git"): "on the machine that runs Ansible",
    (
        "postfix_mailing",
        "ansible.builtin.getent",
    ): "uids stand in a table; not asked where a role before has",
}


def tasks_in(path: Path):
    """Every task of a file, those in blocks too."""
    waiting = list(yaml.safe_load(path.read_text()) or [])
    while waiting:
        task = waiting.pop(0)
        yield task
        waiting += [below for part in ("block", "rescue", "always") for below in task.get(part, [])]


def sets():
    for path in TASKS:
        for task in tasks_in(path):
            for kind in SETS:
                if kind in task:
                    yield path, task[kind]


def entries():
    """(role, place, entry) of each set, where a place has * for what a variable says."""
    for path, one in sets():
        for entry in one.get("entries", []):
            place = str(entry.get("dest") or "/" + str(entry["src"]).removesuffix(".j2"))
            place = re.sub(r"\{\{.*?\}\}", "*", place)
            if place.startswith("/"):  # a filter's whole path is that filter's test
                yield path.parts[-3], place, entry


def test_root_writes_nothing_below_a_directory_that_it_gives_away():
    """Whoever owns a directory may put a link in the place of what is in it. file_set refuses it on the host, too."""
    given = {
        place: f"{role}: {place} is {entry.get('owner', 'root')}'s, mode {entry.get('mode', '0755')}"
        for role, place, entry in entries()
        if entry.get("state") == "directory"
        and (entry.get("owner", "root") != "root" or re.search(r"[2367]\d$|[2367]$", str(entry.get("mode", "0755"))))
        and not str(entry.get("mode", "0755")).startswith("1")  # sticky: each user just its own
    }
    assert len(given) > 3, "the search finds nothing"
    below = [
        f"{role}: {place} lies below what is given away: {rule}"
        for role, place, entry in entries()
        if entry.get("state") != "absent"
        for above, rule in given.items()
        if place.startswith(above + "/")
    ]
    assert below == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("playbooks/**/*.yml")), ids=lambda p: p.name)
def test_playbooks_write_on_the_machine_that_runs_them_and_nowhere_else(path):
    """What comes to a host comes with a role's set, which follows no link."""
    for play in yaml.safe_load(path.read_text()) or []:
        if "tasks" not in play or "localhost" in play["hosts"] or play.get("connection") == "local":
            continue
        if play.get("vars", {}).get("ansible_connection") == "local":
            continue
        for task in [one for part in ("tasks", "pre_tasks", "post_tasks") for one in play.get(part, [])]:
            for one in [task, *task.get("block", []), *task.get("always", [])]:
                writes = REPLACED & set(one) - {"ansible.builtin.systemd_service", "ansible.builtin.getent"}
                assert not writes or one.get("delegate_to") == "localhost", f"{one.get('name')}: {writes}"


def test_a_name_is_one_sets():
    """Two sets of one name would each remove what the other wrote."""
    names = {}
    for path, one in sets():
        names.setdefault(one["name"], []).append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in names.items() if len(paths) > 1} == {}
    assert len(names) > 20


@pytest.mark.parametrize("path", TASKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_units_come_as_sets(path):
    """One call a role: single tasks cost a second each, and a killed run leaves half of them."""
    role = path.parts[-3]
    for task in tasks_in(path):
        for module in REPLACED & set(task):
            assert (role, module) in EXCEPTIONS or task.get("delegate_to") == "localhost", f"{task['name']}: {module}"


def test_packages_are_installed_by_the_profiles():
    """One call of apt a phase, under a policy that starts nothing."""
    for path in TASKS:
        if path.parts[-3] not in ("civicrm_int", "civicrm_ext"):
            assert "ansible.builtin.apt:" not in path.read_text(), path


@pytest.mark.parametrize("profile", ["civicrm_int", "civicrm_ext"])
def test_a_profile_installs_the_packages_of_all_its_roles(profile):
    """A host that had a package for another reason hides that nobody asks for it."""
    imported = {
        task["ansible.builtin.import_role"]["name"]
        for path in TASKS
        if path.parts[-3] == profile
        for task in tasks_in(path)
        if "ansible.builtin.import_role" in task
    }
    bring = {
        role
        for role in imported
        for path in (ROOT / "roles" / role).glob("*/main.yml")
        if f"\n{role}_packages:" in path.read_text()
    }
    installed = yaml.safe_load((ROOT / "roles" / profile / "vars/main.yml").read_text())[f"__{profile}_role_packages"]
    assert len(bring) > 5
    assert bring - set(installed) == set()


@pytest.mark.parametrize("profile", ["civicrm_int", "civicrm_ext"])
def test_what_runs_always_has_its_packages_always(profile):
    """--tags of one role on a bare host ran host_tools as well, without man."""
    always = {
        task["ansible.builtin.import_role"]["name"]
        for task in tasks_in(ROOT / "roles" / profile / "tasks/main.yml")
        if "always" in task.get("tags", [])
        and "tasks_from" not in task.get("ansible.builtin.import_role", {"tasks_from": ""})
    }
    chosen = yaml.safe_load((ROOT / "roles" / profile / "vars/main.yml").read_text())[f"__{profile}_chosen"]
    assert always == {"host_tools"}
    assert f"union({sorted(always)})" in chosen


def test_marks_name_units_that_some_set_brings():
    """A restart that a file asks for is done by the set that names the unit; nobody would do another."""
    named = {unit for _, one in sets() for unit in units_of(one)}
    for path, one in sets():
        # A loop over what is worked out may stand for any unit of its own set.
        missing = set() if "*" in units_of(one) else marks_of(one) - named
        assert missing == set(), path


def units_of(one: dict) -> set[str]:
    """The units of a set, with * for what is worked out."""
    return {
        pattern(re.sub(r"\{\{ *item *\}\}", str(item), unit["name"]))
        for unit in one.get("units", [])
        for item in (unit["loop"] if isinstance(unit.get("loop"), list) else ["*"])
    }


def marks_of(one: dict) -> set[str]:
    """The units that the files of a set ask for, likewise."""
    entries = [*one.get("entries", []), *(own for own in one.get("owns", []) if isinstance(own, dict))]
    marks = [entry.get(mark, []) for entry in entries for mark in ("restart", "reload")]
    return {pattern(unit) for mark in marks for unit in ([mark] if isinstance(mark, str) else mark)} - {"*"}


def pattern(unit: str) -> str:
    """A unit's name with * for what is worked out."""
    return re.sub(r"\{\{.*?\}\}", "*", unit)


SERVICES = [
    path
    for path in ROOT.glob("roles/*/templates/etc/systemd/system/**/*.j2")
    if path.name.endswith(".service.j2") or path.parent.name.endswith(".service.d")
]


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: str(path.relative_to(ROOT / "roles")))
def test_what_is_killed_comes_back_again_and_again(path):
    """systemd's default gives up after five starts in ten seconds; a daemon of ours comes back every time."""
    text = path.read_text()
    if re.search(r"^Restart=(?!no)", text, re.M):
        assert "\nStartLimitIntervalSec=0\n" in text
        assert re.search(r"^RestartSec=(1|[1-9]00ms)$", text, re.M)
