"""Programs that are templates are valid programs: shellcheck passes the shell, and PHP compiles its own."""

import re
import subprocess

import pytest
import yaml
from loading import ROOT, load

check = load("lab/bin/check")
# The linter of a template's text: a suffix before .j2, or the first line, tells the language as in a file.
LINTERS = {".php": "php", ".sh": "shellcheck", "#!/bin/sh": "shellcheck", "#!/bin/bash": "shellcheck"}
# Programs in other languages: what checks them instead.
OTHERS = {"#!/usr/sbin/nft": "nft itself, on the host, before the file is replaced"}


def programs() -> dict[str, str]:
    """Return {template: linter}."""
    found = {}
    for path in check.tree():
        if path.endswith(".j2"):
            first = (ROOT / path).read_text().split("\n")[0]
            marks = (re.search(r"\.\w+(?=\.j2$)", path) or [""])[0], first.split(" ")[0]
            linters = [LINTERS[mark] for mark in marks if mark in LINTERS]
            assert linters or not first.startswith(("#!", "<?php")) or marks[1] in OTHERS, path
            found |= {path: linters[0]} if linters else {}
    return found


def test_there_are_programs_among_the_templates():
    assert {"php", "shellcheck"} == set(programs().values())


@pytest.mark.parametrize("template", programs())
def test_the_text_passes_its_linter(render, tmp_path, template):
    """With a word for each option that has no default: what such a word may hold is the role's own check."""
    role, _, name = template.removeprefix("lab/").removeprefix("roles/").partition("/templates/")
    base = ROOT / template.partition("/templates/")[0]
    entries = yaml.safe_load((base / "meta/argument_specs.yml").read_text())["argument_specs"].values()
    options = {option: spec for entry in entries for option, spec in entry["options"].items() if spec.get("required")}
    words = {option: "word" for option, spec in options.items() if spec["type"] in ("str", "path")}
    item = {"name": "crm", "environment": "production"}
    program = tmp_path / "program"
    program.write_text(render(role, name.removesuffix(".j2"), item=item, **words))
    command = [*check.LINTERS[programs()[template]][1], str(program)]
    done = subprocess.run(command, cwd=ROOT, env=check.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
