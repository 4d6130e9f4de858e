"""A search through the log skips no line that says something of what is looked for."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from civicrm_tools.mail import deliveries, search, trace

IDS = [f"4jW8WD6NjJzDSV{letter}" for letter in "BCDFGHJKLMNPQ"]
WORDS = [*"abcdefghijkl"]
TEXTS = st.one_of(
    st.sampled_from(WORDS).map(lambda word: ("cleanup", f"message-id=<{word}@x>")),
    st.sampled_from(WORDS).map(lambda word: ("cleanup", f"resent-message-id={word}@x")),
    st.sampled_from(WORDS).map(lambda word: ("qmgr", f"from=<{word}@s>, size=1, nrcpt=1 (queue active)")),
    st.sampled_from(WORDS).map(
        lambda word: ("smtp", f"to=<{word}@r>, relay=x, dsn=2.0.0, status=sent (250 message-id=<a@x>)")
    ),
    st.sampled_from(IDS).map(lambda queue_id: ("pickup", f"uid=1 from=<a@s> orig_id={queue_id}")),
    st.sampled_from(IDS).map(lambda queue_id: ("bounce", f"sender non-delivery notification: {queue_id}")),
    st.just(("qmgr", "removed")),
)
LINES = st.lists(st.tuples(st.sampled_from(IDS), TEXTS), max_size=40)
KEYS = st.sets(st.sampled_from([f"{word}@x" for word in WORDS]))


def text_of(lines: list[tuple[str, tuple[str, str]]]) -> str:
    return "".join(
        f"2026-11-20T08:33:45+00:00 int postfix/{service}[1]: {queue_id}: {text}\n"
        for queue_id, (service, text) in lines
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "mail.log"


@given(lines=LINES, message_ids=KEYS, senders=KEYS, queue_ids=st.sets(st.sampled_from(IDS)), size=st.integers(1, 2000))
def test_a_look_up_finds_what_reading_every_line_finds(log, lines, message_ids, senders, queue_ids, size):
    """Few keys are looked for one by one, many by a pattern; a piece may end anywhere."""
    log.write_text(text_of(lines))
    senders = {sender.replace("@x", "@s") for sender in senders}
    wanted = {queue_id: deliveries.Passage() for queue_id in queue_ids}
    for line in text_of(lines).splitlines():
        deliveries._note(wanted, line, deliveries.Keys(message_ids, senders))
    wanted = {key: passage for key, passage in wanted.items() if passage != deliveries.Passage()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "CHUNK", size)
        assert deliveries.lookup([log], message_ids, queue_ids, senders) == wanted


@given(lines=LINES, few=st.sampled_from([0, 3, 100]), key=st.sampled_from([*IDS, "a@x", "b@s", "c@r"]))
def test_a_trace_is_the_same_whichever_way_the_lines_are_found(log, lines, few, key):
    """A family of queue IDs, told by reading every line until none is new."""
    log.write_text(text_of(lines))
    ids = {key} & set(IDS) or {queue_id for queue_id, (_, text) in lines if f"={key}" in text or f"<{key}>" in text}
    pairs = [(queue_id, text[-len(IDS[0]) :]) for queue_id, (_, text) in lines if "orig_id" in text or "notif" in text]
    while more := {one for pair in pairs if ids & set(pair) for one in pair} - ids:
        ids |= more
    wanted = {}
    for line, (queue_id, _) in zip(text_of(lines).splitlines(), lines, strict=True):
        if queue_id in ids:
            wanted.setdefault(queue_id, []).append(line)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "FEW", few)
        assert [(group.queue_id, group.lines) for group in trace.trace(key, [log])] == list(wanted.items())


def test_a_damaged_log_is_read_up_to_the_damage(tmp_path, run):
    lines = [(IDS[n % 12], ("cleanup", f"message-id=<{n}@x>")) for n in range(20_000)]
    damaged = tmp_path / "mail.log.2.gz"
    damaged.write_bytes(gzip.compress(text_of(lines).encode())[:-5000])
    assert deliveries.lookup([damaged], {"1@x"})[IDS[1]].message_id != ""
    status, _, said = run(trace.main, "--log", str(damaged), "1@x")
    assert status == 1
    assert said.startswith(f"postfix-trace: {damaged} is damaged: ") and said.count("\n") == 1
