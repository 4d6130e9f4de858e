"""Print what the firewall refused since its ruleset was loaded, as Prometheus text.

One counter, firewall_drops_total, in packets. Labels: direction (in, out), reason (unlisted: the map does not name it;
invalid: no part of a connection that the host knows) and user, whose packets were refused. user is empty for what
comes in and for packets of no user. Which ports a user tried: nft list set inet civicrm_firewall refused_ports
"""

from __future__ import annotations

import json
import pwd
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from civicrm_tools.core import command, metrics
from civicrm_tools.core.command import DONE
from civicrm_tools.core.metrics import Family, exposition
from civicrm_tools.host.firewall_apply import TABLE, nft

NAME = "firewall-drops"


def drops(listing: dict[str, Any]) -> dict[tuple[str, str, str], int]:
    """Return {(direction, reason, user): packets} from what `nft -j list table` printed.

    The set of users is bounded: packets of users for whom there was no room count under the empty name.
    """
    counters = {}
    users: dict[str, int] = {}
    for item in listing["nftables"]:
        if "counter" in item:
            counters[item["counter"]["name"]] = item["counter"]["packets"]
        if item.get("set", {}).get("name") == "refused_users":
            for element in item["set"].get("elem", []):
                users[user_name(element["elem"]["val"])] = element["elem"]["counter"]["packets"]
    found = {
        ("in", "invalid", ""): counters["in_invalid"],
        ("in", "unlisted", ""): counters["in_unlisted"],
        ("out", "invalid", ""): counters["out_invalid"],
        # The two were not read in the same instant.
        ("out", "unlisted", ""): max(0, counters["out_unlisted"] - sum(users.values())),
    }
    return found | {("out", "unlisted", user): packets for user, packets in sorted(users.items())}


def user_name(uid: int | str) -> str:
    """Return the name of a uid, which nft prints as a number; a uid that is gone keeps its number."""
    try:
        return pwd.getpwuid(int(uid)).pw_name
    except (KeyError, ValueError):
        return str(uid)


def family(found: dict[tuple[str, str, str], int]) -> Family:
    """Return what `drops` found as a metric."""
    samples = [
        ({"direction": direction, "reason": reason, "user": user}, packets)
        for (direction, reason, user), packets in found.items()
    ]
    return Family("firewall_drops_total", "counter", "Packets that the firewall refused.", samples)


def body(argv: Sequence[str] | None) -> int:
    parser = command.Parser(prog=NAME, description=__doc__)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write FILE instead of printing")
    parser.add_argument("--json", action="store_true", help="print JSON: [{direction, reason, user, packets}]")
    options = parser.parse_args(argv)
    found = family(drops(json.loads(nft("-j", "list", "table", *TABLE.split()))))
    if options.json:
        print(json.dumps([{**labels, "packets": packets} for labels, packets in found.samples], indent=2))
    elif options.output is None:
        print(exposition([found]), end="")
    else:
        metrics.write(options.output, [found])
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
