"""Many conditions in one task: the first that does not hold is named in one line, and nothing else is shown."""

import os
import re
import subprocess

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from loading import ROOT, load

POOLS = [{"name": "crm", "memory_mb": 256, "key": "s3cret"}, {"name": "test", "memory_mb": 0, "key": "s3cret"}]
# Variables of a check may use one another and the item.
MEMORY = {
    "that": ["item.name != ''", "memory > 0"],
    "fail_msg": "pools: memory_mb of '{{ item.name }}' is {{ memory }} and must be above 0",
    "loop": "{{ pools }}",
    "vars": {"memory": "{{ raw | int }}", "raw": "{{ item.memory_mb }}"},
}
TWO = {"that": "pools | length == 2", "fail_msg": "{{ no_such_variable }}"}
CASES = {
    "all hold": ([TWO], None),
    "an item fails": (
        [TWO, MEMORY, {"that": "no_such_variable", "fail_msg": "x"}],
        "of 'test' is 0 and must be above 0",
    ),
    "the item does not apply": ([{**MEMORY, "when": "item.name == 'crm'"}], None),
    "undefined": ([{"that": "no_such_variable > 0", "fail_msg": "x"}], "'no_such_variable' is undefined"),
    "no message": ([{"that": "true"}], "a check has that, fail_msg, loop, when and vars"),
    "a typing error": ([{**TWO, "lop": []}], "a check has that, fail_msg, loop, when and vars"),
    "no condition": ([{"that": "pools", "fail_msg": "x"}], "must have a boolean result"),
}

# What a profile's checks and those of its roles say, before a host is reached: {file: content} of the roles.
ROLES = {
    "host/tasks/main.yml": [
        {"ansible.builtin.import_tasks": "validate.yml"},
        {"ansible.builtin.import_role": {"name": "store"}, "vars": {"store_names": "{{ __host_sites }}"}},
        {"ansible.builtin.import_tasks": "mail.yml", "vars": {"mail_limit": 10}},
        {"ansible.builtin.command": "this runs on a host"},
    ],
    "host/tasks/validate.yml": [
        {"assert_all": {"checks": [{"that": "host_sites | length > 0", "fail_msg": "host: no sites"}]}}
    ],
    "host/tasks/mail.yml": [
        {"ansible.builtin.import_role": {"name": "mail", "tasks_from": "checks.yml"}, "when": "host_mail"}
    ],
    "host/defaults/main.yml": {"host_sites": ["crm"], "host_mail": True},
    "host/vars/main.yml": {"__host_sites": "{{ host_sites }}"},
    "store/tasks/main.yml": [{"ansible.builtin.import_tasks": "validate.yml"}],
    "store/tasks/validate.yml": [
        {
            "assert_all": {
                "checks": [
                    {
                        "that": "__store_bad | length == 0",
                        "fail_msg": "store: {{ __store_bad | join(', ') }} is no name",
                    },
                    {"that": "store_size > 1", "fail_msg": "store: size {{ store_size }}"},
                ]
            }
        }
    ],
    "store/defaults/main.yml": {"store_size": 2},
    "store/vars/main.yml": {"__store_bad": "{{ store_names | reject('match', '^[a-z]+$') }}"},
    "mail/tasks/checks.yml": [
        {"assert_all": {"checks": [{"that": "mail_limit < 5", "fail_msg": "mail: {{ mail_limit }} is too many"}]}}
    ],
}
# For each inventory's variables, what is said.
PROFILES = {
    "the profile's own check": ({"host_sites": []}, "host: no sites"),
    "what a role gets from the profile": ({"host_sites": ["x", "a b", "c d"]}, "store: a b, c d is no name"),
    "what a role has from the inventory": ({"store_size": 1}, "store: size 1"),
    "what an import of tasks gives": ({}, "mail: 10 is too many"),
    "what is not imported": ({"host_mail": False}, None),
}
CASES |= {name: (variables, said) for name, (variables, said) in PROFILES.items()}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """What Ansible says of all cases in one run, as talkative as it can be."""
    tmp_path = tmp_path_factory.mktemp("assert_all")
    for name, content in ROLES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(yaml.safe_dump(content))
    profiles = {"roles": str(tmp_path), "profiles": ["all", "host"]}
    tasks = [
        {"name": name, "ignore_errors": True}
        | ({"assert_all": profiles, "vars": given} if name in PROFILES else {"assert_all": {"checks": given}})
        for name, (given, _) in CASES.items()
    ]
    play = {"hosts": "localhost", "gather_facts": False, "vars": {"pools": POOLS}, "tasks": tasks}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        ["ansible-playbook", "-vvv", "-i", "localhost,", str(tmp_path / "play.yml")],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_LOCAL_TEMP": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", CASES)
def test_what_fails_is_said_and_nothing_passes_that_cannot_be_evaluated(output, name):
    said = re.search(rf"^TASK \[{name}\].*?(?=^TASK|^PLAY RECAP)", output, re.M | re.S)[0]
    expected = CASES[name][1]
    if expected is None:
        assert "ok: [localhost]" in said and "changed: false" in said
    else:
        assert "fatal: [localhost]" in said and expected in " ".join(said.split())


def test_no_value_of_a_list_is_shown(output):
    """A list of accounts holds their hashes."""
    assert "s3cret" not in output


@pytest.mark.parametrize("profile", ["civicrm_int", "civicrm_ext"])
def test_no_check_waits_until_its_roles_turn(profile):
    """Every role with checks that a profile imports is found, whichever file of tasks imports it."""
    action = load("plugins/action/assert_all.py").ActionModule
    finder = action.__new__(action)
    finder._roles, finder._loader = ROOT / "roles", DataLoader()
    found = {one.role for one in finder._imported(profile, "main.yml", {}, [])}
    named = set()
    for path in (ROOT / "roles" / profile / "tasks").glob("*.yml"):
        named |= set(re.findall(r"(?:import|include)_role:\s*\{?\s*name: (\w+)", path.read_text()))
    checking = {role for role in named if "assert_all" in _text(ROOT / "roles" / role / "tasks/validate.yml")}
    assert found == checking | {profile}


def _text(path):
    return path.read_text() if path.is_file() else ""
