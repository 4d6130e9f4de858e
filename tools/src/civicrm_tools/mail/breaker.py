"""Judge what comes to a bounce address before the application does: only a person's own fault may put a person on hold.

New mail waits in the folder Incoming. "run" moves it:

  an address that does not work, a server or network that fails   INBOX, in words that the application reads right
  a refusal of us                                                 Refused; the application never sees it
  the same in a storm of refusals by one provider or server       Quarantine, and the mailing there is paused, until the
                                                                  operator says "release" (they were true: hand them
                                                                  to the application) or "drop" (forget them)
  a delay, an automatic or human answer, a notice, a receipt      Notices
  anything to another address                                     INBOX, as it came

In shadow mode everything passes as it came, and the command only says what it would have done. "explain" says what a
mail or a refusal is about, and why.

A message is moved by rename(2): it is in exactly one folder whenever this command ends, however it ends.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from civicrm_tools.core import command, metrics
from civicrm_tools.core.command import DONE, USAGE, Failure
from civicrm_tools.core.locks import locked
from civicrm_tools.core.run import ProgramFailed, run
from civicrm_tools.mail import breaker_report, delivery_report, handover, refusals, storms
from civicrm_tools.mail.breaker_report import DROPPED, INCOMING, NOTICES, QUARANTINE, REFUSED
from civicrm_tools.mail.delivery_report import Bounce
from civicrm_tools.mail.maildir import Entry, Folder, plain_name
from civicrm_tools.mail.provider_table import DEFAULT
from civicrm_tools.mail.refusals import Limits
from civicrm_tools.mail.return_path import SETTINGS, Settings, Site, load_settings
from civicrm_tools.mail.storms import Event, Storms
from civicrm_tools.mail.verdict import NOBODY, US

NAME = "bounce-breaker"
# Messages judged between two looks at the whole: a storm of any size is worked off in steps.
STEP = 2000
PAUSE_SECONDS = 120
FOLDERS = {"quarantined": QUARANTINE, "refused": REFUSED, "noticed": NOTICES}


class Breaker:
    """One pass over the mailboxes, and the operator's commands."""

    def __init__(
        self, settings: Settings, limits: Limits, database: sqlite3.Connection, now: float | None = None
    ) -> None:
        self.settings, self.limits = settings, limits
        self.now = time.time() if now is None else now
        self.storms = Storms(database, limits, self.now)
        self.database = database
        # Read at each pass: this process runs for months, and domains are learned every few minutes.
        self.owners = settings.owners()
        self.shadow = limits.mode == "shadow"

    # Judging

    def run(self) -> None:
        """Judge and move what waits, and pause the mailings to storms."""
        self.storms.forget()
        arrived: list[tuple[Site, Entry]] = []
        for site in self.settings.sites:
            for name in ("", INCOMING, QUARANTINE, REFUSED, NOTICES) if site.maildir.parent.is_dir() else ():
                Folder(site.maildir, name).make()
            arrived += [(site, entry) for entry in Folder(site.maildir, INCOMING).entries()]
        for begin in range(0, max(len(arrived), 1), STEP):
            self._step(arrived[begin : begin + STEP])
        self.pause()

    def _step(self, arrived: list[tuple[Site, Entry]]) -> None:
        """Judge some messages and move them."""
        with ExitStack() as stack:
            sites = {site.name: site for site, _ in arrived}
            places = {
                (name, folder): stack.enter_context(Folder(site.maildir, folder).kept())
                for name, site in sites.items()
                for folder in (INCOMING, "", *FOLDERS.values())
            }
            self.database.execute("BEGIN")
            judged = [(site, entry, self._event(site, places[site.name, INCOMING], entry)) for site, entry in arrived]
            self.database.execute("COMMIT")
            self._decide()
            totals: dict[str, int] = {}
            verdicts: dict[tuple[str, str], int] = {}
            for site, entry, event in judged:
                outcome = self._outcome(event)
                source = places[site.name, INCOMING]
                name = self._in_right_words(site, source, entry) if outcome == "rewritten" else None
                if source.move(entry, places[site.name, FOLDERS.get(outcome, "")], name):
                    totals[outcome] = totals.get(outcome, 0) + 1
                    if event:
                        about = (event.subject, event.kind)
                        verdicts[about] = verdicts.get(about, 0) + 1
        self.database.execute("BEGIN")
        self.storms.count(totals, verdicts)
        self.database.execute("COMMIT")

    def _event(self, site: Site, folder: Folder, entry: Entry) -> Event | None:
        """What is known of a mail to a bounce address, read once; None for any other, and for what cannot be read.

        Its time is that of the first look: a storm that came while the breaker was away is a storm all the same.
        """
        name = base(entry)
        event = self.storms.event(site.name, name)
        if event is None and (bounce := self._bounce(site, folder, entry)):
            found = self.limits.verdict(bounce)
            domain = bounce.recipient.rpartition("@")[2].lower()
            right = found.subject in (US, NOBODY) or handover.read_right(bounce, found)
            provider, host = self.owners.of(bounce.recipient), refusals.organisation(bounce.host)
            event = Event(site.name, name, self.now, provider, host, domain, found.subject, found.kind, not right)
            self.storms.add(event)
        return event

    def _bounce(self, site: Site, folder: Folder, entry: Entry) -> Bounce | None:
        try:
            return delivery_report.read(folder.read(entry, delivery_report.HEAD_BYTES), site)
        except OSError:
            return None
        except (ValueError, LookupError, RecursionError) as error:
            # It must not hold up all that comes behind it.
            command.tell(NAME, f"{entry.name} cannot be read and passes as it came: {error!r}")
            return None

    def _decide(self) -> None:
        """Open incidents for storms, and fetch the refusals that came before each was one."""
        fresh = self.storms.decide(self.shadow)
        self._open = self.storms.incidents()
        would = "would divert and pause" if self.shadow else "diverting and pausing"
        for name in fresh:
            print(f"{NAME}: {would} {name}: {self._open[name]['why']}", flush=True)
        # At every pass, as the one that opened an incident may have been killed.
        early = self.storms.refused(self._open) if not self.shadow else set()
        for site in self.settings.sites:
            folder = Folder(site.maildir, REFUSED)
            for entry in folder.entries() if any(name == site.name for name, _ in early) else ():
                if (site.name, base(entry)) in early:
                    folder.move(entry, Folder(site.maildir, QUARANTINE))

    def _outcome(self, event: Event | None) -> str:
        """passed, rewritten, refused, quarantined, noticed; in shadow mode what would have been done."""
        if event is None:
            return "passed"
        if event.subject == US:
            stormy = {event.provider, event.host} & self._open.keys()
            outcome = "quarantined" if stormy else "refused"
        elif event.subject == NOBODY:
            outcome = "noticed"
        else:
            outcome = "rewritten" if event.wrap else "passed"
        return SHADOWS[outcome] if self.shadow else outcome

    def _in_right_words(self, site: Site, folder: Folder, entry: Entry) -> str | None:
        """Wrap a message where it lies, and return its new file name; None where it stays as it is."""
        try:
            if not folder.read(entry, len(handover.MARK)).startswith(handover.MARK):
                bounce = self._bounce(site, folder, entry)
                if bounce is None:
                    return None
                hostname = self.settings.hostname
                folder.wrap(entry, *handover.envelope(bounce, self.limits.verdict(bounce), site, hostname))
        except (OSError, ValueError) as error:
            command.tell(NAME, f"{entry.name} is handed over as it came: {error}")
            return None
        # Dovecot believes the size in a file's name.
        return plain_name(entry)

    def pause(self) -> None:
        """Run the pause command for each storm, at every pass: what the mailing queues meanwhile must stop as well.

        Exit status 0 means that nothing is on its way there now.
        """
        for name, row in self.storms.incidents().items():
            domains = [] if name in self.owners.names else self.storms.domains(name)
            argv = self.limits.pause(name, domains) if domains or name in self.owners.names else []
            if row["mode"] != "active" or not argv:
                continue
            paused = False
            try:
                run(*argv, timeout=PAUSE_SECONDS)
                paused = True
            except ProgramFailed as failure:
                command.tell(NAME, f"the mailing to {name} is not paused: {failure}")
            if paused and not row["paused"]:
                print(f"{NAME}: paused the mailing to {name}", flush=True)
            self.database.execute("UPDATE incident SET paused = ? WHERE id = ?", (paused, row["id"]))

    # The operator

    def settle(self, name: str, target: str) -> int:
        """Move a storm's messages out of Quarantine and close its incident; returns how many.

        In this order: whoever is interrupted can say it again.
        """
        others = self.storms.incidents().keys() - {name}
        moved = 0
        for site in self.settings.sites:
            quarantine, folder = Folder(site.maildir, QUARANTINE), Folder(site.maildir, target)
            for entry in quarantine.entries():
                bounce = self._bounce(site, quarantine, entry)
                provider = self.owners.of(bounce.recipient) if bounce else DEFAULT
                host = refusals.organisation(bounce.host) if bounce else ""
                if name not in (provider, host) or (name == DEFAULT and host in others):
                    continue
                folder.make()
                moved += quarantine.move(entry, folder)
        self.storms.settle(name)
        return moved


SHADOWS = {
    "passed": "passed",
    "rewritten": "passed",
    "refused": "would_refuse",
    "quarantined": "would_quarantine",
    "noticed": "would_notice",
}


def base(entry: Entry) -> str:
    """A message's file name without its flags."""
    return entry.name.partition(":2,")[0]


def parser() -> argparse.ArgumentParser:
    top = command.Parser(prog=NAME, description=__doc__)
    top.add_argument("--config", default=SETTINGS, type=Path, metavar="FILE", help=f"settings (default: {SETTINGS})")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="judge what waits in Incoming; a service does this")
    run.add_argument("--every", type=float, metavar="SECONDS", help="again and again, with a pause")
    status = commands.add_parser("status", help="storms, folders, recent bounces")
    status.add_argument("--json", action="store_true", help="print JSON")
    for name, text in (
        ("release", "hand the quarantined bounces of a storm to the application, and end it"),
        ("drop", f"move the quarantined bounces of a storm to {DROPPED}, and end it"),
    ):
        settled = commands.add_parser(name, help=text)
        settled.add_argument("name", metavar="NAME", help="the provider or the servers' domain that status names")
    explained = commands.add_parser("explain", help="say what a mail or a refusal is about, and why")
    explained.add_argument("file", metavar="FILE", help="a mail, or what a server said; - for standard input")
    return top


def body(argv: Sequence[str] | None) -> int:
    options = parser().parse_args(argv)
    try:
        settings = load_settings(options.config)
        section = settings.section("bounce_breaker")
        limits, owners = Limits.of(section), settings.owners()
    except Failure as error:
        raise Failure(str(error), USAGE) from error
    if options.command == "explain":
        text = sys.stdin.buffer.read() if options.file == "-" else Path(options.file).read_bytes()
        print(breaker_report.explain(text, settings, limits, owners))
        return DONE
    state = Path(section.get("state_file") or "/var/lib/bounce-breaker/state.db")
    pause = getattr(options, "every", None)
    once(options, settings, limits, state)
    while pause:
        time.sleep(pause)
        once(options, settings, limits, state)
    return DONE


def once(options: argparse.Namespace, settings: Settings, limits: Limits, state: Path) -> None:
    """Do what is asked, once. The state is closed each time: this process runs for months."""
    with locked(state.with_suffix(".lock")), closing(storms.open_storms(state)) as database:
        breaker = Breaker(settings, limits, database)
        known = [*breaker.owners.names, *breaker.storms.incidents()]
        if getattr(options, "name", DEFAULT) not in known:
            raise Failure(f"nobody called {options.name!r}; known: {', '.join(dict.fromkeys(known))}", USAGE)
        if options.command == "status":
            found = breaker_report.status(settings, limits, breaker.storms, breaker.owners)
            print(json.dumps(found, indent=2) if options.json else breaker_report.describe(found))
            return
        if options.command == "run":
            breaker.run()
        else:
            moved = breaker.settle(options.name, "" if options.command == "release" else DROPPED)
            print(f"{moved} messages moved; the mailing to {options.name} stays as it is: resume it yourself")
        if settings.textfile_directory:
            families = breaker_report.families(settings, limits, breaker.storms, breaker.owners)
            metrics.write(settings.textfile_directory / "bounce-breaker.prom", families)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 when something could not be done; 2 for wrong usage or settings."""
    return command.run(NAME, body, argv, also=(sqlite3.Error,))
