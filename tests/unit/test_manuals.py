"""Every command says what it is: --help, --version, a man page of the same text, --json where it reports."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys

import pytest
from loading import TOOLS

from civicrm_tools import manuals
from civicrm_tools.__main__ import COMMANDS, main

# Commands that report nothing, and why.
SILENT = {
    "civicrm-fetch-at-once": "starts a unit",
    "civicrm-job-metrics": "writes metrics",
    "divert-submission": "hands mail on",
    "donation-intake-metrics": "writes metrics",
    "donation-worker": "a service",
    "front-door-known": "answers by its exit status",
    "mailbox-watch": "writes metrics",
    "postfix-check-candidate": "answers by its exit status",
    "receipt-milter": "a service",
}
# Libraries that cost a start more than they are worth, and who needs one at once.
HEAVY = {"asyncio", "concurrent.futures", "dns", "email.message", "http", "multiprocessing", "nh3", "ssl", "xml"}
NEEDED = {
    "divert-submission": {"email.message", "ssl"},  # by smtplib; each start of it hands a message on
    "receipt-milter": {"asyncio", "concurrent.futures", "ssl"},  # a service and nothing else
}
MEMORY_MIB = 32  # bench/tools.py has the aim, 20; this holds without bytecode, too
# A process of its own, whose high-water mark is not that of the process that started it.
START = """
import contextlib, io, json, re, sys
sys.path.insert(0, sys.argv.pop(1))
from civicrm_tools.__main__ import main
with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
    main(sys.argv[1:] + ["--help"])
modules = sorted(name for name, module in sys.modules.items() if type(module).__name__ == "module")
with open("/proc/self/status") as status:
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1])
print(json.dumps({"kib": peak, "modules": modules, "said": said.getvalue()}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The pages, with one of a former command and one of somebody else."""
    made = tmp_path_factory.mktemp("share") / "man8"
    made.mkdir()
    (made / "former.8").write_text(f"{manuals.MARK}\n.TH FORMER 8\n")
    (made / "stranger.8").write_text(".TH STRANGER 8\n")
    assert main(["civicrm-tools", "--manuals", str(made)]) == 0
    return made


def flat(text: str) -> str:
    return " ".join(text.split())


def read(page: str) -> str:
    """Return the words of a page: no macros, no escapes."""
    text = re.sub(r'^\.(?:\\".*|[A-Z]{2}(?: 2)?$|[A-Z]+ ?)', "", page, flags=re.MULTILINE)
    for character, escape in manuals.ESCAPES.items():
        text = text.replace(escape, character)
    return flat(text.replace(r"\&", ""))


def parsers(name: str) -> list[argparse.ArgumentParser]:
    """Return a command's parser and those of the subcommands that --help lists."""
    found = [manuals.parser_of(name)]
    for parser in found:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                found += [action.choices[listed.dest] for listed in action._choices_actions]
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_the_command_is_and_how_to_call_it(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name])
    try:
        status = main([name, "--help"])
    except SystemExit as ended:
        status = ended.code
    said = capsys.readouterr()
    assert (status, said.err) == (0, "")
    module = importlib.import_module(f"civicrm_tools.{COMMANDS[name]}")
    # argparse breaks lines at hyphens, too.
    assert "".join(module.__doc__.split()) in "".join(said.out.split())
    assert re.search(rf"^usage: {name}\b", said.out, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_its_version(name, capsys):
    assert main([name, "--version"]) == 0
    assert capsys.readouterr().out.startswith(f"{name} ")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_says_all_that_the_command_says(folder, name):
    """The whole documentation of its module, and every option of every subcommand."""
    page = (folder / f"{name}.8").read_text()
    words = read(page)
    documented = importlib.import_module(f"civicrm_tools.{COMMANDS[name]}").__doc__
    for part in re.split(r"\n\n|\n(?=Exit status)", documented):
        text = re.sub(r"^(Exit status|Files):? ?", "", flat(part))
        assert text.removesuffix(".") in words
    for parser in parsers(name):
        for action in parser._actions:
            if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
                assert all(option in words for option in action.option_strings), parser.prog
                assert not action.help or flat(action.help).split("%")[0] in words
    assert page.startswith(manuals.MARK) and "--version" in words
    assert '\n.SH "SYNOPSIS"\n.EX\n' in page


@pytest.mark.parametrize("name", [*COMMANDS, "civicrm-tools"])
def test_a_page_is_roff(folder, name):
    """Each line that begins like a request is one that is known, and no character is left to roff's own reading."""
    page = (folder / f"{name}.8").read_text()
    assert not re.search(r"^\.SH .*\n\.PP$|^\.PP\n(\.(SH|PP|TP)|\Z)", page, re.MULTILINE), "an empty paragraph"
    for line in page.splitlines():
        if line.startswith(manuals.MARK):
            continue
        if line.startswith("."):
            assert re.fullmatch(r"\.(TH|SH|SS|TP|PP|EX|EE|B|BR)( .*)?", line), line
        else:
            assert not re.search(r"[-'`^~\"]", line.replace(r"\-", "")), line
        assert not re.search(r"\\(?![-e&]|\((aq|ga|ha|ti|dq))", line), line
        assert line, "an empty line is a request, too"


@pytest.mark.parametrize(
    ("text", "roff"),
    [(".profile", r"\&.profile"), ("'x'", r"\(aqx\(aq"), (r"a\b", r"a\eb"), ("--a-b", r"\-\-a\-b"),
     ('"`^~', r"\(dq\(ga\(ha\(ti")],
)  # fmt: skip
def test_nothing_that_a_docstring_says_is_a_request(text, roff):
    assert manuals.escaped(text) == roff


def test_a_folder_has_the_pages_of_all_commands_and_of_no_former_one(folder):
    """A page of somebody else, without our mark, is left alone."""
    assert {path.stem for path in folder.iterdir()} == {*COMMANDS, "civicrm-tools", "stranger"}
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())


def test_the_page_of_the_launcher_lists_all_commands(folder):
    page = (folder / "civicrm-tools.8").read_text()
    assert ".TP\n.B civicrm\\-tools \\-\\-version\nthe version" in page
    assert re.findall(r"^\.BR (\S+) \(8\)$", page.replace("\\-", "-"), re.MULTILINE) == sorted(COMMANDS)


def test_pages_are_made_before_any_package_is_installed(tmp_path):
    """The programs come to a bare host first, before the packages that some commands need."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.modules |= {'nh3': None, 'dns': None}\n"
        "from civicrm_tools.__main__ import main\n"
        "sys.exit(main(['civicrm-tools', '--manuals', sys.argv[2]]))"
    )
    subprocess.run([sys.executable, "-IS", "-c", code, str(TOOLS), str(tmp_path / "man8")], check=True)
    assert len(list((tmp_path / "man8").iterdir())) == len(COMMANDS) + 1


def test_what_reports_has_json():
    options = {name: {word for parser in parsers(name) for word in parser._option_string_actions} for name in COMMANDS}
    assert {name for name, words in options.items() if "--json" not in words} <= set(SILENT)
    assert set(SILENT) <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_start_is_small(name):
    """Some run for each message, or every minute on each host."""
    done = subprocess.run(
        [sys.executable, "-IS", "-c", START, str(TOOLS), name], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["said"]
    assert HEAVY & set(found["modules"]) - NEEDED.get(name, set()) == set()
    assert found["kib"] / 1024 < MEMORY_MIB
