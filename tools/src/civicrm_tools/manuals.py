"""Write the commands' man pages: what `--help` prints, as man(7) wants it.

Not help2man: it needs perl, starts each command twice, and sees no options of subcommands. Not argparse-manpage: in
Debian 12 it makes pages of section 1 alone, and roff takes a line that begins with a dot or a quote for its own.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
import sys
from argparse import SUPPRESS
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from civicrm_tools import __main__, __version__
from civicrm_tools.core import files

SECTION = 8
MARK = r".\" Made by civicrm-tools --manuals from --help: changes here are lost."
# What roff takes for its own or prints as another character: who copies a command from a page gets what stands here.
ESCAPES = {"\\": r"\e", '"': r"\(dq", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
COLUMNS = "76"
# A line of a docstring in two columns, or what continues the second one.
ITEM = re.compile(r"  (?:(\S(?:.*?\S)?) {2,}| {6,})(\S.*)")
# Paragraphs of a docstring that are sections of their own.
TITLES = {"Files": "FILES", "Exit status": "EXIT STATUS"}
TITLE = re.compile(rf"({'|'.join(TITLES)}):?\s*?(?:\n| |$)")
# Beginnings of paragraphs that roff makes nothing of.
EMPTY = re.compile(r"(^\.SH .*\n)(?:\.PP\n)+|^\.PP\n(?=\.(?:PP|TP|SH)|\Z)", re.MULTILINE)
COMMON = {"--help": "print this", "--version": "print the version and a digest of the code"}


class Shown(BaseException):
    """A parser was asked for its help. No Exception: no command shall take it for a failure of its own."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser that answers `NAME --help`; for a command without one, a parser without arguments."""

    def show(parser: argparse.ArgumentParser, file: object = None) -> None:
        raise Shown(parser)

    module = importlib.import_module(f"civicrm_tools.{__main__.COMMANDS[name]}")
    kept, argv = argparse.ArgumentParser.print_help, sys.argv
    setattr(argparse.ArgumentParser, "print_help", show)  # noqa: B010 - mypy knows no other way to replace a method
    sys.argv = [name]  # argparse names the command by it
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            module.main(["--help"])
        made = argparse.ArgumentParser(prog=name)
    except Shown as shown:
        made = shown.parser
    finally:
        setattr(argparse.ArgumentParser, "print_help", kept)  # noqa: B010
        sys.argv = argv
    made.description = module.__doc__
    return made


def escaped(text: str) -> str:
    text = "".join(ESCAPES.get(character, character) for character in text)
    return rf"\&{text}" if text.startswith(".") else text


def paragraph(text: str) -> Iterator[str]:
    """Yield a paragraph of a docstring: indented lines as a list where each has two columns, else as they are."""
    yield ".PP"
    for is_indented, run in groupby(text.split("\n"), lambda line: line.startswith("  ")):
        lines = list(run)
        items = [ITEM.fullmatch(line) for line in lines]
        if not is_indented:
            yield from map(escaped, lines)
        elif all(items):
            for left, right in (item.groups() for item in items if item):
                yield from ([".TP", f".B {escaped(left)}"] if left else [])
                yield escaped(right)
            yield ".PP"
        else:
            yield from (".EX", *map(escaped, lines), ".EE")


def usage(parser: argparse.ArgumentParser) -> list[str]:
    lines = parser.format_usage().removeprefix("usage: ").rstrip("\n").split("\n")
    return [".EX", *(escaped(line.removeprefix(" " * len("usage: "))) for line in lines), ".EE"]


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield arguments and options with what they mean."""
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        for action in group._group_actions:
            if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction) and action.help != SUPPRESS:
                said = formatter._expand_help(action) if action.help else ""
                yield from (".TP", f".B {escaped(formatter._format_action_invocation(action))}", escaped(said) or r"\&")


def subcommands(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield those that --help lists, each with its own usage and options."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for listed in action._choices_actions:
                made = action.choices[listed.dest]
                yield from (f".SS {escaped(made.prog)}", escaped(listed.help or ""), *usage(made), *options(made))


def sections_of(text: str) -> dict[str, list[str]]:
    """Return the sections of a docstring: its paragraphs, those under a title of their own taken out."""
    found: dict[str, list[str]] = {"DESCRIPTION": [], **{title: [] for title in TITLES.values()}}
    for part in re.split(r"\n\n+|\n(?=Exit status)", text.strip("\n")):
        begin = TITLE.match(part)
        found[TITLES[begin[1]] if begin else "DESCRIPTION"] += paragraph(part[begin.end() :] if begin else part)
    return found


def page(name: str, text: str, synopsis: list[str], sections: dict[str, list[str]]) -> str:
    """Return a page of a docstring's text and of further sections; those that are empty are left out."""
    first, _, rest = text.strip().partition("\n")
    said = sections_of(rest.strip("\n") or first)
    every = {
        "NAME": [rf"{escaped(name)} \- {escaped(first.rstrip('.'))}"],
        "SYNOPSIS": synopsis,
        "DESCRIPTION": said.pop("DESCRIPTION"),
        **sections,
        **said,
        "SEE ALSO": [rf".BR civicrm\-tools ({SECTION})"] if name != __main__.NAME else [],
    }
    lines = [MARK, f'.TH {escaped(name.upper())} {SECTION} "" "{__main__.NAME} {__version__}" "Host tools"']
    for title, content in every.items():
        lines += [f'.SH "{title}"', *content] if content else []
    return EMPTY.sub(r"\1", "\n".join(lines) + "\n")


def page_of(name: str) -> str:
    """Return the page of a command."""
    parser = parser_of(name)
    common = [line for option, does in COMMON.items() for line in (".TP", f".B {escaped(option)}", does)]
    sections = {"OPTIONS": [*options(parser), *common], "COMMANDS": list(subcommands(parser))}
    return page(name, parser.description or "", usage(parser), sections)


def pages() -> dict[str, str]:
    """Return {command: page} of all commands, and of the program that they are links to."""
    os.environ["COLUMNS"] = COLUMNS  # as wide as argparse writes a usage
    listed = [
        line
        for name, module in sorted(__main__.COMMANDS.items())
        for line in (".TP", rf".BR {escaped(name)} ({SECTION})", escaped(__main__.summary(module)))
    ]
    own = page(__main__.NAME, __main__.__doc__ or "", [], {"COMMANDS": listed})
    return {__main__.NAME: own, **{name: page_of(name) for name in __main__.COMMANDS}}


def write_all(directory: Path) -> None:
    """Write all pages, and remove those of former commands: what another wrote lacks the mark and stays."""
    directory.mkdir(parents=True, exist_ok=True)
    made = {f"{name}.{SECTION}": text for name, text in pages().items()}
    for path in directory.glob(f"*.{SECTION}"):
        if path.name not in made and path.read_bytes().startswith(MARK.encode()):
            path.unlink()
    for name, text in made.items():
        files.write(directory / name, text, sync=False)
