"""Run a file set or a unit set as an Ansible module: arguments in, result out."""

from __future__ import annotations

import base64
import json
import subprocess
import zlib
from dataclasses import asdict

from ansible.module_utils import file_sets, set_journal, unit_sets
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Put a set in place, and bring its units into their states."""
    module = AnsibleModule(
        # One opaque text: Ansible writes a module's arguments to the host's log, and shows them with -vvv.
        argument_spec={"payload": {"type": "str", "required": True, "no_log": True}},
        supports_check_mode=True,
    )
    payload = json.loads(zlib.decompress(base64.b64decode(module.params["payload"])))
    outcome = set_journal.Outcome()
    units = [unit_sets.Wanted(**unit) for unit in payload.get("units", [])]
    try:
        with set_journal.locked():
            changes = file_sets.apply(payload, outcome, lambda found: unit_sets.stop_removed(found, outcome))
            if "units" in payload:
                coming = {unit for change in changes if (unit := set_journal.unit_of(change.target.path))}
                unit_sets.bring(units, outcome, payload["check"], coming)
            elif not payload["check"]:
                unit_sets.forget_missing(payload["name"])
            for handler in payload["settles"]:
                set_journal.settle("notify", handler)
    except (set_journal.Refused, OSError, subprocess.TimeoutExpired) as error:
        module.fail_json(msg=f"{payload['name']}: {error}")
    if payload["diff"] and outcome.done:
        outcome.diff.append({"prepared": "\n".join(outcome.done) + "\n"})
    for warning in outcome.warnings:
        module.warn(warning)
    shown = {name: value for name, value in asdict(outcome).items() if name != "warnings"}
    module.exit_json(changed=bool(changes or outcome.done), **shown)
