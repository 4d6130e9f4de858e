"""Each mail provider gets its budget and not more; who complains gets less (S14, N1, P4, P5, N20)."""

from __future__ import annotations

import json
import shlex
import time
from datetime import datetime

import pytest
from newsletters import ledger
from testinfra.host import Host

WINDOW = 10.0
TABLE = "/etc/postfix/providers.json"
# The thresholds of a test: seconds instead of minutes.
QUICK = """
import json, pathlib
path = pathlib.Path("/etc/postfix/providers.json")
table = json.loads(path.read_text())
table["back_off"] |= {"deferrals": 3, "window_seconds": 30, "step_seconds": 10, "recover_seconds": 8}
path.write_text(json.dumps(table))
"""


def send(crm_int: Host, *addresses: str) -> None:
    """Hand in one message of a mailing for each address, with the null sender: nobody gets a bounce."""
    head = "From: crm@crm.torproject.test\\nPrecedence: bulk\\nSubject: budget"
    each = f"printf '{head}\\n\\nHello\\n' | sendmail -f '<>' -- \"$to\" || exit 1"
    crm_int.check_output(f"for to in {' '.join(addresses)}; do {each}; done")


def people(number: int, *domains: str) -> list[str]:
    """Fresh addresses, the domains in turn."""
    stamp = time.time_ns()
    return [f"p{n}-{stamp}@{domains[n % len(domains)]}" for n in range(number)]


def deliveries(world: Host, provider: str, addresses: list[str]) -> list[float]:
    """When a fake provider accepted mail for these addresses, in seconds."""
    wanted = set(addresses)
    return sorted(
        datetime.fromisoformat(entry["time"]).timestamp()
        for entry in ledger(world, provider=provider)
        if entry["message"] and entry["recipient"] in wanted
    )


def fullest(times: list[float]) -> int:
    """The most deliveries in any ten seconds."""
    return max(sum(1 for later in times if begin <= later < begin + WINDOW) for begin in times)


def pace(crm_int: Host) -> dict[str, dict]:
    return json.loads(crm_int.check_output("postfix-pace status --json"))


@pytest.fixture(scope="module", autouse=True)
def calm(crm_int, world):
    """All providers normal, no mail of other tests on its way to them; and so again afterwards."""
    clear = "postfix-queue delete --provider {} --yes --if-any"

    def settle() -> None:
        world.check_output("provider-mood all normal")
        for name in ("gmail", "yahoo", "outlook", "orange"):
            crm_int.run(clear.format(name))
            crm_int.check_output(f"postfix-pace restore {name}")

    settle()
    yield
    settle()


@pytest.fixture(scope="module")
def backlog(crm_int, world, eventually):
    """More mail than the budgets allow to all at once: {provider: (addresses, times)}, and what passed them."""
    crm_int.check_output("printf 'hosted.test\\n' | postfix-providers learn --file -")
    # trivial-rewrite looks every ten seconds whether a table has changed; until then mail goes to another transport.
    crm_int.check_output("postfix reload")
    waiting = {
        "gmail": people(70, "gmail.test", "hosted.test"),
        "yahoo": people(150, "yahoo.test"),
        "outlook": people(32, "outlook.test", "hotmail.test"),
        "orange": people(9, "orange.test"),
    }
    # All of it is there at once: pickup waits while it is handed in.
    eventually(lambda: crm_int.run("postkick public pickup W; pkill -STOP -x pickup").rc == 0)
    try:
        send(crm_int, *(address for addresses in waiting.values() for address in addresses))
    finally:
        crm_int.check_output("pkill -CONT -x pickup")
    passing = people(20, "accepting.test")
    begin = time.monotonic()
    send(crm_int, *passing)
    eventually(lambda: len(deliveries(world, "accepting", passing)) == len(passing), within=30)
    took = time.monotonic() - begin
    behind = len(waiting["gmail"]) - len(deliveries(world, "gmail", waiting["gmail"]))
    found = {}
    for name, addresses in waiting.items():
        eventually(lambda n=name, a=addresses: len(deliveries(world, n, a)) == len(a), within=60, every=1)
        found[name] = (addresses, deliveries(world, name, addresses))
    return {"providers": found, "passed_seconds": took, "behind": behind}


@pytest.mark.mutates
@pytest.mark.parametrize("provider", ["gmail", "yahoo", "outlook", "orange"])
def test_a_provider_gets_its_budget_and_not_more(crm_int, backlog, provider):
    """Timestamps of the provider, which takes 0.5 s for an answer (S14)."""
    budget = json.loads(crm_int.file(TABLE).content_string)["providers"]
    budget = next(entry["budget_per_second"] for entry in budget if entry["name"] == provider)
    _, times = backlog["providers"][provider]
    assert fullest(times) <= WINDOW * budget + 1
    assert (len(times) - 1) / (times[-1] - times[0]) >= 0.9 * budget


@pytest.mark.mutates
def test_the_others_do_not_wait_for_a_provider_at_its_limit(backlog):
    """Twenty messages overtake a backlog (S14, S17)."""
    assert backlog["behind"] > 10, "there was no backlog to overtake"
    assert backlog["passed_seconds"] < 15


@pytest.mark.mutates
def test_a_hosted_domain_shares_its_providers_budget(crm_int, world, backlog):
    """The budget held for both domains together; a budget of its own would have doubled it (N1)."""
    addresses, _ = backlog["providers"]["gmail"]
    hosted = [address for address in addresses if address.endswith("@hosted.test")]
    assert len(hosted) == 35
    assert len(deliveries(world, "gmail", hosted)) == 35
    (entry,) = json.loads(crm_int.check_output("postfix-providers check --json hosted.test"))
    assert entry["provider"] == "gmail"
    assert "mx.gmail.test" in entry["why"]


@pytest.mark.mutates
def test_a_killed_pace_loses_no_mail_and_lets_nothing_slip(crm_int, world, eventually):
    """While the program is away deliveries wait for it: systemd holds the socket (S14)."""
    addresses = people(60, "yahoo.test")
    send(crm_int, *addresses)
    for _ in range(2):
        crm_int.check_output("systemctl kill -s KILL postfix-pace.service")
        eventually(lambda: crm_int.service("postfix-pace.service").is_running, within=20)
    eventually(lambda: len(deliveries(world, "yahoo", addresses)) == len(addresses), within=60, every=1)
    times = deliveries(world, "yahoo", addresses)
    assert fullest(times) <= WINDOW * 10 + 1
    # Six connections alone would take half a second for six.
    assert times[-1] - times[0] >= 0.95 * (len(times) - 1) / 10


@pytest.fixture
def quick(crm_int):
    """Steps after seconds; afterwards the table is as it was."""
    before = crm_int.file(TABLE).content_string
    crm_int.check_output(f"python3 -c {shlex.quote(QUICK)} && systemctl reload postfix-pace.service")
    yield
    crm_int.check_output(f"printf %s {shlex.quote(before)} >{TABLE} && systemctl reload postfix-pace.service")


@pytest.mark.mutates
def test_a_provider_that_complains_gets_less_and_later_its_budget_back(crm_int, world, quick, eventually):
    """From 421 4.7.28 to a lower pace, through a restart, and back; the others notice nothing (P5, N20)."""
    world.check_output("provider-mood gmail angry")
    others = people(40, "yahoo.test")
    send(crm_int, *people(12, "gmail.test"), *others)
    low = eventually(lambda: (p := pace(crm_int)["gmail"]) and p["pace_per_second"] < 4 and p, within=60)
    assert "421 4.7.28" in low["reason"]
    assert "421 4.7.28" in crm_int.check_output("journalctl -u postfix-pace.service -g 'gmail: 4/s -> 2/s' -n 1 -o cat")
    metrics = "cat /var/lib/prometheus/node-exporter/postfix-pace.prom"
    assert 'provider_back_off_level{provider="gmail"} 0\n' not in crm_int.check_output(metrics) + "\n"
    assert {name: entry["level"] for name, entry in pace(crm_int).items() if name != "gmail"} == {
        name: 0 for name in pace(crm_int) if name != "gmail"
    }
    world.check_output("provider-mood gmail normal")
    crm_int.check_output("systemctl restart postfix-pace.service")
    assert pace(crm_int)["gmail"]["level"] >= 1
    eventually(lambda: len(deliveries(world, "yahoo", others)) == len(others), within=30)
    eventually(lambda: pace(crm_int)["gmail"]["pace_per_second"] == 4, within=90, every=1)
    assert "no complaint" in crm_int.check_output("journalctl -u postfix-pace.service -n 20 -o cat")


@pytest.mark.mutates
@pytest.mark.parametrize(("mood", "says"), [("busy", "450 4.2.1"), ("blocked", "550 5.7.1"), ("crowded", None)])
def test_a_mood_is_one_command(crm_int, world, eventually, mood, says):
    """What an operator trains with: the provider behaves so, and normally again (N20)."""
    world.check_output(f"provider-mood outlook {mood}")
    try:
        assert f"outlook: {mood}" in world.check_output("provider-mood show")
        (address,) = people(1, "outlook.test")
        send(crm_int, address)
        found = eventually(lambda: ledger(world, recipient=address), within=30)
        assert found[0]["reply"].startswith(says or "250 ")
    finally:
        world.check_output("provider-mood outlook normal")


def test_the_check_needs_nobody(crm_int):
    """What becomes of a domain's mail and how long a mailing takes, before it is sent (P4)."""
    assert "gmail (the table names it)" in crm_int.check_output("postfix-providers check gmail.test")
    run = crm_int.run("postfix-providers time 300000 --provider orange")
    assert run.rc == 3
    assert "LONGER than the queue's lifetime" in run.stdout
