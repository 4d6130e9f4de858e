"""Stop taking donations, or take them again: donation-switch off|on SITE, donation-switch status [SITE]. Needs root.

Switched off, a site answers 503 at once, with Retry-After. What it accepted before still goes to the queue. The
switch outlives restarts and Ansible's runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

FOLDER = Path("/etc/donation-intake")


def main(argv: list[str] | None = None, folder: Path = FOLDER) -> int:
    """Turn or show the switches; exit status 1 for an unknown site or missing rights."""
    parser = argparse.ArgumentParser(prog="donation-switch", description=__doc__)
    parser.add_argument("position", choices=["off", "on", "status"])
    parser.add_argument("site", nargs="?", help="left out with status: all sites")
    parser.add_argument("--json", action="store_true", help="as JSON: {site: on or off}")
    arguments = parser.parse_args(argv)
    known = sorted(path.stem for path in folder.glob("*.json"))
    if arguments.site is None and arguments.position != "status":
        parser.error("name a site")
    if arguments.site not in (None, *known):
        print(f"donation-switch: no site {arguments.site!r}; there are {', '.join(known) or 'none'}", file=sys.stderr)
        return 1
    try:
        if arguments.position == "off":
            (folder / f"{arguments.site}.off").touch(mode=0o644)
        elif arguments.position == "on":
            (folder / f"{arguments.site}.off").unlink(missing_ok=True)
    except PermissionError:
        print("donation-switch: run this as root", file=sys.stderr)
        return 1
    shown = [arguments.site] if arguments.site else known
    states = {site: "off" if (folder / f"{site}.off").exists() else "on" for site in shown}
    if arguments.json:
        print(json.dumps(states))
    for site, state in {} if arguments.json else states.items():
        print(site, state)
    return 0
