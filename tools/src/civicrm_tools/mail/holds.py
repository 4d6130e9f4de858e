"""Whose every message on hold is, so that each owner puts back its own and nothing else.

panic and off own what they imply, and no list of it is kept: while it holds, panic owns all that is on hold, and off
each mailing on hold; a state that is ending owns the rest that it still has to put back. What a state does not own is
booked in holds.json:

  others    what a person, the bounce breaker or another program has put on hold, with the owner's name
  released  by state, what a person has let go since the state began: if it lies on hold again, that was a person

A message leaves hold when nobody owns it any more: at the end of a state those go that neither the other state nor
anybody in the book owns. So panic and off may begin and end in any order. What the policy of a site keeps on hold
(mail_policy: hold) belongs to no state.

A state that begins writes down first, in its own file, what was on hold before (`kept`), as an emergency has no time to
look at each message; `adopt` books it as soon as it may, and also what an earlier build left in that form.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from civicrm_tools.core import files, locks
from civicrm_tools.core.command import Failure
from civicrm_tools.mail import mailing_state, postfix
from civicrm_tools.mail.mailing_state import STATES, State
from civicrm_tools.mail.postfix import Instance, Message
from civicrm_tools.mail.selection import job

BY_HAND = "by hand"
POLICY = "mail_policy"
# Seconds for which a command waits until another one has written; one batch of a release is booked within a second.
WAIT = 60
URGENT = 5
# Messages that are released between two looks at the book.
AT_ONCE = 1000


@dataclass
class Book:
    """others: {instance: {queue ID: owner}}; released: {state: {instance: [queue ID]}}."""

    others: dict[str, dict[str, str]] = field(default_factory=dict)
    released: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def let_go(self, state: str, where: Instance) -> set[str]:
        return set(self.released.get(state, {}).get(where.name, ()))

    def owned(self, where: Instance) -> dict[str, str]:
        return self.others.setdefault(where.name, {})


def path() -> Path:
    return mailing_state.DIRECTORY / "holds.json"


def read() -> Book:
    """The book; an empty one where there is none. Raises Unreadable."""
    try:
        return files.read_json(path(), lambda raw: Book(**raw), "it says what others hold: look at it, then remove it")
    except files.Missing:
        return Book()


@contextlib.contextmanager
def book(wait: float = WAIT) -> Iterator[Book]:
    """The book, for one process at a time; what is changed in it is written. Raises Failure."""
    with locks.locked(mailing_state.DIRECTORY / "holds.lock", wait=wait):
        found = read()
        before = copy.deepcopy(found)
        yield found
        if found != before:
            files.write_json(path(), asdict(found), mode=0o600)


def in_force() -> dict[str, State]:
    """The states that hold or are ending, the older one first. Raises Unreadable."""
    found = {name: state for name in STATES if (state := mailing_state.read(name))}
    return dict(sorted(found.items(), key=lambda entry: entry[1].since))


def by_policy(message: Message) -> bool:
    """Whether the policy of the site that submitted it keeps a message on hold: see postfix_mailing."""
    return any(r.address.startswith("hold@") and r.address.endswith(".caught.invalid") for r in message.recipients)


def owns(name: str, state: State, found: Book, where: Instance) -> Callable[[Message], bool]:
    """Return whether a state owns a message that is on hold; what is booked for others is looked at elsewhere."""
    if state.left is not None:
        left = set(state.left.get(where.name, ()))
        return lambda message: message.queue_id in left
    gone = found.let_go(name, where)
    return lambda message: (
        message.queue_id not in gone and not by_policy(message) and (name == "panic" or job(message) is not None)
    )


def on_hold(where: Instance) -> list[Message]:
    return [message for message in postfix.listing(where) if message.queue == "hold"]


def begin(name: str, instances: Sequence[Instance], state: State) -> None:
    """Write a state that begins, or begins anew, with what is on hold and not its own; no damaged file stops it."""
    with contextlib.suppress(Failure), book(URGENT) as found:
        adopt(instances, found)
    with contextlib.ExitStack() as stack:
        try:
            try:
                found = stack.enter_context(book(URGENT))
            except locks.Busy:
                found = read()
            before = mailing_state.read(name)
        except Failure:
            # Better to keep what somebody had stopped than to send it.
            found, before = Book(), None
        for where in instances:
            held = postfix.queue_ids(where, "hold")
            owned = found.owned(where)
            for queue_id in owned.keys() - held:
                # Let go behind our back: whoever holds it next owns it.
                del owned[queue_id]
            if before is None:
                kept = held
            elif before.left is None:
                kept = held & (set(before.kept.get(where.name, ())) | found.let_go(name, where))
            else:
                kept = held.difference(before.left.get(where.name, ()))
            state.kept[where.name] = sorted(kept - owned.keys())
        mailing_state.write(name, state)
        found.released.pop(name, None)


def adopt(instances: Sequence[Instance], found: Book) -> None:
    """Book for its owners what was on hold when a state began, but for what a state owned that was older."""
    states = in_force()
    older: dict[str, State] = {}
    for name, state in states.items():
        for where in instances if any(state.kept.values()) else ():
            kept = set(state.kept.get(where.name, ()))
            for other, their in older.items():
                kept -= their_own(other, their, found, where, kept)
            owned = found.owned(where)
            for queue_id in kept:
                owned.setdefault(queue_id, BY_HAND)
        older[name] = state
    pending = [(name, state) for name, state in states.items() if state.kept]
    if not pending:
        return
    files.write_json(path(), asdict(found), mode=0o600)
    for name, state in pending:
        state.kept = {}
        mailing_state.write(name, state)


def their_own(name: str, state: State, found: Book, where: Instance, ids: set[str]) -> set[str]:
    """Of messages on hold those that a state owns; a panic's are told without a look at each."""
    ids = ids - found.owned(where).keys()
    if state.left is None and name == "panic":
        return ids - found.let_go(name, where)
    if not ids:
        return set()
    own = owns(name, state, found, where)
    return {message.queue_id for message in on_hold(where) if message.queue_id in ids and own(message)}


def keep(where: Instance, fresh: Iterable[str], held: Iterable[str], owner: str) -> None:
    """Book messages that somebody has put on hold, and those that a state held already: it no longer releases them."""
    with book() as found:
        adopt(postfix.instances(), found)
        owned = found.owned(where)
        owned.update(dict.fromkeys(fresh, owner))
        for queue_id in held if in_force() else ():
            owned.setdefault(queue_id, owner)


def release(where: Instance, batch: Sequence[Message], old: Collection[str]) -> int:
    """Release messages because a person says so, whoever owns them; return how many left hold."""
    moved = 0
    for first in range(0, len(batch), AT_ONCE):
        ids = [message.queue_id for message in batch[first : first + AT_ONCE]]
        # Under the lock: a panic that begins meanwhile would take what is on its way for a person's.
        with book() as found:
            forget(found, where, ids)
            for name in in_force():
                known = found.released.setdefault(name, {}).setdefault(where.name, [])
                known.extend(sorted(set(ids).difference(known)))
            files.write_json(path(), asdict(found), mode=0o600)
            moved += postfix.release(where, ids, old)
    return moved


def forget(found: Book, where: Instance, ids: Iterable[str]) -> None:
    owned = found.owned(where)
    for queue_id in ids:
        owned.pop(queue_id, None)


class Ending:
    """A state that is put back: what it owned and nobody else does."""

    def __init__(self, name: str, instances: Sequence[Instance]) -> None:
        """Decide what is to be put back, unless an earlier attempt has. Raises Failure."""
        self.name = name
        with book() as found:
            adopt(instances, found)
            state = mailing_state.read(name)
            assert state
            if state.left is None:
                state.left = {where.name: self._mine(where, state, found) for where in instances}
                mailing_state.write(name, state)
            self.since = state.since

    def _mine(self, where: Instance, state: State, found: Book) -> list[str]:
        own, free = owns(self.name, state, found, where), self._free(where, found)
        return sorted(message.queue_id for message in on_hold(where) if own(message) and free(message))

    def _free(self, where: Instance, found: Book) -> Callable[[Message], bool]:
        """Return whether nobody else owns a message."""
        theirs = [owns(name, state, found, where) for name, state in in_force().items() if name != self.name]
        owned = found.owned(where)
        return lambda message: message.queue_id not in owned and not any(own(message) for own in theirs)

    def left(self, where: Instance) -> set[str]:
        """Queue IDs that are still to be put back; none if the state has begun anew meanwhile."""
        state = mailing_state.read(self.name)
        if not state or state.left is None or state.since != self.since:
            return set()
        return set(state.left.get(where.name, ()))

    def choose(self, where: Instance) -> list[Message]:
        """What is to be put back now, oldest first."""
        wanted = self.left(where)
        if not wanted & postfix.queue_ids(where, "hold"):
            return []
        return sorted((m for m in on_hold(where) if m.queue_id in wanted), key=lambda message: message.order)

    def release(self, where: Instance, batch: Sequence[Message], old: Collection[str]) -> int:
        """Release what still is this state's own; what another has taken over meanwhile stays, and is theirs."""
        moved = 0
        for first in range(0, len(batch), AT_ONCE):
            part = batch[first : first + AT_ONCE]
            with book() as found:
                wanted, free = self.left(where), self._free(where, found)
                ids = [m.queue_id for m in part if m.queue_id in wanted and free(m)]
                moved += postfix.release(where, ids, old) if ids else 0
                state = mailing_state.read(self.name)
                if state and state.left is not None and state.since == self.since:
                    state.left[where.name] = sorted(wanted.difference(message.queue_id for message in part))
                    mailing_state.write(self.name, state)
        return moved

    def end(self, instances: Sequence[Instance]) -> None:
        """The state is over. Nothing is kept of what no longer lies on hold."""
        with book() as found:
            mailing_state.remove(self.name)
            found.released.pop(self.name, None)
            for where in instances:
                forget(found, where, found.owned(where).keys() - postfix.queue_ids(where, "hold"))


def whose(instances: Sequence[Instance]) -> Counter[str]:
    """{owner: messages on hold}; one that several own counts for who keeps it longest: others, panic, off."""
    found, states = read(), in_force()
    counts: Counter[str] = Counter()
    for where in instances:
        if not postfix.queue_ids(where, "hold"):
            continue
        own = [(name, owns(name, states[name], found, where)) for name in STATES if name in states]
        owned = found.others.get(where.name, {})
        for message in on_hold(where):
            if by_policy(message):
                counts[POLICY] += 1
            elif message.queue_id in owned:
                counts[owned[message.queue_id]] += 1
            else:
                counts[next((name for name, has in own if has(message)), BY_HAND)] += 1
    return counts
