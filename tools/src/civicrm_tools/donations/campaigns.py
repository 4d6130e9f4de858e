"""Compare the inventory's list of donation campaigns with what CiviCRM knows. Needs root.

Exit status 0 if they agree, 1 if not, 2 if CiviCRM cannot be asked. A donation is recorded in any case: without its
campaign in CiviCRM only its source names it.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from civicrm_tools.core.command import Failure
from civicrm_tools.donations.civicrm import Api, ApiGone, ApiRefused
from civicrm_tools.donations.config import Config, campaigns, queues


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


def main(argv: list[str] | None = None) -> int:
    """Check the CiviCRM behind one queue, or behind each queue that has a worker."""
    parser = argparse.ArgumentParser(prog="donation-campaigns", description=__doc__)
    parser.add_argument("command", choices=["check"])
    parser.add_argument("queue", nargs="?", help="left out: each queue that has a worker")
    parser.add_argument("--apply", action="store_true", help="create what is missing, correct what differs")
    parser.add_argument("--json", action="store_true", help="as JSON: {queue: [{name, problem}]}")
    arguments = parser.parse_args(argv)
    try:
        names = [arguments.queue] if arguments.queue else list(queues())
        configs = [config for config in map(Config.load, names) if config.enabled or arguments.queue]
        result = {config.queue: check(config, campaigns(), arguments.apply) for config in configs}
    except (Failure, ApiGone, ApiRefused) as error:
        print(f"donation-campaigns: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        for queue, found in result.items():
            lines = [f"{queue}: campaign {d['name']}: {d['problem']}" for d in found]
            print("\n".join(lines or [f"{queue}: CiviCRM knows all campaigns"]))
    return 1 if any(result.values()) else 0
