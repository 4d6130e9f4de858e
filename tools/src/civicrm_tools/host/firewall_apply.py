"""Load a ruleset that takes itself back unless somebody confirms that the host can still be reached.

  firewall-apply apply FILE   load FILE in one transaction, with the uids of this host's users in its lines
                              "define uid_NAME ="; a timer restores what was loaded before
  firewall-apply confirm      stop the timer and keep the ruleset: it becomes /etc/nftables.conf
  firewall-apply rollback     what the timer calls; by hand, take the ruleset back at once
  firewall-apply record       remember what the kernel holds (nftables.service, after it loaded its file)
  firewall-apply status       print confirmed, pending, or changed (the kernel holds other rules than the file)

Only the table inet civicrm_firewall is read and replaced. /etc/nftables.conf, which is loaded at boot, is written
by confirm alone: a ruleset that was never confirmed does not come up again.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import pwd
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from civicrm_tools import LAUNCHER
from civicrm_tools.core import command, files
from civicrm_tools.core.command import DONE, Failure, about
from civicrm_tools.core.locks import locked
from civicrm_tools.core.run import run
from civicrm_tools.core.systemd import systemctl

NAME = "firewall-apply"
TABLE = "inet civicrm_firewall"
CONFIGURATION = Path("/etc/nftables.conf")
STATE = Path("/run/civicrm-firewall")
UNIT = "firewall-rollback"
BOOT_UNIT = "nftables.service"
USER = re.compile(r"^define uid_(\S+) = \d+$", re.MULTILINE)
# The kernel takes a large ruleset in less.
SECONDS = 120
UNKNOWN_USER = 3
NOBODY = 4294967294  # belongs to no user: a rule for it matches no packet
REMOVE = f"table {TABLE}\ndelete table {TABLE}\n"


def nft(*arguments: str, text: str = "") -> str:
    """Run nft, with a ruleset on standard input where `text` is given; return what it prints."""
    done = run("nft", *arguments, timeout=SECONDS, text=text, statuses=())
    if done.returncode != 0:
        # All of it: the last line is an arrow below the mistake.
        raise Failure(f"nft {' '.join(arguments)}: {' '.join(done.stderr.split())[:500]}")
    return done.stdout


def load(text: str) -> None:
    """Load a ruleset; nft makes one transaction of it, or nothing."""
    nft("-f", "-", text=text)


def is_loaded() -> bool:
    tables = json.loads(nft("-j", "list", "tables"))["nftables"]
    return any(f"{t['table']['family']} {t['table']['name']}" == TABLE for t in tables if "table" in t)


def without_state(value: Any) -> Any:
    """Return a listing (nft -j) without what changes by itself: handles, counted packets, elements of dynamic sets."""
    if isinstance(value, dict):
        dynamic = "dynamic" in value.get("flags", [])
        changing = ("handle", "packets", "bytes", "metainfo") + (("elem",) if dynamic else ())
        return {key: without_state(item) for key, item in value.items() if key not in changing}
    if isinstance(value, list):
        return [without_state(item) for item in value]
    return value


def fingerprint() -> str:
    """Return a digest of the rules that the kernel holds; empty if the table is not there."""
    if not is_loaded():
        return ""
    listing = without_state(json.loads(nft("-j", "list", "table", *TABLE.split())))
    return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()


def configuration() -> str:
    """Return the ruleset that is loaded at boot; empty if there is none."""
    return CONFIGURATION.read_text() if CONFIGURATION.is_file() else ""


def record(text: str) -> None:
    """Remember that the kernel holds what `text` says."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    files.write(STATE / "loaded", f"{digest} {fingerprint()}\n", mode=0o600)


def holds(text: str) -> bool:
    """Return whether the kernel holds what `text` says, and nobody changed it since."""
    file = STATE / "loaded"
    known = file.read_text().split() if file.is_file() else []
    return known == [hashlib.sha256(text.encode()).hexdigest(), fingerprint()]


def arm(seconds: int) -> None:
    """Have systemd call rollback after some seconds, whatever becomes of this process and its connection."""
    disarm()
    timer = ["--on-active", str(seconds), "--timer-property=AccuracySec=100ms"]
    # The launcher by its path: a service's PATH may lack the directory of the link.
    begin = ["systemd-run", "--quiet", "--collect", f"--unit={UNIT}", *timer, str(LAUNCHER), NAME, "rollback"]
    with about("nothing loaded: no timer to take it back"):
        run(*begin, timeout=SECONDS)


def disarm() -> None:
    # A timer that is not there is as good as one that is stopped.
    systemctl("stop", f"{UNIT}.timer", statuses=())


def saved() -> str:
    """Return a ruleset that brings back what the kernel holds now: the table, or no table."""
    if not is_loaded():
        return REMOVE
    if holds(configuration()):
        return configuration()
    # A table that a hand changed, with its counters and elements; if nft does not read its own listing, the file.
    listed = REMOVE + nft("list", "table", *TABLE.split())
    try:
        nft("--check", "-f", "-", text=listed)
    except Failure:
        return configuration() if TABLE in configuration() else REMOVE
    return listed


def with_uids(text: str, missing: str) -> str:
    """Return a ruleset with this host's uids in it. missing: refuse or skip users that the host does not have.

    Uids, as a ruleset with the name of a user who is gone would not load at a boot.
    """
    known: dict[str, int] = {}
    for name in USER.findall(text):
        with contextlib.suppress(KeyError):
            known[name] = pwd.getpwnam(name).pw_uid
    unknown = [name for name in USER.findall(text) if name not in known]
    if unknown and missing == "refuse":
        raise Failure(
            f"this host has no user {', '.join(unknown)}: correct the name, "
            "or install the service that brings the user first",
            UNKNOWN_USER,
        )
    return USER.sub(lambda user: f"define uid_{user[1]} = {known.get(user[1], NOBODY)}", text)


def apply(file: Path, seconds: int, missing: str = "refuse") -> str:
    """Load a ruleset to be taken back after some seconds. An earlier one that waits is not what it goes back to."""
    text = with_uids(file.read_text(), missing)
    pending = (STATE / "trial").is_file()
    if not pending and text == configuration() and holds(text):
        return "unchanged"
    nft("--check", "-f", "-", text=text)
    if not pending:
        files.write(STATE / "previous", saved(), mode=0o600)
    # Before it is loaded: whatever happens to this process then, the timer finds what to do.
    files.write(STATE / "trial", text, mode=0o600)
    try:
        arm(seconds)
    except Failure:
        (STATE / "trial").unlink()
        raise
    load(text)
    return f"applied: taken back in {seconds} s unless confirmed"


def confirm() -> str:
    """Make the ruleset on trial the one of this host."""
    trial = STATE / "trial"
    if not trial.is_file():
        raise Failure("nothing to confirm: no ruleset is on trial, or it was taken back already")
    disarm()
    text = trial.read_text()
    files.write(CONFIGURATION, text)
    record(text)
    trial.unlink()
    return "confirmed"


def rollback() -> str:
    """Load what was there before the ruleset on trial. If even that fails, the file of the boot, else no table at all:
    a host that nobody can reach is worse than one whose services listen for a while."""
    trial, previous = STATE / "trial", STATE / "previous"
    if not trial.is_file():
        return "nothing to take back"
    for text in (previous.read_text() if previous.is_file() else "", configuration(), REMOVE):
        if TABLE not in text:
            continue
        with contextlib.suppress(Failure):
            load(text)
            break
    if text == configuration():
        record(text)
    trial.unlink()
    return "taken back: nobody confirmed the ruleset"


def status() -> str:
    """Return in one word whether the kernel holds what the boot would load."""
    if (STATE / "trial").is_file():
        return "pending"
    return "confirmed" if holds(configuration()) else "changed"


def start_unit() -> str:
    """Start nftables.service where it does not run, and say so. It loads the same rules again, and calls `record`."""
    if systemctl("is-active", "--quiet", BOOT_UNIT, statuses=()).returncode == 0:
        return ""
    with about(f"{BOOT_UNIT} does not start"):
        systemctl("start", BOOT_UNIT)
    return f", {BOOT_UNIT} started"


def parser() -> argparse.ArgumentParser:
    made = command.Parser(prog=NAME, description=__doc__)
    commands = made.add_subparsers(dest="command", required=True)
    applying = commands.add_parser("apply", help="load a ruleset on trial")
    applying.add_argument("file", type=Path, metavar="FILE", help="a ruleset for nft -f")
    applying.add_argument("--rollback-seconds", type=int, default=60, metavar="N", help="how long to wait (60)")
    applying.add_argument(
        "--missing-users", choices=("refuse", "skip"), default="refuse", help="users whom the host lacks"
    )
    for name in ("confirm", "rollback", "record"):
        commands.add_parser(name)
    asking = commands.add_parser("status", help="print confirmed, pending or changed")
    asking.add_argument("--json", action="store_true", help='as JSON: {"status": the word}')
    return made


def act(options: argparse.Namespace) -> str:
    """Do what is asked, and return what to print."""
    if options.command == "apply":
        return apply(options.file, options.rollback_seconds, options.missing_users)
    if options.command == "confirm":
        return confirm()
    if options.command == "status":
        return json.dumps({"status": status()}) if options.json else status()
    # By hand too; the service that the timer started is not stopped by it.
    disarm()
    if options.command == "rollback":
        return rollback()
    # Whatever was on trial is no longer loaded.
    (STATE / "trial").unlink(missing_ok=True)
    record(configuration())
    return ""


def body(argv: Sequence[str] | None) -> int:
    options = parser().parse_args(argv)
    # No two at once: the timer may fire while somebody confirms.
    with locked(STATE / "lock"):
        said = act(options)
    # Not while we are alone, as the unit calls `record`; and not with Debian's file, which flushes others' tables.
    if options.command in ("apply", "confirm") and said in ("unchanged", "confirmed"):
        said += start_unit()
    if said:
        print(said)
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
