"""Every file is shown to the linter of its language: a new one, with a suffix or without, cannot escape."""

from fnmatch import fnmatch
from pathlib import Path

import pytest
from loading import ROOT, load

check = load("lab/bin/check")
COMMANDS = check.lint_commands(None)
TREE = check.tree()

# What no linter reads: pattern, and who else reads it. A file that is in neither fails the test, so that a new language
# is a decision.
OTHERS = {
    "*.md": "people",
    "LICENSE": "people",
    "Makefile": "make, in every step of CI",
    "*.j2": "tests/render; programs among the templates: tests/render/test_programs.py",
    "*.toml": "the tools that it configures",
    "*.cfg": "Ansible",
    ".gitignore": "git",
    "*.pyi": "mypy, as far as plugins import it",
    "constraints.txt": "pip",
    "requirements.txt": "pip",
    "tests/tools/*.txt": "pip",
    "tests/unit/*.txt": "the test that reads it",
    "tests/tools/*.mjs": "the lab's acceptance tests run it; node is not on every controller",
    "roles/mail_metrics/*.mtail": "mtail, before the role installs it and in the acceptance tests",
    "roles/mail_tools/*/lnav/*.json": "tests/unit/test_lnav_format.py",
    "tools/src/civicrm_tools/donations/fields.json": "tests/unit/test_donation_form.py",
    "*.service": "systemd, in the lab",
}


def unread(files: list[str], shown: dict[str, list[str]]) -> set[str]:
    """Return the files that not exactly one linter is shown, and that are not named in OTHERS either."""
    times = {path: sum(path in paths for paths in shown.values()) for path in files}
    return {path for path, n in times.items() if n != (0 if any(fnmatch(path, one) for one in OTHERS) else 1)}


# "format" looks at the files of "ruff" once more.
SHOWN = {name: set(COMMANDS[name][1]) for name in check.LINTERS if name != "format"}


def test_every_file_is_shown_to_exactly_one_linter():
    assert unread(TREE, SHOWN) == set()
    assert COMMANDS["format"][1] == COMMANDS["ruff"][1]


@pytest.mark.parametrize("linter", SHOWN)
def test_a_file_that_a_linter_is_not_shown_is_noticed(linter):
    assert len(SHOWN[linter]) > 10
    for path in SHOWN[linter]:
        assert unread([path], SHOWN | {linter: SHOWN[linter] - {path}}) == {path}


def test_a_program_is_never_among_the_others():
    """Whatever its suffix says: the first line makes it a program."""
    for path in TREE:
        if any(fnmatch(path, one) for one in OTHERS) and not path.endswith(".j2"):
            assert not (ROOT / path).read_bytes().startswith(b"#!"), path


def test_the_others_are_all_there():
    assert [one for one in OTHERS if not any(fnmatch(path, one) for path in TREE)] == []


def test_types_are_checked_in_every_module_of_the_typed_directories():
    typed = {path for path in SHOWN["ruff"] if path.startswith(check.TYPED)}
    assert set(COMMANDS["mypy"][1]) == typed
    assert {path.split("/")[0] for path in typed} >= {"bench", "lab", "plugins"}


def test_ansible_lint_is_shown_all_yaml_and_plugins():
    """A role as a whole, or its files one by one."""
    shown = tuple(COMMANDS["ansible-lint"][1])
    for path in TREE:
        if path.endswith(".yml") or (path.startswith("plugins/") and path.endswith(".py")):
            assert path.startswith(shown), path


def test_settings_leave_no_file_of_ours_out():
    """Ruff and yamllint could still be told there to pass over what they are shown."""
    settings = (ROOT / "pyproject.toml").read_text()
    assert "force-exclude" not in settings and "exclude =" not in settings.replace("extend-exclude =", "")
    assert "ignore:" not in Path(ROOT / ".yamllint").read_text()
