"""Tell whether somebody with a right password came from an address lately: front-door-known ADDRESS.

Exit status 0: yes, so colleagues sit there and the address as a whole is not refused. 3: no. Reads the end of the log
of logins (one line each: 2026-01-31T12:00:00+0000 ADDRESS=NAME), as far back as --minutes, and its predecessor where
the log was just rotated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from civicrm_tools.core import command

NAME = "front-door-known"
LOG = Path("/var/log/apache2/front-door-logins.log")
BLOCK = 65536


def lines_backwards(path: Path) -> Iterator[str]:
    """Yield the lines of a file from its end; none if there is no such file."""
    if not path.is_file():
        return
    with path.open("rb") as log:
        position = log.seek(0, 2)
        rest = b""
        while position > 0:
            step = min(BLOCK, position)
            position -= step
            log.seek(position)
            first, *others = (log.read(step) + rest).split(b"\n")
            rest = first
            for line in reversed(others):
                yield line.decode(errors="replace")
        yield rest.decode(errors="replace")


def known(log: Path, address: str, since: datetime) -> bool:
    """Return whether the log, or the one before it, has a login from the address that is not older than `since`."""
    for path in (log, log.with_name(log.name + ".1")):
        for line in lines_backwards(path):
            moment, _, who = line.partition(" ")
            try:
                when = datetime.strptime(moment, "%Y-%m-%dT%H:%M:%S%z")
            except ValueError:
                continue
            if when < since:
                return False
            if who.rpartition("=")[0] == address:
                return True
    return False


def body(argv: Sequence[str] | None) -> int:
    parser = command.Parser(prog=NAME, description=__doc__)
    parser.add_argument("address", help="address as the web server logs it")
    parser.add_argument("--minutes", type=int, default=60, help="how far back a login counts (%(default)s)")
    parser.add_argument("--log", type=Path, default=LOG, help="log of logins (%(default)s)")
    options = parser.parse_args(argv)
    since = datetime.now(UTC) - timedelta(minutes=options.minutes)
    return command.DONE if known(options.log, options.address, since) else command.NO


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
