"""Stop taking donations, or take them again: donation-switch off|on SITE, donation-switch status [SITE]. Needs root.

Switched off, a site answers 503 at once, with Retry-After. What it accepted before still goes to the queue. The
switch outlives restarts and Ansible's runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from civicrm_tools.core import command
from civicrm_tools.core.command import DONE, Failure

NAME = "donation-switch"
DIRECTORY = Path("/etc/donation-intake")


def switch(directory: Path, site: str) -> Path:
    """Return the file whose presence switches a site off."""
    return directory / f"{site}.off"


def body(argv: Sequence[str] | None) -> int:
    parser = command.Parser(prog=NAME, description=__doc__)
    parser.add_argument("position", choices=["off", "on", "status"])
    parser.add_argument("site", nargs="?", help="left out with status: all sites")
    parser.add_argument("--json", action="store_true", help="as JSON: {site: on or off}")
    options = parser.parse_args(argv)
    known = sorted(path.stem for path in DIRECTORY.glob("*.json"))
    if options.site is None and options.position != "status":
        parser.error("name a site")
    if options.site not in (None, *known):
        raise Failure(f"no site {options.site!r}; there are {', '.join(known) or 'none'}")
    if options.position == "off":
        switch(DIRECTORY, options.site).touch(mode=0o644)
    elif options.position == "on":
        switch(DIRECTORY, options.site).unlink(missing_ok=True)
    shown = [options.site] if options.site else known
    states = {site: "off" if switch(DIRECTORY, site).exists() else "on" for site in shown}
    if options.json:
        print(json.dumps(states))
    for site, state in {} if options.json else states.items():
        print(site, state)
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Turn or show the switches; exit status 1 for an unknown site or missing rights."""
    return command.run(NAME, body, argv)
