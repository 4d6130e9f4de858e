"""Whose every message on hold is, after whatever sequence of commands, arrivals, deliveries, requeues and crashes."""

from __future__ import annotations

import itertools
import os
import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from civicrm_tools.core.command import Failure
from civicrm_tools.mail import holds, mailing, mailing_state, postfix, queue, selection
from civicrm_tools.mail.postfix import Instance, Message, Recipient

WHERE = Instance("postfix", "/etc/postfix")
LIFETIME = 5 * 86400
ENDS = {"resume": "panic", "on": "off"}
FORMER = {"panic": "resume", "off": "on"}


class Queue:
    """Postfix' queue in memory: {queue ID: (queue, message)}, moved as postsuper and cleanup would."""

    def __init__(self) -> None:
        self.found: dict[str, Message] = {}
        self.numbers = itertools.count()
        # Releases until one is cut off, and whether that is before or after the messages moved.
        self.cut: tuple[int, bool] | None = None

    def arrive(self, bulk: bool, old: bool = False) -> str:
        number = next(self.numbers)
        sender = f"civicrm+b.7.{number + 1}.0123456789abcdef@crm.test" if bulk else "shop@crm.test"
        kinds = mailing_state.wanted()
        kind = "mailing" if bulk else "submission"
        arrived = int(time.time()) - (4 * 86400 if old else 60)
        where = "hold" if kind in kinds else "active"
        made = Message(where, f"Q{number:04}", arrived, 300, sender, (Recipient(f"{number}@gmail.test"),))
        self.found[made.queue_id] = made
        return made.queue_id

    def move(self, ids, target: str, sources) -> int:
        chosen = [i for i in ids if i in self.found and self.found[i].queue in sources]
        for queue_id in chosen:
            old = self.found[queue_id]
            self.found[queue_id] = Message(target, queue_id, old.arrived, old.size, old.sender, old.recipients)
        return len(chosen)

    def ids(self, where: str) -> set[str]:
        return {i for i, message in self.found.items() if message.queue == where}

    def release(self, where, ids, requeue=()) -> int:
        if self.cut:
            left, before = self.cut
            self.cut = (left - 1, before) if left else None
            if not left and before:
                raise Failure("killed")
        self.requeued = {}
        on_hold = [i for i in ids if i in self.ids("hold")]
        for queue_id in on_hold:
            if queue_id in requeue:
                bulk = selection.job(self.found.pop(queue_id)) is not None
                self.requeued[queue_id] = self.arrive(bulk)
            else:
                self.move([queue_id], "deferred", ["hold"])
        return len(on_hold)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        outgoing = ("incoming", "active", "deferred")
        made = {
            "instances": lambda: [WHERE],
            "instance": lambda name: WHERE,
            "need_running": lambda where: None,
            "reload": lambda where: None,
            "pause": lambda where: None,
            "go_on": lambda where: None,
            "lifetime": lambda where: LIFETIME,
            "listing": lambda where: iter(list(self.found.values())),
            "queue_ids": lambda where, name: self.ids(name),
            "sizes": lambda where, names: {name: len(self.ids(name)) for name in names},
            "hold": lambda where, ids, *queues: self.move(ids, "hold", queues or outgoing),
            "hold_all": lambda where, name: self.move(self.ids(name), "hold", [name]),
            "release": self.release,
        }
        for name, function in made.items():
            patch.setattr(postfix, name, function)
        patch.setattr(mailing_state, "write_table", lambda where: True)
        patch.setattr(mailing_state, "write_metrics", lambda file: None)
        patch.setattr(selection.Providers, "__init__", lambda *_: None)
        patch.setattr(selection.Providers, "check", lambda *_: None)
        patch.setattr(os, "geteuid", lambda: 0)
        patch.setattr(os, "fsync", lambda descriptor: None)


class Model:
    """What must be: {queue ID: owners} of all mail on hold. States: "holding" or "ending"."""

    def __init__(self, mta: Queue) -> None:
        self.mta = mta
        self.owners: dict[str, set[str]] = {}
        self.states: dict[str, str] = {}

    def bulk(self, queue_id: str) -> bool:
        return selection.job(self.mta.found[queue_id]) is not None

    def wants(self, state: str, queue_id: str) -> bool:
        return self.states.get(state) == "holding" and (state == "panic" or self.bulk(queue_id))

    def arrived(self, queue_id: str) -> None:
        if owners := {state for state in ("panic", "off") if self.wants(state, queue_id)}:
            self.owners[queue_id] = owners

    def begins(self, state: str) -> None:
        for queue_id in self.mta.found:
            owners = self.owners.get(queue_id)
            # What only a person holds is not the state's.
            if owners != {"person"} and (state == "panic" or self.bulk(queue_id)):
                self.owners.setdefault(queue_id, set()).add(state)
        self.states[state] = "holding"

    def ends(self, state: str) -> list[str]:
        """The state lets go of what another owns, and still has what it has to put back: returned."""
        if self.states.get(state) == "holding":
            for owners in self.owners.values():
                if owners != {state}:
                    owners.discard(state)
            self.states[state] = "ending"
        for owners in self.owners.values():
            if len(owners) > 1:
                owners.discard(state)
        return [queue_id for queue_id, owners in self.owners.items() if owners == {state}]


COMMANDS = ("panic", "off", "resume", "on")
STEP = st.one_of(
    st.tuples(st.sampled_from(COMMANDS), st.just(0)),
    st.tuples(st.sampled_from(COMMANDS), st.just(0)),
    st.tuples(st.sampled_from(["cut resume", "cut on"]), st.integers(0, 3)),
    st.tuples(st.just("arrive"), st.integers(0, 3)),
    st.tuples(st.just("arrive"), st.integers(0, 3)),
    st.tuples(
        st.sampled_from(["deliver", "postsuper -h", "postsuper -H", "postsuper -r", "hold", "release"]),
        st.integers(0, 30),
    ),
)


class Run:
    def __init__(self, mta: Queue, capsys) -> None:
        self.mta, self.model, self.capsys = mta, Model(mta), capsys

    def command(self, *arguments: str) -> str:
        self.capsys.readouterr()
        assert mailing.main(list(arguments)) == 0, self.capsys.readouterr().err
        return self.capsys.readouterr().out

    def step(self, what: str, number: int) -> None:
        mta, model = self.mta, self.model
        if what == "arrive":
            model.arrived(mta.arrive(bulk=number % 2 == 0, old=number > 1))
        elif what in FORMER:
            self.command(what, "--settle", "0")
            model.begins(what)
        elif what.removeprefix("cut ") in ENDS:
            self.end(what.removeprefix("cut "), number if what.startswith("cut ") else None)
        elif chosen := sorted(mta.found):
            self.one(what, chosen[number % len(chosen)])

    def end(self, what: str, cut: int | None) -> None:
        mta, model, state = self.mta, self.model, ENDS[what]
        if state not in model.states:
            assert mailing.main([what]) == 0
            return
        mine = model.ends(state)
        if cut is not None and mine:
            # One by one, and killed on the way.
            mta.cut = (cut, True)
            status = mailing.main([what, "1", "0.001"])
            assert status in (0, 1)
        else:
            said = self.command(what, "--at-once")
            found = re.search(r"(\d+) messages? released, (\d+) messages? on hold", said)
            assert found
            assert int(found[2]) == len(mta.ids("hold"))
            status = 0
        mta.cut = None
        for queue_id in mine:
            if queue_id not in mta.ids("hold"):
                del model.owners[queue_id]
        # What got a new queue ID went through cleanup once more.
        for queue_id in mta.ids("hold") - model.owners.keys():
            if queue_id > max([*mine, ""]):
                model.arrived(queue_id)
        if status == 0:
            assert not any(owners == {state} for owners in model.owners.values())
            del model.states[state]

    def one(self, what: str, queue_id: str) -> None:
        mta, model = self.mta, self.model
        held = queue_id in mta.ids("hold")
        if what == "deliver" and not held:
            del mta.found[queue_id]
        elif what == "postsuper -h" and not held:
            mta.move([queue_id], "hold", ["active", "deferred"])
            model.owners[queue_id] = {"person"}
        elif what == "postsuper -H" and model.owners.get(queue_id) == {"person"}:
            mta.move([queue_id], "deferred", ["hold"])
            del model.owners[queue_id]
        elif what == "postsuper -r":
            model.owners.pop(queue_id, None)
            bulk = model.bulk(queue_id)
            del mta.found[queue_id]
            model.arrived(mta.arrive(bulk))
        elif what == "hold":
            where = ["--queue", "hold"] if held else []
            assert queue.main(["hold", "--id", queue_id, "--yes", *where]) == 0
            model.owners[queue_id] = {"person"}
        elif what == "release" and held and queue.main(["release", "--id", queue_id, "--yes"]) == 0:
            model.owners.pop(queue_id)

    def check(self) -> None:
        assert self.mta.ids("hold") == self.model.owners.keys()
        persons = sum(owners == {"person"} for owners in self.model.owners.values())
        counts = holds.whose([WHERE])
        assert counts.total() == len(self.model.owners)
        assert counts.total() - counts["panic"] - counts["off"] == persons


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, min_size=4, max_size=25))
@example(steps=[("arrive", 0), ("arrive", 1), ("panic", 0), ("off", 0), ("resume", 0), ("on", 0)])
@example(steps=[("arrive", 0), ("off", 0), ("release", 0), ("postsuper -h", 0), ("on", 0)])
@example(steps=[("arrive", 0), ("hold", 0), ("postsuper -H", 0), ("panic", 0), ("off", 0), ("on", 0)])
@example(steps=[("arrive", 0), ("arrive", 2), ("panic", 0), ("cut resume", 1), ("off", 0), ("panic", 0), ("on", 0)])
def test_every_end_puts_back_its_own_and_nothing_else(capsys, steps):
    """In any order and any nesting: what nobody owns leaves hold, what somebody owns stays (N3, S24)."""
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as directory:
        patch.setattr(mailing_state, "DIRECTORY", Path(directory) / "state")
        mta = Queue()
        mta.install(patch)
        run = Run(mta, capsys)
        for what, number in [*steps, ("resume", 0), ("on", 0)]:
            run.step(what, number)
            run.check()
        assert all(owners == {"person"} for owners in run.model.owners.values())
        assert not holds.in_force()
