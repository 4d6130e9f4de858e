"""Postfix's log: which files it lies in, from the oldest to the newest, and what one line says.

Both timestamp styles of rsyslog are understood: RFC 3339 (2026-11-20T08:33:45.123456+00:00) and the traditional one
(Nov 20 08:33:45), which has no year.
"""

from __future__ import annotations

import gzip
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import BufferedIOBase
from pathlib import Path
from typing import IO, NamedTuple

LOG = Path("/var/log/mail.log")

TIME = r"(?:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d)"
# Short IDs are hexadecimal, long ones lack vowels so that they spell nothing.
QUEUE_ID = r"(?:[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{10,}|[0-9A-F]{6,})"
LINE = re.compile(
    rf"(?P<time>{TIME}) (?P<host>\S+) (?P<tag>postfix[\w./-]*)/(?P<service>[\w-]+)\[(?P<pid>\d+)\]: "
    rf"(?:(?P<queue_id>{QUEUE_ID}): )?(?P<text>.*)"
)
# The texts of qmgr, cleanup and the delivery agents.
SENDER = re.compile(r"from=<(?P<address>[^<>]*)>")
MESSAGE_ID = re.compile(r"(?:resent-)?message-id=<?(?P<id>[^<>\s]+)>?")
# Field by field up to the status: the reply behind it is the receiver's text, which may say "status=sent" as well.
DELIVERY = re.compile(
    r"to=<(?P<to>[^>]*)>,(?: [a-z_]+=(?:<[^>]*>|[^\s,]+),)* status=(?P<status>\w+) \((?P<reply>.*)\)$"
)
REQUEUED = re.compile(r"\borig_id=(?P<origin>\w+)")
# For a search through millions of lines as bytes.
RECIPIENT_DOMAIN = re.compile(rb": to=<[^>]*@([^>@]+)>")


class Line(NamedTuple):
    """One line that Postfix logged. `queue_id` is None where it speaks of no message."""

    time: str
    host: str
    tag: str
    service: str
    pid: int
    queue_id: str | None
    text: str


def parse(line: str) -> Line | None:
    """The line's parts, or None if Postfix did not log it."""
    found = LINE.fullmatch(line.rstrip("\n"))
    if not found:
        return None
    time, host, tag, service, pid, queue_id, text = found.groups()
    return Line(time, host, tag, service, int(pid), queue_id, text)


def rotated(log: Path) -> list[Path]:
    """The log and its rotated files, numbered or dated, oldest first: mail.log.2.gz, mail.log.1, mail.log."""
    numbered, dated = [], []
    for path in log.parent.glob(f"{log.name}[.-]*"):
        suffix = path.name.removeprefix(log.name).removesuffix(".gz")
        if re.fullmatch(r"\.\d+", suffix):
            numbered.append((-int(suffix[1:]), path))
        elif re.fullmatch(r"-\d+", suffix):
            dated.append((suffix, path))
    found = [path for _, path in sorted(dated)] + [path for _, path in sorted(numbered)]
    return [*found, log] if log.exists() else found


def open_log(path: Path) -> BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


class Place(NamedTuple):
    """Up to where a log was read, for a program that ends and comes back; 0, 0 is the beginning of the log."""

    inode: int = 0
    offset: int = 0


def since(log: Path, place: Place, limit: int, newest: bool = False) -> Iterator[tuple[bytes, Place]]:
    """Whole lines logged since `place`, one piece for each file, with the place behind it.

    A file that was rotated meanwhile comes first. Of a file at most `limit` bytes: the oldest, and the next call goes
    on there, or with `newest` the newest, and those before are passed over.
    """
    try:
        current = log.stat()
    except FileNotFoundError:
        return
    goes_on = place.inode == current.st_ino and place.offset <= current.st_size
    plan = [(log, place.offset if goes_on else 0)]
    if place.inode not in (0, current.st_ino):
        for path in rotated(log)[-3:]:
            with suppress(FileNotFoundError):
                if path.suffix != ".gz" and path.stat().st_ino == place.inode:
                    plan.insert(0, (path, place.offset))
    for path, offset in plan:
        with suppress(FileNotFoundError), path.open("rb") as file:
            status = os.fstat(file.fileno())
            begin = max(offset, status.st_size - limit) if newest else offset
            file.seek(begin)
            piece = file.read(limit)
            piece = piece[: piece.rfind(b"\n") + 1]
            yield piece, Place(status.st_ino, begin + len(piece))
            if begin + limit < status.st_size:
                return  # The rest of this file comes before the next one.


class Follower:
    """New lines of a growing log, also across its rotation, for a program that stays."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._rest = b""
        self._open(at_end=True)

    def _open(self, at_end: bool) -> None:
        try:
            self._file = self.path.open("rb")
        except FileNotFoundError:
            self._file = None
            return
        if at_end:
            self._file.seek(0, 2)

    def lines(self) -> Iterator[str]:
        """Whole lines written since the last call."""
        yield from self._read()
        if self._turned():
            # The rest of the old file was read above; the new one begins at its start.
            yield from self._read()
            if self._file:
                self._file.close()
            self._rest = b""
            self._open(at_end=False)
            yield from self._read()

    def _read(self) -> Iterator[str]:
        if self._file:
            *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)

    def _turned(self) -> bool:
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return False
        if self._file is None:
            return True
        mine = self._file.seek(0, 1)
        return (now.st_ino, now.st_dev) != _identity(self._file) or now.st_size < mine


def _identity(file: IO[bytes]) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_dev


class Outcomes:
    """What became of released messages, as the log tells it: the last word on each counts."""

    def __init__(self, log: Path) -> None:
        self._log = Follower(log)
        self._mine: dict[str, str] = {}
        self._status: dict[str, str] = {}
        self._reasons: dict[str, str] = {}

    def watch(self, ids: Iterable[str]) -> None:
        """Follow these queue IDs from now on, and the new ones that a requeue gives them."""
        self._mine |= {queue_id: queue_id for queue_id in ids}

    def read(self) -> None:
        """Take in what was logged since the last call."""
        for line in self._log.lines():
            parsed = parse(line)
            if not parsed or not parsed.queue_id:
                continue
            if requeued := REQUEUED.search(parsed.text):
                if requeued["origin"] in self._mine:
                    self._mine[parsed.queue_id] = self._mine[requeued["origin"]]
            elif parsed.queue_id in self._mine and (delivery := DELIVERY.match(parsed.text)):
                first = self._mine[parsed.queue_id]
                # Dicts keep their order: the newest outcome stands last.
                self._status.pop(first, None)
                self._status[first] = delivery["status"]
                self._reasons[first] = f"{parsed.tag.removeprefix('postfix-')}: {delivery['reply']}"

    def share(self, last: int) -> tuple[int, int]:
        """(deferred, known) among the last so many outcomes."""
        recent = list(self._status.values())[-last:]
        return recent.count("deferred"), len(recent)

    def forget(self) -> None:
        """Count from here on; the same messages stay watched."""
        self._status.clear()
        self._reasons.clear()

    def reason(self) -> str:
        """The commonest reason for a deferral, with addresses and queue IDs left out; empty if there is none."""
        told = Counter(
            re.sub(rf"<[^>]*>|\b{QUEUE_ID}\b", "...", self._reasons[first])
            for first, status in self._status.items()
            if status == "deferred"
        )
        return told.most_common(1)[0][0] if told else ""
