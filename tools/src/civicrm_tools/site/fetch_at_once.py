"""Let a site's fetch_bounces run now, because mail has come into its mailbox.

Starts the job's own unit, as its timer does, so that there is one run at a time, and again while more mail came during
the run: at most once per pause. A run that fails leaves the mail where it is; then nothing is started until a run that
the timer began has gone well, or the hold-off is over. The mailbox is only looked at.
Exit status: 0, or 2 wrong arguments.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from civicrm_tools.core import command, paths
from civicrm_tools.core.command import DONE
from civicrm_tools.core.systemd import systemctl

NAME = "civicrm-fetch-at-once"
# A start waits for the end of the job.
JOB_SECONDS = 86400


def show(unit: str, name: str) -> str:
    """Return a property of a unit as systemd prints it."""
    return systemctl("show", f"--property={name}", "--value", unit, statuses=()).stdout.strip()


def messages(maildir: Path) -> set[str]:
    """Return the names of the messages in INBOX, without their flags: they stay the same while a message lies there."""
    names = set()
    for part in ("new", "cur"):
        try:
            names |= {name.partition(":2,")[0] for name in paths.names(maildir / part)}
        except OSError:
            continue  # a mailbox that never had mail
    return names


def fetch(unit: str, maildir: Path, pause: float) -> bool:
    """Run the job until no mail came while it ran; returns whether all went well.

    What lay there before a run and still does is the job's own affair: it may be a message that it cannot read.
    """
    while True:
        # A run that has begun already may have looked too early.
        before = set() if show(unit, "ActiveState") == "activating" else messages(maildir)
        if systemctl("start", unit, timeout=JOB_SECONDS, statuses=()).returncode != 0:
            return False
        time.sleep(pause)
        if not messages(maildir) - before:
            return True


def healed(unit: str, seconds: float, every: float) -> bool:
    """Wait until a run that somebody else began has gone well; False when the time was over first."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(every)
        if show(unit, "ActiveState") == "inactive" and show(unit, "Result") == "success":
            return True
    return False


def body(argv: Sequence[str] | None) -> int:
    parser = command.Parser(prog=NAME, description=__doc__)
    parser.add_argument("unit", help="the job's service")
    parser.add_argument("maildir", type=Path)
    parser.add_argument("--settle", type=float, default=1, metavar="SECONDS", help="wait for what comes together (1)")
    parser.add_argument("--pause", type=float, default=10, metavar="SECONDS", help="between two runs, at least (10)")
    parser.add_argument("--hold-off", type=float, default=900, metavar="SECONDS", help="after a failure (900)")
    options = parser.parse_args(argv)
    time.sleep(options.settle)
    while messages(options.maildir) and not fetch(options.unit, options.maildir, options.pause):
        print(f"{options.unit} failed: mail stays in the mailbox, the timer goes on", flush=True)
        if not healed(options.unit, options.hold_off, options.pause):
            break
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
