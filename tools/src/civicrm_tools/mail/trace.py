"""Show all that Postfix logged about a message, from the oldest log to the newest.

  postfix-trace 4jWDXT3GX7zLW0x                                   queue ID, short or long
  postfix-trace '<20261120083345.4711@crm.example.org>'           Message-ID, with or without <>
  postfix-trace civicrm+b.2936.7009506.26d7b951968ebe4b@crm.example.org    VERP address, whatever its verb
  postfix-trace person@example.net                                recipient or sender
  postfix-trace '"ada lovelace"@example.net'                      with the quotes that an address has

Lines are grouped by queue ID. A requeued message and the bounce that a message caused have queue IDs of their own:
they are shown too, and the message that they came from.
What was refused before it got a queue ID stands last, under NOQUEUE. Upper and lower case are the same. The log is
/var/log/mail.log with its rotated files, which the group adm may read.

Exit status: 0 found, 1 error, 2 wrong arguments, 3 nothing found.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from civicrm_tools.core import command
from civicrm_tools.core.command import DONE, Failure
from civicrm_tools.mail import addresses, search
from civicrm_tools.mail import log as maillog
from civicrm_tools.mail.international import in_ascii
from civicrm_tools.mail.log import QUEUE_ID
from civicrm_tools.mail.search import HEAD

NAME = "postfix-trace"

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


def chunks(logs: Sequence[Path]) -> Iterator[tuple[int, bytes]]:
    """Yield the logs in pieces of whole lines, each with the bytes before it."""
    before = 0
    for path in logs:
        for chunk in search.chunks(path):
            yield before, chunk
            before += len(chunk)


def find_ids(logs: Sequence[Path], wanted: Search) -> tuple[set[bytes], Group]:
    """Return the queue IDs of all lines that hold a needle, and those lines that got none."""
    ids, nameless = set(wanted.ids), Group(REFUSED)
    for _, chunk in chunks(logs) if wanted.needles else ():
        for _, line in search.lines_at(chunk, search.places(chunk.lower(), wanted.needles)):
            if head := HEAD.search(line):
                ids.add(head[1])
            elif b"]: NOQUEUE: " in line:
                nameless.lines.append(line.decode(errors="replace"))
    return ids, nameless


def naming(chunk: bytes, ids: set[bytes]) -> list[tuple[int, bytes]]:
    """Return the lines of these queue IDs, and others among which are those that name one of them as a relative."""
    if len(ids) <= search.FEW:
        return search.lines_at(chunk, search.places(chunk, ids))
    return search.lines_at(chunk, chain(search.heads(chunk, ids), search.places(chunk, (ORIGIN, BOUNCE))))


def relatives(line: bytes, queue_id: bytes) -> tuple[bytes, bytes] | None:
    """(parent, child) if the line, of a queue ID, names a requeue or a bounce."""
    if (ORIGIN in line or BOUNCE in line) and (other := RELATIVE.search(line)):
        return (other[1], queue_id) if ORIGIN in line else (queue_id, other[1])
    return None


def collect(logs: Sequence[Path], ids: set[bytes]) -> list[Group]:
    """The lines of these queue IDs and of their relatives, in the order of their first lines.

    A relative's first lines may stand before the line that names it: then all is read again, for the relative alone.
    """
    found: dict[bytes, list[tuple[int, bytes]]] = {}
    families: dict[tuple[bytes, bytes], int] = {}
    new, known = ids, set(ids)
    while new:
        for before, chunk in chunks(logs):
            for start, line in naming(chunk, new):
                if not (head := HEAD.search(line)):
                    continue
                if head[1] in new:
                    found.setdefault(head[1], []).append((before + start, line))
                if (pair := relatives(line, head[1])) and not new.isdisjoint(pair):
                    families[pair] = before + start
        new = {queue_id for pair in families for queue_id in pair} - known
        known |= new
    groups = {
        queue_id: Group(queue_id.decode(), [line.decode(errors="replace") for _, line in lines])
        for queue_id, lines in sorted(found.items(), key=lambda item: item[1][0][0])
    }
    for parent, child in sorted(families, key=lambda pair: families[pair]):
        if parent in groups:
            groups[parent].children.append(child.decode())
    return list(groups.values())


def trace(key: str, logs: Sequence[Path]) -> list[Group]:
    """All that the logs, oldest first, say about a key; last, what got no queue ID. Raises Failure for a key of no
    known form."""
    ids, nameless = find_ids(logs, search_for(key))
    return [*collect(logs, ids), *([nameless] if nameless.lines else [])]


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
        raise Failure(f"nothing about {options.key} in {len(logs)} log file{'s' if len(logs) > 1 else ''}", command.NO)
    print(as_json(options.key, groups) if options.json else as_text(groups))
    return DONE if groups else command.NO


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
