#!/usr/bin/env python3
"""Measure mass mailing on the running lab against Debian's own Postfix, and write docs/benchmarks/mass-mailing.md.

The baseline and the receivers are two throwaway containers on the lab's network, removed at the end. int is only sent
through: its configuration stays as it is, and what is left in its queues is deleted. Standard library only, besides the
lab's vault for the site's login (see front_door.py).

The default run is sized for a quarter of an hour on two cores; --full takes more than an hour.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common import LAUNCH, ask_agent, hosts_and_sizes, need_lab, on_host, table, write_page
from front_door import vault
from mail_agent import MARK

AGENT = Path(__file__).with_name("mail_agent.py").read_text()
IMAGE = "localhost/civicrm-lab-base:trixie"
STOCK, SINK = "bench-mail-stock", "bench-mail-sink"
# Last octets in the lab's network. The sinks: without a limit, slow, and a Postfix with TLS that discards.
STOCK_AT, FAST_AT, SLOW_AT, TLS_AT = 40, 41, 42, 43
SLOW_SECONDS = 20  # until the slow sink answers DATA
STOCK_LIMIT = 20_000  # Postfix's qmgr_message_active_limit
# inventories/lab: what the providers of the mix may get, messages a second; they take half a second for an answer.
BUDGETS = {"gmail": 4.0, "yahoo": 10.0, "outlook": 2.0, "orange": 0.5}
ANGRY = "gmail"  # who complains when the back-off is measured
CHUNK = 5000
COUNTERS = "/run/sink-fast"
# Written by Postfix itself: on its way through journald and rsyslog a busy host's log loses lines.
SINK_LOG = "/var/log/postfix-sink.log"


@dataclass
class Host:
    """A host that sends, and how mail is handed in to it."""

    label: str
    name: str
    port: int
    login: str = ""
    password: str = field(default="", repr=False)
    site: str = ""
    sender: str = "civicrm+b.1.SERIAL.0123456789abcdef@bench.test"
    serial: int = 0

    def ask(self, action: str, timeout: float = 300, **given: Any) -> dict[str, Any]:
        """Run one action of mail_agent.py on this host."""
        return ask_agent(self.name, AGENT, timeout + 30, action=action, **given)

    def inject(self, recipients: dict[str, int], how: str = "reused", parallel: int = 1) -> dict[str, Any]:
        """Hand in so many messages for each domain; raise RuntimeError if one was not taken."""
        count = sum(recipients.values())
        done = self.ask(
            "inject", 60 + count / 5, recipients=list(recipients.items()), how=how, parallel=parallel,
            first=self.serial, sender=self.sender, site=self.site,
            port=self.port, login=self.login, password=self.password,
        )  # fmt: skip
        self.serial += count
        if done["errors"]:
            raise RuntimeError(f"{self.label} did not take all mail: {done['errors'][0][:200]}")
        return done

    def cpu(self) -> float:
        return float(self.ask("cpu")["seconds"])


@dataclass
class Bench:
    """The hosts, the sinks' addresses as recipients' domains, and how much is sent."""

    ours: Host
    stock: Host
    world: str
    network: str
    prefix: str
    divide: int
    full: bool

    def __post_init__(self) -> None:
        self.fast, self.slow, self.tls = (f"[{self.prefix}.{n}]" for n in (FAST_AT, SLOW_AT, TLS_AT))
        self.sink = Host("sink", SINK, 25)

    def many(self, count: int) -> int:
        return max(count // self.divide, 20)

    def container(self, name: str, octet: int) -> None:
        """Make a throwaway host with Debian's Postfix."""
        run = ["run", "--detach", "--name", name, "--hostname", f"{name}.test", "--label", "civicrm-lab=host",
               "--systemd=always", "--network", f"{self.network}:ip={self.prefix}.{octet}", "--cap-add", "NET_ADMIN",
               "--dns", "none", "--no-hosts", IMAGE, "/sbin/init"]  # fmt: skip
        subprocess.run([LAUNCH, "podman", *run], check=True, stdout=subprocess.DEVNULL)
        resolver = on_host(self.world, "ip", "-4", "-o", "addr", "show", "eth0").split()[3].split("/")[0]
        install = f"""
            printf '127.0.0.1 localhost\\n127.0.1.1 {name}.test {name}\\n' >/etc/hosts
            echo nameserver {resolver} >/etc/resolv.conf
            echo postfix postfix/main_mailer_type select Internet Site | debconf-set-selections
            apt-get update -qq
            export DEBIAN_FRONTEND=noninteractive
            apt-get install -y -qq --no-install-recommends postfix rsyslog ssl-cert >/dev/null 2>&1
            systemctl is-active --quiet postfix
        """
        on_host(name, "sh", "-ec", install)

    def make(self) -> None:
        self.container(STOCK, STOCK_AT)
        self.container(SINK, FAST_AT)
        unit = "systemd-run --quiet --unit=sink-{0} -p StandardOutput=append:/run/sink-{0}"
        smtp_sink = f"{unit} smtp-sink -c -u nobody {{1}} {{2}}:25 1000"
        sinks = f"""
            ip addr add {self.prefix}.{SLOW_AT}/24 dev eth0
            ip addr add {self.prefix}.{TLS_AT}/24 dev eth0
            postconf -e inet_interfaces={self.prefix}.{TLS_AT} inet_protocols=ipv4 mydestination= \\
                mynetworks={self.prefix}.0/24 default_transport=discard local_transport=discard local_recipient_maps= \\
                smtpd_tls_security_level=may smtpd_tls_cert_file=/etc/ssl/certs/ssl-cert-snakeoil.pem \\
                smtpd_tls_key_file=/etc/ssl/private/ssl-cert-snakeoil.key smtpd_tls_loglevel=1 maillog_file={SINK_LOG}
            systemctl restart postfix
            {smtp_sink.format("fast", "", f"{self.prefix}.{FAST_AT}")}
            {smtp_sink.format("slow", f"-w {SLOW_SECONDS}", f"{self.prefix}.{SLOW_AT}")}
            sleep 2
            systemctl is-active sink-fast sink-slow postfix
        """
        on_host(SINK, "sh", "-ec", sinks)

    def remove(self) -> None:
        for name in (STOCK, SINK):
            subprocess.run([LAUNCH, "podman", "rm", "--force", "--time", "0", name], capture_output=True)

    def freeze(self, frozen: bool) -> None:
        """Let the fast sink answer nothing, or go on: so a queue fills and a drain has a beginning."""
        on_host(SINK, "systemctl", "kill", "--signal", "STOP" if frozen else "CONT", "sink-fast.service")

    def sunk(self, count: int = 0, seconds: float = 0) -> dict[str, Any]:
        """Return the fast sink's counter and when it last moved; waits until it says `count`, for so many seconds."""
        return self.sink.ask("sunk", seconds, path=COUNTERS, count=count, seconds=seconds)

    def park(self, host: Host, recipients: dict[str, int]) -> dict[str, Any]:
        """Queue messages for a frozen or slow sink, with four connections.

        The fast sink answers for a moment now and then: Postfix would give up on its greeting after five minutes.
        """
        left, seconds = dict(recipients), 0.0
        while sum(left.values()):
            part = {domain: min(count, max(1, CHUNK // len(left))) for domain, count in left.items() if count}
            seconds += host.inject(part, parallel=4)["seconds"]
            left = {domain: count - part.get(domain, 0) for domain, count in left.items()}
            if sum(left.values()) and self.fast in recipients:
                self.freeze(False)
                self.freeze(True)
        return {"seconds": seconds}


def injection(bench: Bench) -> list[str]:
    """How fast each way of handing in is, while the mail is delivered."""
    ways = [("sendmail, a process each", "sendmail", 400), ("SMTP, a connection each", "new", 600),
            ("SMTP, one connection", "reused", 2000)]  # fmt: skip
    rows = []
    for name, how, count in ways:
        rates = []
        for host in (bench.stock, bench.ours):
            n, at = bench.many(count), bench.sunk()["count"]
            rates.append(n / host.inject({bench.fast: n}, how)["seconds"])
            if bench.sunk(at + n, 60)["count"] < at + n:
                raise RuntimeError(f"{host.label} did not deliver {n} messages within a minute")
        rows.append([name, *(f"{rate:.0f}" for rate in rates), f"{rates[1] / rates[0]:.2f}"])
    return [
        "One client; the mail leaves to the unlimited sink meanwhile. Ours: 587 with the site's login, headers added,",
        "receipts told apart, DKIM where the host signs. Stock: port 25 of loopback, none of it.",
        "",
        *table(["messages/s", "stock", "ours", "ours / stock"], rows),
    ]


def cost(bench: Bench) -> list[str]:
    """CPU of handing in and delivering a message with so many queued, and the rate at which they drain."""
    sizes = [10_000, 100_000, 200_000] if bench.full else [10_000, 100_000]
    runs = [(bench.stock, sizes[0]), *((bench.ours, size) for size in sizes)]
    if bench.full:
        runs[1:1] = [(bench.stock, size) for size in sizes[1:]]
    rows: list[list[str]] = []
    first: dict[str, float] = {}
    for host, size in runs:
        n, at, before = bench.many(size), bench.sunk()["count"], host.cpu()
        bench.freeze(True)
        try:
            parked = bench.park(host, {bench.fast: n})
            middle, early = host.cpu(), bench.sunk()["count"] - at
        finally:
            start = time.time()
            bench.freeze(False)
        found = bench.sunk(at + n, 60 + n / 20)
        after = host.cpu()
        if found["count"] < at + n:
            rows.append([host.label, f"{n}", "-", "-", "-", "-", f"only {found['count'] - at} left in time"])
            host.ask("clear", 600)
            continue
        each = (after - before) / n * 1e3
        first.setdefault(host.label, each)
        rows.append(
            [host.label, f"{n}", f"{n / parked['seconds']:.0f}", f"{(n - early) / (found['last'] - start):.0f}",
             f"{(middle - before) / n * 1e3:.2f}", f"{each:.2f}", f"{each / first[host.label]:.2f}"]
        )  # fmt: skip
        print(f"bench: {rows[-1]}", flush=True)
    header = ["", "queued", "handed in/s", "delivered/s", "CPU ms to hand in", "CPU ms in all", "of the first"]
    return [
        "All are queued while the sink is silent, then it answers at once. CPU of all services that work for mail,",
        "per message, without the client's. Aim: flat within 10 %. Four connections hand in.",
        "",
        *table(header, rows),
    ]


def active(host: Host, count: int, seconds: float = 120) -> dict[str, Any]:
    """Wait until so many are in the active queue."""
    deadline = time.monotonic() + seconds
    while True:
        found = host.ask("qmgr")
        if found["active"] >= count * 0.98 or time.monotonic() > deadline:
            return found
        time.sleep(1)


def spent(host: Host, seconds: float, act: Callable[[], object] = lambda: None) -> float:
    """CPU seconds of mail within so many seconds, with an act at their beginning."""
    before, end = host.cpu(), time.monotonic() + seconds
    act()
    time.sleep(max(0, end - time.monotonic()))
    return host.cpu() - before


def pace(host: Host) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(on_host(host.name, "postfix-pace", "status", "--json"))
    return status


def back_off(bench: Bench, parked: int) -> list[str]:
    """What the pace's back-off costs with a large active queue; the provider complains for as long as it takes."""
    host, took = bench.ours, float("nan")

    def complain() -> None:
        nonlocal took
        start = time.monotonic()
        on_host(bench.world, "provider-mood", ANGRY, "angry")
        while time.monotonic() - start < 45:
            if pace(host)[ANGRY]["level"] > 0:
                took = time.monotonic() - start
                break
            time.sleep(0.5)
        on_host(bench.world, "provider-mood", ANGRY, "normal")

    quiet = spent(host, 20)
    before = host.ask("qmgr")
    try:
        stepped = spent(host, 20, complain)
        after = host.ask("qmgr")
    finally:
        on_host(bench.world, "provider-mood", ANGRY, "normal")
        on_host(host.name, "postfix-pace", "restore", ANGRY)
    same = "the same process" if after["cpu"] >= before["cpu"] else "another process"
    return [
        f"Back-off of one provider with {parked} messages queued: the first step came {took:.1f} s after it got angry, "
        f"without a reload (the queue manager is {same}); CPU of mail in 20 s {quiet:.2f} s before, "
        f"{stepped:.2f} s with it.",
    ]


def reload_cost(bench: Bench, parked: int) -> list[str]:
    host = bench.stock
    quiet = spent(host, 20)
    reloaded = spent(host, 20, lambda: on_host(host.name, "postfix", "reload"))
    return [
        f"What stock needs for the same, a changed parameter and a reload, with {parked} queued: {quiet:.2f} s before, "
        f"{reloaded:.2f} s with one.",
    ]


def head_of_line(bench: Bench) -> list[str]:
    """2,000 to the fast sink, alone and behind a backlog; memory and back-off while the backlog stands."""
    backlog = max(bench.many(200_000 if bench.full else round(1.1 * STOCK_LIMIT)), 200)
    n, rows, memory, notes = bench.many(2000), [], [], []
    if bench.divide > 1:  # a trial: stock's limit in proportion, or its backlog would fit
        on_host(STOCK, "postconf", "-e", f"qmgr_message_active_limit={bench.many(STOCK_LIMIT)}")
    for host in (bench.stock, bench.ours):
        limit = int(on_host(host.name, "postconf", "-h", "qmgr_message_active_limit"))
        at = bench.sunk()["count"]
        done = host.inject({bench.fast: n}, parallel=4)
        free = n / (bench.sunk(at + n, 120)["last"] - done["start"])
        on_host(host.name, "postfix", "reload")
        time.sleep(2)
        before = host.ask("qmgr")
        slow = (
            {bench.slow: backlog} if host is bench.stock else {bench.slow: backlog // 2, f"{ANGRY}.test": backlog // 2}
        )
        try:
            bench.park(host, slow)
            after = active(host, min(backlog, limit))
            at = bench.sunk()["count"]
            done = host.inject({bench.fast: n}, parallel=4)
            found = bench.sunk(at + n, 5 * n / free + 10)
            end = found["last"] if found["count"] >= at + n else time.time()
            behind = (found["count"] - at) / (end - done["start"])
            rows.append([host.label, f"{limit}", f"{backlog}", f"{free:.0f}", f"{behind:.1f}", f"{behind / free:.2f}"])
            held = after["active"]
            memory.append(
                f"{host.label} {(after['resident'] - before['resident']) / max(held, 1) / 1e3:.2f} KB ({held} held)"
            )
            print(f"bench: {rows[-1]} {memory[-1]}", flush=True)
            notes += (reload_cost if host is bench.stock else back_off)(bench, backlog)
        finally:
            host.ask("clear", 600)
    header = ["", "active limit", "backlog", "alone, messages/s", "behind it", "ratio"]
    return [
        f"The backlog is parked at a sink that takes {SLOW_SECONDS} s for an answer; on ours half of it at {ANGRY},",
        f"with its budget of {BUDGETS[ANGRY]:g}/s. Then {n} messages to the unlimited sink. Aim: 0.95.",
        "A backlog above the active limit blocks ours as well.",
        "",
        *table(header, rows),
        "",
        f"Memory of the queue manager per message: {', '.join(memory)}.",
        "",
        *"\n\n".join(notes).split("\n"),
    ]


def arrivals(bench: Bench, since: datetime, first: int, count: int, deadline: float) -> dict[str, list[float]]:
    """When each provider got the benchmark's messages, from its own ledger; waits until `count` have come.

    `first` is the first serial: what an earlier section had in flight does not count.
    """
    stamp = since.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    while True:
        found: dict[str, list[float]] = {name: [] for name in BUDGETS}
        for entry in json.loads(on_host(bench.world, "fake-provider", "ledger", "--since", stamp)):
            if entry["provider"] in found and entry["recipient"].startswith(MARK) and entry["reply"].startswith("2"):
                serial = int(entry["recipient"].removeprefix(MARK).partition("@")[0])
                if not first <= serial < first + 10**8:
                    continue
                found[entry["provider"]].append(datetime.fromisoformat(entry["time"]).timestamp())
        if sum(map(len, found.values())) >= count or time.time() > deadline:
            return {name: sorted(times) for name, times in found.items()}
        time.sleep(2)


def fullest(times: list[float], seconds: float = 10) -> int:
    """The most in any window of so many seconds."""
    most = low = 0
    for high, moment in enumerate(times):
        while moment - times[low] >= seconds:
            low += 1
        most = max(most, high - low + 1)
    return most


def budgets(bench: Bench) -> list[str]:
    """One mailing to four providers and the rest: budgets kept and used, total time against the optimum."""
    seconds = max(40 // bench.divide, 15)
    share = {f"{name}.test": max(2, round(budget * seconds)) for name, budget in BUDGETS.items()}
    share[bench.fast] = bench.many(2000)
    count, rows, notes = sum(share.values()), [], []
    for host in (bench.stock, bench.ours):
        at, since, first = bench.sunk()["count"], datetime.now(UTC), host.serial
        done = host.inject(share)
        fast = bench.sunk(at + share[bench.fast], seconds + 30)
        got = arrivals(bench, since, first, count - share[bench.fast], done["start"] + 1.5 * seconds + 15)
        left = count - (fast["count"] - at) - sum(map(len, got.values()))
        for name, budget in BUDGETS.items():
            times = got[name]
            # From the first to the last: while there is a backlog.
            used = (len(times) - 1) / (times[-1] - times[0]) / budget if len(times) > 1 else float("nan")
            allowed = math.floor(10 * budget) + 1
            verdict = "kept" if fullest(times) <= allowed else "broken"
            rows.append([host.label, name, f"{budget:g}", f"{used:.2f}", f"{fullest(times)}", f"{allowed}", verdict])
        total = max(fast["last"], *(times[-1] for times in got.values() if times)) - done["start"]
        best = max(done["seconds"], *((share[f"{name}.test"] - 1) / budget for name, budget in BUDGETS.items()))
        late = f" ({left} are still queued)" if left else ""
        if host is bench.ours:
            notes += [
                f"Total time of the {count} messages on ours: {total:.1f} s{late}; the optimum, "
                f"max(N / injection, (n - 1) / budget), is {best:.1f} s: ratio {total / best:.2f}. Aim: 1.1."
            ]
        else:
            notes += [
                f"Stock has no budgets: it sends the same in {total:.1f} s{late}, however much a provider tolerates.",
                "",
            ]
            host.ask("clear")
    return [
        "The providers answer after half a second; timestamps are theirs. Aim: never more than the budget plus one in",
        "any ten seconds, 0.9 of it used while there is a backlog.",
        "",
        *table(["", "provider", "budget/s", "used", "most in 10 s", "allowed", ""], rows),
        "",
        *notes,
        "",
        *delayed(bench),
    ]


def delayed(bench: Bench) -> list[str]:
    """What Postfix's own means, a delay in whole seconds, makes of a budget of one a second."""
    host, seconds = bench.stock, 20
    on_host(host.name, "postconf", "-e", "smtp_destination_rate_delay=1s")
    on_host(host.name, "postfix", "reload")
    try:
        since, first = datetime.now(UTC), host.serial
        host.inject({"gmail.test": 2 * seconds})
        times = arrivals(bench, since, first, 2 * seconds, time.time() + seconds)["gmail"]
        used = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else float("nan")
    finally:
        on_host(host.name, "postconf", "-X", "smtp_destination_rate_delay")
        host.ask("clear")
        on_host(host.name, "postfix", "reload")
    return [
        f"Stock with Postfix's own means (smtp_destination_rate_delay=1s) uses {used:.2f} of 1/s at the same provider, "
        f"most in 10 s {fullest(times)}.",
    ]


def tls(bench: Bench) -> list[str]:
    """Handshakes at a receiver with TLS where no delay applies, counted there."""
    n, rows, texts = bench.many(1000), [], [" status=sent ", " TLS connection established from "]
    on_host(STOCK, "postconf", "-e", "smtp_tls_security_level=may")
    on_host(STOCK, "postfix", "reload")
    for host in (bench.stock, bench.ours):
        at = bench.sink.ask("position", path=SINK_LOG)["position"]
        done = host.inject({bench.tls: n}, parallel=4)
        found = bench.sink.ask("count_lines", 120, path=SINK_LOG, position=at, texts=texts, count=n, seconds=90)
        sent, made = found["lines"]
        rate = sent / max(found["end"] - done["start"], 0.1)
        rows.append([host.label, f"{sent}", f"{made}", f"{made * 1e3 / max(sent, 1):.0f}", f"{rate:.0f}"])
    return [
        "Counted by the receiver. Stock is told to use TLS where it is offered (may). Aim: 20.",
        "",
        *table(["", "messages", "TLS connections", "per 1,000", "messages/s"], rows),
    ]


def tools(bench: Bench) -> list[str]:
    files, lines = bench.many(100_000), bench.many(1_000_000)
    counted = bench.ours.ask("sizes", files=0, count=files)
    traced = bench.ours.ask("trace", 600, count=lines)
    rows = [[f"postfix-queues-sizes, {files} files", f"{counted['ours']:.2f}", f"find: {counted['find']:.2f}"]]
    rows += [
        [f"postfix-trace, {name} in {lines} lines", f"{seconds:.2f}", f"grep -c -F: {traced['grep']:.2f}"]
        for name, seconds in traced["ours"].items()
    ]
    return ["Aim: 2 s for the queues.", "", *table(["", "s", "Debian's own, s"], rows)]


SECTIONS: dict[str, tuple[str, Callable[[Bench], list[str]]]] = {
    "injection": ("Handing in", injection),
    "cost": ("Delivery and cost per message", cost),
    "head_of_line": ("Behind a slow provider", head_of_line),
    "budgets": ("Budgets and total time", budgets),
    "tls": ("TLS connections", tls),
    "tools": ("The operator's tools", tools),
}


def options(argv: list[str] | None) -> argparse.Namespace:
    made = hosts_and_sizes(__doc__, "10,000, 100,000 and 200,000 messages: more than an hour")
    made.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections: a trial, no page is written")
    return made.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    given = options(argv)
    need_lab(given.host)
    network = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}"
    inspect = [LAUNCH, "podman", "inspect", "--format", network, given.host]
    outer = on_host(given.host, "ip", "-4", "-o", "addr", "show", "eth0").split()[3].split("/")[0]
    sender = f"civicrm+b.1.SERIAL.0123456789abcdef@{given.site}.torproject.test"
    password = vault()["vault_sites"][given.site]["mailbox_password"]
    # Serials make recipients unique from run to run.
    first = int(time.time()) % 900_000 * 1000
    bench = Bench(
        ours=Host("ours", given.host, 587, given.site, password, given.site, sender, first),
        stock=Host("stock", STOCK, 25, serial=first + 10**9),
        world=given.world,
        network=subprocess.run(inspect, capture_output=True, text=True, check=True).stdout.strip(),
        prefix=outer.rpartition(".")[0],
        divide=given.divide,
        full=given.full,
    )
    size = "--full" if given.full else "the default, sized for a quarter of an hour on two cores"
    lines = [
        "Baseline: Debian's Postfix as it installs, in a container of the same image; where a backlog is parked its",
        "`in_flow_delay` is 0, or it would take a message a second from each client. int's configuration is the lab's.",
        f"Sender, receivers and clients share the machine's cores. Size of the run: {size}.",
    ]
    try:
        bench.remove()
        bench.make()
        for name in given.only or SECTIONS:
            title, section = SECTIONS[name]
            start = time.monotonic()
            if name in ("cost", "head_of_line"):
                on_host(STOCK, "postconf", "-e", "in_flow_delay=0")
                on_host(STOCK, "postfix", "reload")
            try:
                figures = section(bench)
            except (RuntimeError, subprocess.SubprocessError, LookupError, SystemExit) as error:
                figures = [f"Not measured: {error}"]
            lines += ["", f"## {title}", "", *figures]
            print("\n".join(figures), f"\nbench: {name} took {time.monotonic() - start:.0f} s", flush=True)
    finally:
        bench.remove()
        bench.ours.ask("clear", 600)
    if given.divide == 1 and not given.only:
        print(write_page("mass-mailing", "Benchmark: mass mailing", lines).read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
