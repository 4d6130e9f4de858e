"""postfix-queue shows and changes what was meant and nothing else."""

from __future__ import annotations

import io
import json
import os
import time

import pytest

from civicrm_tools.mail import holds, mailing, mailing_state, postfix, providers
from civicrm_tools.mail.queue import main

JOB_8 = "civicrm+b.8.1.0123456789abcdef@crm.test"


@pytest.fixture
def ids(mta) -> dict[str, str]:
    """One message of each kind."""
    return {
        "active": mta.put("4jWDX1GX7zLW0x", "active", to="a@gmail.test", age=10),
        "deferred": mta.put("4jWDX2GX7zLW0x", "deferred", to="b@googlemail.test", age=7000),
        "held": mta.put("4jWDX3GX7zLW0x", "hold", to="c@orange.test", sender=JOB_8, age=90000),
        "receipt": mta.put("4jWDX4GX7zLW0x", "incoming", to="d@elsewhere.test", sender="shop@crm.test"),
        "bounce": mta.put("4jWDX5GX7zLW0x", "deferred", to=JOB_8, sender="MAILER-DAEMON"),
    }


FILTERS = [
    ([], {"active", "deferred", "held", "receipt", "bounce"}),
    (["--provider", "gmail"], {"active", "deferred"}),
    (["--provider", "default"], {"receipt"}),
    (["--domain", "googlemail.test"], {"deferred"}),
    (["--domain", "gmail.test", "--domain", "orange.test"], {"active", "held"}),
    (["--job", "7"], {"active", "deferred"}),
    (["--sender", "shop@*"], {"receipt"}),
    (["--recipient", "?@ORANGE.test"], {"held"}),
    (["--older-than", "2h"], {"held"}),
    (["--older-than", "30m"], {"held", "deferred"}),
    (["--queue", "deferred"], {"deferred", "bounce"}),
    (["--queue", "deferred", "--job", "7", "--provider", "gmail"], {"deferred"}),
    (["--id", "4jWDX3GX7zLW0x"], {"held"}),
    (["--domain", "nowhere.test"], set()),
]


@pytest.mark.parametrize("filters, wanted", FILTERS)
def test_filters_choose(mta, run, ids, filters, wanted):
    """One given twice means either; different ones mean both (P8)."""
    status, said, _ = run(main, "list", "--json", *filters)
    assert status == 0
    assert {m["queue_id"] for m in json.loads(said)} == {ids[name] for name in wanted}


def test_a_list_is_oldest_first_with_what_the_operator_needs(mta, run, ids):
    _, said, _ = run(main, "list")
    lines = said.splitlines()
    assert [line.split()[1] for line in lines[:2]] == [ids["held"], ids["deferred"]]
    assert lines[0].split() == [
        "hold", ids["held"], "1", "d", "1", "h", "orange", JOB_8, "->", "c@orange.test", "(421", "slow", "down)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "what, counts",
    [
        ("domains", {"gmail.test": 1, "googlemail.test": 1, "orange.test": 1, "elsewhere.test": 1, "crm.test": 1}),
        ("providers", {"gmail": 2, "orange": 1, "default": 1, "lmtp": 1}),
        ("jobs", {"7": 2, "8": 1, "none": 2}),
        ("reasons", {"us/rate: 421 slow down": 5}),
    ],
)
def test_counts(mta, run, ids, what, counts):
    assert json.loads(run(main, what, "--json")[1]) == counts
    assert [line.split(None, 1)[0] for line in run(main, what)[1].splitlines()] == [
        str(n) for n in sorted(counts.values(), reverse=True)
    ]


def test_hold_takes_what_was_chosen_and_shows_both_counts(mta, run, ids):
    """P8: by provider, with the counts before and after."""
    status, said, _ = run(main, "hold", "--provider", "gmail", "--yes")
    assert status == 0
    assert mta.queue("hold") == {ids["active"], ids["deferred"], ids["held"]}
    assert mta.queue("deferred") == {ids["bounce"]}
    assert said.splitlines() == [
        "before: active 1, deferred 2, hold 1, incoming 1, maildrop 0",
        "hold: 2 messages, the oldest 1 h 56 min old",
        "put on hold: 2 messages",
        "after:  active 0, deferred 1, hold 3, incoming 1, maildrop 0",
    ]


def test_a_hold_of_active_mail_makes_the_queue_manager_forget_it(mta, run, ids):
    """Else it offers each of them to the transport and spends the provider's pace on nothing."""
    run(main, "hold", "--queue", "deferred", "--yes")
    assert not mta.calls(f"postfix -c {mta.root}/etc reload")
    run(main, "hold", "--queue", "active", "--yes")
    assert mta.calls(f"postfix -c {mta.root}/etc reload")


def test_release_delivers(mta, run, ids):
    status, said, _ = run(main, "release", "--job", "8", "--yes")
    assert status == 0
    assert [i for _, i in mta.delivered()] == [ids["held"]]
    assert mta.queue("deferred") == {ids["deferred"], ids["bounce"]}, "only what was on hold"
    assert "released: 1 message" in said


def test_release_gives_old_mail_a_new_lifetime(mta, run):
    old = mta.put("4jWDX3GX7zLWbx", age=4 * 86400)
    assert run(main, "release", "--id", old, "--yes")[0] == 0
    assert [i for _, i in mta.delivered()] == [f"{old}new"]


def test_release_of_old_mail_is_refused_while_new_mail_is_held(mta, run):
    old = mta.put("4jWDX3GX7zLWbx", age=4 * 86400)
    mailing_state.write("panic", mailing_state.State(time.time(), "alice"))
    status, _, error = run(main, "release", "--id", old, "--yes")
    assert status == 1
    assert "mailing status" in error
    assert mta.queue("hold") == {old}


def test_delete_takes_it_from_every_queue(mta, run, ids):
    status, said, _ = run(main, "delete", "--domain", "orange.test", "--domain", "gmail.test", "--yes")
    assert status == 0
    assert mta.queue("hold") == mta.queue("active") == set()
    assert len(mta.queue("deferred")) == 2
    assert "deleted: 2 messages" in said


def test_json_of_a_change_has_the_figures(mta, run, ids):
    _, said, _ = run(main, "hold", "--provider", "gmail", "--yes", "--json")
    found = json.loads(said)
    assert (found["action"], found["chosen"], found["moved"]) == ("hold", 2, 2)
    assert (found["before"]["hold"], found["after"]["hold"]) == (1, 3)


@pytest.mark.parametrize("action", ["hold", "release", "delete"])
@pytest.mark.parametrize("answer", ["no", "y", "", None])
def test_without_a_yes_nothing_happens(mta, run, ids, monkeypatch, action, answer):
    """A script without a terminal is told so; a person has to type the whole word."""
    typed = io.StringIO(f"{answer}\n")
    monkeypatch.setattr(typed, "isatty", lambda: answer is not None, raising=False)
    monkeypatch.setattr("sys.stdin", typed)
    status, _, error = run(main, action, "--provider", "orange", "--provider", "gmail")
    assert status == (2 if answer is None else 1)
    assert ("--yes" if answer is None else "nothing was changed") in error
    assert not mta.calls("postsuper")


def test_a_person_types_yes(mta, run, ids, monkeypatch):
    typed = io.StringIO("yes\n")
    monkeypatch.setattr(typed, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", typed)
    status, _, error = run(main, "delete", "--job", "8")
    assert status == 0
    assert "Delete 1 message? Type yes to go on: " in error


@pytest.mark.parametrize("action", ["hold", "release", "delete"])
def test_everything_at_once_has_to_be_said(mta, run, ids, action):
    """A filter that was forgotten is not a wish to delete the queue."""
    status, _, error = run(main, action, "--yes")
    assert status == 2
    assert "--all" in error
    assert not mta.calls("postsuper")
    assert run(main, action, "--yes", "--all")[0] == 0


def test_what_an_operator_holds_during_a_state_stays_when_the_state_ends(mta, run, ids):
    """N3: resume puts back only what panic held."""
    mailing_state.write("off", mailing_state.State(1, "alice"))
    mailing_state.write("panic", mailing_state.State(2, "alice"))
    assert run(main, "hold", "--id", ids["receipt"], "--owner", "bob", "--yes")[0] == 0
    assert mailing.main(["resume", "--at-once"]) == 0
    assert mailing.main(["on", "--at-once"]) == 0
    assert mta.queue("hold") == {ids["receipt"]}
    assert holds.read().others == {"postfix": {ids["receipt"]: "bob"}}


def test_what_a_person_lets_go_during_a_state_and_holds_again_is_the_persons(mta, run, ids):
    """With Postfix' own command, which no book sees."""
    mailing_state.write("off", mailing_state.State(1, "alice"))
    assert run(main, "release", "--id", ids["held"], "--yes")[0] == 0
    mta.put(ids["held"], "hold")
    assert mailing.main(["on", "--at-once"]) == 0
    assert ids["held"] in mta.queue("hold")


def test_the_breaker_keeps_its_mail_through_the_end_of_off(mta, run, ids):
    """A storm during off: what off held for that provider went out at `mailing on`."""
    mailing_state.write("off", mailing_state.State(1, "alice"))
    pause = ["hold", "--provider", "orange", "--yes", "--if-any", "--on-hold-too", "--owner", "bounce-breaker"]
    for _ in range(2):
        assert run(main, *pause)[0] == 0
    assert mailing.main(["on", "--at-once"]) == 0
    assert ids["held"] in mta.queue("hold")
    assert holds.read().others["postfix"][ids["held"]] == "bounce-breaker"


def test_what_is_on_hold_can_be_told_to_stay(mta, run, ids):
    """A few messages of a stopped mailing are not to go out with the rest (N3)."""
    mailing_state.write("off", mailing_state.State(time.time(), "alice"))
    status, said, _ = run(main, "hold", "--queue", "hold", "--id", ids["held"], "--yes")
    assert status == 0
    assert "put on hold: 0 messages" in said
    assert mta.queue("hold") == {ids["held"]}
    assert mailing.main(["on", "--at-once"]) == 0
    assert mta.queue("hold") == {ids["held"]}


@pytest.mark.parametrize(
    "arguments, status, error",
    [
        (["list", "--provider", "gmial"], 1, "unknown provider 'gmial': there is gmail, orange, default"),
        (["release", "--domain", "nowhere.test", "--yes"], 3, "nothing on hold that these filters choose"),
        (["hold", "--domain", "nowhere.test", "--yes"], 3, "nothing chosen"),
        (["release", "--queue", "active", "--yes"], 2, "release works on hold"),
        (["hold", "--older-than", "soon"], 2, "no time such as"),
        (["list", "--queue", "nowhere"], 2, "nowhere"),
        (["explode"], 2, "explode"),
        ([], 2, "COMMAND"),
    ],
)
def test_each_mistake_is_one_line(mta, run, ids, arguments, status, error):
    found, _, said = run(main, *arguments)
    assert found == status
    assert said.startswith("postfix-queue")
    assert error in said
    assert said.count("\n") == 1


def test_only_root_may_change(mta, run, ids, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run(main, "delete", "--job", "8", "--yes")[::2] == (1, "postfix-queue: only root may do this: use sudo\n")
    assert ids["held"] in mta.queue("hold")


def test_a_transport_is_found_as_postfix_finds_it():
    """The address itself, the domain, its parents, then *; patterns see whole addresses only (transport(5))."""
    maps = {
        "pcre:/p": {"c@crm.test": "lmtp:unix:x", "gmail.test": "wrong:"},
        "hash:/h": {"vip@a.test": "one:", "a.test": "two:", ".a.test": "three:", "*": "rest:[relay]:25"},
    }
    asked = []

    def lookup(tables, keys):
        asked.append(list(tables))
        return {k: maps[t][k] for k in keys for t in reversed(tables) if k in maps[t]}

    addresses = {"c@crm.test", "vip@a.test", "x@a.test", "x@b.a.test", "x@gmail.test"}
    assert providers.transports(addresses, list(maps), lookup) == {
        "c@crm.test": "lmtp", "vip@a.test": "one", "x@a.test": "two", "x@b.a.test": "three", "x@gmail.test": "rest",
    }  # fmt: skip
    assert asked == [["pcre:/p", "hash:/h"], ["hash:/h"]], "two questions, however many recipients"


@pytest.mark.parametrize(
    "value, tables",
    [
        ("", []),
        ("hash:/a", ["hash:/a"]),
        ("pcre:/a, texthash:/b", ["pcre:/a", "texthash:/b"]),
        ("pcre:/a texthash:/b,", ["pcre:/a", "texthash:/b"]),
        ("pipemap:{pcre:/a, hash:/b}, hash:/c", ["pipemap:{pcre:/a, hash:/b}", "hash:/c"]),
        ("inline:{ {a = b}, c=d }", ["inline:{ {a = b}, c=d }"]),
    ],
)
def test_tables_of_a_parameter(value, tables):
    assert providers.tables(value) == tables


def test_the_providers_are_asked_once_for_a_whole_queue(mta, run):
    """A hundred thousand recipients, a handful of processes."""
    for n in range(30):
        mta.put(f"4jWDX{n:02}X7zLW0x", to=f"a@d{n}.test")
    run(main, "providers")
    assert len(mta.calls("postmap")) == 2


def test_a_queue_is_listed_through_postfix_even_if_it_is_another_instance(mta, second_instance, run):
    second_instance.put("4jWDX9GX7zLW0x")
    _, said, _ = run(main, "list", "--json", "--instance", "postfix-receipts")
    assert [m["queue_id"] for m in json.loads(said)] == ["4jWDX9GX7zLW0x"]
    assert [i.name for i in postfix.instances()] == ["postfix", "postfix-receipts"]
