"""Bring a set of systemd units into their states, and do what changed files still ask of them.

Works on what `file_sets` left: its marks say which unit is to be restarted or reloaded, whoever wrote the file and
whenever that was. A mark is struck when the unit has been started, restarted or reloaded after it.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Any

from ansible.module_utils import set_journal
from ansible.module_utils.set_journal import Change, Outcome, Refused

PROPERTIES = "Id,LoadState,ActiveState,UnitFileState,Triggers,ConditionResult,ConditionTimestampMonotonic"
RUNNING = ("active", "reloading", "activating", "refreshing")
# States in which there is nothing to enable: no [Install], a name for another unit, made by a generator.
ENABLED = ("enabled", "enabled-runtime", "static", "alias", "indirect", "generated", "transient")


DONE_HERE = {"": ("restart", "reload"), "reload": ("reload",), "start": ()}


@dataclass
class Wanted:
    """One unit of the set. enabled and masked: None leaves it as it is; state: started, stopped or any.

    only: what of that which is asked for is done here; the rest is left to another set that names the unit. "reload":
    no restart; "start": neither, but a unit that does not run is started.
    """

    name: str
    state: str = "started"
    enabled: bool | None = True
    masked: bool | None = None
    reload_command: str = ""
    defer_while: str = ""
    only: str = ""


def systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return set_journal.run(["systemctl", "--no-ask-password", *arguments])


def show(names: list[str]) -> dict[str, dict[str, str]]:
    """Return the properties of units as systemd has them now, by the names that were asked for."""
    if not names:
        return {}
    text = systemctl("show", "--no-pager", f"--property={PROPERTIES}", "--", *names).stdout
    blocks = [block for block in text.split("\n\n") if block.strip()]
    if len(blocks) != len(names):
        raise Refused(f"systemctl show told of {len(blocks)} of {len(names)} units: is systemd running on this host?")
    return {
        name: dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        for name, block in zip(names, blocks, strict=True)
    }


def order(what: str, unit: str) -> None:
    """Have systemd do something with a unit. Raises Refused with its own words."""
    done = systemctl(what, "--", unit)
    if done.returncode == 0:
        return
    said = set_journal.one_line(done.stderr, "\0")
    raise Refused(f"{unit}: systemctl {what} failed: {said}. Look at: journalctl -u {unit} -n 20")


def stop_removed(changes: list[Change], outcome: Outcome) -> None:
    """Stop and disable the units whose files are about to go; [Install] is read while it is there.

    A drop-in stands for its unit only where a pattern owns it: one that is renamed says nothing about a daemon.
    """
    removed = {
        unit
        for c in changes
        if c.action == "remove"
        and (unit := set_journal.unit_of(c.target.path))
        and (c.target.former or c.target.path == set_journal.UNITS + unit)
    }
    replaced = {unit for c in changes if c.action != "remove" and (unit := set_journal.unit_of(c.target.path))}
    for unit in sorted(
        removed - replaced, key=lambda name: (not name.endswith(set_journal.RESTARTED_BY_THEMSELVES), name)
    ):
        if "@." in unit:  # a template has no state of its own
            continue
        properties = show([unit])[unit]
        if properties["LoadState"] == "not-found":
            continue
        if properties["ActiveState"] in RUNNING:
            order("stop", unit)
        if properties["UnitFileState"] == "enabled":
            order("disable", unit)
        set_journal.settle("units", unit)
        outcome.done.append(f"stopped {unit}, which is not wanted any more")


def _mark_of(unit: str) -> str | None:
    marks = [one["units"].get(unit) for one in set_journal.all_marks().values()]
    return "restart" if "restart" in marks else "reload" if "reload" in marks else None


def _start(unit: Wanted, properties: dict[str, str]) -> None:
    if properties["ActiveState"] == "failed":
        systemctl("reset-failed", "--", unit.name)  # else a limit of starts would still count
    order("start", unit.name)


def _restart(unit: Wanted, properties: dict[str, str]) -> None:
    if unit.name.endswith(".socket"):
        # A socket is not started again while its service, which holds it, runs.
        for service in properties.get("Triggers", "").split():
            order("stop", service)
        order("stop", unit.name)
        order("start", unit.name)
    else:
        order("restart", unit.name)


def _reload(unit: Wanted) -> None:
    if not unit.reload_command:
        order("reload", unit.name)
        return
    done = set_journal.run(unit.reload_command)
    if done.returncode:
        said = "; ".join(done.stderr.split("\n"))[: set_journal.MESSAGE_CHARACTERS]
        raise Refused(f"{unit.name}: '{unit.reload_command}' ended with status {done.returncode}: {said}")


def _enable(unit: Wanted, properties: dict[str, str]) -> list[tuple[str, str]]:
    """Return the orders that bring a unit's enablement about, with the words for them."""
    there = properties["LoadState"] != "not-found"
    file_state = properties["UnitFileState"]
    orders = []
    if unit.masked is False and file_state.startswith("masked"):
        orders.append(("unmask", "unmasked"))
        file_state = "disabled"
    if unit.masked and not file_state.startswith("masked"):
        orders.append(("mask", "masked"))
    if unit.enabled and file_state not in ENABLED:
        orders.append(("enable", "enabled"))
    if unit.enabled is False and there and file_state in ("enabled", "enabled-runtime"):
        orders.append(("disable", "disabled"))
    return orders


def _passed_over(properties: dict[str, str]) -> bool:
    """Return whether systemd found that a condition of the unit does not hold, as for a clock in a container."""
    return properties["ConditionResult"] == "no" and properties["ConditionTimestampMonotonic"] != "0"


def _bring(unit: Wanted, properties: dict[str, str], outcome: Outcome, check: bool) -> None:
    running = properties["ActiveState"] in RUNNING
    mark = _mark_of(unit.name)
    if running and mark not in DONE_HERE[unit.only]:
        mark = None
    steps: list[tuple[str, Any]] = [
        (words, lambda what=what: order(what, unit.name)) for what, words in _enable(unit, properties)
    ]
    if unit.state == "stopped" and running:
        steps.append(("stopped", lambda: order("stop", unit.name)))
    elif unit.state == "started" and not running:
        if not _passed_over(properties):
            steps.append(("started", lambda: _start(unit, properties)))
        elif not check:
            order("start", unit.name)
    elif mark and running and unit.state != "stopped":
        if mark == "restart" and unit.defer_while and set_journal.run(unit.defer_while).returncode == 0:
            outcome.warnings.append(
                f"{unit.name} runs with older files than are written: its restart waits while '{unit.defer_while}' "
                "succeeds. Run the playbook again then"
            )
            return
        if mark == "restart":
            steps.append(("restarted", lambda: _restart(unit, properties)))
        else:
            steps.append(("reloaded", lambda: _reload(unit)))
    for words, step in steps:
        if not check:
            step()
        outcome.done.append(f"{words} {unit.name}")
    if mark and not check:
        if properties["ActiveState"] == "failed" and unit.state == "any":
            systemctl(
                "reset-failed", "--", unit.name
            )  # with its old files; whoever needs it starts it with the new ones
        set_journal.settle("units", unit.name)


def forget_missing(name: str) -> None:
    """Strike the marks of a set for units that this host does not have: nothing runs with the old files."""
    asked = list((set_journal.all_marks().get(name) or set_journal.empty_marks())["units"])
    for unit, properties in show(asked).items():
        if properties["LoadState"] == "not-found":
            set_journal.settle("units", unit)


def bring(units: list[Wanted], outcome: Outcome, check: bool, coming: set[str]) -> None:
    """Enable, mask, start, stop, restart and reload units, in the order of the list.

    coming: units whose files a check found to come; they may be missing.
    """
    if any(marks["daemon_reload"] for marks in set_journal.all_marks().values()) and not check:
        done = systemctl("daemon-reload")
        if done.returncode:
            raise Refused(f"systemctl daemon-reload failed: {done.stderr.strip()}")
        set_journal.settle("daemon_reload")
    properties = show([unit.name for unit in units])
    for unit in units:
        found = properties[unit.name]
        if found["LoadState"] == "not-found" and (unit.state == "started" or unit.enabled):
            if unit.state != "any":
                if not check:
                    raise Refused(
                        f"{unit.name}: this host has no such unit: correct the name, or install its package first"
                    )
                outcome.done.append(f"{unit.name} is to come" if unit.name not in coming else f"started {unit.name}")
            continue
        before = len(outcome.done)
        _bring(unit, found, outcome, check)
        if len(outcome.done) > before and not check:
            properties = show([one.name for one in units])  # a socket's restart stops its service
