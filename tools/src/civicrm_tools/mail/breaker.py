"""A provider's refusals of us must not put its recipients on hold.

New mail waits in the folder Incoming. "run" moves it to INBOX, where the application takes it for bounces and
unsubscribes. When one provider refuses many recipients for a reason that lies with us (5.7.x and the like), its
refusals go to the folder Quarantine instead, and the pause command stops the mailing to that provider, until the
operator says "release" (they were true: hand them to the application) or "drop" (forget them). All else passes, also
from the same provider: an address that does not exist stays dead.

A refusal of that kind is held back for a while before it passes, for the storm may only be beginning; other mail is
not. In shadow mode everything passes at once, and the command only says what it would have done.

A message is moved by rename(2): it is in exactly one folder whenever this command ends, however it ends.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from civicrm_tools.core import metrics
from civicrm_tools.core.command import Failure
from civicrm_tools.core.locks import locked
from civicrm_tools.core.metrics import Family, gauge
from civicrm_tools.mail import delivery_report
from civicrm_tools.mail.delivery_report import Bounce
from civicrm_tools.mail.journal import open_state
from civicrm_tools.mail.maildir import Entry, Folder
from civicrm_tools.mail.provider_table import DEFAULT
from civicrm_tools.mail.refusals import Limits
from civicrm_tools.mail.return_path import SETTINGS, Settings, SettingsError, Site, load_settings

INCOMING = "Incoming"
QUARANTINE = "Quarantine"
DROPPED = "Quarantine.dropped"
# Messages judged between two looks at the whole: a storm of any size is worked off in steps.
STEP = 2000

SCHEMA = """
CREATE TABLE IF NOT EXISTS event (
    site TEXT, name TEXT, time REAL, provider TEXT, policy INTEGER, PRIMARY KEY (site, name)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS event_by_time ON event (provider, time);
CREATE TABLE IF NOT EXISTS incident (
    id INTEGER PRIMARY KEY, provider TEXT, mode TEXT, since REAL, until REAL, paused INTEGER, why TEXT);
CREATE TABLE IF NOT EXISTS forgiven (provider TEXT PRIMARY KEY, time REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS total (outcome TEXT PRIMARY KEY, messages INTEGER) WITHOUT ROWID;
"""


class Breaker:
    """One pass over the mailboxes, and the operator's commands."""

    def __init__(
        self, settings: Settings, limits: Limits, database: sqlite3.Connection, now: float | None = None
    ) -> None:
        self.settings, self.limits, self.database = settings, limits, database
        # Read at each pass: this process runs for months, and domains are learned every few minutes.
        self.owners = settings.owners()
        self.now = time.time() if now is None else now
        self.shadow = limits.mode == "shadow"

    # Judging

    def run(self) -> None:
        """Move what may pass, divert storms, pause their mailings."""
        self.database.execute("DELETE FROM event WHERE time < ?", (self.now - 2 * self.limits.window,))
        for site in self.settings.sites:
            for name in ("", INCOMING, QUARANTINE) if site.maildir.parent.is_dir() else ():
                Folder(site.maildir, name).make()
        arrived = [(site, entry) for site in self.settings.sites for entry in Folder(site.maildir, INCOMING).entries()]
        for begin in range(0, max(len(arrived), 1), STEP):
            self._step(arrived[begin : begin + STEP])
        self.pause()

    def _step(self, arrived: list[tuple[Site, Entry]]) -> None:
        """Judge some messages and move those whose time has come."""
        self.database.execute("BEGIN")
        waiting = [(site, entry, self._event(site, entry)) for site, entry in arrived]
        self.database.execute("COMMIT")
        self._decide()
        totals: dict[str, int] = {}
        for site, entry, event in waiting:
            outcome = self._outcome(event)
            if outcome == "waiting":
                continue
            target = Folder(site.maildir, QUARANTINE if outcome == "quarantined" else "")
            if Folder(site.maildir, INCOMING).move(entry, target):
                totals[outcome] = totals.get(outcome, 0) + 1
        self.database.execute("BEGIN")
        for outcome, number in totals.items():
            self.database.execute(
                "INSERT INTO total VALUES (?, ?) ON CONFLICT DO UPDATE SET messages = messages + excluded.messages",
                (outcome, number),
            )
        self.database.execute("COMMIT")

    def _event(self, site: Site, entry: Entry) -> sqlite3.Row | None:
        """What is known of a bounce, read once; None for mail that is none, and for what cannot be read.

        Its time is that of the first look: a storm that came while the breaker was away is a storm all the same.
        """
        name = entry.name.partition(":2,")[0]
        query = "SELECT * FROM event WHERE site = ? AND name = ?"
        row: sqlite3.Row | None = self.database.execute(query, (site.name, name)).fetchone()
        if row is None and (bounce := self._bounce(site, Folder(site.maildir, INCOMING), entry)):
            values = (
                site.name,
                name,
                self.now,
                self.owners.of(bounce.recipient),
                self.limits.is_policy(bounce),
            )
            self.database.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?)", values)
            row = self.database.execute(query, (site.name, name)).fetchone()
        return row

    def _bounce(self, site: Site, folder: Folder, entry: Entry) -> Bounce | None:
        try:
            return delivery_report.read(folder.read(entry, delivery_report.HEAD_BYTES), site)
        except OSError:
            return None

    def recent(self) -> dict[str, tuple[int, int]]:
        """{provider: (refusals of us, all bounces)} within the window, since the operator's last word."""
        rows = self.database.execute(
            "SELECT e.provider, SUM(e.policy) AS policy, COUNT(*) AS bounces FROM event e "
            "LEFT JOIN forgiven f ON f.provider = e.provider "
            "WHERE e.time >= ? AND e.time > IFNULL(f.time, 0) GROUP BY e.provider",
            (self.now - self.limits.window,),
        )
        return {row["provider"]: (row["policy"], row["bounces"]) for row in rows}

    def incidents(self) -> dict[str, sqlite3.Row]:
        """The open incident of each provider."""
        rows = self.database.execute("SELECT * FROM incident WHERE until IS NULL ORDER BY id")
        return {row["provider"]: row for row in rows}

    def _decide(self) -> None:
        """Open an incident for each storm. Only the operator closes one; a shadow one ends with its storm."""
        recent = self.recent()
        storms = {
            provider: f"{policy} of {bounces} bounces in {self.limits.window:g} s refuse us"
            for provider, (policy, bounces) in recent.items()
            if policy >= self.limits.storm_messages and policy >= self.limits.storm_share * bounces
        }
        for provider, row in self.incidents().items():
            if row["mode"] == "shadow" and (provider not in storms or not self.shadow):
                self.database.execute("UPDATE incident SET until = ? WHERE id = ?", (self.now, row["id"]))
        for provider in storms.keys() - self.incidents().keys():
            values = (provider, self.limits.mode, self.now, storms[provider])
            self.database.execute(
                "INSERT INTO incident (provider, mode, since, paused, why) VALUES (?, ?, ?, 0, ?)", values
            )
            would = "would divert and pause" if self.shadow else "diverting and pausing"
            print(f"bounce-breaker: {would} {provider}: {storms[provider]}", flush=True)
        self._open = self.incidents()
        self._suspected = {
            provider for provider, (policy, _) in recent.items() if policy * 4 >= self.limits.storm_messages
        }

    def _outcome(self, event: sqlite3.Row | None) -> str:
        """passed, would_quarantine (and passed), quarantined, or waiting."""
        if event is None or not event["policy"]:
            return "passed"
        incident = self._open.get(event["provider"])
        if self.shadow:
            return "would_quarantine" if incident else "passed"
        if incident:
            return "quarantined"
        # A few are normal. With a quarter of a storm there, the rest of it may come at any pace within the window.
        wait = self.limits.window if event["provider"] in self._suspected else self.limits.hold_back
        return "waiting" if self.now < event["time"] + wait else "passed"

    def pause(self) -> None:
        """Run the pause command for each storm, at every pass: what the mailing queues meanwhile must stop as well.

        Exit status 0 means that nothing is on its way to the provider now.
        """
        for provider, row in self.incidents().items():
            if row["mode"] != "active" or not self.limits.pause_command:
                continue
            argv = [word.replace("{provider}", provider) for word in self.limits.pause_command]
            try:
                done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=120, check=False)
                problem = done.stderr.strip() or f"exit status {done.returncode}" if done.returncode else ""
            except (OSError, subprocess.TimeoutExpired) as error:
                problem = str(error)
            if problem:
                print(
                    f"bounce-breaker: the mailing to {provider} is not paused: {problem}", file=sys.stderr, flush=True
                )
            elif not row["paused"]:
                print(f"bounce-breaker: paused the mailing to {provider}", flush=True)
            self.database.execute("UPDATE incident SET paused = ? WHERE id = ?", (not problem, row["id"]))

    # The operator

    def settle(self, provider: str, target: str) -> int:
        """Close a provider's incident and move its messages out of Quarantine; returns how many."""
        self.database.execute(
            "UPDATE incident SET until = ? WHERE provider = ? AND until IS NULL", (self.now, provider)
        )
        self.database.execute("INSERT OR REPLACE INTO forgiven VALUES (?, ?)", (provider, self.now))
        moved = 0
        for site in self.settings.sites:
            quarantine, folder = Folder(site.maildir, QUARANTINE), Folder(site.maildir, target)
            for entry in quarantine.entries():
                bounce = self._bounce(site, quarantine, entry)
                if (self.owners.of(bounce.recipient) if bounce else DEFAULT) != provider:
                    continue
                folder.make()
                moved += quarantine.move(entry, folder)
        return moved

    def status(self) -> dict[str, Any]:
        """All there is to know, as JSON types."""
        recent, open_ = self.recent(), self.incidents()
        return {
            "mode": self.limits.mode,
            "storm": f"{self.limits.storm_messages} in {self.limits.window:g} s and {self.limits.storm_share:.0%}",
            "providers": {
                name: {
                    "open": name in open_,
                    "since": open_[name]["since"] if name in open_ else None,
                    "why": open_[name]["why"] if name in open_ else "",
                    "paused": bool(open_[name]["paused"]) if name in open_ else False,
                    "refusals": recent.get(name, (0, 0))[0],
                    "bounces": recent.get(name, (0, 0))[1],
                }
                for name in self.owners.names
            },
            "sites": {
                site.name: {
                    folder.lower(): Folder(site.maildir, folder).count() for folder in (INCOMING, QUARANTINE, DROPPED)
                }
                for site in self.settings.sites
            },
        }

    def families(self) -> list[Family]:
        """Prometheus text. Labels: configured providers and "default", sites, four outcomes."""
        state = self.status()
        totals = dict.fromkeys(("passed", "quarantined", "would_quarantine"), 0)
        totals |= {row["outcome"]: row["messages"] for row in self.database.execute("SELECT * FROM total")}
        by_provider = [({"provider": name}, entry) for name, entry in state["providers"].items()]
        active = not self.shadow
        return [
            Family(
                "bounce_breaker_open",
                "gauge",
                "1 while a provider's refusals of us are a storm.",
                [(labels, int(entry["open"])) for labels, entry in by_provider],
            ),
            Family(
                "bounce_breaker_unpaused",
                "gauge",
                "1 while the mailing to a provider should be paused and is not.",
                [(labels, int(active and entry["open"] and not entry["paused"])) for labels, entry in by_provider],
            ),
            Family(
                "bounce_breaker_recent_bounces",
                "gauge",
                "Bounces within the window, by reason.",
                [
                    ({**labels, "reason": reason}, number)
                    for labels, entry in by_provider
                    for reason, number in (
                        ("policy", entry["refusals"]),
                        ("other", entry["bounces"] - entry["refusals"]),
                    )
                ],
            ),
            Family(
                "bounce_breaker_messages_total",
                "counter",
                "Messages moved out of Incoming.",
                [({"outcome": outcome}, number) for outcome, number in sorted(totals.items())],
            ),
            gauge("bounce_breaker_shadow", "1 in shadow mode.", self.shadow),
            gauge("bounce_breaker_last_run_timestamp_seconds", "When the breaker last ended well.", int(self.now)),
        ]


def describe(state: dict[str, Any]) -> str:
    """What a human reads of status()."""
    lines = [f"mode {state['mode']}; a storm is {state['storm']} of a provider's bounces"]
    for name, entry in state["providers"].items():
        what = "normal"
        if entry["open"]:
            since = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(entry["since"]))
            what = f"STORM since {since}: {entry['why']}; mailing {'paused' if entry['paused'] else 'not paused'}"
        lines.append(f"{name}: {what} ({entry['refusals']} of {entry['bounces']} recent bounces refuse us)")
    for name, folders in state["sites"].items():
        lines.append(f"mailbox {name}: " + ", ".join(f"{count} in {folder}" for folder, count in folders.items()))
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="bounce-breaker", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--config", default=SETTINGS, type=Path, metavar="FILE", help=f"settings (default: {SETTINGS})")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="judge what waits in Incoming; a service does this")
    run.add_argument("--every", type=float, metavar="SECONDS", help="again and again, with a pause")
    status = commands.add_parser("status", help="storms, folders, recent bounces")
    status.add_argument("--json", action="store_true", help="print JSON")
    for name, text in (
        ("release", "hand a provider's quarantined bounces to the application, and end its storm"),
        ("drop", f"move a provider's quarantined bounces to {DROPPED}, and end its storm"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("provider", metavar="PROVIDER")
    return top


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 1 when something could not be done; 2 for wrong usage or settings."""
    options = parser().parse_args(argv)
    try:
        settings = load_settings(options.config)
        section = settings.section("bounce_breaker")
        limits = Limits.of(section)
        known = settings.owners().names
        if getattr(options, "provider", DEFAULT) not in known:
            raise SettingsError(f"no provider {options.provider!r}; known: {', '.join(known)}")
    except Failure as error:
        print(f"bounce-breaker: {error}", file=sys.stderr)
        return 2
    state = Path(section.get("state_file") or "/var/lib/bounce-breaker/state.db")
    pause = getattr(options, "every", None)
    status = once(options, settings, limits, state)
    while pause and not status:
        time.sleep(pause)
        status = once(options, settings, limits, state)
    return status


def once(options: argparse.Namespace, settings: Settings, limits: Limits, state: Path) -> int:
    """Do what is asked, once; returns the exit status."""
    try:
        # Closed each time: this process runs for months.
        with locked(state.with_suffix(".lock")), closing(open_state(state, SCHEMA)) as database:
            breaker = Breaker(settings, limits, database)
            if options.command == "status":
                found = breaker.status()
                print(json.dumps(found, indent=2) if options.json else describe(found))
                return 0
            if options.command == "run":
                breaker.run()
            else:
                moved = breaker.settle(options.provider, "" if options.command == "release" else DROPPED)
                print(f"{moved} messages moved; the mailing to {options.provider} stays as it is: resume it yourself")
            if settings.textfile_directory:
                metrics.write(settings.textfile_directory / "bounce-breaker.prom", breaker.families())
    except (Failure, OSError, sqlite3.Error) as error:
        print(f"bounce-breaker: {error}", file=sys.stderr)
        return 1
    return 0
