#!/usr/bin/env python3
"""Measure the return path on the running lab, and write docs/benchmarks/return-path.md.

Reports on a real newsletter come in by SMTP from the world, pass the bounce breaker and are drained by CiviCRM's own
job; the same reports in the test site's mailbox, drained by a client that only moves them one by one, are the bound.
What the benchmark puts into mailboxes is expunged; its contacts stay. Standard library only, besides the lab's vault
for the test mailbox's login (see front_door.py).

The default run is sized for ten minutes on two cores; --full takes half an hour.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import ask_agent, hosts_and_sizes, need_lab, on_host, table, write_page
from front_door import vault
from report_agent import MARK

AGENT = Path(__file__).with_name("report_agent.py").read_text()
# Of ten reports. None refuses us: a storm of those is the breaker's business, not a mailbox's daily bread.
MIX = ["unknown", "unknown", "quota", "unknown", "vacation", "unknown", "unsubscribe", "unknown", "forged", "unknown"]
COUNTED = ("unknown", "quota")  # what CiviCRM counts as a bounce
FILED = ("vacation",)  # what the breaker files in Notices: the application never sees it
CONNECTIONS = 4
PEOPLE = 300
FOLDER = "INBOX.ReturnPathBench"
QUEUED = """
    SELECT q.job_id, q.id, q.hash, e.email FROM civicrm_mailing_event_queue q
    JOIN civicrm_mailing_job j ON j.id = q.job_id JOIN civicrm_email e ON e.id = q.email_id
    WHERE j.mailing_id = @mailing
"""
BOUNCES = """
    SELECT COUNT(*) FROM civicrm_mailing_event_bounce b JOIN civicrm_mailing_event_queue q ON q.id = b.event_queue_id
    JOIN civicrm_mailing_job j ON j.id = q.job_id WHERE j.mailing_id = @mailing
"""


@dataclass
class Bench:
    """Where is measured, and how much."""

    host: str
    world: str
    site: str
    bound_site: str
    domain: str
    bound_domain: str
    reports: int
    people: int
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        self.unit = f"civicrm-{self.site}-fetch-bounces.service"
        self.kinds = [MIX[n % len(MIX)] for n in range(self.reports)]
        self.stamp = f"{MARK}-{int(time.time())}"
        self.mailing_id = 0
        self.queued: list[list[str]] = []

    def ask(self, action: str, timeout: float = 60, host: str = "", **given: Any) -> dict[str, Any]:
        """Have the agent do something; its own limit of time is `timeout`, in seconds."""
        return ask_agent(host or self.host, AGENT, timeout + 180, action=action, seconds=timeout, **given)

    def query(self, text: str) -> list[list[str]]:
        """Ask the site's database about the benchmark's mailing."""
        out = on_host(self.host, "mariadb", "-NBe", f"SET @mailing = {self.mailing_id}; {text}", self.site)
        return [line.split("\t") for line in out.splitlines()]

    def clean(self) -> None:
        jobs = sorted({job for job, *_ in self.queued})
        self.ask("clean", 900, users=[self.site, self.bound_site], folder=FOLDER, jobs=jobs)

    def mailing(self) -> None:
        """Send a real newsletter, and note each person's job, queue ID, hash and address."""
        people = [word for n in range(self.people) for word in ("--contact", f"{self.stamp}-{n}@accepting.test")]
        told = on_host(self.host, "lab-newsletter", "create", "--group", self.stamp, *people, timeout=600)
        self.mailing_id = int(json.loads(told)["mailing"])
        deadline = time.monotonic() + 120
        while len(self.queued) < self.people:
            if time.monotonic() > deadline:
                raise RuntimeError(f"only {len(self.queued)} of {self.people} newsletters are made")
            on_host(self.host, "systemctl", "start", f"civicrm-{self.site}-process-mailing.service")
            self.queued = self.query(QUEUED)
        self.silence()

    def silence(self) -> None:
        """Wait until Postfix has sent what CiviCRM writes to the benchmark's people: nothing else is measured then."""
        deadline = time.monotonic() + 300
        while self.stamp in on_host(self.host, "postqueue", "-j"):
            if time.monotonic() > deadline:
                raise RuntimeError("mail to the benchmark's people is still queued after five minutes")
            time.sleep(1)

    def accept(self, user: str, domain: str, impatient: bool = False) -> dict[str, Any]:
        """Send all reports, and wait until the last is in the mailbox. Seconds since the first connection."""
        # What is deferred once comes back after five to ten minutes.
        before, limit = self.ask("count", user=user)["count"], 660 + self.reports / 10
        # In turn, and one further in each round: nobody gets the same kind of report again and again.
        queued = [self.queued[(n + n // self.people) % self.people] for n in range(self.reports)]
        with ThreadPoolExecutor() as both:
            waiting = both.submit(
                self.ask,
                "arrive",
                limit,
                user=user,
                unit=self.unit,
                before=before,
                count=self.reports,
                impatient=impatient,
            )
            sent = self.ask(
                "send", limit, self.world, server=f"{self.host}.torproject.test", domain=domain,
                kinds=self.kinds, queued=queued, parallel=CONNECTIONS,
            )  # fmt: skip
            there = waiting.result()
        if sent["errors"] or not there["well"]:
            raise RuntimeError(f"not all reports arrived in {user}'s mailbox within {limit:.0f} s: {sent['errors']}")
        return there | {
            "taken": sent["end"] - sent["start"],
            "seconds": there["end"] - sent["start"],
            "most": there["most"] - sent["start"],
        }

    def bound(self, lists: bool) -> float:
        """Seconds in which a client that does nothing else moves all reports one by one."""
        limit = 60 + self.reports / 10
        done = self.ask(
            "one_by_one", limit, user=self.bound_site, password=self.password, folder=FOLDER, lists=lists
        )  # fmt: skip
        self.ask("back", 900, user=self.bound_site, folder=FOLDER)
        wanted = sum(kind not in FILED for kind in self.kinds)
        if done["messages"] != wanted:
            raise RuntimeError(f"the bound: {done['messages']} of {wanted} messages in {limit:.0f} s")
        return float(done["seconds"])


def fates(bench: Bench) -> list[str]:
    """Where each report is, found again by its serial."""
    folders = bench.ask("serials", 900, user=bench.site)["folders"]
    place = {
        "processed": folders.pop("INBOX.CiviMail.processed", []),
        "ignored": folders.pop("INBOX.CiviMail.ignored", []),
        "notices": folders.pop("INBOX.Notices", []),
    }
    place["elsewhere"] = [serial for found in folders.values() for serial in found]
    everywhere = [serial for found in place.values() for serial in found]
    rows = [
        [
            kind,
            str(bench.kinds.count(kind)),
            *(str(sum(bench.kinds[n] == kind for n in found)) for found in place.values()),
        ]
        for kind in dict.fromkeys(MIX)
    ]
    rows.append(["all", str(bench.reports), *(str(len(found)) for found in place.values())])
    lost, twice = bench.reports - len(set(everywhere)), len(everywhere) - len(set(everywhere))
    genuine, counted = sum(kind in COUNTED for kind in bench.kinds), bench.query(BOUNCES)[0][0]
    return [
        "Each report carries a serial, and is looked for in all folders of the mailbox afterwards.",
        "CiviCRM 5.33 files a forged one as processed, too: it has looked at it and refused it. The breaker files",
        "vacation replies as notices.",
        "",
        *table(["", "accepted", *place], rows),
        "",
        f"Lost: {lost}. Twice: {twice}. CiviCRM has counted {counted} bounces; {genuine} were genuine, "
        f"{bench.kinds.count('forged')} forged.",
    ]


def measure(bench: Bench) -> list[str]:
    n = bench.reports
    accepted = bench.accept(bench.site, bench.domain)
    print(f"bench: accepted in {accepted['seconds']:.1f} s", flush=True)
    drained = bench.ask("drain", 120 + n * 0.4, user=bench.site, unit=bench.unit)
    print(f"bench: drained: {drained}", flush=True)
    lost = fates(bench)
    bench.silence()  # CiviCRM confirms each unsubscribe
    second = bench.accept(bench.bound_site, bench.bound_domain, impatient=True)
    on_host(bench.host, "bounce-breaker", "run")
    bare, listing = bench.bound(lists=False), bench.bound(lists=True)

    took = drained["end"] - drained["start"]
    whole, job = accepted["seconds"] + took, took - drained["breaker"]
    runs = f"{drained['runs']} run{'s' * (drained['runs'] > 1)}, {drained['failed']} failed, {drained['left']} left"
    steps = [
        ("Postfix has taken all", accepted["taken"]),
        ("accepted: 99 % are in the mailbox", accepted["most"]),
        ("accepted: the last one is in the mailbox", accepted["seconds"]),
        ("the breaker's look at what still waits", drained["breaker"]),
        (f"CiviCRM's job ({runs})", job),
        ("accepted and drained", whole),
        ("bound: fetch, flag, copy, delete", bare),
        ("bound: the same with CiviCRM's look at the mailbox", listing),
        ("accepted again, for the bound", second["seconds"]),
    ]
    worked = sorted(drained["cpu"].items(), key=lambda unit: -unit[1])
    cpu = ", ".join(f"{unit.removesuffix('.service')} {used / n * 1e3:.1f}" for unit, used in worked)
    figures = [[what, f"{s:.1f}", f"{n / s:.0f}", f"{s / n * 1e3:.1f}"] for what, s in steps]
    peaks = [
        ("the breaker, while mail comes in", accepted["memory"].get("bounce-breaker")),
        ("PHP of CiviCRM's job", drained["memory"].get("job")),
        ("Dovecot's imap", drained["memory"].get("imap")),
    ]
    sizes = [
        [what, f"{first / 1e3:.1f}", f"{most / 1e3:.1f}", f"{most / first:.2f}" if first else "-"]
        for what, (first, most) in ((what, peak) for what, peak in peaks if peak)
    ]
    return [
        f"{n} reports on {bench.people} copies of a newsletter, over {CONNECTIONS} kept connections with TLS.",
        "Of ten six say that the user is unknown; one each is a full mailbox, a vacation reply, an unsubscribe and a",
        "report with a forged hash.",
        "",
        "## Accepted and drained",
        "",
        "The job takes the reports when all have arrived. The bound is a client on int that moves the same reports by",
        "IMAPS with CiviCRM's commands, one by one, and looks into none. CiviCRM also looks at the whole mailbox",
        "before each one, with three commands: the second bound has them.",
        "",
        *table(["", "s", "messages/s", "ms each"], figures),
        "",
        f"Accepted and drained, against the bound: {whole / bare:.2f}; against the bound with CiviCRM's look: "
        f"{whole / listing:.2f}. Aim: 1.3. Against CiviCRM's job alone: {whole / job:.2f}.",
        "",
        f"CPU while it was drained, ms a message: {cpu}.",
        "",
        "## Memory",
        "",
        "Resident memory of the largest process, looked at five times a second: the peak in the first quarter of the",
        "time, and in all of it.",
        "",
        *table(["", "first quarter, MB", "all, MB", "ratio"], sizes),
        "",
        "## Nothing lost",
        "",
        *lost,
    ]


def options(argv: list[str] | None) -> argparse.Namespace:
    made = hosts_and_sizes(__doc__, "20,000 reports: half an hour")
    made.add_argument("--bound", default="test-crm", help="site without CiviCRM, for the bound (%(default)s)")
    return made.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    given = options(argv)
    need_lab(given.host)
    bench = Bench(
        host=given.host,
        world=given.world,
        site=given.site,
        bound_site=given.bound,
        domain="crm.torproject.test",
        bound_domain="test.crm.torproject.test",
        password=vault()["vault_sites"][given.bound]["mailbox_password"],
        reports=max((20_000 if given.full else 8_000) // given.divide, 20),
        people=max(PEOPLE // given.divide, 10),
    )
    # What would drain the mailbox while the reports come in; the test site has no application, hence no job.
    timer, at_once = (bench.unit.replace(".service", end) for end in (".timer", "-at-once.path"))
    states = on_host(given.host, "sh", "-c", f"systemctl is-active {timer} {at_once}; :").split()
    size = "--full" if given.full else "the default, sized for ten minutes on two cores"
    try:
        bench.clean()
        on_host(given.host, "systemctl", "stop", timer)  # which stops the other one
        bench.mailing()
        lines = [f"Hosts, world and clients share the machine's cores. Size of the run: {size}.", "", *measure(bench)]
    except (RuntimeError, subprocess.SubprocessError) as error:
        sys.exit(f"bench: {error}")
    finally:
        for unit, state in zip((timer, at_once), states, strict=True):
            if state == "active":
                on_host(given.host, "systemctl", "start", unit)
        bench.clean()
    print("\n".join(lines))
    if given.divide == 1:
        print(write_page("return-path", "Benchmark: the return path", lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
