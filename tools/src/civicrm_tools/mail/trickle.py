"""Release messages from hold a few at a time, oldest first, until hold is empty.

  postfix-trickle 10 5                      10 messages every 5 seconds
  postfix-trickle --provider gmail 1 2      only what goes to one provider
  postfix-trickle --adaptive 50 5           slower at 10 % deferrals, an end at 50 %

Prints the effective rate first. Ctrl-C ends it; the rest stays on hold. What has spent more than half of its
lifetime gets a new queue ID and a new lifetime, since its first deferral would bounce it; while new mail is held it
stays on hold. Postfix is reloaded first if its queue manager may still know held messages as active: it would go on to
offer each of them to its transport.

--adaptive reads in the log what became of what was released: from 10 % deferrals the interval doubles, up to sixteen
times; below 10 % it halves again; at 50 % the release ends. Each change is judged by ten outcomes of its own.

Exit status: 0 hold is empty (of what was chosen), 1 error, 2 wrong arguments, 3 ended by --adaptive, or nothing is on
hold, 4 ended by `mailing panic`, 130 ended by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from civicrm_tools.core import command
from civicrm_tools.core.command import DONE, INTERRUPTED, Failure, in_words, messages
from civicrm_tools.mail import holds, mailing_state, postfix
from civicrm_tools.mail import log as maillog
from civicrm_tools.mail.postfix import Instance, Message
from civicrm_tools.mail.selection import Selection, add_filters

NAME = "postfix-trickle"
TOO_MANY_DEFERRED = command.NO
PANIC = command.PANIC

# Shares of deferrals among the newest outcomes, and how many of those are looked at.
SLOWER, STOP = 0.10, 0.50
LEAST, NEWEST = 10, 200
SLOWEST = 16
REPORT_EVERY = 60

# Lets go of a batch, of which some need a new queue ID; returns how many left hold.
Release = Callable[[Instance, Sequence[Message], Collection[str]], int]


@dataclass
class Pace:
    """Messages per interval, and by how much the answers of the world have slowed it."""

    count: int
    seconds: float
    factor: int = 1

    def __str__(self) -> str:
        rate = self.count / self.interval
        return f"{messages(self.count)} every {self.interval:g} s = {rate:g} a second = {rate * 3600:,.0f} an hour"

    @property
    def interval(self) -> float:
        return self.seconds * self.factor

    def duration(self, number: int) -> float:
        """Seconds until the last of so many messages is released; the first batch goes at once."""
        return max(0, -(-number // self.count) - 1) * self.interval


@dataclass
class End:
    """How it ended: the exit status, why, how many were released and how many stay on hold, and whose those are."""

    status: int
    why: str
    released: int
    left: int
    whose: str = ""


class Reporter:
    """What the operator sees: a bar at a terminal, a line a minute elsewhere, or JSON lines."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.bar: command.Bar | None = None
        self.next_line = 0.0

    def say(self, event: str, text: str, **values: object) -> None:
        if self.bar:
            self.bar.close()
        if self.as_json:
            print(json.dumps({"event": event, "text": text} | values), flush=True)
        else:
            print(text, flush=True)

    def batch(self, released: int, total: int, note: str) -> None:
        if self.as_json:
            self.say("released", f"{messages(released)} released", released=released, left=max(0, total - released))
            return
        if self.bar is None:
            self.bar = command.Bar(total)
            self.next_line = time.monotonic() + REPORT_EVERY
        self.bar.total = max(total, 1)
        self.bar.show(released, note)
        if not self.bar.shown and time.monotonic() >= self.next_line:
            self.next_line += REPORT_EVERY
            print(f"{messages(released)} released, {messages(max(0, total - released))} on hold, {note}", flush=True)


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that a batch is never left half released."""
    event = threading.Event()
    before = {number: signal.signal(number, lambda *_: event.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def trickle(
    where: Instance,
    pace: Pace,
    choose: Callable[[], list[Message]],
    reporter: Reporter,
    outcomes: maillog.Outcomes | None = None,
    release: Release = holds.release,
) -> End:
    """Release what `choose` returns, and again until it returns nothing.

    Each interval begins when it should, however long a batch took. `release` lets each batch go.
    """
    began = time.time()
    total, waiting = 0, choose()
    tick = time.monotonic()

    def end(status: int, why: str) -> End:
        waiting_ids = {m.queue_id for m in waiting}
        return End(status, why, total, len(waiting_ids & postfix.queue_ids(where, "hold")))

    with interruptible() as interrupted:
        while True:
            if why := mailing_state.panic_since(began):
                return end(PANIC, why)
            if outcomes and (end_of := adapt(pace, outcomes, reporter)):
                return end(TOO_MANY_DEFERRED, end_of)
            total += one_batch(where, pace.count, waiting, outcomes, release)
            reporter.batch(total, total + len(waiting), f"{pace}; {in_words(pace.duration(len(waiting)))} to go")
            if not waiting and not (waiting := choose()):
                return end(DONE, "nothing is left on hold")
            tick = max(tick + pace.interval, time.monotonic())
            if interrupted.wait(max(0.0, tick - time.monotonic())):
                return end(INTERRUPTED, "interrupted")


def beginning_with(first: list[Message], choose: Callable[[], list[Message]]) -> Callable[[], list[Message]]:
    """Return a function that returns `first` when it is called first, and then asks `choose`."""
    rest = [first]
    return lambda: rest.pop() if rest else choose()


def one_batch(
    where: Instance,
    count: int,
    waiting: list[Message],
    outcomes: maillog.Outcomes | None,
    release: Release = holds.release,
) -> int:
    """Release exactly `count` of `waiting`, from its front, or all if there are fewer; return how many left hold."""
    done = 0
    while done < count and waiting:
        batch, waiting[: count - done] = waiting[: count - done], []
        ids = [message.queue_id for message in batch]
        if outcomes:
            outcomes.watch(ids)
        # Some may have been deleted or released by others: the loop takes as many more.
        done += release(where, batch, postfix.too_old(where, batch, time.time()))
    return done


def adapt(pace: Pace, outcomes: maillog.Outcomes, reporter: Reporter) -> str:
    """Slow down or speed up by the newest outcomes since the last change of pace; return why to end, or nothing."""
    outcomes.read()
    deferred, known = outcomes.share(NEWEST)
    if known < LEAST:
        return ""
    share = deferred / known
    told = f"{deferred} of the last {known} were deferred ({share:.0%})"
    because = f", mostly {reason}" if (reason := outcomes.reason()) else ""
    if share >= STOP:
        return f"{told}{because}"
    if share >= SLOWER and pace.factor < SLOWEST:
        pace.factor *= 2
        outcomes.forget()
        reporter.say("slower", f"slower: {told}{because}: now {pace}", deferred=deferred, known=known, reason=reason)
    elif share < SLOWER and pace.factor > 1:
        pace.factor //= 2
        outcomes.forget()
        reporter.say("faster", f"faster: {told}: now {pace}", deferred=deferred, known=known)
    return ""


def forget_ghosts(where: Instance) -> None:
    """Reload Postfix if its queue manager may still remember messages as active that lie in hold."""
    managers = postfix.children(where, "qmgr")
    if not managers:
        return
    since = min(map(postfix.started, managers))
    # Putting a message on hold renames its file, which is a change of its status.
    if any(entry.stat().st_ctime > since for entry in postfix.files(f"{where.spool}/hold")):
        postfix.reload(where)


def parser() -> argparse.ArgumentParser:
    made = command.Parser(prog=NAME, description=__doc__)
    made.add_argument("count", type=int, metavar="COUNT", help="messages to release each time")
    made.add_argument("seconds", type=float, metavar="SECONDS", help="seconds between two releases")
    add_filters(made)
    made.add_argument("--adaptive", action="store_true", help="slow down at 10 %% deferrals, end at 50 %%, and say why")
    made.add_argument("--dry-run", action="store_true", help="say what would be released, and release nothing")
    made.add_argument("--log", type=Path, default=maillog.LOG, metavar="FILE", help="log that --adaptive reads")
    made.add_argument("--json", action="store_true", help="print one JSON object per line: event, text and figures")
    return made


def body(argv: Sequence[str] | None) -> int:
    options = parser().parse_args(argv)
    if options.count < 1 or not 0 < options.seconds < 86400:
        raise Failure("COUNT must be at least 1, SECONDS more than 0 and less than a day", command.USAGE)
    command.need_root()
    where = postfix.instance(options.instance)
    selection = Selection(options, where)
    selection.queue = {"hold"}
    pace = Pace(options.count, options.seconds)

    def choose() -> list[Message]:
        found = selection.of(postfix.listing(where))
        if not mailing_state.wanted():
            return found
        # They would need a new queue ID, and on the way to it cleanup would put them on hold again.
        old = postfix.too_old(where, found, time.time())
        return [message for message in found if message.queue_id not in old]

    chosen = choose()
    reporter = Reporter(options.json)
    if not chosen:
        raise Failure("nothing on hold" + ("" if selection.everything else " that these filters choose"), command.NO)
    plan = f"{pace}; {messages(len(chosen))} on hold: {in_words(pace.duration(len(chosen)))}"
    reporter.say(
        "plan", plan, count=pace.count, seconds=pace.seconds, rate=pace.count / pace.seconds, on_hold=len(chosen)
    )
    if options.dry_run:
        reporter.say("dry_run", "nothing was released", first=[message.queue_id for message in chosen[: pace.count]])
        return DONE
    postfix.need_running(where)
    if options.adaptive and not options.log.exists():
        raise Failure(f"--adaptive needs the mail log, and there is no {options.log}: see --log")
    if mailing_state.wanted():
        note = "new mail, and what has spent half of its lifetime, stays on hold until `mailing resume` or `mailing on`"
        command.tell(NAME, note)
    forget_ghosts(where)
    ended = trickle(
        where,
        pace,
        beginning_with(chosen, choose),
        reporter,
        maillog.Outcomes(options.log) if options.adaptive else None,
    )
    return finish(ended, reporter)


def finish(ended: End, reporter: Reporter) -> int:
    """Say how it ended and return the exit status."""
    verb = "done" if ended.status == DONE else "stopped"
    text = f"{verb}: {ended.why}: {messages(ended.released)} released, {messages(ended.left)} on hold{ended.whose}"
    reporter.say(verb, text, why=ended.why, released=ended.released, left=ended.left, status=ended.status)
    return ended.status


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
