"""Check a directory of Postfix's configuration before it replaces the one in use, or the one in use.

Every new Postfix process reads main.cf and the tables at once, so a broken file hurts before any reload. Whatever
Postfix's own tools complain about counts, although they mostly say it on stderr and end with status 0.

  postfix-check-candidate /etc/postfix
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from civicrm_tools.core import command
from civicrm_tools.core.command import DONE, NO
from civicrm_tools.core.run import run

NAME = "postfix-check-candidate"
# "postfix check" looks at every file of the spool's directories.
SECONDS = 300
# The lookup tables that are compiled nowhere: a broken line shows when they are opened.
TABLE = re.compile(r"\b(?:cidr|pcre|texthash):/[^\s,{}]+")
# A CIDR table looks up nothing but addresses, and the others take any text.
PROBE = "192.0.2.1"


def complaints(*program: str, statuses: tuple[int, ...] = (0,)) -> list[str]:
    """What a program says on stderr, or its exit status where it fails in silence."""
    done = run(*program, timeout=SECONDS, statuses=())
    lines = done.stderr.splitlines()
    if done.returncode not in statuses and not lines:
        lines = [f"{program[0]}: exit status {done.returncode}"]
    return lines


def tables(directory: Path) -> list[str]:
    """The lookup tables that main.cf and master.cf name, such as pcre:/etc/postfix/contract.pcre."""
    texts = [(directory / name).read_text() for name in ("main.cf", "master.cf")]
    lines = [line for text in texts for line in text.splitlines() if not line.lstrip().startswith("#")]
    return sorted({table for line in lines for table in TABLE.findall(line)})


def check(directory: Path) -> list[str]:
    """All complaints; about tables only if Postfix understands the rest."""
    found = complaints("postfix", "-c", str(directory), "check")
    found += complaints("postconf", "-c", str(directory), "-M")
    if not found:
        for table in tables(directory):
            # Status 1 only means that the table does not name the probe.
            found += complaints("postmap", "-c", str(directory), "-q", PROBE, table, statuses=(0, 1))
    return list(dict.fromkeys(found))


def body(argv: Sequence[str] | None) -> int:
    parser = command.Parser(prog=NAME, description=__doc__)
    parser.add_argument("directory", type=Path, help="such as /etc/postfix")
    options = parser.parse_args(argv)
    if not shutil.which("postfix"):
        # A dry run on a bare host. A real run ends anyway where there is no Postfix.
        print("not checked: Postfix is not installed")
        return DONE
    found = check(options.directory)
    print("\n".join(found), end="\n" if found else "", file=sys.stderr)
    return NO if found else DONE


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
