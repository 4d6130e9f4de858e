"""mailing panic, resume, off, on and status: what holds, holds; what ends puts back its own."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from civicrm_tools.core import locks
from civicrm_tools.mail import holds, mailing_state, postfix
from civicrm_tools.mail.mailing import main

RECEIPT = "shop@crm.test"


@pytest.fixture
def mailing(run):
    """A function (arguments...) -> (exit status, output, errors)."""

    def _mailing(*arguments):
        quick = ["--settle", "0"] if arguments[0] in ("panic", "off") else []
        return run(main, *arguments, *quick)

    return _mailing


def metrics() -> dict[str, int]:
    lines = mailing_state.METRICS.read_text().splitlines()
    return {line.split()[0]: int(line.split()[1]) for line in lines if not line.startswith("#")}


def test_panic_holds_every_queue_of_every_instance(mta, second_instance, mailing):
    """One command, whatever there is (S24)."""
    ids = {mta.put(f"4jWDX{n}GX7zLW0x", queue) for n, queue in enumerate(("incoming", "active", "deferred"))}
    other = second_instance.put("4jWDX9GX7zLW0x", "active", sender=RECEIPT)
    status, said, _ = mailing("panic", "--reason", "wrong list")
    assert status == 0
    assert mta.queue("hold") == ids
    assert second_instance.queue("hold") == {other}
    assert "4 messages put on hold" in said
    assert metrics()["mailing_enabled"] == 0
    assert metrics()["mailing_panic"] == 1
    assert metrics()["mailing_state_since_seconds"] == pytest.approx(time.time(), abs=60)


def test_panic_stops_what_is_new_before_it_clears_the_queue(mta, mailing, monkeypatch):
    """In the other order, what comes in between would leave: 8 messages did, when it was tried."""
    seen = []
    real = postfix.hold_all
    monkeypatch.setattr(
        postfix,
        "hold_all",
        lambda w, q: seen.append((mailing_state.path("panic").exists(), set(mta.switch()))) or real(w, q),
    )
    assert mailing("panic")[0] == 0
    assert seen
    assert all(holds and kinds == {"mailing", "submission"} for holds, kinds in seen)


def test_panic_sweeps_twice(mta, mailing, monkeypatch):
    """A message that was between cleanup and the queue during the first sweep is caught by the second."""
    real, sweeps = postfix.hold_all, []

    def hold_all(where, queue):
        if queue == "active":
            sweeps.append(queue)
            mta.put(f"4jWDX{len(sweeps)}GX7zLW0x", "incoming")
            return real(where, queue)
        return real(where, queue) if len(sweeps) > 1 or queue != "incoming" else 0

    monkeypatch.setattr(postfix, "hold_all", hold_all)
    assert mailing("panic")[0] == 0
    assert mta.queue("incoming") == set()
    assert len(mta.queue("hold")) == 2


def test_panic_makes_the_queue_manager_forget_and_go_on(mta, mailing, monkeypatch):
    """Paused while the queue is moved, told to forget before it goes on; it goes on whatever happens."""
    order = []
    monkeypatch.setattr(postfix, "pause", lambda where: order.append("pause"))
    monkeypatch.setattr(postfix, "go_on", lambda where: order.append("go on"))
    monkeypatch.setattr(postfix, "reload", lambda where: order.append("reload"))
    assert mailing("panic")[0] == 0
    assert order == ["pause", "reload", "go on"]
    order.clear()

    def broken(where, queue):
        raise postfix.Failure("disk full")

    monkeypatch.setattr(postfix, "hold_all", broken)
    assert mailing("panic")[::2] == (1, "mailing: disk full\n")
    assert order == ["pause", "reload", "go on"]


def test_the_queue_manager_is_found_and_paused(mta, tmp_path):
    """The one of this instance's master, by its name and its parent."""
    script = tmp_path / "qmgr"
    script.write_text("#!/bin/sh\nwhile :; do sleep 0.1; done\n")
    script.chmod(0o755)
    where = postfix.instance("postfix")
    assert postfix.children(where, "qmgr") == []
    stranger = subprocess.Popen([script])
    master = subprocess.Popen(["/bin/sh", "-c", f"{script} & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    child = int(master.stdout.readline())
    try:
        (Path(where.spool) / "pid").mkdir()
        (Path(where.spool) / "pid" / "master.pid").write_text(f"           {master.pid}\n")
        deadline = time.monotonic() + 20
        while postfix.children(where, "qmgr") != [child]:
            assert time.monotonic() < deadline

        def stopped() -> bool:
            return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "T"

        postfix.pause(where)
        while not stopped():
            assert time.monotonic() < deadline
        postfix.go_on(where)
        while stopped():
            assert time.monotonic() < deadline
    finally:
        for process in (child, master.pid, stranger.pid):
            os.kill(process, 9)
        master.wait()
        stranger.wait()


def test_resume_puts_back_only_what_panic_held(mta, mailing):
    """N3: what an operator had stopped before stays stopped, what came during the panic goes out."""
    before = mta.put("4jWDX1GX7zLW0x", "hold")
    held = mta.put("4jWDX2GX7zLW0x", "active")
    mailing("panic")
    came = mta.put("4jWDX3GX7zLW0x", "hold", sender=RECEIPT)
    status, said, _ = mailing("resume")
    assert status == 0
    assert {i for _, i in mta.delivered()} == {held, came}
    assert mta.queue("hold") == {before}
    assert mailing_state.read("panic") is None
    assert mta.switch() == {}
    assert metrics()["mailing_panic"] == 0
    assert metrics()["mailing_enabled"] == 1
    assert "2 messages released" in said


def test_a_second_panic_remembers_the_first(mta, mailing):
    """Called twice in the heat, it must not take its own held mail for somebody else's."""
    before = mta.put("4jWDX1GX7zLW0x", "hold")
    held = mta.put("4jWDX2GX7zLW0x", "active")
    mailing("panic")
    mailing("panic", "--reason", "still")
    assert holds.read().others == {"postfix": {before: "by hand"}}
    mailing("resume")
    assert [i for _, i in mta.delivered()] == [held]
    assert mta.queue("hold") == {before}


def test_resume_is_a_trickle_and_goes_on_where_it_was_interrupted(mta, mailing, monkeypatch):
    """While it runs new mail flows, mailing jobs do not; Ctrl-C leaves the rest for the next resume."""
    ids = [mta.put(f"4jWDX{n}GX7zLW0x", "active", age=100 - n) for n in range(5)]
    mailing("panic")
    real = postfix.release

    def release(where, chosen, requeue):
        done = real(where, chosen, requeue)
        os.kill(os.getpid(), 2)
        return done

    monkeypatch.setattr(postfix, "release", release)
    status, said, _ = mailing("resume", 2, 60)
    assert status == 130
    assert [i for _, i in mta.delivered()] == ids[:2]
    assert mta.queue("hold") == set(ids[2:])
    assert "2 messages every 60 s" in said
    assert said.splitlines()[-1].endswith(
        "`mailing resume` goes on: 2 messages released, 3 messages on hold (3 for the panic)"
    )
    assert mailing_state.path("panic").exists(), "the jobs stay off"
    assert mta.switch() == {}
    monkeypatch.setattr(postfix, "release", real)
    again = mta.put("4jWDX0GX7zLW0x", "hold")
    assert mailing("resume", "--at-once")[0] == 0
    assert [i for _, i in mta.delivered()] == ids
    assert mta.queue("hold") == {again}, "an operator's own, from after the first resume began"
    assert not mailing_state.path("panic").exists()


def test_a_panic_ends_a_resume(mta, mailing, monkeypatch):
    ids = {mta.put(f"4jWDX{n}GX7zLW0x", "active") for n in range(3)}
    mailing("panic")
    real = postfix.release

    def release(where, chosen, requeue):
        done = real(where, chosen, requeue)
        time.sleep(0.01)
        before = mailing_state.read("panic")
        mailing_state.write("panic", mailing_state.State(time.time(), "bob", "", before.kept))
        return done

    monkeypatch.setattr(postfix, "release", release)
    status, said, _ = mailing("resume", 1, 0.1)
    assert status == 4
    assert "bob has called a panic" in said
    assert len(mta.queue("hold") & ids) == 2
    assert mailing_state.read("panic").left is None, "it holds in full"


def test_off_holds_mailings_and_lets_receipts_go(mta, mailing):
    """S18: nothing of a mailing leaves; a donor still gets the receipt."""
    bulk = {mta.put("4jWDX1GX7zLW0x", "active"), mta.put("4jWDX2GX7zLW0x", "deferred")}
    receipt = mta.put("4jWDX3GX7zLW0x", "active", sender=RECEIPT)
    status, said, _ = mailing("off", "--reason", "moderation")
    assert status == 0
    assert mta.queue("hold") == bulk
    assert mta.queue("active") == {receipt}
    assert set(mta.switch()) == {"mailing"}
    assert mta.switch()["mailing"].startswith("HOLD mailings are off since ")
    assert "2 messages of mailings" in said
    assert (metrics()["mailing_enabled"], metrics()["mailing_panic"]) == (0, 0)


def test_on_puts_back_mailings_and_nothing_else(mta, mailing):
    before = mta.put("4jWDX1GX7zLW0x", "hold")
    bulk = mta.put("4jWDX2GX7zLW0x", "active")
    mailing("off")
    other = mta.put("4jWDX3GX7zLW0x", "hold", sender=RECEIPT)
    status, _, _ = mailing("on")
    assert status == 0
    assert [i for _, i in mta.delivered()] == [bulk]
    assert mta.queue("hold") == {before, other}
    assert mta.switch() == {}
    assert metrics()["mailing_enabled"] == 1


def test_a_panic_within_off_ends_with_off_still_holding(mta, mailing):
    """Two people, two reasons: the end of one is not the end of the other."""
    bulk = mta.put("4jWDX1GX7zLW0x", "active")
    mailing("off")
    receipt = mta.put("4jWDX2GX7zLW0x", "active", sender=RECEIPT)
    mailing("panic")
    late = mta.put("4jWDX3GX7zLW0x", "hold")
    assert mailing("resume")[0] == 0
    assert [i for _, i in mta.delivered()] == [receipt]
    assert mta.queue("hold") == {bulk, late}
    assert set(mta.switch()) == {"mailing"}
    assert metrics()["mailing_enabled"] == 0
    assert mailing("on")[0] == 0
    assert {i for _, i in mta.delivered()} == {receipt, bulk, late}


def test_off_within_a_panic_strands_nothing(mta, mailing):
    """68 of 72 messages stayed on hold for ever: off took for somebody else's what the panic held."""
    own = mta.put("4jWDX0GX7zLW0x", "hold")
    bulk = {mta.put(f"4jWDX{n}GX7zLW0x", "active") for n in range(1, 7)}
    receipt = mta.put("4jWDX8GX7zLW0x", "active", sender=RECEIPT)
    mailing("panic")
    mailing("off")
    assert mailing("resume")[1].splitlines()[-1] == (
        "done: all that was held is put back: 1 message released, "
        "7 messages on hold (6 of mailings, which are off, 1 by hand)"
    )
    assert [i for _, i in mta.delivered()] == [receipt]
    assert mailing("on")[1].splitlines()[-1] == (
        "done: all that was held is put back: 6 messages released, 1 message on hold (1 by hand)"
    )
    assert {i for _, i in mta.delivered()} == {receipt} | bulk
    assert mta.queue("hold") == {own}


def test_on_within_a_panic_leaves_its_mail_to_the_panic(mta, mailing):
    """Neither has to wait for the other's end."""
    bulk = mta.put("4jWDX1GX7zLW0x", "active")
    mailing("off")
    mailing("panic")
    status, said, _ = mailing("on")
    assert status == 0
    assert said.splitlines()[-1].endswith("0 messages released, 1 message on hold (1 for the panic)")
    assert set(mta.switch()) == {"mailing", "submission"}
    assert mailing("resume")[0] == 0
    assert [i for _, i in mta.delivered()] == [bulk]
    assert (mta.queue("hold"), mta.switch()) == (set(), {})


@pytest.mark.parametrize("order", [("panic", "off"), ("off", "panic")])
def test_what_an_earlier_build_holds_is_put_back(mta, mailing, order):
    """Its state files know what was on hold before each began, the other one's own included."""
    mine, bulk, receipt = "4jWDX1GX7zLW0x", "4jWDX2GX7zLW0x", "4jWDX3GX7zLW0x"
    for queue_id, sender in ((mine, ""), (bulk, ""), (receipt, RECEIPT)):
        mta.put(queue_id, "hold", sender=sender)
    mailing_state.DIRECTORY.mkdir()
    held_by_first = [mine, bulk, receipt] if order[0] == "panic" else [mine, bulk]
    for name, kept, since in ((order[0], [mine], 100), (order[1], held_by_first, 200)):
        old = {"since": since, "by": "alice", "reason": "", "kept": {"postfix": kept}, "left": None}
        mailing_state.path(name).write_text(json.dumps(old))
    assert mailing("resume")[0] == 0
    assert [i for _, i in mta.delivered()] == [receipt]
    assert mailing("on")[0] == 0
    assert {i for _, i in mta.delivered()} == {receipt, bulk}
    assert mta.queue("hold") == {mine}


def test_an_earlier_builds_resume_that_was_interrupted_goes_on(mta, mailing):
    ids = [mta.put(f"4jWDX{n}GX7zLW0x", "hold") for n in range(3)]
    mailing_state.DIRECTORY.mkdir()
    old = {"since": 1, "by": "alice", "reason": "", "kept": {"postfix": ids[:1]}, "left": {"postfix": ids[1:2]}}
    mailing_state.path("panic").write_text(json.dumps(old))
    assert mailing("resume")[0] == 0
    assert [i for _, i in mta.delivered()] == ids[1:2]
    assert mta.queue("hold") == {ids[0], ids[2]}


def test_what_a_sites_policy_holds_belongs_to_no_state(mta, mailing):
    """It came during the panic, but not because of it."""
    mailing("panic")
    mta.put("4jWDX1GX7zLW0x", "hold", to="hold@staging-crm.caught.invalid", sender=RECEIPT)
    _, said, _ = mailing("resume")
    assert said.endswith("0 messages released, 1 message on hold (1 by mail_policy)\n")
    assert not mta.delivered()


def test_the_end_of_what_does_not_hold_changes_nothing(mta, mailing):
    """A script may say `mailing on` to be sure."""
    mta.put("4jWDX1GX7zLW0x", "hold")
    assert mailing("on")[:2] == (0, "mailings are on\n")
    assert mailing("resume")[:2] == (0, "there is no panic\n")
    assert not mta.calls("postsuper")


def test_a_requeued_message_is_not_held_again(mta, mailing):
    """The switch is off before anything is released."""
    old = mta.put("4jWDX1GX7zLWbx", "active", age=4 * 86400)
    mailing("panic")
    assert mailing("resume")[0] == 0
    assert [i for _, i in mta.delivered()] == [f"{old}new"]
    assert mta.queue("hold") == set()


def test_an_instance_without_the_switch_is_held_and_reported(mta, second_instance, mailing):
    """The emergency comes first; what it could not do is an error and not silence."""
    second_instance.set(header_checks="")
    held = mta.put("4jWDX1GX7zLW0x", "active")
    status, _, error = mailing("panic")
    assert (status, error) == (
        1,
        "mailing: new mail is not held in postfix-receipts: its header_checks name no mailing_state\n",
    )
    assert mta.queue("hold") == {held}


def test_panic_works_while_postfix_is_down(mta, mailing):
    (mta.root / "down").touch()
    held = mta.put("4jWDX1GX7zLW0x", "deferred")
    assert mailing("panic")[0] == 0
    assert mta.queue("hold") == {held}
    status, _, error = mailing("resume")
    assert (status, error) == (1, "mailing: postfix is not running: systemctl start postfix\n")
    assert mta.queue("hold") == {held}
    assert mailing_state.path("panic").exists()


def test_a_damaged_state_still_stops_mailings_and_panic_still_works(mta, mailing):
    """Half a file after a power cut: nobody's mail leaves by mistake."""
    mine = mta.put("4jWDX1GX7zLW0x", "hold")
    mailing_state.DIRECTORY.mkdir()
    mailing_state.path("panic").write_text("{")
    status, _, error = mailing("resume")
    assert status == 1
    assert "damaged" in error
    assert mailing("panic")[0] == 0
    assert holds.read().others == {"postfix": {mine: "by hand"}}


@pytest.mark.parametrize("damaged", ["off", "panic"])
@pytest.mark.parametrize("action", ["off", "panic"])
def test_no_damaged_state_keeps_mail_from_being_held(mta, mailing, action, damaged):
    """The emergency comes first; what nobody can read goes on holding."""
    bulk = mta.put("4jWDX1GX7zLW0x", "active")
    mailing_state.DIRECTORY.mkdir()
    mailing_state.path(damaged).write_text("{")
    assert mailing(action)[0] == 0
    assert mta.queue("hold") == {bulk}
    assert mailing_state.read(action).by
    assert set(mta.switch()) == ({"mailing"} if {action, damaged} == {"off"} else {"mailing", "submission"})
    if action == "off" and damaged == "panic":
        assert mta.switch()["submission"] == f"HOLD panic, see {mailing_state.path('panic')}"


@pytest.mark.parametrize("text", [None, "{"])
def test_neither_a_busy_nor_a_damaged_book_keeps_a_panic_from_holding(mta, mailing, monkeypatch, text):
    """The emergency waits for nobody for long; what was on hold before stays on hold."""
    monkeypatch.setattr(holds, "URGENT", 0.1)
    mine, bulk = mta.put("4jWDX1GX7zLW0x", "hold"), mta.put("4jWDX2GX7zLW0x", "active")
    mailing_state.DIRECTORY.mkdir()
    if text:
        holds.path().write_text(text)
    with locks.locked(mailing_state.DIRECTORY / "holds.lock"):
        assert mailing("panic")[0] == 0
    assert mta.queue("hold") == {mine, bulk}
    if text:
        assert "damaged" in mailing("resume")[2]
        holds.path().unlink()
    assert mailing("resume")[0] == 0
    assert [i for _, i in mta.delivered()] == [bulk]
    assert mta.queue("hold") == {mine}


def test_two_resumes_do_not_double_the_pace(mta, mailing):
    mta.put("4jWDX1GX7zLW0x", "active")
    mailing("panic")
    with locks.locked(mailing_state.DIRECTORY / "lock"):
        status, _, error = mailing("resume")
    busy = f"another `mailing on` or `mailing resume` is running (process {os.getpid()})"
    assert (status, error) == (1, f"mailing: {busy}\n")
    assert len(mta.queue("hold")) == 1


def test_status_tells_what_holds_since_when_by_whom_and_why(mta, mailing, monkeypatch):
    monkeypatch.setenv("SUDO_USER", "alice")
    mta.put("4jWDX1GX7zLW0x", "active")
    assert mailing("status")[1].splitlines()[0] == "on: mailings are sent"
    mailing("off", "--reason", "moderation")
    mailing("panic", "--reason", "wrong list")
    status, said, _ = mailing("status")
    assert status == 3
    first, step, second, next_step, heads, counts = said.splitlines()
    assert first.startswith("PANIC: nothing leaves; by alice: wrong list; since 20")
    assert second.startswith("OFF: mailings are not sent; by alice: moderation; since 20")
    assert (step, next_step) == ("  next: mailing resume", "  next: mailing on")
    assert dict(zip(heads.split(), counts.split()[1:], strict=True)) == {
        "active": "0", "corrupt": "0", "deferred": "0", "hold": "1", "incoming": "0", "maildrop": "0",
    }  # fmt: skip
    found = json.loads(mailing("status", "--json")[1])
    assert found["sending"] == "nothing"
    assert (found["panic"]["by"], found["panic"]["reason"]) == ("alice", "wrong list")
    assert found["queues"]["postfix"]["hold"] == 1
    assert [reason["name"] for reason in found["reasons"]] == ["panic", "off"]


def test_status_finds_a_switch_that_was_lost(mta, mailing):
    """Somebody put back an old /etc: the state says panic, but Postfix lets new mail through."""
    mailing("panic")
    (mta.root / "etc" / "mailing_state.db").write_text("")
    status, said, _ = mailing("status")
    assert status == 3
    assert "postfix does not hold new mail as it should\n  next: run the command of the state again" in said
    assert mailing("status", "--output", mailing_state.METRICS)[0] == 1, "the timer's unit fails"
    mailing("panic")
    assert "as it should" not in mailing("status")[1]


def test_the_timer_writes_the_metrics_whole(mta, mailing, tmp_path):
    """node_exporter may read at any moment: the file is replaced, never written into."""
    target = tmp_path / "metrics" / "mailing.prom"
    target.write_text("old")
    inode = target.stat().st_ino
    assert mailing("status", "--output", target)[:2] == (0, "")
    assert target.stat().st_ino != inode
    assert target.stat().st_mode & 0o777 == 0o644
    assert metrics() == {"mailing_enabled": 1, "mailing_panic": 0, "mailing_state_since_seconds": 0}
    assert [p.name for p in target.parent.iterdir()] == ["mailing.prom"]


def test_without_node_exporter_a_panic_does_not_fail(mta, mailing):
    mailing_state.METRICS.parent.rmdir()
    assert mailing("panic")[0] == 0


@pytest.mark.parametrize("arguments", [["panic"], ["resume"], ["off"], ["on"], ["status"]])
def test_only_root_may(mta, mailing, monkeypatch, arguments):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert mailing(*arguments)[::2] == (1, "mailing: only root may do this: use sudo\n")
    assert not mailing_state.DIRECTORY.exists()


@pytest.mark.parametrize(
    "arguments, error",
    [([], "COMMAND"), (["stop"], "stop"), (["resume", "0", "5"], "COUNT"), (["resume", "1", "0"], "SECONDS")],
)
def test_each_mistake_is_one_line(mta, run, arguments, error):
    status, _, said = run(main, *arguments)
    assert status == 2
    assert said.startswith("mailing")
    assert error in said
    assert said.count("\n") == 1
