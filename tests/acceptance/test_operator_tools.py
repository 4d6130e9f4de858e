"""One operator can look into the mail system, stop it under load, and set it going again.

S18, S20 to S25, S29, S30, N2, N3, P8.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from fixtures import quick_strategy
from newsletters import ledger, newsletter, run_job

pytestmark = [pytest.mark.mutates, pytest.mark.mail]

JOB_UNIT = "civicrm-crm-process-mailing.service"


class Batch:
    """Messages of one CiviMail job that does not exist, submitted as the site's user."""

    def __init__(self, crm_int) -> None:
        self.host = crm_int
        self.job = time.time_ns() // 1000 % 10**9 + 10**9

    def address(self, n: int, domain: str = "accepting.test") -> str:
        return f"tools-{self.job}-{n}@{domain}"

    def sender(self, n: int) -> str:
        return f"civicrm+b.{self.job}.{n + 1}.0123456789abcdef@crm.torproject.test"

    def loop(self, numbers: str, domain: str, pause: float) -> str:
        """Shell that submits message after message, each a mailing's by its headers."""
        address, sender = self.address(0, domain).replace("-0@", "-$n@"), self.sender(0).replace(".1.", ".$((n+1)).", 1)
        message = "printf 'Subject: x\\nPrecedence: bulk\\nMessage-ID: <%s@tools.test>\\n\\nx\\n' "
        return (
            f"for n in {numbers}; do {message} {self.job}-$n | "
            f'/usr/sbin/sendmail -f "{sender}" "{address}" || echo refused; sleep {pause}; done'
        )

    def submit(self, count: int, domain: str = "accepting.test", first: int = 0) -> None:
        script = self.loop(" ".join(map(str, range(first, first + count))), domain, 0)
        self.host.check_output(f"runuser -u crm -- sh -c {shlex.quote(script)}")

    def queued(self) -> dict[str, str]:
        """{queue ID: queue} of what is left of it."""
        found = json.loads(self.host.check_output(f"postfix-queue list --json --job {self.job}"))
        # One that was delivered while a panic moved it lies there without a recipient.
        return {message["queue_id"]: message["queue"] for message in found if message["recipients"]}

    def on_hold(self) -> int:
        return list(self.queued().values()).count("hold")

    def log(self, text: str) -> list[str]:
        """Lines of the mail log that hold a text, oldest first."""
        return self.host.run(
            f"grep -Fh -e {shlex.quote(text)} /var/log/mail.log.1 /var/log/mail.log"
        ).stdout.splitlines()


@pytest.fixture
def batch(crm_int):
    """Some messages; whatever a test leaves of them, or of a state, is gone afterwards."""
    made = Batch(crm_int)
    yield made
    crm_int.run(f"postfix-queue delete --job {made.job} --yes")
    for command in ("mailing resume --at-once", "mailing on --at-once"):
        done = crm_int.run(command)
        assert done.rc == 0, done.stderr
    left = json.loads(crm_int.run("mailing status --json").stdout)
    assert (left["panic"], left["off"]) == (None, None)


@pytest.fixture
def held(batch, eventually):
    """A function (count, domain="accepting.test") that puts so many messages on hold as an operator's own.

    It may be called again for more; no state holds afterwards.
    """
    total = 0

    def _held(count: int, domain: str = "accepting.test") -> Batch:
        nonlocal total
        batch.host.check_output("mailing off")
        batch.submit(count, domain, first=total)
        total += count
        eventually(lambda: batch.on_hold() == total)
        batch.host.check_output(f"postfix-queue hold --queue hold --job {batch.job} --yes")
        batch.host.check_output("mailing on")
        assert batch.on_hold() == total
        return batch

    return _held


def received(world, batch: Batch) -> list[dict]:
    return [e for e in ledger(world) if f"tools-{batch.job}-" in e["recipient"]]


def stamp(line: str) -> float:
    return datetime.fromisoformat(line.split()[0]).timestamp()


def metric(crm_int, name: str) -> int:
    text = crm_int.file("/var/lib/prometheus/node-exporter/mailing.prom").content_string
    return int(re.search(rf"^{name} (\d+)$", text, re.M)[1])


@pytest.mark.alone
def test_exactly_ten_a_second_oldest_first(held, world, eventually):
    """`postfix-trickle 10 1`, by the times at which Postfix released them, and all of them arrive (S25)."""
    batch = held(35)
    order = sorted(batch.queued())
    said = batch.host.check_output(f"postfix-trickle --job {batch.job} 10 1")
    assert said.startswith("10 messages every 1 s = 10 a second = 36,000 an hour; 35 messages on hold")
    released = [line for line in batch.log(": released from hold") if line.split()[3].rstrip(":") in order]
    assert [line.split()[3].rstrip(":") for line in released] == order
    times = [stamp(line) for line in released]
    starts = [0] + [n for n, (before, after) in enumerate(pairwise(times), 1) if after - before > 0.5]
    assert starts == [0, 10, 20, 30]
    assert times[30] - times[0] == pytest.approx(3, abs=0.7)
    eventually(lambda: len(received(world, batch)) == 35)


def test_an_interrupt_keeps_the_rest_on_hold(held, world, eventually):
    """Ctrl-C under stress must not let the rest out (S25)."""
    batch = held(20)
    done = batch.host.run(f"timeout --preserve-status -s INT 5 postfix-trickle --job {batch.job} 4 30")
    assert done.rc == 130, done.stderr
    assert done.stdout.splitlines()[-1] == "stopped: interrupted: 4 messages released, 16 messages on hold"
    eventually(lambda: len(received(world, batch)) == 4)
    assert batch.on_hold() == 16


@pytest.mark.alone
def test_a_release_ends_when_the_provider_has_had_enough(held, world):
    """Half of it deferred: it stops by itself and says why (N2)."""
    batch = held(30, "refusing.test")
    world.check_output("systemctl stop fake-provider@refusing.service")
    try:
        done = batch.host.run(f"postfix-trickle --adaptive --job {batch.job} 10 5")
    finally:
        world.check_output("systemctl start fake-provider@refusing.service")
    assert done.rc == 3, done.stdout + done.stderr
    assert re.search(r"stopped: \d+ of the last \d+ were deferred .*mostly .*refused", done.stdout), done.stdout
    assert batch.on_hold() >= 10


@pytest.mark.alone
def test_a_release_slows_down_at_a_tenth_of_deferrals(held, world):
    """Two of the first ten deferred: slower, and it says why (N2)."""
    held(8)
    held(2, "refusing.test")
    batch = held(10)
    world.check_output("systemctl stop fake-provider@refusing.service")
    try:
        done = batch.host.run(f"postfix-trickle --adaptive --job {batch.job} 10 5")
    finally:
        world.check_output("systemctl start fake-provider@refusing.service")
    assert done.rc == 0, done.stdout + done.stderr
    assert re.search(
        r"^slower: 2 of the last 10 were deferred .*refused.*: now 10 messages every 10 s", done.stdout, re.M
    )


@pytest.mark.alone
def test_panic_under_load_and_resume(batch, crm_int, world, eventually):
    """In 5 s nothing new leaves, whatever the application submits; resume puts back only what panic held (S24, N3)."""
    before = Batch(crm_int)
    crm_int.check_output("mailing off")
    before.submit(1)
    eventually(lambda: before.on_hold() == 1)
    (theirs,) = before.queued()
    crm_int.check_output(f"postfix-queue hold --queue hold --id {theirs} --yes && mailing on")
    submitting = shlex.quote(batch.loop("$(seq 0 99)", "accepting.test", 0.1))
    try:
        crm_int.check_output(f"systemd-run --unit tools-submit --uid crm sh -c {submitting}")
        eventually(lambda: received(world, batch))
        began = time.monotonic()
        crm_int.check_output("mailing panic --reason test")
        assert time.monotonic() - began < 5
        in_flight = datetime.now(UTC) + timedelta(seconds=2)
        eventually(lambda: crm_int.run("systemctl is-active tools-submit.service").rc != 0)
        left = [e for e in received(world, batch) if datetime.fromisoformat(e["time"]) > in_flight]
        assert left == [], "only what was in flight may have left"
        assert len(received(world, batch)) + batch.on_hold() == 100
        assert metric(crm_int, "mailing_panic") == 1
        done = crm_int.run("mailing status --json")
        status = json.loads(done.stdout)
        assert done.rc == 3
        assert (status["sending"], status["panic"]["reason"]) == ("nothing", "test")
        crm_int.check_output("mailing resume --at-once")
        eventually(lambda: len(received(world, batch)) == 100)
        eventually(lambda: not batch.queued())
        assert len({e["recipient"] for e in received(world, batch)}) == 100, "each of them once"
        assert before.queued() == {theirs: "hold"}
        assert metric(crm_int, "mailing_panic") == 0
    finally:
        crm_int.run(f"systemctl stop tools-submit.service; postsuper -d {theirs}")


@pytest.mark.alone
def test_panic_off_resume_on_strand_nothing(batch, crm_int, world, eventually):
    """68 of 72 messages stayed on hold for ever while both ends said 0 (S24, N3)."""
    world.check_output("systemctl stop fake-provider@refusing.service")
    try:
        batch.submit(6, "refusing.test")
        eventually(lambda: list(batch.queued().values()) == ["deferred"] * 6)
        before = json.loads(crm_int.check_output("postfix-queues-sizes --json"))["postfix"]["hold"]
        crm_int.check_output("mailing panic && mailing off")
        assert batch.on_hold() == 6
        said = crm_int.check_output("mailing resume --at-once")
        assert f"0 messages released, {6 + before} messages on hold (" in said
        assert "6 of mailings, which are off" in said
        assert batch.on_hold() == 6
        said = crm_int.check_output("mailing on --at-once").splitlines()[-1]
        assert "6 messages released" in said
    finally:
        world.check_output("systemctl start fake-provider@refusing.service")
    assert batch.on_hold() == 0
    crm_int.check_output("postqueue -f")
    eventually(lambda: len(received(world, batch)) == 6)


@pytest.mark.alone
@pytest.mark.parametrize(
    "unit, says",
    [
        ("postfix.service", "postfix is not running; since 20"),
        ("opendkim.service", "the milter at /run/opendkim/opendkim.sock does not answer"),
        pytest.param(
            "civicrm-crm-process-mailing.timer",
            "civicrm-crm-process-mailing.timer is stopped: nobody starts",
            marks=pytest.mark.whole_lab,
        ),
    ],
)
def test_status_names_what_was_stopped(crm_int, unit, says):
    """It said "on: mailings are sent" and ended with 0 (N51)."""
    assert says not in crm_int.run("mailing status").stdout
    crm_int.check_output(f"systemctl stop {unit}")
    try:
        done = crm_int.run("mailing status")
    finally:
        crm_int.check_output(f"systemctl start {unit}")
    assert done.rc == 3, done.stdout
    assert says in done.stdout
    assert "\n  next: systemctl " in done.stdout
    assert says not in crm_int.run("mailing status").stdout


@pytest.mark.alone
@pytest.mark.whole_lab
def test_off_sends_nothing_survives_a_converge_and_shows(batch, crm_int, world, playbook, eventually):
    """A mailing that is due stays in CiviCRM, one that is queued stays in Postfix, a receipt goes (S18)."""
    run = f"off-{batch.job}"
    reader, receipt = f"{run}@accepting.test", f"receipt-{run}@accepting.test"
    crm_int.check_output("mailing off --reason test")
    newsletter(crm_int, f"create --group {run} --contact {reader}")
    batch.submit(3)
    for round_ in range(2):
        if round_:
            tags = "postfix_mailing,mail_tools,jobs"
            done = playbook("playbooks/site.yml", "--limit", "civicrm_int", "--tags", tags, **quick_strategy())
            assert done.returncode == 0, done.stdout[-3000:]
        run_job(crm_int, "process-mailing")
        assert crm_int.check_output(f"systemctl show -p ConditionResult --value {JOB_UNIT}") == "no"
        eventually(lambda: batch.on_hold() == 3)
        assert metric(crm_int, "mailing_enabled") == 0
    crm_int.check_output(
        f"printf 'Subject: x\\n\\nx\\n' | runuser -u crm -- /usr/sbin/sendmail -f a@crm.torproject.test {receipt}"
    )
    eventually(lambda: ledger(world, recipient=receipt))
    assert not received(world, batch)
    assert not ledger(world, recipient=reader)
    crm_int.check_output("mailing on --at-once")
    run_job(crm_int, "process-mailing")
    eventually(lambda: len(received(world, batch)) == 3 and ledger(world, recipient=reader))
    assert metric(crm_int, "mailing_enabled") == 1


def test_the_timer_leaves_the_metrics_for_node_exporter(crm_int):
    """Written by the machine and not only when somebody types (S18, S20)."""
    crm_int.check_output("systemctl start mail-tools-metrics.service")
    text = crm_int.file("/var/lib/prometheus/node-exporter/postfix_queues.prom").content_string
    assert text.splitlines()[2:] == crm_int.check_output("postfix-queues-sizes").splitlines()[2:]
    assert crm_int.service("mail-tools-metrics.timer").is_enabled
    assert crm_int.service("mail-tools-metrics.timer").is_running
    assert metric(crm_int, "mailing_enabled") == 1


def test_hold_release_and_delete_by_domain_and_job(batch, crm_int, world, eventually):
    """Counts before and after, and only what was meant moves (P8)."""
    world.check_output("systemctl stop fake-provider@refusing.service")
    try:
        batch.submit(4, "refusing.test")
        eventually(lambda: list(batch.queued().values()) == ["deferred"] * 4)
        chosen = f"--job {batch.job} --domain refusing.test"
        said = json.loads(crm_int.check_output(f"postfix-queue hold {chosen} --yes --json"))
        assert (said["chosen"], said["moved"]) == (4, 4)
        assert said["after"]["hold"] - said["before"]["hold"] == 4
        assert batch.on_hold() == 4
        said = json.loads(crm_int.check_output(f"postfix-queue delete {chosen} --recipient '*-0@*' --yes --json"))
        assert said["moved"] == 1
    finally:
        world.check_output("systemctl start fake-provider@refusing.service")
    assert crm_int.run(f"postfix-queue release {chosen}").rc == 2, "nobody is there to say yes"
    crm_int.check_output(f"postfix-queue release {chosen} --yes")
    eventually(lambda: len(received(world, batch)) == 3)
    assert not batch.queued()


def test_the_provider_is_the_transport(held):
    """By provider, as Postfix itself would choose (P8)."""
    batch = held(2)
    command = f"postfix-queue list --json --job {batch.job} --provider"
    assert len(json.loads(batch.host.check_output(f"{command} accepting"))) == 2
    assert json.loads(batch.host.check_output(f"{command} default")) == []
    done = batch.host.run(f"{command} acepting")
    assert done.rc == 1
    assert "unknown provider 'acepting': there is accepting" in done.stderr


def test_a_trace_by_everything_an_operator_may_hold_in_hand(held, world, eventually):
    """Queue ID, Message-ID, VERP address and person lead to the same story, a requeue included (S29, S30)."""
    batch = held(1)
    (first,) = batch.queued()
    batch.host.check_output(f"postsuper -r {first} && postkick public pickup W")
    eventually(lambda: received(world, batch))
    eventually(lambda: batch.log(f"orig_id={first}"))
    second = re.search(r"(\w+): uid=\d+ .*orig_id=", batch.log(f"orig_id={first}")[0])[1]
    eventually(lambda: batch.log(f"{second}: removed"))
    sender = batch.sender(0)
    keys = [first, second, f"{batch.job}-0@tools.test", f"<{batch.job}-0@tools.test>", sender, batch.address(0)]
    for key in [*keys, sender.replace("+b.", "+u.")]:
        groups = json.loads(batch.host.check_output(f"postfix-trace --json '{key}'"))["groups"]
        assert [(g["queue_id"], g["children"]) for g in groups] == [(first, [second]), (second, [])], key
        assert "status=sent" in groups[1]["lines"][-2]["text"]


def test_a_trace_follows_the_bounce(batch, eventually):
    """What became of the report, too: its queue ID is another (S30)."""
    recipient = "nobody@refusing.test"
    message_id = f"{batch.job}-bounce@tools.test"
    batch.host.check_output(
        f"printf 'Subject: x\\nPrecedence: bulk\\nMessage-ID: <{message_id}>\\n\\nx\\n' | "
        f"/usr/sbin/sendmail -f root {recipient}"
    )

    def groups() -> list[dict]:
        done = batch.host.run(f"postfix-trace --json '{message_id}'")
        return json.loads(done.stdout)["groups"]

    eventually(lambda: len(groups()) == 2 and groups()[1]["lines"][-1]["text"] == "removed")
    assert "status=bounced" in " ".join(line["text"] for line in groups()[0]["lines"])


def test_a_trace_goes_through_rotated_and_compressed_logs(batch, eventually):
    """The complaint comes a week after the mail (S29)."""
    batch.submit(1)
    eventually(lambda: batch.log(f"to=<{batch.address(0)}>"))
    (queue_id,) = {line.split()[3].rstrip(":") for line in batch.log(f"to=<{batch.address(0)}>")}
    old = f"4jB{queue_id[3:]}"
    rotated = "/var/log/mail.log.99.gz"
    try:
        batch.host.check_output(
            f"grep -h -F {queue_id} /var/log/mail.log.1 /var/log/mail.log 2>/dev/null | "
            f"sed 's/{queue_id}/{old}/g; s/^....-/2020-/' | gzip >{rotated}"
        )
        groups = json.loads(batch.host.check_output(f"postfix-trace --json '{batch.sender(0)}'"))["groups"]
    finally:
        batch.host.check_output(f"rm -f {rotated}")
    assert [g["queue_id"] for g in groups] == [old, queue_id], "oldest first"


def test_lnav_shows_deferred_yellow_and_bounced_red(batch, world, crm_int, eventually):
    """warning and error are what lnav colours; the operation is the queue ID (S21)."""
    world.check_output("systemctl stop fake-provider@refusing.service")
    try:
        batch.submit(1, "refusing.test")
        eventually(lambda: batch.log(f"to=<{batch.address(0, 'refusing.test')}>"))
    finally:
        world.check_output("systemctl start fake-provider@refusing.service")
    (queue_id,) = batch.queued()
    query = f";SELECT log_opid, log_level FROM postfix_log WHERE log_opid = '{queue_id}' AND status IS NOT NULL"  # noqa: S608
    found = crm_int.check_output(f"TERM=xterm lnav -n -c {shlex.quote(query)} -c ':write-json-to -' /var/log/mail.log")
    assert queue_id in found
    assert "warning" in found
    query = ";SELECT DISTINCT log_level FROM postfix_log WHERE status = 'bounced'"
    crm_int.check_output("printf 'Subject: x\\n\\nx\\n' | /usr/sbin/sendmail -f root nobody@refusing.test")
    eventually(lambda: crm_int.run("grep -q 'status=bounced' /var/log/mail.log").rc == 0)
    found = crm_int.check_output(f"TERM=xterm lnav -n -c {shlex.quote(query)} /var/log/mail.log")
    assert found.split()[1:] == ["error"]


@pytest.mark.parametrize(
    "command, shows",
    [
        ("postqueue -j | jq -C .recipients[] | tac", "tools-"),
        ("postqueue -j | jq -r .recipients[].address | sed 's/.*@//' | sort | uniq -c | sort -n", "2 accepting.test"),
        ("qshape hold", "accepting.test"),
        ("qshape deferred", "TOTAL"),
        ("postsuper -h ALL", ""),
        ("postfix-queues-sizes", 'queue="hold"} '),
    ],
)
def test_the_operators_commands_work_as_typed(held, command, shows):
    """They stand in the operators' notes; nobody looks up options at three in the morning (S20, S22, S23, S24)."""
    batch = held(2)
    done = batch.host.run(f"bash -o pipefail -c {shlex.quote(command)}")
    assert done.rc == 0, done.stderr
    assert shows in done.stdout


@pytest.mark.parametrize(
    "name", ["mailing", "postfix-queue", "postfix-queues-sizes", "postfix-trace", "postfix-trickle"]
)
def test_each_command_has_a_man_page(crm_int, name):
    """An operator who was never told of an option finds it on the host."""
    page = crm_int.check_output(f"MANPAGER=cat MANWIDTH=100 man 8 {name}")
    assert "EXIT STATUS" in page
