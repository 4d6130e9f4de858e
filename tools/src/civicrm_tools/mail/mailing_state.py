"""What `mailing` has stopped, kept in files that outlive reboots and converges.

/var/lib/mail-tools/off.json and panic.json exist while the state holds; the timers of CiviCRM's mailings look for
them, and Postfix's cleanup holds new mail by the table that `write_table` replaces. Each file tells since when, by
whom and why. Which messages on hold are whose: `holds`.
"""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from civicrm_tools.core import files, metrics
from civicrm_tools.core.command import Failure
from civicrm_tools.core.metrics import gauge
from civicrm_tools.mail import postfix
from civicrm_tools.mail.postfix import Instance

DIRECTORY = Path("/var/lib/mail-tools")
METRICS = metrics.DIRECTORY / "mailing.prom"
STATES = ("panic", "off")
# A table of two keys behind header_checks: see the role's README.
TABLE = re.compile(r"\b([a-z]+):(/[^\s,{}]*/mailing_state)\b")


@dataclass
class State:
    """A state that holds. `kept` are the queue IDs per instance that were on hold before and are not yet booked, `left`
    those that are still to be put back, from the moment when that began."""

    since: float
    by: str
    reason: str = ""
    kept: dict[str, list[str]] = field(default_factory=dict)
    left: dict[str, list[str]] | None = None


def path(name: str) -> Path:
    return DIRECTORY / f"{name}.json"


def read(name: str) -> State | None:
    """The state "panic" or "off", or None if it does not hold. A file that cannot be read still means that it holds."""
    try:
        hint = "its presence stops mailings: look at it, then remove it"
        return files.read_json(path(name), lambda raw: State(**raw), hint)
    except files.Missing:
        return None


def write(name: str, state: State) -> None:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    files.write_json(path(name), asdict(state), mode=0o600)


def remove(name: str) -> None:
    path(name).unlink(missing_ok=True)


def panic_since(moment: float) -> str:
    """Say who has begun a panic since then, or nothing: a release that runs has to end."""
    with contextlib.suppress(Failure):
        state = read("panic")
        if state and state.since > moment:
            return f"{state.by} has called a panic"
    return ""


def wanted(damaged: bool = False) -> dict[str, str]:
    """The table's content for what holds now: {kind of mail: what cleanup does with it}.

    A state that is ending holds nothing new. damaged: a state whose file is damaged holds; otherwise raises Unreadable.
    """
    content: dict[str, str] = {}
    for name, text, kinds in (("off", "mailings are off", ("mailing",)), ("panic", "panic", ("mailing", "submission"))):
        try:
            state = read(name)
            if not state or state.left is not None:
                continue
            text += f" since {stamp(state.since)} by {state.by}"
        except files.Unreadable:
            if not damaged:
                raise
            text += f", see {path(name)}"
        content |= dict.fromkeys(kinds, f"HOLD {text}")
    return content


def write_table(where: Instance) -> bool:
    """Have this instance hold new mail as it should from now on; False if its main.cf names no table for that.

    cleanup looks before each message whether the table was replaced, so there is nothing to reload.
    """
    found = TABLE.search(where.parameter("header_checks"))
    if not found:
        return False
    text = "".join(f"{key} {action}\n" for key, action in wanted(damaged=True).items())
    postfix.replace_table(where, found[1], Path(found[2]), text)
    return True


def table_is_right(where: Instance) -> bool:
    """Whether this instance holds new mail as it should; True for one without a table."""
    found = TABLE.search(where.parameter("header_checks"))
    if not found:
        return True
    try:
        said = where.run("postmap", "-s", f"{found[1]}:{found[2]}").stdout
    except Failure:
        return False
    return dict(line.split(None, 1) for line in said.splitlines() if line.strip()) == wanted(damaged=True)


def write_metrics(file: Path) -> None:
    """Replace the states' metrics, as a timer does and every change; nothing where node_exporter reads no file."""
    panicking = path("panic").exists()
    since = "When panic or off began, seconds since the epoch; 0 if neither."
    families = [
        gauge("mailing_enabled", "Mailings may be sent.", not panicking and not path("off").exists()),
        gauge("mailing_panic", "All outgoing mail is held.", panicking),
        gauge("mailing_state_since_seconds", since, _since()),
    ]
    metrics.write(file, families)


def _since() -> int:
    for name in ("panic", "off"):
        try:
            if found := read(name):
                return int(found.since)
        except Failure:
            return int(path(name).stat().st_mtime)
    return 0


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
