"""Every reason why mail is not sent, or not all of it, with since when and what to do next: for `mailing status`.

Each function looks at one thing as it is now, and none at the log. What cannot be looked at is a reason, too: nobody
shall read "mailings are sent" because a file was damaged.
"""

from __future__ import annotations

import contextlib
import re
import socket
import sqlite3
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from civicrm_tools.core import files, metrics, systemd
from civicrm_tools.core.command import Failure, in_words, messages
from civicrm_tools.mail import holds, mailing_state, pace, postfix, provider_table, speakers, throttle
from civicrm_tools.mail.mailing_state import State

UNITS = Path("/etc/systemd/system")
BREAKER = Path("/var/lib/bounce-breaker/state.db")
TABLE = provider_table.TABLE
# What is stopped, from the most to the least.
NOTHING, NO_MAILINGS, SOME, ALL = "nothing", "no mailings", "not everything", "everything"
MILTER = re.compile(r"\b(unix|local|inet):([^\s,{}]+)")
SERVICE_MILTERS = re.compile(r"\S+/(?:non_)?smtpd_milters = ")
MILTER_SECONDS = 5
SPEAKERS = speakers.CONFIGURATION
SITE_OF_JOB = re.compile(r"^ExecStartPre=\S*/civicrm-job-metrics start \S+ (\S+) ", re.MULTILINE)
LAST_SUCCESS = "civicrm_job_last_success_timestamp_seconds"
# SMFIC_OPTNEG of Sendmail's milter protocol, version 6: every milter answers it before anything else.
HELLO = struct.pack("!IcIII", 13, b"O", 6, 0x1FF, 0x1FFFFF)


@dataclass(frozen=True)
class Obstacle:
    """sending: what is still sent; ALL for what only slows mail down or waits for a person. step: a command."""

    name: str
    sending: str
    text: str
    step: str
    since: float | None = None

    def __str__(self) -> str:
        when = f"; since {mailing_state.stamp(self.since)} ({in_words(time.time() - self.since)})" if self.since else ""
        return f"{self.text}{when}"


def found() -> list[Obstacle]:
    """All of them, the worst first."""
    looks = (stopped, full, switched, running, milters, jobs, budgets, pauses, others, link)
    seen: list[Obstacle] = []
    for look in looks:
        try:
            seen += look()
        except (Failure, OSError, ValueError, sqlite3.Error) as error:
            seen.append(Obstacle(look.__name__, SOME, f"it cannot be told: {error}", "mend what the line names"))
    order = (NOTHING, NO_MAILINGS, SOME, ALL)
    return sorted(seen, key=lambda one: order.index(one.sending))


def sending(seen: list[Obstacle]) -> str:
    return seen[0].sending if seen else ALL


def units(*names: str) -> dict[str, dict[str, str]]:
    """{unit: its properties}; of a unit that there is not LoadState is "not-found"."""
    wanted = "Id,LoadState,ActiveState,Result,InactiveEnterTimestamp,StateChangeTimestamp"
    said = systemd.systemctl("show", "--timestamp=unix", f"--property={wanted}", *names).stdout
    blocks = (dict(line.partition("=")[::2] for line in block.splitlines()) for block in said.split("\n\n"))
    return dict(zip(names, blocks, strict=False))


def moment(properties: dict[str, str], name: str = "InactiveEnterTimestamp") -> float | None:
    """A time of `systemctl show --timestamp=unix`, such as @1795990152."""
    text = properties.get(name, "").removeprefix("@")
    return float(text) if text.isdigit() and text != "0" else None


def stopped() -> Iterator[Obstacle]:
    for name, what, kind, end in (
        ("panic", "PANIC: nothing leaves", NOTHING, "resume"),
        ("off", "OFF: mailings are not sent", NO_MAILINGS, "on"),
    ):
        try:
            state = mailing_state.read(name)
        except files.Unreadable as error:
            yield Obstacle(name, kind, f"{what}: {error}", f"mailing {name}, then mailing {end}")
            continue
        if state and state.left is not None:
            left = sum(map(len, state.left.values()))
            text = f"{name.upper()} is ending: `mailing {end}` has {messages(left)} to put back{by(state)}"
            yield Obstacle(name, NO_MAILINGS, text, f"mailing {end}", state.since)
        elif state:
            yield Obstacle(name, kind, f"{what}{by(state)}", f"mailing {end}", state.since)


def by(state: State) -> str:
    return f"; by {state.by}" + (f": {state.reason}" if state.reason else "")


def full() -> Iterator[Obstacle]:
    path = mailing_state.path("spool-full")
    if path.exists():
        since = None
        with contextlib.suppress(Failure):
            since = files.read_json(path, lambda raw: float(raw["since"]))
        text = "the spool is below its reserve: no mailing begins"
        yield Obstacle("reserve", NO_MAILINGS, text, "spool-reserve --dry-run; make room", since)


def switched() -> Iterator[Obstacle]:
    for where in postfix.instances():
        if not mailing_state.table_is_right(where):
            text = f"{where.name} does not hold new mail as it should"
            yield Obstacle("switch", SOME, text, "run the command of the state again, or `mailing on`")


def running() -> Iterator[Obstacle]:
    for where in postfix.instances():
        try:
            postfix.need_running(where)
        except Failure:
            states = units("postfix.service", "postfix@-.service").values()
            since = max((when for one in states if (when := moment(one))), default=None)
            yield Obstacle("postfix", NOTHING, f"{where.name} is not running", "systemctl start postfix", since)


def milters() -> Iterator[Obstacle]:
    """The signer, and whatever else Postfix asks before it takes a message."""
    seen = set()
    for where in postfix.instances():
        # In main.cf, and for single services in master.cf: "submitted/unix/non_smtpd_milters = ...".
        told = [where.parameter(name) for name in ("non_smtpd_milters", "smtpd_milters")]
        told += [line for line in where.run("postconf", "-P").stdout.splitlines() if SERVICE_MILTERS.match(line)]
        seen |= set(MILTER.findall(" ".join(told)))
    for kind, address in sorted(seen):
        if why := silent(kind, address):
            unit, since = unit_of(address)
            text = f"the milter at {address} does not answer ({why}): what is submitted waits"
            yield Obstacle("signer", NOTHING, text, f"systemctl restart {unit}", since)


def silent(kind: str, address: str) -> str:
    """Say why a milter does not answer, or nothing."""
    try:
        if kind == "inet":
            host, _, port = address.rpartition(":")
            connection = socket.create_connection((host.strip("[]"), int(port)), MILTER_SECONDS)
        else:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(MILTER_SECONDS)
        with connection:
            if kind != "inet":
                connection.connect(address)
            connection.sendall(HELLO)
            return "" if connection.recv(4) else "it hangs up"
    except TimeoutError:
        return f"silent for {MILTER_SECONDS} s"
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)


def unit_of(address: str) -> tuple[str, float | None]:
    """The unit that is called like a milter's socket, or like the first words of it, and since when it is down."""
    words = Path(address).stem.split("-")
    stems = ["-".join(words[:count]) for count in range(len(words), 0, -1)]
    with contextlib.suppress(Failure):
        for name, properties in units(*(f"{stem}.{kind}" for stem in stems for kind in ("socket", "service"))).items():
            if properties.get("LoadState") == "loaded":
                down = properties.get("ActiveState") != "active"
                return name, moment(properties, "StateChangeTimestamp") if down else None
    return "its unit", None


def jobs() -> Iterator[Obstacle]:
    """Units of mailing jobs, which are told by the file that keeps them from starting."""
    mark = f"!{mailing_state.path('off')}"
    names = [unit.stem for unit in sorted(UNITS.glob("*.service")) if mark in unit.read_text()]
    states = units(*(f"{name}.{kind}" for name in names for kind in ("timer", "service"))) if names else {}
    seen = {name: list(job(name, states)) for name in names}
    send = {name for name in names if not reaches_nobody(UNITS / f"{name}.service")}
    stuck = {name for name in send if seen[name]}
    for name, obstacles in seen.items():
        kind = ALL if name not in send else NO_MAILINGS if stuck == send else SOME
        yield from (replace(one, sending=kind) for one in obstacles)


def job(name: str, states: dict[str, dict[str, str]]) -> Iterator[Obstacle]:
    """What stops one site's mailings."""
    timer, service = states.get(f"{name}.timer", {}), states.get(f"{name}.service", {})
    if timer.get("ActiveState") != "active":
        text = f"{name}.timer is stopped: nobody starts the mailing job"
        yield Obstacle("timer", NO_MAILINGS, text, f"systemctl start {name}.timer", moment(timer))
    if service.get("Result") != "success" and service.get("ActiveState") != "activating":
        known = metrics.read(metrics.DIRECTORY / f"{name}.prom")
        last = [when for (metric, _), when in known.items() if metric == LAST_SUCCESS and when]
        since = last[0] if last else moment(service)
        text = f"{name}.service fails ({service.get('Result')}): its mailings are not worked off"
        yield Obstacle("job", NO_MAILINGS, text, f"journalctl -u {name} -n 50", since)


def reaches_nobody(unit: Path) -> bool:
    """Whether a job belongs to a site whose mail is caught or held, such as staging. What cannot be told does send."""
    (site,) = SITE_OF_JOB.findall(unit.read_text()) or [""]
    try:
        return site in speakers.load(SPEAKERS).silent
    except Failure:
        return False


def budgets() -> Iterator[Obstacle]:
    """The providers' pace: a table that cannot be used, the service that hands out turns, and who has complained."""
    try:
        table = provider_table.load(TABLE)
    except files.Missing:
        return
    except Failure as error:
        step = "mend postfix_mailing_providers and run site.yml"
        yield Obstacle("budget", SOME, f"the providers' budgets cannot be used: {error}", step)
        return
    service = units("postfix-pace.service")["postfix-pace.service"]
    if service.get("LoadState") == "loaded" and service.get("ActiveState") != "active":
        text = "postfix-pace is down: mail to the providers of the table waits for its turn"
        step = "systemctl restart postfix-pace.socket postfix-pace.service"
        yield Obstacle("pace", SOME, text, step, moment(service))
    for name, entry in pace.status(table, throttle.load_state(pace.STATE)).items():
        if entry["level"]:
            text = f"{name} gets {entry['pace_per_second']:.3g} of {entry['budget_per_second']:.3g} a second: "
            yield Obstacle("pace", ALL, text + entry["reason"], f"postfix-pace restore {name}", entry["since"])


def pauses() -> Iterator[Obstacle]:
    """Storms of refusals for which the bounce breaker has paused a mailing."""
    if not BREAKER.exists():
        return
    with contextlib.closing(sqlite3.connect(f"file:{BREAKER}?mode=ro", uri=True)) as database:
        rows = database.execute(
            "SELECT provider, since, paused, why FROM incident WHERE until IS NULL AND mode = 'active' ORDER BY id"
        )
        for name, since, paused, why in rows:
            text = f"the bounce breaker {'has paused' if paused else 'could not pause'} the mailing to {name}: {why}"
            step = f"bounce-breaker status; bounce-breaker drop {name}, or release; postfix-trickle 10 5"
            yield Obstacle("breaker", SOME, text, step, float(since))


def others() -> Iterator[Obstacle]:
    """What waits on hold for a person, whoever put it there."""
    holds.read()
    try:
        owners = holds.whose(postfix.instances())
    except files.Unreadable:
        return  # a state, of which `stopped` says it
    for owner, number in owners.items():
        if owner not in (*mailing_state.STATES, holds.POLICY):
            who = owner if owner == holds.BY_HAND else f"by {owner}"
            text = f"{messages(number)} on hold {who}"
            yield Obstacle("held", ALL, text, "postfix-queue list --queue hold; postfix-trickle 10 5")


def link() -> Iterator[Obstacle]:
    """Mailings do not use the private link, but who sees it down looks there first."""
    for (name, labels), value in metrics.read(metrics.DIRECTORY / "ipsec.prom").items():
        if name == "ipsec_peer_up" and not value:
            peer = dict(labels).get("peer", "a peer")
            text = f"the private link to {peer} is down: mailings do not use it"
            yield Obstacle("link", ALL, text, "docs/private-link.md")
