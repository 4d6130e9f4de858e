"""Show all that Postfix logged about a message, from the oldest log to the newest.

  postfix-trace 4jWDXT3GX7zLW0x                                   queue ID, short or long
  postfix-trace '<20261120083345.4711@crm.example.org>'           Message-ID, with or without <>
  postfix-trace civicrm+b.2936.7009506.26d7b951968ebe4b@crm.example.org    VERP address, whatever its verb
  postfix-trace person@example.net                                recipient or sender
  postfix-trace '"ada lovelace"@example.net'                      with the quotes that an address has

Lines are grouped by queue ID. A requeued message and the bounce that a message caused have queue IDs of their own:
they are shown too, and the message that they came from.

Exit status: 0 found, 1 nothing found or error, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from civicrm_tools.core import command
from civicrm_tools.core.command import DONE, Failure
from civicrm_tools.mail import addresses
from civicrm_tools.mail import log as maillog
from civicrm_tools.mail.international import in_ascii
from civicrm_tools.mail.log import HEAD, QUEUE_ID

NAME = "postfix-trace"
CHUNK = 1 << 22

# What stands before the queue ID of a relative: a requeued message names where it came from, another its bounce.
ORIGIN, BOUNCE = b" orig_id=", b" notification: "
NOT_ASCII = re.compile(rb"[^\x00-\x7f]")
RELATIVE = re.compile(rf"({QUEUE_ID})$".encode())
REFUSED = "NOQUEUE"
# Blanks belong to an address only in a quoted local part (RFC 5321, 4.1.2).
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"@\S+')


@dataclass
class Group:
    """The lines of one queue ID, in the order of the log, and the queue IDs that came out of it."""

    queue_id: str
    lines: list[str] = field(default_factory=list)
    children: list[str] = field(default_factory=list)


@dataclass
class Search:
    """What is looked for: bytes as they stand in a line, in lower case, and queue IDs to begin with."""

    needles: list[bytes]
    ids: set[bytes]


def search_for(key: str) -> Search:
    """How a key stands in the log: addresses and Message-IDs in <>, a VERP address also as the envelope sender."""
    key = key.strip()
    bare = key.removeprefix("<").removesuffix(">")
    if not bare or (re.search(r"\s", bare) and not QUOTED.fullmatch(bare)):
        raise Failure(f"'{key}' is no queue ID, Message-ID or address", command.USAGE)
    if re.fullmatch(QUEUE_ID, bare):
        return Search([], {bare.encode()})
    wanted = [bare, in_ascii(bare)]
    if found := addresses.parse_any(bare):
        wanted.append(found.bounce)
    forms = [f"=<{text}>" for text in wanted] + [f"message-id={bare}"]
    needles = [form.encode(errors="surrogateescape").lower() for form in forms]
    # Postfix logs a question mark for each byte that is not ASCII.
    needles += [NOT_ASCII.sub(b"?", needle) for needle in needles]
    return Search(list(dict.fromkeys(needles)), set())


def chunks(logs: Sequence[Path]) -> Iterator[bytes]:
    """The logs in pieces of whole lines: memory stays the same whatever their size."""
    for path in logs:
        with maillog.open_log(path) as file:
            rest = b""
            while piece := file.read(CHUNK):
                whole, newline, rest_of_piece = piece.rpartition(b"\n")
                if newline:
                    yield rest + whole + newline
                    rest = rest_of_piece
                else:
                    rest += piece
            if rest:
                yield rest + b"\n"


def line_around(chunk: bytes, position: int) -> bytes:
    return chunk[chunk.rfind(b"\n", 0, position) + 1 : chunk.find(b"\n", position)]


def found_in(chunk: bytes, needle: bytes) -> Iterator[int]:
    """Positions of a needle."""
    position = chunk.find(needle)
    while position >= 0:
        yield position
        position = chunk.find(needle, position + 1)


def find_ids(logs: Sequence[Path], search: Search) -> set[bytes]:
    """The queue IDs of all lines that hold a needle."""
    ids = set(search.ids)
    for chunk in chunks(logs) if search.needles else ():
        lower = chunk.lower()
        for needle in search.needles:
            for position in found_in(lower, needle):
                if head := HEAD.search(line_around(chunk, position)):
                    ids.add(head[1])
    return ids


def relatives(chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(parent, child) of each line that names a requeue or a bounce."""
    for word in (ORIGIN, BOUNCE):
        for position in found_in(chunk, word):
            line = line_around(chunk, position)
            head, other = HEAD.search(line), RELATIVE.search(line)
            if head and other:
                yield (other[1], head[1]) if word == ORIGIN else (head[1], other[1])


def collect(logs: Sequence[Path], search: Search, ids: set[bytes]) -> list[Group]:
    """The lines of these queue IDs and of their relatives, which `ids` grows by; last, what got no queue ID.

    A relative's first lines may stand before the line that names it: then all is read again.
    """
    while True:
        before, nameless, families = len(ids), Group(REFUSED), []
        groups: dict[bytes, Group] = {}
        for chunk in chunks(logs):
            for head in HEAD.finditer(chunk):
                if head[1] in ids:
                    line = line_around(chunk, head.start()).decode(errors="replace")
                    groups.setdefault(head[1], Group(head[1].decode())).lines.append(line)
            for pair in relatives(chunk):
                if not ids.isdisjoint(pair):
                    ids.update(pair)
                    families.append(pair)
            if search.needles:
                nameless.lines += refused(chunk, search.needles)
        if len(ids) == before:
            break
    for parent, child in families:
        if parent in groups:
            groups[parent].children.append(child.decode())
    return [*groups.values(), *([nameless] if nameless.lines else [])]


def refused(chunk: bytes, needles: Sequence[bytes]) -> Iterator[str]:
    for position in found_in(chunk, b"]: NOQUEUE: "):
        line = line_around(chunk, position)
        if any(needle in line.lower() for needle in needles):
            yield line.decode(errors="replace")


def trace(key: str, logs: Sequence[Path]) -> list[Group]:
    """All that the logs, oldest first, say about a key. Raises Failure for a key of no known form."""
    search = search_for(key)
    return collect(logs, search, find_ids(logs, search))


def as_json(key: str, groups: list[Group]) -> str:
    """{"key", "groups": [{"queue_id", "children", "lines": [{"time", "tag", "service", "text", ...}]}]}."""

    def entry(line: str) -> dict[str, object]:
        parsed = maillog.parse(line)
        return parsed._asdict() if parsed else {"text": line}

    found = [
        {"queue_id": g.queue_id, "children": g.children, "lines": [entry(line) for line in g.lines]} for g in groups
    ]
    return json.dumps({"key": key, "groups": found}, indent=2)


def as_text(groups: list[Group]) -> str:
    parts, parents = [], {child: group.queue_id for group in groups for child in group.children}
    for group in groups:
        origin = f", from {parents[group.queue_id]}" if group.queue_id in parents else ""
        parts.append("\n".join([f"{group.queue_id}{origin}", *(f"  {line}" for line in group.lines)]))
    return "\n\n".join(parts)


def parser() -> argparse.ArgumentParser:
    made = command.Parser(prog=NAME, description=__doc__)
    made.add_argument("key", metavar="KEY", help="queue ID, Message-ID, VERP address, recipient or sender")
    made.add_argument(
        "--log", action="append", type=Path, metavar="FILE",
        help=f"read this instead of {maillog.LOG} and its rotated files, plain or .gz; again for more, oldest first",
    )  # fmt: skip
    made.add_argument("--json", action="store_true", help="print JSON: each queue ID with its children and lines")
    return made


def body(argv: Sequence[str] | None) -> int:
    options = parser().parse_args(argv)
    logs = options.log or maillog.rotated(maillog.LOG)
    if not logs:
        raise Failure(f"there is no {maillog.LOG}: see --log")
    groups = trace(options.key, logs)
    if not groups and not options.json:
        raise Failure(f"nothing about {options.key} in {len(logs)} log file{'s' if len(logs) > 1 else ''}")
    print(as_json(options.key, groups) if options.json else as_text(groups))
    return DONE if groups else command.FAILED


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
