"""A table of providers that contradicts itself is refused in one clear line, before Postfix is touched (S14)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loading import load

GMAIL = {
    "name": "gmail",
    "domains": ["gmail.com", "googlemail.com"],
    "mx_suffixes": ["google.com"],
    "budget_per_second": 5,
    "connections": 5,
}
ORANGE = {"name": "orange", "domains": ["orange.fr"], "budget_per_second": 0.2, "connections": 1}


@pytest.fixture(scope="session")
def problems():
    check = load("plugins/filter/providers.py").provider_problems

    def _problems(*providers, lifetime="5d", recipients=0, texts=()):
        return check(list(providers), ["smtp", "lmtp"], ["crm.example.org"], lifetime, recipients, list(texts))

    return _problems


def test_a_table_that_holds_together_has_no_problem(problems):
    assert problems(GMAIL, ORANGE, recipients=80_000, texts=[r"\bTS0[1-4]\b"]) == []
    assert problems() == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"budget_per_second": 0}, "budget_per_second 0 must be above 0"),
        ({"budget_per_second": -1}, "budget_per_second -1 must be above 0"),
        ({"budget_per_second": "many"}, "budget_per_second many must be above 0"),
        ({"budget_per_second": 20}, "needs 10 connections"),
        ({"budget_per_second": 0.01}, "with 5 connections budget_per_second must be at least 0.075"),
        ({"connections": 0}, "connections 0 must be a whole number of at least 1"),
        ({"connections": 1.5}, "connections 1.5 must be a whole number"),
        ({"messages_per_connection": -1}, "messages_per_connection must not be negative"),
        ({"recipients_share": 2}, "recipients_share 2 must lie between 0 and 1"),
        ({"domains": []}, "name at least one domain"),
        ({"domains": ["Gmail.com"]}, "'Gmail.com' in domains must be a lower-case domain"),
        ({"domains": ["gmail.com."]}, "'gmail.com.' in domains must be"),
        ({"mx_suffixes": [".google.com"]}, "'.google.com' in mx_suffixes must be"),
        ({"mx_suffixes": ["com"]}, "'com' in mx_suffixes must be"),
        ({"back_off": ["("]}, "back_off: '(' is no regular expression"),
        ({"back_off": [".*"]}, "back_off: '.*' matches every text"),
        ({"back_off": ["(?i)ts03"]}, "back_off: '(?i)ts03' is no regular expression"),
        ({"name": "smtp"}, "'smtp' is a service of Postfix itself"),
        ({"name": "g-mail"}, "the name must be 2 to 20 lower-case letters and digits"),
    ],
)
def test_each_mistake_in_an_entry_is_one_line_that_names_it(problems, change, says):
    (problem,) = problems(GMAIL | change)
    assert says in problem
    assert problem.startswith(f"postfix_mailing_providers[{(GMAIL | change)['name']}]: ")
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (ORANGE | {"domains": ["orange.fr", "gmail.com"]}, "domain 'gmail.com' stands at gmail and orange"),
        (ORANGE | {"domains": ["crm.example.org"]}, "'crm.example.org' of orange is this host's own"),
        (ORANGE | {"mx_suffixes": ["google.com"]}, "mx_suffixes 'google.com' of gmail and 'google.com' of orange"),
        (ORANGE | {"mx_suffixes": ["aspmx.l.google.com"]}, "'aspmx.l.google.com' of orange overlap"),
        (ORANGE | {"name": "gmail"}, "name 'gmail' stands 2 times"),
    ],
)
def test_entries_may_not_contradict_each_other(problems, other, says):
    (problem,) = problems(GMAIL, other)
    assert says in problem


def test_suffixes_are_compared_by_labels(problems):
    assert problems(GMAIL, ORANGE | {"mx_suffixes": ["notgoogle.com"]}) == []


def test_a_mailing_that_cannot_leave_in_time_is_refused_with_its_figures(problems):
    """120,000 at one in five seconds are a week: they would bounce after five days (P4)."""
    (problem,) = problems(ORANGE, recipients=120_000)
    assert "120,000 recipients take 167 h at 0.2 a second, and after 120 h they bounce" in problem
    assert problems(ORANGE | {"recipients_share": 0.5}, recipients=120_000) == []
    assert problems(ORANGE, recipients=120_000, lifetime="2w") == []


def test_a_lifetime_that_is_none_is_said_so(problems):
    assert problems(ORANGE, lifetime="5 days") == ["postfix_mailing_queue_lifetime: '5 days' must be a time such as 5d"]


def test_a_common_text_that_is_no_pattern_is_refused(problems):
    (problem,) = problems(GMAIL, texts=["["])
    assert problem.startswith("postfix_mailing_back_off_texts: '[' is no regular expression")


@given(
    st.fixed_dictionaries(
        {
            "name": st.text(max_size=25),
            "domains": st.lists(st.text(max_size=30), max_size=3),
            "budget_per_second": st.one_of(st.floats(), st.text(max_size=5), st.integers()),
            "connections": st.one_of(st.floats(), st.integers(), st.none()),
        },
        optional={
            "mx_suffixes": st.lists(st.text(max_size=30), max_size=3),
            "back_off": st.lists(st.text(max_size=10), max_size=2),
            "recipients_share": st.one_of(st.floats(), st.none()),
        },
    )
)
def test_whatever_stands_in_the_table_the_answer_is_lines(problems, entry):
    for problem in problems(entry, recipients=1000):
        assert problem
        assert problem.startswith("postfix_mailing_providers")
