"""Switch mailings off and on, and stop everything in an emergency.

  mailing status      every reason why mail is not sent, since when, the next step; what lies in the queues
  mailing off         no mailing is sent: CiviCRM's mailing job does not start, what is queued of mailings goes on hold
  mailing on          the opposite of off
  mailing panic       nothing leaves: off for all mail, in every Postfix instance
  mailing resume      the opposite of panic

panic and off put mail on hold, what is queued and what is still submitted; deliveries in flight may finish. They stay
after a reboot and a converge. resume and on put back only what panic or off held, a few at a time: COUNT messages
every SECONDS (100 5), or all at once with --at-once. Ctrl-C leaves the rest on hold; the same command goes on.

The two are independent: the end of a panic leaves mailings off if they were. What comes in from outside during a panic
goes on, but for what lay in the queue when it began. A process_mailing that runs is not killed, since CiviCRM would
send again what it had not yet noted; its mail goes on hold.

Files:
  /var/lib/mail-tools/off.json, panic.json  the states
  /etc/postfix/mailing_state.db             the table by which Postfix holds new mail

status looks at the states, the spool's reserve, Postfix, the signer, the jobs' timers and results, the providers' pace
and budgets, the bounce breaker, what others hold, and the private link, which mailings do not need.

Exit status: 0, 1 error, 2 wrong arguments, 3 ended by --adaptive, or at status: not everything is sent,
4 ended by a panic, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from civicrm_tools.core import command, locks
from civicrm_tools.core.command import DONE, Failure, messages
from civicrm_tools.mail import holds, mailing_state, obstacles, postfix, queue_sizes, trickle
from civicrm_tools.mail import log as maillog
from civicrm_tools.mail.holds import BY_HAND, POLICY, Ending
from civicrm_tools.mail.mailing_state import State
from civicrm_tools.mail.obstacles import Obstacle
from civicrm_tools.mail.postfix import Instance
from civicrm_tools.mail.selection import job

NAME = "mailing"
COUNT, SECONDS = 100, 5.0
OUTGOING = ("active", "incoming", "deferred")
# In words, whose a message on hold is; others have names of their own.
OWNERS = {"panic": "for the panic", "off": "of mailings, which are off", BY_HAND: BY_HAND, POLICY: "by mail_policy"}


def panic(options: argparse.Namespace) -> int:
    """Hold everything, and remember what was on hold before."""
    instances = postfix.instances()

    def sweep() -> int:
        return sum(postfix.hold_all(where, queue) for where in instances for queue in OUTGOING)

    return hold("panic", instances, sweep, undisturbed(instances), options)


def off(options: argparse.Namespace) -> int:
    """Hold mailings, and let all other mail go on."""
    instances = postfix.instances()
    return hold("off", instances, lambda: sum(map(hold_mailings, instances)), contextlib.nullcontext(), options)


def hold(
    name: str,
    instances: Sequence[Instance],
    sweep: Callable[[], int],
    around: contextlib.AbstractContextManager[None],
    options: argparse.Namespace,
) -> int:
    """Begin a state, and put on hold what `sweep` finds.

    The order matters: first nothing new is begun and what comes is held, then the queue, and a second time for what
    was on its way between the two.
    """
    try:
        mailing_state.read(name)
    except Failure as failure:
        # Nothing that lies on hold now will be put back: better than to send what somebody had stopped.
        command.tell(NAME, str(failure))
    holds.begin(name, instances, State(time.time(), command.operator(), options.reason))
    astray = [where.name for where in instances if not mailing_state.write_table(where)]
    with around:
        held = sweep()
        time.sleep(options.settle)
        held += sweep()
    # It can be made up for by the next command.
    with contextlib.suppress(Failure), holds.book(holds.URGENT) as found:
        holds.adopt(instances, found)
    mailing_state.write_metrics(mailing_state.METRICS)
    what = messages(held) + (" of mailings" if name == "off" else "")
    options.reporter.say(name, f"{name}: {what} put on hold; deliveries in flight may finish", held=held)
    if astray:
        # The emergency measure is taken in any case.
        raise Failure(f"new mail is not held in {', '.join(astray)}: its header_checks name no mailing_state")
    return DONE


@contextlib.contextmanager
def undisturbed(instances: Sequence[Instance]) -> Iterator[None]:
    """Let no delivery begin meanwhile, and have the queue managers begin anew, without what is no longer there.

    The reload waits for a queue manager while it is paused, so that it offers nothing in between.
    """
    with contextlib.ExitStack() as later:
        for where in instances:
            later.callback(postfix.go_on, where)
            later.callback(forget, where)
            postfix.pause(where)
        yield


def forget(where: Instance) -> None:
    # One that is down has nothing to forget.
    with contextlib.suppress(Failure):
        postfix.reload(where)


def hold_mailings(where: Instance) -> int:
    found = [m for m in postfix.listing(where) if m.queue in OUTGOING and job(m) is not None]
    held = postfix.hold(where, [m.queue_id for m in found], *OUTGOING)
    if held and any(m.queue == "active" for m in found):
        postfix.reload(where)
    return held


def resume(options: argparse.Namespace) -> int:
    """Put back what panic held."""
    return put_back("panic", options)


def on(options: argparse.Namespace) -> int:
    """Put back what off held."""
    return put_back("off", options)


def put_back(name: str, options: argparse.Namespace) -> int:
    """End a state: new mail goes out at once, what was held a few at a time, and last the mailing jobs start again."""
    # Two would double the pace.
    busy = "another `mailing on` or `mailing resume` is running"
    with locks.locked(mailing_state.DIRECTORY / "lock", wait=0, busy=busy):
        return _put_back(name, options)


def _put_back(name: str, options: argparse.Namespace) -> int:
    if not mailing_state.read(name):
        options.reporter.say("nothing", "there is no panic" if name == "panic" else "mailings are on")
        return DONE
    instances = postfix.instances()
    for where in instances:
        postfix.need_running(where)
    ending = Ending(name, instances)
    for where in instances:
        mailing_state.write_table(where)
        postfix.go_on(where)
    ended = release(options, instances, ending)
    if ended.status == DONE:
        ending.end(instances)
        for where in instances:
            mailing_state.write_table(where)
        mailing_state.write_metrics(mailing_state.METRICS)
    else:
        ended.why += f"; `mailing {options.action}` goes on"
    # What Postfix has on hold now, and not what is believed to be left.
    counts = holds.whose(instances)
    ended.left = counts.total()
    ended.whose = f" ({in_owners(counts)})" if counts else ""
    return trickle.finish(ended, options.reporter)


def in_owners(counts: Counter[str]) -> str:
    return ", ".join(f"{number:,} {OWNERS.get(owner, f'by {owner}')}" for owner, number in counts.most_common())


def release(options: argparse.Namespace, instances: Sequence[Instance], ending: Ending) -> trickle.End:
    """Release what a state still has to put back, instance after instance."""
    total = 0
    for where in instances:
        chosen = ending.choose(where)
        pace = trickle.Pace(max(1, len(chosen)) if options.at_once else options.count, options.seconds)
        options.reporter.bar = None
        how = "at once" if options.at_once else f"{pace}"
        options.reporter.say("plan", f"{where.name}: {messages(len(chosen))} to put back, {how}", on_hold=len(chosen))
        outcomes = maillog.Outcomes(options.log) if options.adaptive else None
        choose = trickle.beginning_with(chosen, functools.partial(ending.choose, where))
        ended = trickle.trickle(where, pace, choose, options.reporter, outcomes, ending.release)
        total += ended.released
        if ended.status != DONE:
            return trickle.End(ended.status, ended.why, total, 0)
    return trickle.End(DONE, "all that was held is put back", total, 0)


def status(options: argparse.Namespace) -> int:
    """One screen: every reason why mail is not sent, since when and what to do next, and the queues."""
    if options.output:
        mailing_state.write_metrics(options.output)
        # Nobody reads the timer's output: its unit fails.
        for one in obstacles.switched():
            raise Failure(f"{one.text}: {one.step}")
        return DONE
    seen = obstacles.found()
    sending = obstacles.sending(seen)
    sizes = queue_sizes.sizes()
    if options.json:
        print(json.dumps(as_json(seen, sending) | {"queues": sizes}, indent=2))
    else:
        print("\n".join(screen(seen, sending, sizes)))
    return DONE if sending == obstacles.ALL else command.NO


def as_json(seen: Sequence[Obstacle], sending: str) -> dict[str, object]:
    states: dict[str, object] = {}
    for name in mailing_state.STATES:
        with contextlib.suppress(Failure):
            held = mailing_state.read(name)
            states[name] = held and {key: getattr(held, key) for key in ("since", "by", "reason")}
    return {"sending": sending} | states | {"reasons": [asdict(one) for one in seen]}


def screen(seen: Sequence[Obstacle], sending: str, sizes: dict[str, dict[str, int]]) -> list[str]:
    lines = ["on: mailings are sent"] if sending == obstacles.ALL else []
    for one in seen:
        lines += [f"{one}", f"  next: {one.step}"]
    names = [name for name in queue_sizes.QUEUES if name not in ("bounce", "flush")]
    lines.append("".join(["", f"{'':<18}", *(f"{name:>10}" for name in names)]))
    for instance, queues in sizes.items():
        lines.append("".join([f"{instance:<18}", *(f"{queues[name]:>10,}" for name in names)]))
    return lines


def parser() -> argparse.ArgumentParser:
    made = command.Parser(prog=NAME, description=__doc__)
    actions = made.add_subparsers(dest="action", required=True, metavar="COMMAND")
    for name, function in (("status", status), ("off", off), ("on", on), ("panic", panic), ("resume", resume)):
        one = actions.add_parser(name, help=(function.__doc__ or "").splitlines()[0], description=function.__doc__)
        one.set_defaults(function=function, output=None)
        one.add_argument("--json", action="store_true", help="print JSON")
        if name in ("off", "panic"):
            one.add_argument("--reason", default="", metavar="TEXT", help="why, for the colleague who comes next")
            one.add_argument("--settle", type=float, default=1.0, metavar="SECONDS", help=argparse.SUPPRESS)
        if name in ("on", "resume"):
            one.add_argument("count", type=int, nargs="?", default=COUNT, metavar="COUNT", help="messages each time")
            one.add_argument(
                "seconds", type=float, nargs="?", default=SECONDS, metavar="SECONDS", help="between two times"
            )
            one.add_argument("--at-once", action="store_true", help="all of them, without a pace")
            one.add_argument("--adaptive", action="store_true", help="slower at 10 %% deferrals, an end at 50 %%")
            one.add_argument("--log", type=Path, default=maillog.LOG, metavar="FILE", help="log that --adaptive reads")
        if name == "status":
            one.add_argument(
                "--output", type=Path, metavar="FILE", help="replace this file with Prometheus text instead"
            )
    return made


def body(argv: Sequence[str] | None) -> int:
    options = parser().parse_args(argv)
    options.reporter = trickle.Reporter(options.json)
    if getattr(options, "count", 1) < 1 or getattr(options, "seconds", 1) <= 0:
        raise Failure("COUNT must be at least 1 and SECONDS more than 0", command.USAGE)
    command.need_root()
    return int(options.function(options))


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
