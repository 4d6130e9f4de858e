"""Many conditions in one task: the first that does not hold is named in one line, and nothing else is shown."""

import os
import re
import subprocess

import pytest
import yaml
from loading import ROOT

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


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """What Ansible says of all cases in one run, as talkative as it can be."""
    tmp_path = tmp_path_factory.mktemp("assert_all")
    tasks = [
        {"name": name, "assert_all": {"checks": checks}, "ignore_errors": True} for name, (checks, _) in CASES.items()
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
