"""Look into Postfix's queue, and hold, release or delete what the filters choose.

  postfix-queue list --queue deferred --domain example.net
  postfix-queue domains                  messages per recipient domain; also providers, jobs, senders, reasons
  postfix-queue hold --provider gmail
  postfix-queue release --job 2936
  postfix-queue delete --recipient 'bounce-*@example.net' --older-than 2d

list shows per recipient, oldest message first: queue, queue ID, age, provider, sender, recipient, and the reason of the
last deferral. hold works on incoming, active and deferred, release on hold, delete on all four; none without a filter,
unless --all is given. A filter given twice means either, different ones mean both. The provider of recipients that no
other has is "default". hold reloads Postfix if active messages were held.

hold --queue hold, or --on-hold-too, keeps what is on hold there when `mailing on` or `mailing resume` puts back the
rest.
hold, release and delete say what they would do and ask; scripts give --yes. They print the counts before and after.
A release of many is better made with postfix-trickle.

Exit status: 0, 1 refused or error, 2 wrong arguments, 3 nothing chosen for a change (0 with --if-any).
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence

from civicrm_tools.core import command
from civicrm_tools.core.command import DONE, Failure, in_words, messages
from civicrm_tools.mail import holds, mailing_state, postfix, verdict
from civicrm_tools.mail.postfix import Instance, Message
from civicrm_tools.mail.providers import normal
from civicrm_tools.mail.selection import QUEUES, Selection, add_filters, add_more_filters, job

NAME = "postfix-queue"
# Where a command looks unless --queue says otherwise. Mail in maildrop is not yet in the queue.
REACH = {
    "hold": {"incoming", "active", "deferred"},
    "release": {"hold"},
    "delete": {"incoming", "active", "deferred", "hold"},
}
PAST = {"hold": "put on hold", "release": "released", "delete": "deleted"}


def show(found: list[Message], selection: Selection) -> str:
    """One line per recipient: queue, queue ID, age, provider, sender, recipient, why it waits."""
    now = time.time()
    selection.providers.learn(r.address for m in found for r in m.recipients)
    lines = []
    for message in found:
        head = f"{message.queue:<8} {message.queue_id:<16} {in_words(now - message.arrived):<11}"
        for recipient in message.recipients:
            why = f" ({recipient.reason})" if recipient.reason else ""
            provider = selection.providers.of(recipient.address)
            lines.append(f"{head} {provider:<10} {message.sender or '<>'} -> {recipient.address}{why}")
    return "\n".join(lines)


def as_json(found: list[Message], selection: Selection) -> list[dict[str, object]]:
    selection.providers.learn(r.address for m in found for r in m.recipients)
    return [
        {
            "queue": message.queue,
            "queue_id": message.queue_id,
            "arrived": message.arrived,
            "size": message.size,
            "sender": message.sender,
            "job": job(message),
            "recipients": [
                {"address": r.address, "provider": selection.providers.of(r.address), "reason": r.reason}
                for r in message.recipients
            ],
        }
        for message in found
    ]


def tally(what: str, found: list[Message], selection: Selection) -> Counter[str]:
    """Messages, or recipients where a message has several, by what the subcommand names."""
    recipients = [recipient for message in found for recipient in message.recipients]
    if what == "providers":
        selection.providers.learn(r.address for r in recipients)
    by: dict[str, Callable[[], Counter[str]]] = {
        "domains": lambda: Counter(normal(r.address) for r in recipients),
        "providers": lambda: Counter(selection.providers.of(r.address) for r in recipients),
        "jobs": lambda: Counter(str(job(m) or "none") for m in found),
        "senders": lambda: Counter(m.sender or "<>" for m in found),
        "reasons": lambda: reasons([r.reason for r in recipients]),
    }
    return by[what]()


def reasons(said: list[str]) -> Counter[str]:
    """Recipients by what keeps them waiting, each with the commonest words."""
    groups: dict[str, Counter[str]] = {}
    for reason in said:
        about = str(verdict.of_reply(reason)) if reason else "none"
        groups.setdefault(about, Counter())[reason] += 1
    return Counter(
        {
            about if about == "none" else f"{about}: {words.most_common(1)[0][0]}": words.total()
            for about, words in groups.items()
        }
    )


def act(action: str, found: list[Message], where: Instance, owner: str) -> int:
    """Do it and return how many messages it moved. owner: who holds them from now on."""
    ids = [message.queue_id for message in found]
    queues = sorted({message.queue for message in found})
    if action == "delete":
        return postfix.delete(where, ids, *queues)
    if action == "release":
        postfix.need_running(where)
        old = postfix.too_old(where, found, time.time())
        if old and mailing_state.wanted():
            raise Failure(
                f"{messages(len(old))} spent half of their lifetime and would go on hold again: see `mailing status`"
            )
        return holds.release(where, found, old)
    fresh = [message.queue_id for message in found if message.queue != "hold"]
    number = postfix.hold(where, fresh, *(name for name in queues if name != "hold"))
    holds.keep(where, fresh, set(ids).difference(fresh), owner)
    if "active" in queues:
        # Else the queue manager goes on to offer them to the provider, one per turn of its pace.
        postfix.reload(where)
    return number


def change(options: argparse.Namespace, selection: Selection, where: Instance) -> int:
    action = options.action
    command.need_root()
    allowed = REACH[action] | ({"hold"} if action == "hold" else set())
    if selection.queue - allowed:
        raise Failure(f"{action} works on {', '.join(sorted(allowed))}", command.USAGE)
    if selection.everything and not options.all:
        raise Failure(f"without a filter this would {action} everything: give one, or --all", command.USAGE)
    selection.queue = selection.queue or REACH[action] | ({"hold"} if getattr(options, "on_hold_too", False) else set())
    found = selection.of(postfix.listing(where))
    if not found and options.if_any:
        return DONE
    if not found:
        raise Failure(
            "nothing on hold that these filters choose" if action == "release" else "nothing chosen", command.NO
        )
    before = postfix.sizes(where, QUEUES)
    if not options.json:
        print(f"before: {line(before)}")
        print(f"{action}: {messages(len(found))}, the oldest {in_words(time.time() - found[0].arrived)} old")
    command.confirm(f"{action.capitalize()} {messages(len(found))}?", options.yes)
    number = act(action, found, where, getattr(options, "owner", None) or command.operator())
    after = postfix.sizes(where, QUEUES)
    if options.json:
        print(json.dumps({"action": action, "chosen": len(found), "moved": number, "before": before, "after": after}))
    else:
        print(f"{PAST[action]}: {messages(number)}\nafter:  {line(after)}")
    return DONE


def line(counts: dict[str, int]) -> str:
    return ", ".join(f"{queue} {number:,}" for queue, number in counts.items())


def look(options: argparse.Namespace, selection: Selection, where: Instance) -> int:
    found = selection.of(postfix.listing(where))
    if options.action == "list":
        if options.json:
            print(json.dumps(as_json(found, selection), indent=2))
        elif found:
            print(show(found, selection))
        else:
            command.tell(NAME, "nothing in the queue" + ("" if selection.everything else " that these filters choose"))
        return DONE
    counted = tally(options.action, found, selection).most_common()
    if options.json:
        print(json.dumps(dict(counted), indent=2))
    else:
        print("\n".join(f"{number:>9,}  {name}" for name, number in counted), end="\n" if counted else "")
    return DONE


def parser() -> argparse.ArgumentParser:
    made = command.Parser(prog=NAME, description=__doc__)
    actions = made.add_subparsers(dest="action", required=True, metavar="COMMAND")
    for action, help_text in (
        ("list", "one line per recipient"),
        ("domains", "messages per recipient domain"),
        ("providers", "messages per provider"),
        ("jobs", "messages per CiviMail job"),
        ("senders", "messages per envelope sender"),
        ("reasons", "messages by what the last deferral is about, with its commonest words"),
        ("hold", "put on hold"),
        ("release", "release from hold and deliver"),
        ("delete", "delete for good"),
    ):
        one = actions.add_parser(action, help=help_text, description=f"{help_text.capitalize()}.")
        add_filters(one)
        add_more_filters(one)
        one.add_argument("--json", action="store_true", help="print JSON")
        if action in REACH:
            one.add_argument("--yes", action="store_true", help="do not ask")
            one.add_argument("--if-any", action="store_true", help="nothing to do is no error")
            one.add_argument("--all", action="store_true", help="without a filter: everything")
        if action == "hold":
            one.add_argument("--on-hold-too", action="store_true", help="also what is on hold already")
            one.add_argument("--owner", metavar="NAME", help="whose hold it is, in `mailing status` (your login)")
    return made


def body(argv: Sequence[str] | None) -> int:
    options = parser().parse_args(argv)
    where = postfix.instance(options.instance)
    selection = Selection(options, where)
    return change(options, selection, where) if options.action in REACH else look(options, selection, where)


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
