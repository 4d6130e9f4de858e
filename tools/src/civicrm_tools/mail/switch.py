"""Whether mailings are on, kept in files that outlive reboots and converges.

/var/lib/mail-tools/off.json and panic.json exist while the state holds; the timers of CiviCRM's mailings look for
them, and Postfix's cleanup holds new mail by the table that `write_switch` replaces. Each file tells since when, by
whom and why, and which messages were on hold before, since only the others may be put back.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from civicrm_tools.core import files, locks, metrics
from civicrm_tools.core.command import Failure
from civicrm_tools.core.metrics import Family, gauge
from civicrm_tools.mail.postfix import Instance

DIRECTORY = Path("/var/lib/mail-tools")
METRICS = metrics.DIRECTORY / "mailing.prom"
# A table of two keys behind header_checks: see the role's README.
SWITCH = re.compile(r"\b([a-z]+):(/[^\s,{}]*/mailing_state)\b")


@dataclass
class State:
    """A state that holds. `kept` are the queue IDs per instance that were on hold before, `left` those that are still
    to be put back, from the moment when that began."""

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


def keep(where: Instance, ids: Iterable[str]) -> None:
    """Remember messages that an operator has put on hold during a state: its end must not release them."""
    chosen = set(ids)
    for name in ("panic", "off"):
        if found := read(name):
            found.kept[where.name] = sorted(chosen.union(found.kept.get(where.name, ())))
            if found.left is not None:
                found.left[where.name] = [i for i in found.left.get(where.name, ()) if i not in chosen]
            write(name, found)


def switched(since: float) -> Callable[[], str]:
    """A function that says who has begun a panic since then, or nothing: a release that runs has to end."""

    def _switched() -> str:
        with contextlib.suppress(Failure):
            state = read("panic")
            if state and state.since > since:
                return f"{state.by} has called a panic"
        return ""

    return _switched


def wanted() -> dict[str, str]:
    """The switch's content for what holds now: {kind of mail: what cleanup does with it}.

    A state that is ending holds nothing new.
    """
    content = {}
    off, panic = read("off"), read("panic")
    if off and off.left is None:
        content["mailing"] = f"HOLD mailings are off since {stamp(off.since)} by {off.by}"
    if panic and panic.left is None:
        content |= dict.fromkeys(("mailing", "submission"), f"HOLD panic since {stamp(panic.since)} by {panic.by}")
    return content


def write_switch(where: Instance, content: dict[str, str]) -> bool:
    """Replace the table by which this instance holds new mail; False if its main.cf names none.

    cleanup looks before each message whether the table was replaced, so there is nothing to reload.
    """
    found = SWITCH.search(where.parameter("header_checks"))
    if not found:
        return False
    replace_table(where, found[1], Path(found[2]), "".join(f"{key} {action}\n" for key, action in content.items()))
    return True


def replace_table(where: Instance, kind: str, target: Path, text: str) -> None:
    """Compile a table aside and put it in the place of the one in use: Postfix never sees half of it."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        source = Path(scratch) / target.name
        source.write_text(text)
        source.chmod(0o644)
        where.command("postmap", f"{kind}:{source}")
        # The text goes last: a table older than its text makes Postfix warn.
        for file in sorted(source.parent.iterdir(), reverse=True):
            file.replace(target.parent / file.name)


def switch_is(where: Instance, content: dict[str, str]) -> bool:
    """Whether the table in use says this; True for an instance without one."""
    found = SWITCH.search(where.parameter("header_checks"))
    if not found:
        return True
    try:
        said = where.command("postmap", "-s", f"{found[1]}:{found[2]}")
    except Failure:
        return False
    return dict(line.split(None, 1) for line in said.splitlines() if line.strip()) == content


def families() -> list[Family]:
    """Return the states as metrics."""
    is_on = not path("off").exists() and not path("panic").exists()
    return [
        gauge("mailing_enabled", "Mailings may be sent.", is_on),
        gauge("mailing_panic", "All outgoing mail is held.", path("panic").exists()),
        gauge(
            "mailing_state_since_seconds", "When panic or off began, seconds since the epoch; 0 if neither.", _since()
        ),
    ]


def _since() -> int:
    for name in ("panic", "off"):
        try:
            if found := read(name):
                return int(found.since)
        except Failure:
            return int(path(name).stat().st_mtime)
    return 0


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Raise Failure if another command is putting mail back: two would double the pace."""
    with locks.locked(DIRECTORY / "lock", wait=0, busy="another `mailing on` or `mailing resume` is running"):
        yield


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
