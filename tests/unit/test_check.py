"""`make check CHANGED=1` leaves out only what the change cannot have broken."""

import re
import subprocess

import pytest
from loading import ROOT, load

check = load("lab/bin/check")
TESTS = check.all_tests()


def chosen(*paths: str) -> list[str]:
    return check.tests_for(paths, TESTS)


@pytest.mark.parametrize(
    "path",
    ["plugins/filter/sites.py", "tests/reports.py", "tests/unit/conftest.py", "tests/unit/fakes/postfix/commands",
     "pyproject.toml", "ansible.cfg", "constraints.txt", "requirements.yml", ".ansible-lint", ".yamllint"],
)  # fmt: skip
def test_what_every_test_stands_on_lets_all_run(path):
    assert chosen("README.md", path) is None


def test_a_test_file_leads_to_itself():
    assert chosen("tests/unit/test_sites.py") == ["tests/unit/test_sites.py"]


def test_a_helper_leads_to_the_tests_that_import_it():
    """Through another helper, too; one that only acceptance tests use needs hosts."""
    assert chosen("tests/bypasses.py") == [
        "tests/render/test_civicrm_ext.py",
        "tests/render/test_damaged_links.py",
        "tests/unit/test_public_paths.py",
    ]
    assert {"tests/unit/test_dns.py", "tests/contract/test_alerts.py"} <= set(chosen("tests/loading.py"))
    assert chosen("tests/newsletters.py") == []


@pytest.mark.parametrize(
    ("role", "tests"),
    [
        ("roles/apache", ["tests/render/test_apache.py"]),
        ("roles/bounce_mailbox", ["tests/render/test_bounce_mailbox.py"]),
        ("roles/civicrm_ext", ["tests/render/test_civicrm_ext.py", "tests/unit/test_public_paths.py"]),
        ("roles/ipsec", ["tests/render/test_ipsec.py"]),
        ("roles/mail_tools", ["tests/unit/test_lnav_format.py", "tests/render/test_mail_tools_metrics.py"]),
        ("roles/postfix_mailing", ["tests/render/test_postfix_mailing.py"]),
        ("lab/roles/lab_world", ["tests/unit/test_fake_provider.py", "tests/render/test_lab_world.py"]),
    ],
)
def test_a_role_leads_to_its_templates_its_files_and_the_contract(role, tests):
    """Its argument specification is read by the preflight, so that one must still pass."""
    found = chosen(f"{role}/meta/argument_specs.yml")
    assert set(found) >= {*tests, "tests/contract/test_repository.py", check.PREFLIGHT}
    assert "tests/contract/test_bad_input.py" not in found


@pytest.mark.parametrize("role", sorted(path.name for path in (ROOT / "roles").iterdir()))
def test_every_test_that_loads_a_program_of_a_role_is_found(role):
    """By another way than the rule goes: the path as it stands in the test."""
    loads = {path for path, text in TESTS.items() if re.search(rf"[\"/]roles/{role}/", text)}
    assert loads <= set(chosen(f"roles/{role}/files/x"))


@pytest.mark.parametrize(
    ("module", "tests", "others"),
    [
        ("host/backup", {"unit/test_civicrm_backup"}, {"unit/test_mailing", "unit/test_civicrm_release"}),
        # Through other modules, too.
        ("mail/addresses", {"unit/test_mailbox_watch", "render/test_postfix_mailing"}, {"unit/test_civicrm_backup"}),
        ("donations/resp", {"unit/test_donation_worker"}, {"unit/test_donation_switch_metrics"}),
        ("__init__", {"unit/test_civicrm_backup", "unit/test_mailing"}, {"unit/test_dns"}),
    ],
)
def test_a_host_tool_leads_to_the_tests_that_import_it(module, tests, others):
    found = set(chosen(f"tools/src/civicrm_tools/{module}.py"))
    assert found >= {"tests/contract/test_repository.py", *(f"tests/{test}.py" for test in tests)}
    assert not found & {f"tests/{test}.py" for test in others}


@pytest.mark.parametrize(
    "path", ["playbooks/preflight.yml", "inventories/lab/group_vars/all/sites.yml", "lab/bin/setup"]
)
def test_what_the_operator_runs_leads_to_all_contract_tests(path):
    assert set(chosen(path)) >= {test for test in TESTS if test.startswith("tests/contract/")}


@pytest.mark.parametrize(
    "path", ["docs/dns.md", "roles/apache/README.md", "monitoring/rules/mailings.yml", "molecule/default/create.yml"]
)
def test_texts_and_alerts_lead_to_the_contract(path):
    assert {"tests/contract/test_repository.py", "tests/contract/test_alerts.py"} <= set(chosen(path))


def test_a_playbook_and_a_role_do_not_run_the_same_test_twice():
    found = chosen("playbooks/site.yml", "roles/apache/tasks/main.yml")
    assert "tests/contract/test_bad_input.py" in found
    assert check.PREFLIGHT not in found


def test_the_test_of_the_preflight_is_there():
    """pytest would say so only when a role has changed."""
    path, name = check.PREFLIGHT.split("::")
    assert f"\ndef {name}(" in TESTS[path]


@pytest.mark.parametrize("path", ["tests/acceptance/test_sites.py", "molecule/rebuild/tests/test_rebuild.py"])
def test_a_test_that_needs_hosts_is_only_collected(path):
    assert chosen(path) == []
    commands = {name: command for lane in check.steps([path]) for name, command in lane}
    assert commands["collect"][-1] == path
    assert set(commands) == {"collect", "ruff", "format"}


@pytest.mark.parametrize(
    ("first_line", "kind"),
    [
        ("#!/usr/bin/python3", "python"),
        ("#!/usr/bin/env -S python3 -I", "python"),
        ("#! /usr/bin/env python3", "python"),
        ("#!/bin/sh -eu", "shell"),
        ("#!/usr/bin/env bash", "shell"),
        ("#!/usr/bin/php", "php"),
        ("#!/usr/sbin/nft -f", None),
        ("#!/usr/bin/perl", None),
        ("python3 is not the first word of a program", None),
        ("", None),
    ],
)
def test_a_program_without_a_suffix_is_known_by_its_first_line(tmp_path, first_line, kind):
    program = tmp_path / "program"
    program.write_text(f"{first_line}\n# python3\n")
    assert check.kind(str(program)) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.py", "python"),
        ("a.sh", "shell"),
        ("a.php", "php"),
        ("a.yaml", "yaml"),
        (".yamllint", "yaml"),
        ("a.j2", None),
    ],
)
def test_a_suffix_tells_the_kind_of_a_file(tmp_path, name, kind):
    (tmp_path / name).write_text("#!/bin/bash\n" if name == "a.j2" else "")
    assert check.kind(str(tmp_path / name)) == kind


@pytest.mark.parametrize(
    ("linter", "text"),
    [
        ("ruff", "#!/usr/bin/python3\nimport os\n"),
        ("format", "#!/usr/bin/python3\nx = [1,2]\n"),
        ("shellcheck", "#!/bin/sh\nrm $1\n"),
        ("php", "<?php\nfunction f($a = 1, $b) {}\n"),
        ("yamllint", "---\na: yes\n"),
    ],
)
def test_each_linter_fails_on_a_mistake_in_a_file_without_a_suffix(tmp_path, linter, text):
    """Handed over by name it is read in any case, and whatever pyproject.toml or .yamllint leaves out."""
    (tmp_path / "program").write_text(text)
    command = [*check.LINTERS[linter][1], str(tmp_path / "program")]
    done = subprocess.run(command, cwd=ROOT, env=check.environment(), capture_output=True, text=True)
    assert done.returncode != 0 and "program" in done.stdout, done.stdout + done.stderr


def test_the_linters_look_at_what_changed_and_at_whole_roles():
    paths = [
        "roles/apache/tasks/main.yml",
        "roles/apache/templates/etc/x.conf.j2",
        "lab/bin/check",
        "docs/dns.md",
        "playbooks/gone.yml",
    ]
    commands = {name: command for lane in check.steps(paths) for name, command in lane}
    assert commands["ansible-lint"][2:] == ["roles/apache"]
    assert commands["yamllint"][2:] == ["roles/apache/tasks/main.yml"]
    assert commands["ruff"][2:] == ["lab/bin/check"]
    assert {"bench/common.py", "lab/bin/check"} <= set(commands["mypy"]), "its promises may be broken in another module"
    assert not {"shellcheck", "php"} & set(commands)


def test_the_linters_can_run_alone():
    names = [name for lane in check.steps(None, lint_only=True) for name, _ in lane]
    assert sorted(names) == sorted(["ansible-lint", "mypy", *check.LINTERS])


def test_without_a_change_named_every_linter_looks_at_everything():
    commands = {name: command for lane in check.steps(None) for name, command in lane}
    assert set(commands["ansible-lint"]) >= {
        "playbooks/site.yml",
        "roles/apache/tasks/main.yml",
        "monitoring/rules/mailings.yml",
    }
    assert {"lab/bin/check", "plugins/filter/sites.py", "tests/unit/fakes/postfix/commands"} <= set(commands["ruff"])
    assert commands["ruff"][2:] == commands["format"][3:]
    assert {"bench/common.py", "lab/bin/check", "plugins/filter/sites.py"} <= set(commands["mypy"])
    assert {"lab/bin/setup", ".ci/run"} <= set(commands["shellcheck"])
    assert {".yamllint", ".pre-commit-config.yaml", "playbooks/site.yml"} <= set(commands["yamllint"])
    assert commands["pytest-contract"][-1:] == ["tests/contract"]
    assert commands["pytest-unit-render"][-2:] == ["tests/unit", "tests/render"]


def test_every_role_is_checked_for_syntax_in_a_playbook_or_alone():
    """Ansible-lint would check each of the others once more."""
    alone = {path.rpartition("/")[2] for path in check.linted(None) if not path.endswith((".yml", ".py"))}
    roles = {path.name for directory in ("roles", "lab/roles") for path in (ROOT / directory).iterdir()}
    assert roles == alone | (roles & check.statically_imported())
    assert "civicrm_int" in check.statically_imported()


def test_the_slowest_tests_are_read_from_pytests_list():
    text = (
        "..\n=== slowest 20 durations ===\n12.50s call     tests/a.py::test_b[x y]\n"
        "1.00s setup    tests/a.py::test_c\n\n"
        "(3 durations < 0.005s hidden.  Use -vv to show these durations.)\n=== 4 passed in 14.00s ===\n"
    )
    assert check.slowest(text) == ["12.50s call     tests/a.py::test_b[x y]", "1.00s setup    tests/a.py::test_c"]
