"""Repair the private link, and say what was done: a line for each repair."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from civicrm_tools.core import files
from civicrm_tools.host import ipsec_link as link
from civicrm_tools.host.ipsec_link import Config, Peer, Report

STATE = Path("/run/ipsec-health.json")
# A peer with SAs that does not answer: longer than dead peer detection takes, so that charon comes first.
SILENT_SECONDS = 45
REAUTHENTICATION_SECONDS = 30


@dataclass
class State:
    """What a run must know of those before it, since boot. Times are seconds of the monotonic clock."""

    repairs: dict[str, int] = field(default_factory=dict)
    down_since: dict[str, float] = field(default_factory=dict)
    silent_since: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    charon: str = "answers"

    @classmethod
    def load(cls) -> State:
        try:
            return files.read_json(STATE, lambda raw: cls(**raw))
        except files.Unreadable:
            return cls()

    def save(self) -> None:
        files.write_json(STATE, vars(self))

    def held_off(self, what: str, now: float, seconds: float) -> bool:
        """Whether something was done less than `seconds` ago; if not, it counts as done now."""
        if now - self.last.get(what, -seconds) < seconds:
            return True
        self.last[what] = now
        return False

    def count(self, action: str) -> None:
        self.repairs[action] = self.repairs.get(action, 0) + 1


def say(line: str) -> None:
    # systemd reads the level: repairs pass the unit's filter, its own "Started" and "Finished" do not.
    print(("<5>" if "JOURNAL_STREAM" in os.environ else "") + line, flush=True)


def repair_guard(report: Report, state: State) -> None:
    if report.guard == "loaded":
        return
    # The unit has no ExecStop: a restart loads the table in one transaction.
    done = link.run("systemctl", "restart", "ipsec-guard.service")
    before, report.guard, report.dropped = report.guard, link.guard_state(), link.guard_counters()
    failed = done.stderr.strip() or "it still does"
    say(
        f"guard: {before}: "
        + (f"loaded {link.GUARD_FILE}" if report.guard == "loaded" else f"could not be loaded: {failed}")
    )
    state.count("guard")


def repair_charon(report: Report, state: State, config: Config, now: float) -> None:
    before, state.charon = state.charon, report.charon
    if report.charon == "inactive" and before != "inactive":
        say("charon: stopped by hand, left alone; start it with 'systemctl start strongswan'")
    # Once mute may be a restart that has just begun; systemd's own restarts come first.
    broken = report.charon == "failed" or (report.charon == "active" and before == "active")
    if broken and not state.held_off("restart", now, config.hold_off_seconds):
        link.run("systemctl", "reset-failed", "strongswan.service")
        link.run("systemctl", "restart", "--no-block", "strongswan.service")
        say(f"charon: {'failed' if report.charon == 'failed' else 'does not answer'}: restarted")
        state.count("restart")


def repair_peer(name: str, peer: Peer, state: State, config: Config, now: float) -> None:
    if peer.up and name in state.down_since:
        say(f"peer {name}: up again after {now - state.down_since.pop(name):.0f} s")
    if not peer.installed:
        first = name not in state.down_since
        state.down_since.setdefault(name, now)
        state.silent_since.pop(name, None)
        if peer.connecting:
            if first:
                say(f"peer {name}: no CHILD_SA: charon is connecting")
            return
        # A negative timeout: do not wait for the outcome, the next run sees it.
        done = link.run("swanctl", "--initiate", "--child", name, "--timeout", "-1")
        if "not found" in done.stderr:
            link.run("swanctl", "--load-all", "--noprompt")
            say(f"peer {name}: charon did not know the connection: loaded")
        if first:
            say(f"peer {name}: no CHILD_SA: initiated")
            state.count("initiate")
    elif any(peer.answers.values()):
        state.silent_since.pop(name, None)
    elif now - state.silent_since.setdefault(name, now) >= SILENT_SECONDS:
        state.down_since.setdefault(name, state.silent_since[name])
        if not state.held_off(f"reauthenticate {name}", now, config.hold_off_seconds):
            # Make before break: if the peer is fine and only refuses to answer, nothing is lost.
            link.run("swanctl", "--rekey", "--ike", name, "--reauth")
            say(
                f"peer {name}: no answer through the tunnel for {now - state.silent_since[name]:.0f} s: reauthenticated"
            )
            state.count("reauthenticate")


def repair(report: Report, state: State, config: Config, now: float) -> None:
    repair_guard(report, state)
    repair_charon(report, state, config, now)
    if report.charon == "answers":
        for name, peer in report.peers.items():
            repair_peer(name, peer, state, config, now)


def reauthenticate(names: list[str]) -> list[str]:
    """Prove that the loaded keys work: one new IKE_SA with a CHILD_SA for each peer, made before the old one goes.

    Returns the names of peers for which none came within REAUTHENTICATION_SECONDS; their old SAs stay.
    """
    before = {sa["uniqueid"] for _, sa in link.list_sas() or []}
    for name in names:
        if link.run("swanctl", "--rekey", "--ike", name, "--reauth").returncode != 0:
            link.run("swanctl", "--initiate", "--child", name, "--timeout", "-1")  # there was no SA to replace
    deadline = time.monotonic() + REAUTHENTICATION_SECONDS
    while True:
        new = [(name, sa) for name, sa in link.list_sas() or [] if sa["uniqueid"] not in before]
        states = link.peer_states(names, new)
        missing = [name for name in names if not states[name].installed]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.5)
