"""Compare the inventory's list of donation campaigns with what CiviCRM knows. Needs root.

Exit status 0 if they agree, 3 if not, 1 if CiviCRM cannot be asked. A donation is recorded in any case: without its
campaign in CiviCRM only its source names it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from civicrm_tools.core import command
from civicrm_tools.donations.civicrm import Api, ApiGone, ApiRefused
from civicrm_tools.donations.config import Config, campaigns, queues

NAME = "donation-campaigns"


def differences(api: Api, wanted: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Return what CiviCRM must be told: [{name, problem, params}], params for Campaign.create."""
    values = api.call("Campaign", "get", **{"return": ["id", "name", "title", "is_active"], "options": {"limit": 0}})
    known = {row["name"]: row for row in values if "name" in row}
    found = []
    for campaign in wanted:
        params = {"title": campaign["title"], "is_active": int(campaign["state"] == "open")}
        row = known.get(campaign["name"])
        if row is None:
            params["name"] = campaign["name"]
            found.append({"name": campaign["name"], "problem": "missing", "params": params})
            continue
        wrong = [key for key, value in params.items() if str(row.get(key, "")) != str(value)]
        if wrong:
            problem = f"other {', '.join(wrong)}"
            found.append({"name": campaign["name"], "problem": problem, "params": {"id": row["id"], **params}})
    return found


def check(config: Config, wanted: list[dict[str, str]], apply: bool) -> list[dict[str, Any]]:
    """Differences of one queue's CiviCRM, after making them good where `apply` says so."""
    api = Api(config.api_command, config.user, config.api_timeout_seconds)
    try:
        found = differences(api, wanted)
        if apply:
            for difference in found:
                api.call("Campaign", "create", **difference["params"])
            found = differences(api, wanted) if found else []
    finally:
        api.close()
    return [{"name": d["name"], "problem": d["problem"]} for d in found]


def body(argv: Sequence[str] | None) -> int:
    parser = command.Parser(prog=NAME, description=__doc__)
    parser.add_argument("command", choices=["check"])
    parser.add_argument("queue", nargs="?", help="left out: each queue that has a worker")
    parser.add_argument("--apply", action="store_true", help="create what is missing, correct what differs")
    parser.add_argument("--json", action="store_true", help="as JSON: {queue: [{name, problem}]}")
    options = parser.parse_args(argv)
    names = [options.queue] if options.queue else list(queues())
    configs = [config for config in map(Config.load, names) if config.enabled or options.queue]
    result = {config.queue: check(config, campaigns(), options.apply) for config in configs}
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        for queue, found in result.items():
            lines = [f"{queue}: campaign {d['name']}: {d['problem']}" for d in found]
            print("\n".join(lines or [f"{queue}: CiviCRM knows all campaigns"]))
    return command.NO if any(result.values()) else command.DONE


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv, also=(ApiGone, ApiRefused))
