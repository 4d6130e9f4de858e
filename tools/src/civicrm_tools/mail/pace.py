"""Hand out the providers' budgets: so many deliveries a second to each, whichever of its domains they are for.

Postfix asks before each delivery: smtp(8) looks a destination up in smtp_connection_cache_destinations exactly once per
delivery, before it connects, and in a transport of a provider that table is this program (socketmap_table(5)). The
answer is always the same; it comes when the delivery may begin. So a budget may be any number, is shared by all
connections and domains of a provider, does not hang on how fast the provider answers, and changes without a reload.

A provider whose deferrals say that we send too fast gets half of its budget, again and again while they go on, and gets
it back in the same steps when they have stopped. State: /var/lib/postfix-pace/state.json.

  postfix-pace status [--json]   budgets in force, and why
  postfix-pace restore NAME      give a provider its whole budget back at once
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from civicrm_tools.core import command, locks, metrics, systemd
from civicrm_tools.core.command import DONE, USAGE, Failure
from civicrm_tools.core.lazy import lazy
from civicrm_tools.core.metrics import Family, gauge
from civicrm_tools.mail import log as maillog
from civicrm_tools.mail import socketmap, verdict
from civicrm_tools.mail.provider_table import TABLE, USED, Provider, Table, load
from civicrm_tools.mail.throttle import Throttle, load_state, save_state

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = lazy("asyncio")  # for the service alone: half of a start's time and memory

NAME = "postfix-pace"
STATE = Path("/var/lib/postfix-pace/state.json")
# Nobody is paced while this program waits for systemd.
SYSTEMCTL_SECONDS = 10
# A start that comes late may be made up for by the next ones within this time, seconds.
CATCH_UP = 0.1
# A changed budget holds for those who wait after this time, seconds.
SLICE = 0.5
TICK = 5
# How often the log is looked at, seconds.
LOOK = 0.5
ANSWER = b"OK paced"


def say(text: str) -> None:
    command.tell(NAME, text)


def plain(number: float) -> str:
    return f"{number:.3g}"


@dataclass
class Pace:
    """The clock of one provider: who may begin when. First come, first served."""

    due: float = 0.0
    waiting: int = 0
    begun: int = 0
    turn: asyncio.Lock = field(default_factory=lambda: asyncio.Lock())

    async def wait(self, rate: Any) -> None:
        """Return when a delivery may begin. `rate()` gives deliveries a second; it may change meanwhile."""
        self.waiting += 1
        try:
            async with self.turn:
                while True:
                    now, interval = time.monotonic(), 1 / (rate() * USED)
                    left = self.due + interval - now
                    if left <= 0:
                        break
                    await asyncio.sleep(min(left, SLICE))
                self.due = max(self.due + interval, now - min(CATCH_UP, interval))
                self.begun += 1
        finally:
            self.waiting -= 1


def deferral(line: str) -> tuple[str, str]:
    """Return (provider, reply cut to a length that patterns bear) of a deferral in the log; else both are empty."""
    parsed = maillog.parse(line)
    found = maillog.DELIVERY.match(parsed.text) if parsed and parsed.service == "smtp" else None
    if not parsed or not found or found["status"] != "deferred":
        return "", ""
    return parsed.tag.removeprefix("postfix-"), found["reply"][:1000]


def asks_for_less(provider: Provider, reply: str) -> bool:
    """Whether a deferral is for our pace: the texts of the table say so, or what is known of refusals."""
    return bool(provider.pattern and provider.pattern.search(reply)) or verdict.of_reply(reply).slower


def usable(path: Path) -> Table:
    """Read the table; one that cannot be used has an exit status of its own."""
    try:
        return load(path)
    except Failure as failure:
        raise Failure(str(failure), USAGE) from failure


class Server:
    """Answers Postfix, reads its log, keeps state and metrics."""

    def __init__(self, path: Path, state: Path) -> None:
        self.path, self.state, self.address = path, state, ""
        self.table = usable(path)
        self.paces: dict[str, Pace] = {}
        self.throttles = load_state(state)
        self._arrange()

    def _arrange(self) -> None:
        """Have a clock and a state for each provider of the table, and none for others."""
        names = self.table.providers
        self.paces = {name: self.paces.get(name) or Pace(due=time.monotonic()) for name in names}
        self.throttles = {name: self.throttles.get(name) or Throttle() for name in names}
        for name, throttle in self.throttles.items():
            throttle.level = min(throttle.level, names[name].lowest)

    def reload(self) -> None:
        """Take a changed table; a broken one changes nothing."""
        try:
            self.table = load(self.path)
        except Failure as error:
            say(f"kept the old table: {error}")
            return
        self._arrange()
        say("table read: " + ", ".join(f"{name} {plain(self.rate(name))}/s" for name in self.table.providers))
        self.write()

    def rate(self, name: str) -> float:
        """A provider's budget in force, deliveries a second."""
        return self.table.providers[name].rate(self.throttles[name].level)

    async def grant(self, name: str) -> None:
        """Wait for a provider's turn; one that is no longer in the table need not."""
        if pace := self.paces.get(name):
            await pace.wait(lambda: self.rate(name) if name in self.table.providers else float("inf"))

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of an smtp(8) process: the table's name is the provider, and the answer comes at its turn."""

        async def answer(name: str, _key: bytes) -> bytes:
            await self.grant(name)
            return ANSWER

        await socketmap.serve(reader, writer, answer)

    def line(self, line: str, now: float) -> None:
        """Take in one line of Postfix's log."""
        name, reply = deferral(line)
        provider = self.table.providers.get(name)
        if not provider or not asks_for_less(provider, reply):
            return
        throttle, before = self.throttles[provider.name], self.rate(provider.name)
        if throttle.deferred(now, reply[:200], self.table.back_off, provider.lowest):
            say(f"{provider.name}: {plain(before)}/s -> {plain(self.rate(provider.name))}/s: {reply[:200]}")
            self.save()
            self.write()

    def tick(self, now: float) -> None:
        """Raise what has been quiet for long enough."""
        for name, throttle in self.throttles.items():
            before = self.rate(name)
            if throttle.quiet(now, self.table.back_off):
                say(f"{name}: {plain(before)}/s -> {plain(self.rate(name))}/s: no complaint about our pace for a while")
                self.save()

    def save(self) -> None:
        with contextlib.suppress(OSError):
            save_state(self.state, self.throttles)

    def families(self, now: float) -> list[Family]:
        """Return the budgets and what came of them as metrics; the only label is the provider."""
        families = [
            Family(name, kind, text, [({"provider": provider}, of(provider)) for provider in self.table.providers])
            for name, kind, text, of in (
                ("provider_budget_per_second", "gauge", "Deliveries a second that the table allows.", self._budget),
                ("provider_pace_per_second", "gauge", "Deliveries a second that are allowed now.", self.rate),
                ("provider_back_off_level", "gauge", "How often the budget is halved now.", self._level),
                ("provider_back_off_lowered_total", "counter", "Steps down.", lambda n: self.throttles[n].lowered),
                ("provider_back_off_raised_total", "counter", "Steps up.", lambda n: self.throttles[n].raised),
                (
                    "provider_deliveries_begun_total",
                    "counter",
                    "Deliveries let through.",
                    lambda n: self.paces[n].begun,
                ),
                ("provider_deliveries_waiting", "gauge", "Deliveries that wait.", lambda n: self.paces[n].waiting),
            )
        ]
        last = gauge("provider_pace_last_run_timestamp_seconds", "When these were written.", int(now))
        return [*families, last]

    def _budget(self, name: str) -> float:
        return self.table.providers[name].budget

    def _level(self, name: str) -> int:
        return self.throttles[name].level

    def write(self) -> None:
        """Replace the file with metrics; without node_exporter there is nobody to write for."""
        try:
            metrics.write(self.table.textfile_directory / "postfix-pace.prom", self.families(time.time()))
        except OSError as error:
            say(f"no metrics: {error}")

    async def follow(self) -> None:
        """Read the log for ever, across its rotation."""
        follower = maillog.Follower(self.table.log)
        while True:
            for line in follower.lines():
                self.line(line, time.time())
            await asyncio.sleep(LOOK)

    async def clock(self) -> None:
        while True:
            self.tick(time.time())
            self.write()
            systemd.notify("WATCHDOG=1")
            self.look_after_socket()
            await asyncio.sleep(TICK)

    def look_after_socket(self) -> None:
        """Have the socket's file made anew should somebody have removed it: Postfix would go on without a pace."""
        if self.address and not Path(self.address).is_socket():
            say(f"{self.address} is gone: having it made anew")
            tell_systemd("--no-block", "restart", "postfix-pace.socket")

    def restore(self) -> None:
        """Take over a state that `postfix-pace restore` has written (SIGUSR1)."""
        self.throttles = load_state(self.state)
        self._arrange()
        self.write()
        say("state read: " + ", ".join(f"{name} {plain(self.rate(name))}/s" for name in self.table.providers))


def tell_systemd(*arguments: str) -> None:
    """Ask systemd for something that is worth a line, but no end, if it does not happen."""
    try:
        systemd.systemctl(*arguments, timeout=SYSTEMCTL_SECONDS)
    except Failure as failure:
        say(str(failure))


def listener(path: str | None) -> socket.socket:
    """The socket that systemd holds, so that nobody is turned away while this program restarts, or one at `path`."""
    if path is None:
        return systemd.listening("postfix-pace.socket")
    made = socket.socket(socket.AF_UNIX)
    Path(path).unlink(missing_ok=True)
    made.bind(path)
    return made


async def serve(table: Path, state: Path, path: str | None) -> None:
    server = Server(table, state)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, server.reload)
    loop.add_signal_handler(signal.SIGUSR1, server.restore)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    made = listener(path)
    server.address = made.getsockname()
    # Since Python 3.13 the file would go when this program ends, and it is systemd's.
    keep: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
    listening = await asyncio.start_unix_server(server.client, sock=made, **keep)
    tasks = [asyncio.create_task(server.follow()), asyncio.create_task(server.clock())]
    ended = asyncio.create_task(stop.wait())
    systemd.notify("READY=1")
    await asyncio.wait([*tasks, ended], return_when=asyncio.FIRST_COMPLETED)
    listening.close()
    for task in tasks:
        if task.done():
            # A reader or clock that died would leave budgets as they are, in silence: start anew instead.
            task.result()
        task.cancel()
    server.save()


def status(table: Table, throttles: dict[str, Throttle]) -> dict[str, dict[str, Any]]:
    """{provider: budget, pace, level, since, reason}; since is None where the budget is whole."""
    found = {}
    for name, provider in table.providers.items():
        throttle = throttles.get(name) or Throttle()
        level = min(throttle.level, provider.lowest)
        found[name] = {
            "budget_per_second": provider.budget,
            "pace_per_second": provider.rate(level),
            "level": level,
            "since": throttle.stepped if level else None,
            "reason": throttle.reason if level else "",
        }
    return found


def describe(found: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, entry in found.items():
        text = f"{name}: {plain(entry['pace_per_second'])}/s"
        if entry["level"]:
            since = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(entry["since"]))
            text += f" of {plain(entry['budget_per_second'])}/s since {since}: {entry['reason']}"
        lines.append(text)
    return "\n".join(lines) or "no provider has a budget"


def give_back(name: str, table: Table, state: Path) -> None:
    """Restore one provider in the state and have the service read it. Raises Failure."""
    if name not in table.providers:
        raise Failure(f"no provider '{name}': there is {', '.join(table.providers) or 'none'}", USAGE)
    throttles = load_state(state)
    if name in throttles:
        throttles[name].level = 0
    save_state(state, throttles)
    tell_systemd("kill", "--kill-whom=main", "--signal=USR1", "postfix-pace.service")


def parser() -> argparse.ArgumentParser:
    made = command.Parser(prog=NAME, description=__doc__)
    made.add_argument("--table", type=Path, default=TABLE, help=argparse.SUPPRESS)
    made.add_argument("--state", type=Path, default=STATE, help=argparse.SUPPRESS)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    served = commands.add_parser("serve", help="hand out budgets; a service does this")
    served.add_argument("--socket", metavar="PATH", help="listen here instead of on systemd's socket")
    shown = commands.add_parser("status", help="budgets in force, and why")
    shown.add_argument("--json", action="store_true", help="print JSON")
    restored = commands.add_parser("restore", help="give a provider its whole budget back at once")
    restored.add_argument("provider", metavar="NAME")
    checked = commands.add_parser("check", help="check a table before it is used")
    checked.add_argument("file", type=Path)
    return made


def body(argv: Sequence[str] | None) -> int:
    options = parser().parse_args(argv)
    if options.command == "serve":
        # One process: two would double every budget.
        with locks.locked(options.state.with_suffix(".lock"), wait=0, busy="another one runs"):
            asyncio.run(serve(options.table, options.state, options.socket))
        return DONE
    table = usable(options.file if options.command == "check" else options.table)
    if options.command == "status":
        found = status(table, load_state(options.state))
        print(json.dumps(found, indent=2) if options.json else describe(found))
    elif options.command == "restore":
        give_back(options.provider, table, options.state)
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 when something could not be done; 2 for wrong usage or a table that cannot be used."""
    return command.run(NAME, body, argv)
