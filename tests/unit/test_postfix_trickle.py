"""postfix-trickle releases what it should, when it should, so that it leaves, and stops when told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time

import pytest

from civicrm_tools.core import command
from civicrm_tools.mail import log as maillog
from civicrm_tools.mail import mailing_state, postfix, trickle
from civicrm_tools.mail.trickle import main

ANGRY = "x@mx.angry.test"


def once(condition, action) -> threading.Thread:
    """Do something from aside as soon as a condition holds."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_oldest_first_and_the_rate_before_all(mta, run):
    """The operator sees what the numbers mean before anything leaves (S25)."""
    # A requeued message keeps its time of arrival under a younger queue ID.
    ids = [mta.put(f"4jWDX{9 - n}GX7zLW0x", age=100 - 5 * n) for n in range(7)]
    status, said, _ = run(main, 3, 0.5)
    assert status == 0
    assert [queue_id for _, queue_id in mta.delivered()] == ids
    assert said.splitlines()[0] == "3 messages every 0.5 s = 6 a second = 21,600 an hour; 7 messages on hold: 1 s"
    assert said.splitlines()[-1] == "done: nothing is left on hold: 7 messages released, 0 messages on hold"


def test_exactly_so_many_each_interval_whatever_a_batch_costs(mta, monkeypatch):
    """`10 1` means ten each second and not ten after each second's work (S25)."""
    where, batches, began = postfix.instance("postfix"), [], time.monotonic()
    messages = [postfix.Message("hold", f"4jWDX{n}GX7zLW0x", int(time.time()), 1, "", ()) for n in range(7)]

    def release(where, ids, requeue):
        batches.append((time.monotonic() - began, len(ids)))
        time.sleep(0.5)
        return len(ids)

    where.parameter("maximal_queue_lifetime")
    monkeypatch.setattr(postfix, "release", release)
    lists = [messages, []]
    ended = trickle.trickle(where, trickle.Pace(3, 1.0), lambda: lists.pop(0), trickle.Reporter(False))
    assert (ended.status, ended.released) == (0, 7)
    assert [number for _, number in batches] == [3, 3, 1]
    took = batches[2][0] - batches[0][0]
    assert 1.9 < took < 2.8, "the half seconds of work are not added"


def test_within_a_second_the_queue_id_tells_which_is_older():
    """The queue's times are whole seconds; a long queue ID holds the microseconds."""
    entries = [
        (1000, "4jWDXn6pnTzLW28"),
        (1000, "4jWDXn6GQ9zLW1y"),
        (999, "4jWDXz6b6vzLW26"),
        (1000, "4jWDXn6b6vzLW26"),
    ]
    messages = [postfix.Message("hold", queue_id, arrived, 1, "") for arrived, queue_id in entries]
    assert [m.queue_id for m in sorted(messages, key=lambda m: m.order)] == [
        "4jWDXz6b6vzLW26", "4jWDXn6GQ9zLW1y", "4jWDXn6b6vzLW26", "4jWDXn6pnTzLW28",
    ]  # fmt: skip


def test_what_is_released_is_delivered_and_not_left_in_deferred(mta, run):
    """postsuper -H only moves it to deferred, where it would wait for the next scan."""
    mta.put("4jWDX1GX7zLW0x")
    assert run(main, 10, 1)[0] == 0
    assert len(mta.delivered()) == 1
    assert mta.queue("deferred") == mta.queue("hold") == set()


def test_a_large_batch_is_delivered_by_one_scan(mta, run, tmp_path):
    """Also what was deferred before it was held: its next attempt lies in the future, and a scan would pass over it."""
    ids = [mta.put(f"4jWDX{n:02}X7zLWbx") for n in range(postfix.ONE_BY_ONE + 5)]
    future = time.time() + 3000
    os.utime(mta.root / "spool" / "hold" / ids[3], (future, future))
    assert run(main, 1000, 1)[0] == 0
    assert {i for _, i in mta.delivered()} == set(ids)
    assert len(mta.calls("postkick")) == 1
    assert not mta.calls(f"postqueue -c {mta.root}/etc -i")


def test_a_batch_is_delivered_although_postfix_is_being_reloaded(mta, run):
    """For a moment nobody listens to the request for a scan; it is made again."""
    ids = [mta.put(f"4jWDX{n:02}X7zLWbx") for n in range(postfix.ONE_BY_ONE + 5)]
    (mta.root / "nobody-listens").touch()
    assert run(main, 1000, 1)[0] == 0
    assert {i for _, i in mta.delivered()} == set(ids)
    assert len(mta.calls("postkick")) == 2


def test_a_message_that_has_waited_long_gets_a_new_lifetime(mta, run):
    """Held for days, it would expire at the first deferral; requeued it has five days again."""
    old, young = mta.put("4jWDX1GX7zLWbx", age=3 * 86400), mta.put("4jWDX2GX7zLWbx", age=2 * 86400)
    assert run(main, 10, 1)[0] == 0
    assert sorted(i for _, i in mta.delivered()) == [f"{old}new", young]


def test_the_configured_lifetime_counts(mta, run):
    mta.set(maximal_queue_lifetime="2h")
    old = mta.put("4jWDX1GX7zLWbx", age=3700)
    assert run(main, 10, 1)[0] == 0
    assert [i for _, i in mta.delivered()] == [f"{old}new"]


def test_while_new_mail_is_held_an_old_message_stays_on_hold(mta, run):
    """On its way to a new queue ID cleanup would hold it again, for ever."""
    old, young = mta.put("4jWDX1GX7zLWbx", age=4 * 86400), mta.put("4jWDX2GX7zLWbx")
    mailing_state.write("panic", mailing_state.State(time.time() - 5, "alice"))
    status, _, error = run(main, 10, 1)
    assert status == 0
    assert mta.queue("hold") == {old}
    assert [i for _, i in mta.delivered()] == [young]
    assert "mailing resume" in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_the_rest_and_says_how_many(mta, run, number):
    """A batch is never half released: what left hold is delivered, the rest stays."""
    for n in range(9):
        mta.put(f"4jWDX{n}GX7zLW0x")
    aside = once(mta.delivered, lambda: os.kill(os.getpid(), number))
    status, said, _ = run(main, 2, 60)
    aside.join()
    assert status == 130
    assert len(mta.queue("hold")) == 7
    assert len(mta.delivered()) == 2
    assert said.splitlines()[-1] == "stopped: interrupted: 2 messages released, 7 messages on hold"


def test_the_commands_that_move_mail_do_not_get_the_terminals_interrupt(mta, monkeypatch):
    """Ctrl-C goes to the whole foreground group: a postsuper ended halfway would leave a batch undelivered."""
    seen = []
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: seen.append(k["start_new_session"]) or real(*a, **k))
    mta.put("4jWDX1GX7zLW0x")
    assert main(["1", "1"]) == 0
    assert seen
    assert all(seen)


def test_an_interrupt_before_the_first_release_changes_nothing(mta, run, monkeypatch):
    mta.put("4jWDX1GX7zLW0x")
    monkeypatch.setattr(postfix, "listing", lambda where: (_ for _ in ()).throw(KeyboardInterrupt))
    status, _, error = run(main, 1, 1)
    assert (status, error) == (130, "postfix-trickle: interrupted\n")
    assert mta.queue("hold") == {"4jWDX1GX7zLW0x"}


def test_mail_that_is_put_on_hold_meanwhile_is_released_too(mta, run):
    """ "Until hold is empty" is meant at the end, not at the beginning."""
    mta.put("4jWDX1GX7zLW0x")
    mta.put("4jWDX2GX7zLW0x")
    aside = once(mta.delivered, lambda: mta.put("4jWDX3GX7zLW0x"))
    assert run(main, 1, 1)[0] == 0
    aside.join()
    assert len(mta.delivered()) == 3


@pytest.mark.parametrize(
    "filters, wanted",
    [
        (["--provider", "gmail"], {"g1", "g2", "g3", "both"}),
        (["--provider", "orange"], {"o1"}),
        (["--provider", "default"], {"d1"}),
        (["--provider", "orange", "--provider", "default"], {"o1", "d1"}),
        (["--domain", "GMAIL.test"], {"g1", "both"}),
        (["--job", "8"], {"both"}),
        (["--provider", "gmail", "--job", "8"], {"both"}),
        (["--provider", "lmtp"], None),
    ],
)
def test_filters_choose_and_leave_the_rest(mta, run, filters, wanted):
    """The provider is the transport that Postfix would take, shards and subdomains included."""
    ids = {
        "g1": mta.put("4jWDX1GX7zLW0x", to="A@Gmail.test"),
        "g2": mta.put("4jWDX2GX7zLW0x", to="a@googlemail.test"),
        "g3": mta.put("4jWDX3GX7zLW0x", to="a@sub.gmail.test"),
        "o1": mta.put("4jWDX4GX7zLW0x", to="a@orange.test"),
        "d1": mta.put("4jWDX5GX7zLW0x", to="a@elsewhere.test"),
        "both": mta.put("4jWDX6GX7zLW0x", to="b@gmail.test", sender="civicrm+b.8.1.0123456789abcdef@crm.test"),
    }
    status, _, error = run(main, *filters, 50, 1)
    if wanted is None:
        assert status == 1
        assert error == "postfix-trickle: unknown provider 'lmtp': there is gmail, orange, default\n"
        assert len(mta.queue("hold")) == len(ids)
    else:
        assert status == 0
        assert {i for _, i in mta.delivered()} == {ids[name] for name in wanted}


def test_only_mail_on_hold_is_touched(mta, run):
    mta.put("4jWDX1GX7zLW0x")
    deferred = mta.put("4jWDX2GX7zLW0x", "deferred")
    assert run(main, 10, 1)[0] == 0
    assert mta.queue("deferred") == {deferred}


def test_a_batch_is_full_although_some_messages_have_gone(mta):
    """An operator deletes while it runs; the pace stays what was asked for."""
    where = postfix.instance("postfix")
    for n in range(6):
        mta.put(f"4jWDX{n}GX7zLW0x")
    waiting = sorted(postfix.listing(where), key=lambda m: m.order)
    for gone in waiting[:2]:
        (mta.root / "spool" / "hold" / gone.queue_id).unlink()
    assert trickle.one_batch(where, 3, waiting, None) == 3
    assert len(mta.delivered()) == 3
    assert len(waiting) == 1


def test_a_dry_run_says_what_and_releases_nothing(mta, run):
    mta.put("4jWDX1GX7zLW0x")
    status, said, _ = run(main, "--dry-run", 10, 5)
    assert status == 0
    assert said.startswith("10 messages every 5 s = 2 a second")
    assert mta.queue("hold") == {"4jWDX1GX7zLW0x"}
    assert not mta.calls("postsuper")


def test_json_is_one_object_a_line_with_the_figures(mta, run):
    for n in range(3):
        mta.put(f"4jWDX{n}GX7zLW0x")
    _, said, _ = run(main, "--json", 2, 0.2)
    events = [json.loads(line) for line in said.splitlines()]
    assert [e["event"] for e in events] == ["plan", "released", "released", "done"]
    assert (events[0]["on_hold"], events[0]["rate"]) == (3, 10)
    assert [e["left"] for e in events[1:3]] == [1, 0]
    assert events[-1]["released"] == 3


def test_half_of_them_deferred_ends_it_and_says_why(mta, run):
    """N2: the provider has had enough, and the rest is safer on hold."""
    for n in range(40):
        mta.put(f"4jWDX{n:02}X7zLWbx", to=ANGRY, age=100 - n)
    status, said, _ = run(main, "--adaptive", "--log", mta.root / "mail.log", 10, 0.2)
    assert status == 3
    assert len(mta.queue("hold")) == 30
    assert said.splitlines()[-1] == (
        "stopped: 10 of the last 10 were deferred (100%), mostly gmail: host mx said: 421 4.7.28 slow down: "
        "10 messages released, 30 messages on hold"
    )


def test_a_tenth_deferred_slows_it_down_and_says_why(mta, run):
    """N2: less pressure before the provider closes the door."""
    for n in range(30):
        mta.put(f"4jWDX{n:02}X7zLWbx", to=ANGRY if n == 4 else "a@gmail.test", age=100 - n)
    status, said, _ = run(main, "--adaptive", "--log", mta.root / "mail.log", 10, 0.2)
    assert status == 0
    slower, faster = said.splitlines()[1:3]
    assert slower.startswith("slower: 1 of the last 10 were deferred (10%), mostly gmail: host mx said: 421 4.7.28")
    assert slower.endswith("now 10 messages every 0.4 s = 25 a second = 90,000 an hour")
    assert faster.startswith("faster: 0 of the last 10 were deferred (0%): now 10 messages every 0.2 s")


class Answers:
    """Outcomes of the world: (deferred, known)."""

    def __init__(self, *shares: tuple[int, int]) -> None:
        self.shares = list(shares)
        self.forgotten = 0

    def read(self) -> None:
        pass

    def share(self, last: int) -> tuple[int, int]:
        return self.shares.pop(0)

    def reason(self) -> str:
        return "421 later"

    def forget(self) -> None:
        self.forgotten += 1


@pytest.mark.parametrize(
    "deferred, known, ends, factor",
    [(0, 0, False, 1), (5, 9, False, 1), (0, 10, False, 1), (9, 100, False, 1), (10, 100, False, 2),
     (49, 100, False, 2), (50, 100, True, 1)],
)  # fmt: skip
def test_the_limits_of_adaptive(capsys, deferred, known, ends, factor):
    """10 % and 50 % of at least ten outcomes."""
    pace = trickle.Pace(10, 1)
    why = trickle.adapt(pace, Answers((deferred, known)), trickle.Reporter(False))
    assert bool(why) is ends
    assert pace.factor == factor


def test_adaptive_never_gets_slower_than_a_sixteenth(capsys):
    pace = trickle.Pace(10, 1)
    answers = Answers(*[(2, 10)] * 9)
    for _ in range(9):
        trickle.adapt(pace, answers, trickle.Reporter(False))
    assert pace.interval == 16
    assert answers.forgotten == 4, "each pace is judged by its own outcomes"


def test_outcomes_follow_a_requeue_and_a_rotation(tmp_path):
    """The log names the new queue ID, and logrotate may come in the middle of the night."""
    log = tmp_path / "mail.log"

    def write(queue_id: str, text: str) -> None:
        with log.open("a") as file:
            file.write(f"Nov 20 08:33:45 int postfix-gmail/smtp[7]: {queue_id}: {text}\n")

    log.write_text("old\n")
    outcomes = maillog.Outcomes(log)
    outcomes.watch(["4jWDX1GX7zLW0x", "4jWDX2GX7zLW0x"])
    write("4jWDX1GX7zLW0x", "to=<a@b>, relay=x, dsn=4.0.0, status=deferred (421 no)")
    write("4jWDX9GX7zLW0x", "to=<a@b>, relay=x, dsn=4.0.0, status=deferred (not mine)")
    outcomes.read()
    assert outcomes.share(99) == (1, 1)
    log.rename(tmp_path / "mail.log.1")
    write("4jWDXnGX7zLW0x", "uid=100 from=<s> orig_id=4jWDX2GX7zLW0x")
    write("4jWDXnGX7zLW0x", "to=<a@b>, relay=x, dsn=2.0.0, status=sent (250 ok)")
    outcomes.read()
    assert outcomes.share(99) == (1, 2)
    assert outcomes.share(1) == (0, 1), "the newest"


def test_adaptive_needs_a_log(mta, run):
    mta.put("4jWDX1GX7zLW0x")
    status, _, error = run(main, "--adaptive", "--log", mta.root / "nowhere", 1, 1)
    assert status == 1
    assert "nowhere" in error
    assert len(mta.queue("hold")) == 1


def test_a_panic_ends_a_release_that_runs(mta, run):
    """Else mail would go on leaving by the tool that was forgotten in another window."""
    for n in range(4):
        mta.put(f"4jWDX{n}GX7zLW0x")
    aside = once(mta.delivered, lambda: mailing_state.write("panic", mailing_state.State(time.time(), "alice")))
    status, said, _ = run(main, 1, 2)
    aside.join()
    assert status == 4
    assert len(mta.queue("hold")) == 3
    assert "alice has called a panic" in said


def test_a_queue_manager_older_than_the_hold_is_told_to_forget(mta, monkeypatch):
    """After `postsuper -h ALL` it would spend the provider's pace on messages that are no longer there."""
    where = postfix.instance("postfix")
    monkeypatch.setattr(postfix, "children", lambda where, name: [os.getpid()])
    trickle.forget_ghosts(where)
    assert not mta.calls(f"postfix -c {where.directory} reload"), "hold is empty"
    mta.put("4jWDX1GX7zLW0x")
    trickle.forget_ghosts(where)
    assert mta.calls(f"postfix -c {where.directory} reload")
    monkeypatch.setattr(postfix, "started", lambda process: time.time() + 5)
    before = len(mta.calls("postfix"))
    trickle.forget_ghosts(where)
    assert len(mta.calls("postfix")) == before, "a younger one knows nothing of it"


def test_when_a_process_began():
    assert time.time() - 3600 < postfix.started(os.getpid()) <= time.time()


@pytest.mark.parametrize(
    "arguments, status, error",
    [
        ((0, 5), 2, "COUNT must be at least 1"),
        ((1, 0), 2, "SECONDS more than 0"),
        ((1,), 2, "SECONDS"),
        (("ten", 5), 2, "COUNT"),
        ((1, 5), 3, "nothing on hold"),
        (("--instance", "nowhere", 1, 5), 1, "no instance is called 'nowhere': there is postfix"),
    ],
)
def test_each_mistake_is_one_line(mta, run, arguments, status, error):
    assert run(main, *arguments)[0] == status
    status, _, said = run(main, *arguments)
    assert said.startswith("postfix-trickle: ")
    assert error in said
    assert said.count("\n") == 1


def test_only_root_may(mta, run, monkeypatch):
    mta.put("4jWDX1GX7zLW0x")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run(main, 1, 1)[::2] == (1, "postfix-trickle: only root may do this: use sudo\n")
    assert mta.queue("hold")


def test_postfix_down_is_said_before_anything_leaves_hold(mta, run):
    mta.put("4jWDX1GX7zLW0x")
    (mta.root / "down").touch()
    assert run(main, 1, 1)[::2] == (1, "postfix-trickle: postfix is not running: systemctl start postfix\n")
    assert mta.queue("hold")


def test_without_postfix_one_line(mta, run, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(main, 1, 1)[::2] == (1, "postfix-trickle: cannot run postmulti: No such file or directory\n")


def test_another_instance(mta, second_instance, run):
    mta.put("4jWDX1GX7zLW0x")
    second_instance.put("4jWDX2GX7zLW0x")
    assert run(main, "--instance", "postfix-receipts", 1, 1)[0] == 0
    assert mta.queue("hold") == {"4jWDX1GX7zLW0x"}
    assert second_instance.queue("hold") == set()


def test_a_bar_is_for_a_terminal_only(mta, run, monkeypatch):
    """A log or a pipe gets whole lines."""
    mta.put("4jWDX1GX7zLW0x")
    _, said, error = run(main, 1, 1)
    assert "\r" not in said + error
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    mta.put("4jWDX1GX7zLW0x")
    _, said, error = run(main, 1, 1)
    assert "[##############################] 1 of 1" in error
    assert "\r" not in said


@pytest.mark.parametrize(
    "seconds, words",
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (3600, "1 h"),
     (86400 * 3 + 4 * 3600, "3 d 4 h"), (86400, "1 d")],
)  # fmt: skip
def test_durations_as_a_person_says_them(seconds, words):
    assert command.in_words(seconds) == words
