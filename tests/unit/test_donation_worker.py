"""The worker records each donation once, whoever is killed; what it cannot record a person finds (S13, S38, N15)."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from loading import ROOT, TOOLS, load
from redis_server import RedisServer

from civicrm_tools.donations import campaigns, civicrm, config, jobs, queue_tool, resp
from civicrm_tools.donations import worker as worker_

FAKES = ROOT / "tests/unit/fakes/donations"
QUEUE, USER = "donations:donate-api", "worker-donate-api"
INFLIGHT, DELAYED, DEAD, STATS = (f"{QUEUE}:{part}" for part in ("inflight:main", "delayed", "dead", "stats"))

# The command as its unit starts it, but for the directory of configurations and the patience.
RUN = """
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, {library!r})
from pathlib import Path
from civicrm_tools.donations import config, worker
config.DIRECTORY = Path({directory!r})
worker.WAIT_SECONDS = 0.1
worker.PAUSE_MAX_SECONDS = 0.1
sys.exit(worker.main(["donate-api"]))
"""


@pytest.fixture(scope="module")
def library() -> SimpleNamespace:
    """The worker's modules."""
    return SimpleNamespace(
        campaigns=campaigns, civicrm=civicrm, config=config, jobs=jobs, queue_tool=queue_tool, resp=resp, worker=worker_
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[RedisServer]:
    """Its user may do what a worker may on int."""
    rules = yaml.safe_load((ROOT / "roles/civicrm_int/vars/main.yml").read_text())["__civicrm_int_queue_worker"]
    users = load("plugins/filter/donations.py").donation_redis_users
    passwords = {"donate-api": {"writer": "another", "worker": "pw"}}
    (user,) = [user for user in users(["donate-api"], passwords, "", rules) if user["name"] == USER]
    server = RedisServer(tmp_path_factory.mktemp("redis"), [user])
    yield server
    server.stop()


@pytest.fixture
def redis(server: RedisServer) -> RedisServer:
    server.reset()
    return server


@pytest.fixture
def settings(tmp_path: Path, redis) -> dict:
    return {
        "queue": "donate-api",
        "worker": "main",
        "user": "crm",
        "enabled": True,
        "redis_host": "127.0.0.1",
        "redis_port": redis.port,
        "redis_user": USER,
        "redis_password": "pw",
        "api_command": [sys.executable, str(FAKES / "civicrm_api.py"), str(tmp_path)],
        "api_timeout_seconds": 2,
        "api_idle_seconds": 1,
        "api_max_calls": 1000,
        "tries_max": 3,
        "retry_seconds": 0,
        "retry_max_seconds": 1,
        "dead_max": 5,
        "trxn_prefix": "donation:",
        "financial_type": "Donation",
        "payment_instrument": "Credit Card",
        "test": False,
        "proof": "notice",
        "campaigns_version": "v1",
    }


@pytest.fixture
def worker(tmp_path: Path, settings: dict) -> Iterator[Callable[..., subprocess.Popen]]:
    """A function (**settings) -> a running worker; its output is in worker.log."""
    running: list[subprocess.Popen] = []

    def start(**changes) -> subprocess.Popen:
        account = pwd.getpwuid(os.getuid()).pw_name
        (tmp_path / "donate-api.json").write_text(json.dumps(settings | {"user": account} | changes))
        script = RUN.format(library=str(TOOLS), directory=str(tmp_path))
        with (tmp_path / "worker.log").open("a") as log:
            command = [sys.executable, "-c", script]
            running.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        return running[-1]

    yield start
    for process in running:
        kill(process)


def kill(process: subprocess.Popen) -> None:
    """As systemd does it: the worker and its CiviCRM at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def job(number: int = 1, **changes) -> str:
    contact = {"first_name": "Ada", "last_name": "Lovelace", "email": f"ada{number}@example.org"}
    donation = {
        "idempotency_key": "0123456789abcdef",
        "amount": "25.00",
        "currency": "EUR",
        "campaign": "general",
        "payment_reference": f"ch_{number}",
        "contact": contact | changes.pop("contact", {}),
    } | changes.pop("donation", {})
    return json.dumps(
        {
            "id": f"id-{number}",
            "site": "donate-api",
            "received_at": 1795176591,
            "test": False,
            "campaigns_version": "v1",
            "donation": donation,
        }
        | changes
    )


def crm(tmp_path: Path) -> dict:
    path = tmp_path / "civicrm.json"
    return json.loads(path.read_text()) if path.exists() else {"Contact": [], "Contribution": []}


def references(tmp_path: Path) -> list[str]:
    return [row["trxn_id"] for row in crm(tmp_path)["Contribution"]]


def eventually(probe: Callable[[], object], within: float = 20) -> None:
    deadline = time.monotonic() + within
    while not probe():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def idle(redis: RedisServer) -> bool:
    """Nothing waits, is in hand or put off, all at one moment. A script, as a full Redis takes no transaction."""
    script = "return redis.call('LLEN', KEYS[1]) + redis.call('LLEN', KEYS[2]) + redis.call('ZCARD', KEYS[3])"
    return redis.client.call("EVAL", script, 3, QUEUE, INFLIGHT, DELAYED) == 0


def campaign(tmp_path: Path, *names: str) -> None:
    rows = [{"id": str(n), "name": name, "title": name, "is_active": "1"} for n, name in enumerate(names, start=1)]
    (tmp_path / "civicrm.json").write_text(json.dumps({"Contact": [], "Contribution": [], "Campaign": rows}))


def test_a_donation_becomes_a_contribution_with_its_contact_and_campaign(tmp_path, redis, worker):
    """S13: all that the donor gave arrives, under the transaction id that makes it unique."""
    campaign(tmp_path, "general")
    redis.fill(QUEUE, [job()])
    worker()
    eventually(lambda: idle(redis) and references(tmp_path))
    (contribution,), (contact,) = crm(tmp_path)["Contribution"], crm(tmp_path)["Contact"]
    expected = {
        "contact_id": contact["id"],
        "total_amount": "25.00",
        "currency": "EUR",
        "trxn_id": "donation:ch_1",
        "invoice_id": "id-1",
        "source": "donate-api: general",
        "campaign_id": "1",
        "receive_date": "@1795176591",
        "is_test": "0",
        "financial_type_id": "Donation",
    }
    assert expected.items() <= contribution.items()
    assert (contact["first_name"], contact["email"]) == ("Ada", "ada1@example.org")
    eventually(lambda: redis.hash(STATS).get("created") == "1")
    assert int(redis.hash(STATS)["last_success"]) > time.time() - 60


def test_the_same_donation_twice_is_recorded_once(tmp_path, redis, worker):
    """Intake hands over at least once; the queue may hold the same payment several times."""
    redis.fill(QUEUE, [job(), job(), job(id="another-id")])
    worker()
    eventually(lambda: redis.hash(STATS).get("duplicates") == "2")
    assert references(tmp_path) == ["donation:ch_1"]
    assert redis.list(DEAD) == []


def test_an_e_mail_address_is_one_contact_and_the_same_name_comes_first(tmp_path, redis, worker):
    """Two people may share an address; nobody gets a second record for a second donation."""
    contacts = [
        {"id": "1", "first_name": "Charles", "last_name": "B", "email": "home@example.org"},
        {"id": "2", "first_name": "Ada", "last_name": "Lovelace", "email": "home@example.org"},
    ]
    (tmp_path / "civicrm.json").write_text(json.dumps({"Contact": contacts, "Contribution": [], "Campaign": []}))
    redis.fill(
        QUEUE,
        [
            job(2, contact={"email": "HOME@example.org", "first_name": "ada"}),
            job(1, contact={"email": "home@example.org", "first_name": "Someone"}),
        ],
    )
    worker()
    eventually(lambda: len(references(tmp_path)) == 2 and idle(redis))
    assert [row["contact_id"] for row in crm(tmp_path)["Contribution"]] == ["1", "2"]
    assert len(crm(tmp_path)["Contact"]) == 2


def test_a_payment_with_other_figures_goes_to_a_person(tmp_path, redis, worker):
    """Neither recorded twice nor silently taken for the first: the same reference with another amount is a mistake."""
    redis.fill(QUEUE, [job(id="second", donation={"amount": "26.00"}), job(id="first")])
    worker()
    eventually(lambda: redis.list(DEAD) and idle(redis))
    assert references(tmp_path) == ["donation:ch_1"]
    assert json.loads(redis.list(DEAD)[0])["id"] == "second"


def test_references_that_differ_in_case_only_are_not_the_same_payment(tmp_path, redis, worker):
    """The database ignores case, payment providers do not: the second must not vanish as a duplicate."""
    redis.fill(
        QUEUE,
        [
            job(2, donation={"payment_reference": "ch_abc"}),
            job(1, donation={"payment_reference": "ch_ABC"}),
        ],
    )
    worker()
    eventually(lambda: redis.list(DEAD) and idle(redis))
    assert references(tmp_path) == ["donation:ch_ABC"]
    assert json.loads(redis.list(DEAD)[0])["donation"]["payment_reference"] == "ch_abc"


ADDRESS = {"street_address": "1 Example Street", "city": "Exampleton"}


@pytest.mark.parametrize("address", [{}, {"address": ADDRESS}], ids=["country alone", "address"])
def test_a_country_that_civicrm_refuses_costs_neither_donation_nor_address(tmp_path, redis, worker, address):
    """The whole address was dropped without a word."""
    redis.fill(QUEUE, [job(contact={"country": "ZZ"} | address)])
    worker()
    eventually(lambda: references(tmp_path) == ["donation:ch_1"] and idle(redis))
    assert redis.list(DEAD) == []
    kept = crm(tmp_path).get("Address", [])
    assert [row["city"] for row in kept] == (["Exampleton"] if address else [])
    assert redis.hash(STATS)["addresses_refused"] == "1"
    assert "id-1 has an address or a country that CiviCRM refused" in (tmp_path / "worker.log").read_text()


@pytest.mark.parametrize("word", ["null", "NULL", "Null", "nUll"])
def test_a_person_called_null_keeps_the_name(tmp_path, redis, worker, word):
    """CiviCRM takes the word for no value, in any spelling but one."""
    address = {"street_address": "1 Example Street", "city": word}
    redis.fill(QUEUE, [job(contact={"last_name": word, "address": address, "country": "DE"})])
    worker()
    eventually(lambda: references(tmp_path) == ["donation:ch_1"] and idle(redis))
    (contact,), (kept,) = crm(tmp_path)["Contact"], crm(tmp_path)["Address"]
    assert (contact["last_name"], kept["city"], kept["country_id"]) == ("Null", "Null", "DE")
    assert "addresses_refused" not in redis.hash(STATS)


def test_letters_of_any_language_arrive_as_another_client_wrote_them(tmp_path, redis, worker):
    text = json.dumps(json.loads(job(contact={"first_name": "Zo\u00eb", "last_name": "\u0141"})), ensure_ascii=False)
    command = ["redis-cli", "-x", "-p", str(redis.port), "--user", USER, "LPUSH", QUEUE]
    environment = os.environ | {"REDISCLI_AUTH": "pw"}
    subprocess.run(command, input=text.encode(), env=environment, check=True, stdout=subprocess.DEVNULL)
    worker()
    eventually(lambda: references(tmp_path) and idle(redis))
    (contact,) = crm(tmp_path)["Contact"]
    assert (contact["first_name"], contact["last_name"]) == ("Zo\u00eb", "\u0141")


def test_one_name_is_a_contact_and_is_found_again(tmp_path, redis, worker):
    mononym = {"first_name": "", "last_name": "Sukarno", "email": "s@example.org"}
    redis.fill(QUEUE, [job(2, contact=mononym), job(1, contact=mononym)])
    worker()
    eventually(lambda: len(references(tmp_path)) == 2 and idle(redis))
    (contact,) = crm(tmp_path)["Contact"]
    assert contact["last_name"] == "Sukarno" and "first_name" not in contact


def test_an_international_domain_is_the_contact_that_has_it_in_letters(tmp_path, redis, worker):
    """And one without the accent is somebody else's, though the database makes no difference."""
    contacts = [
        {"id": "1", "first_name": "Ada", "last_name": "Lovelace", "email": "ada@bucher.example"},
        {"id": "2", "first_name": "Ada", "last_name": "Lovelace", "email": "ada@b\u00fccher.example"},
    ]
    (tmp_path / "civicrm.json").write_text(json.dumps({"Contact": contacts, "Contribution": [], "Campaign": []}))
    redis.fill(
        QUEUE,
        [
            job(2, contact={"email": "j\u00f6rg@bucher.example"}),
            job(1, contact={"email": "ada@xn--bcher-kva.example"}),
        ],
    )
    worker()
    eventually(lambda: len(references(tmp_path)) == 2 and idle(redis))
    assert [row["contact_id"] for row in crm(tmp_path)["Contribution"]] == ["2", "3"]


def test_test_sites_make_test_contributions(tmp_path, redis, worker):
    """Whether the API site or the queue says so."""
    redis.fill(QUEUE, [job(1, test=True)])
    worker(test=False)
    eventually(lambda: len(references(tmp_path)) == 1)
    assert crm(tmp_path)["Contribution"][0]["is_test"] == "1"


def test_killed_in_the_middle_of_any_job_nothing_is_lost_and_nothing_is_twice(tmp_path, redis, worker):
    """N15: SIGKILL again and again while jobs run; all are recorded, each once."""
    (tmp_path / "slow").touch()
    wanted = [f"donation:ch_{n}" for n in range(40)]
    redis.fill(QUEUE, [job(n) for n in range(40)])
    chance = random.Random(1)  # noqa: S311
    kills = 0
    while not idle(redis):
        process = worker()
        before = len(references(tmp_path))
        eventually(lambda b=before: len(references(tmp_path)) > b + 2 or idle(redis))
        # Wherever in a job it happens to be then: a job takes 50 ms.
        time.sleep(chance.uniform(0, 0.05))
        kill(process)
        kills += 1
        assert kills < 40
    assert kills > 4
    assert sorted(references(tmp_path)) == sorted(wanted)
    assert redis.list(DEAD) == []


def test_what_a_killed_worker_had_in_hand_comes_first(tmp_path, redis, worker):
    redis.fill(INFLIGHT, [job(1)])
    redis.fill(QUEUE, [job(2)])
    worker()
    eventually(lambda: len(references(tmp_path)) == 2 and idle(redis))
    assert references(tmp_path) == ["donation:ch_1", "donation:ch_2"]


def test_redis_that_goes_away_while_jobs_run_loses_nothing(tmp_path, redis, worker):
    """N15: whether an answer was lost before or after the command, is unknown; both must be right."""
    wanted = sorted(f"donation:ch_{n}" for n in range(40))
    redis.fill(QUEUE, [job(n) for n in range(40)])
    worker()
    for number in (5, 15, 25):
        eventually(lambda n=number: len(references(tmp_path)) >= n)
        redis.crash()
    eventually(lambda: idle(redis) and len(references(tmp_path)) == 40)
    assert sorted(references(tmp_path)) == wanted
    assert redis.list(DEAD) == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_civicrm_that_dies_in_a_call_costs_no_donation(tmp_path, redis, worker, when):
    """After it was stored the contribution is found; before, it is tried again."""
    (tmp_path / "die").write_text(when)
    redis.fill(QUEUE, [job()])
    worker(retry_seconds=1, tries_max=2 if when == "before" else 1)
    eventually(lambda: redis.sorted_set(DELAYED) or redis.hash(STATS).get("duplicates"))
    (tmp_path / "die").unlink()
    eventually(lambda: idle(redis) and references(tmp_path) == ["donation:ch_1"])
    assert redis.list(DEAD) == []


def test_while_civicrm_is_away_everything_waits_and_nothing_is_buried(tmp_path, redis, worker):
    """An outage of hours is not the donations' fault: it must not use up their tries."""
    (tmp_path / "down").touch()
    redis.fill(QUEUE, [job(2), job(1)])
    worker(tries_max=1)
    eventually(lambda: (tmp_path / "worker.log").read_text().count("cannot connect to the database") >= 3)
    assert redis.list(DEAD) == []
    (tmp_path / "down").unlink()
    eventually(lambda: idle(redis) and len(references(tmp_path)) == 2)


def test_one_job_that_kills_or_blocks_civicrm_does_not_hold_up_the_others(tmp_path, redis, worker):
    """A donation that CiviCRM cannot digest becomes a dead letter; those behind it are recorded."""
    (tmp_path / "mute").touch()
    redis.fill(QUEUE, [job()])
    worker(api_timeout_seconds=0.5)
    eventually(lambda: redis.list(DEAD))
    (tmp_path / "mute").unlink()
    redis.fill(QUEUE, [job(2)])
    eventually(lambda: references(tmp_path) == ["donation:ch_2"])
    assert json.loads(redis.list(DEAD)[0])["tries"] == 3


def test_a_refused_donation_is_tried_again_then_kept_with_the_reason(tmp_path, redis, worker, library):
    """The reason may quote the donor: it is in the dead letter, and not in the log."""
    (tmp_path / "refuse").write_text("ada1@example.org is not to your liking")
    redis.fill(QUEUE, [job()])
    worker()
    eventually(lambda: redis.list(DEAD) and idle(redis))
    letter = json.loads(redis.list(DEAD)[0])
    assert (letter["id"], letter["tries"]) == ("id-1", 3)
    assert "not to your liking" in letter["reason"]
    assert redis.hash(STATS)["failures"] == "2"
    assert redis.hash(STATS)["buried"] == "1"
    log = (tmp_path / "worker.log").read_text()
    assert "id-1" in log
    for private in ("ada1@example.org", "Lovelace", "25.00", "ch_1"):
        assert private not in log

    # A person sets it right and sends it on its way.
    (tmp_path / "refuse").unlink()
    queue = library.jobs.Queue(library.resp.Redis("127.0.0.1", redis.port, USER, "pw"), "donate-api", "main")
    assert library.queue_tool.decide(queue, "id-1", library.queue_tool.retry) == ["id-1"]
    eventually(lambda: references(tmp_path) == ["donation:ch_1"] and idle(redis))
    assert redis.list(DEAD) == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"id": "x"}', '"x"', job(test="yes"), job(donation={"amount": 25}),
     job(contact={"first_name": "", "last_name": ""})],
)  # fmt: skip
def test_what_is_no_job_is_put_aside(tmp_path, redis, worker, text):
    redis.fill(QUEUE, [job(), text])
    worker()
    eventually(lambda: idle(redis) and references(tmp_path) == ["donation:ch_1"])
    assert json.loads(redis.list(DEAD)[0])["raw"] == text


ADDRESSED = {"street_address": "1 Example Street", "city": "Exampleton"}
INTRUDERS = {
    "a chained call": (
        {"address": ADDRESSED | {"api.contact.delete": {"id": 1}}},
        "contact.address.?: it is not a field",
    ),
    "a chained call for an address": (
        {"address": {"api.Setting.create": {}}},
        "contact.address.street_address: it is missing",
    ),
    "another field": ({"id": "1"}, "contact.id: it is not a field"),
    "an operator": ({"email": {"LIKE": "%"}}, "contact.email: it must be a text"),
    "a list": ({"address": [ADDRESSED]}, "contact.address: it must be an object"),
    "an escape sequence": ({"last_name": "\x1b[31mx"}, "contact.last_name: it holds a character"),
    "half a character": ({"last_name": "\ud800"}, "contact.last_name: it holds a character"),
    "nobody's eyes": ({"last_name": "Love\u200blace"}, "contact.last_name: it holds a character"),
    "a long name": ({"last_name": "x" * 65}, "contact.last_name: it must be 1 to 64"),
}


@pytest.mark.parametrize(("contact", "reason"), INTRUDERS.values(), ids=INTRUDERS)
def test_a_job_is_input_and_only_a_donations_fields_and_texts_are_taken(tmp_path, redis, worker, contact, reason):
    """Whoever pushed it: a field that is a call of CiviCRM's API ran there without any check of permissions."""
    redis.fill(QUEUE, [job(2), job(1, contact=contact)])
    worker()
    eventually(lambda: idle(redis) and references(tmp_path) == ["donation:ch_2"])
    letter = json.loads(redis.list(DEAD)[0])
    assert reason in letter["reason"]
    assert [row["last_name"] for row in crm(tmp_path)["Contact"]] == ["Lovelace"]
    log = (tmp_path / "worker.log").read_text()
    assert reason in log
    assert log.isascii() and "\x1b" not in log


def test_a_job_of_another_site_is_put_aside(tmp_path, redis, worker):
    redis.fill(QUEUE, [job(2), job(1, site="staging-donate-api"), "[" * 60000])
    worker()
    eventually(lambda: idle(redis) and references(tmp_path) == ["donation:ch_2"])
    assert len(redis.list(DEAD)) == 2


def test_strangers_do_not_fill_in_a_known_person(tmp_path, redis, worker):
    """Anybody may give somebody's address and name: the contact stays as it is, a note keeps what was given."""
    known = [{"id": "1", "first_name": "Ada", "last_name": "Lovelace", "email": "ada1@example.org"}]
    (tmp_path / "civicrm.json").write_text(json.dumps({"Contact": known, "Contribution": [], "Campaign": []}))
    redis.fill(QUEUE, [job(contact={"address": ADDRESSED, "country": "DE"})])
    worker()
    eventually(lambda: idle(redis) and references(tmp_path))
    assert crm(tmp_path).get("Address", []) == []
    assert crm(tmp_path)["Contact"] == known
    (contribution,) = crm(tmp_path)["Contribution"]
    assert contribution["contact_id"] == "1"
    assert contribution["note"].split("\n")[1:] == ["1 Example Street", "Exampleton", "DE"]


OTHERS = {
    "donor's name": ({"contact": {"first_name": "Charles"}}, "donor"),
    "donor's address": ({"contact": {"email": "charles@example.org"}}, "donor"),
    "campaign": ({"donation": {"campaign": "spring"}}, "campaign"),
    "currency": ({"donation": {"currency": "USD"}}, "currency"),
    "amount": ({"donation": {"amount": "26.00"}}, "amount"),
}


@pytest.mark.parametrize(("other", "word"), OTHERS.values(), ids=OTHERS)
def test_a_second_donation_with_a_known_reference_is_never_swallowed(tmp_path, redis, worker, other, word):
    """It was taken for the first one's repetition whoever gave it: a person must see it, with what differs."""
    redis.fill(QUEUE, [job(id="second", **other), job(id="first")])
    worker()
    eventually(lambda: redis.list(DEAD) and idle(redis))
    assert references(tmp_path) == ["donation:ch_1"]
    letter = json.loads(redis.list(DEAD)[0])
    assert (letter["id"], letter["reason"]) == (
        "second",
        f"contribution 1 has the same transaction id and another {word}",
    )


def test_dead_letters_have_a_limit_and_the_newest_goes_counted(tmp_path, redis, worker):
    """Whoever may push must not fill the memory with what is never taken away."""
    redis.fill(QUEUE, [f"no job {n}" for n in range(9, -1, -1)])
    worker(dead_max=3)
    eventually(lambda: idle(redis) and redis.hash(STATS).get("dead_dropped") == "7")
    assert [json.loads(text)["raw"] for text in redis.list(DEAD)] == ["no job 2", "no job 1", "no job 0"]
    assert "none is dropped: there are more than 3 dead letters" in (tmp_path / "worker.log").read_text()


def test_a_stranger_pushes_out_no_donation_that_civicrm_refused(tmp_path, redis, worker):
    """Conflicts are made by anybody who posts; what a donor gave went with the oldest."""
    letters = [job(n, id=f"kept-{n}", tries=8, reason="Contact.create: no") for n in (3, 2)]
    redis.fill(DEAD, [*letters, *['{"reason":"x","raw":"{"}'] * 2])
    conflicts = [job(1, id=f"c-{n}", tries=7, donation={"amount": "26.00"}) for n in range(9)]
    redis.fill(QUEUE, [*conflicts, "no job", job(1)])
    worker(dead_max=3)
    eventually(lambda: idle(redis) and redis.hash(STATS).get("buried") == "10")
    eventually(lambda: redis.hash(STATS).get("dead_dropped") == "11")
    assert [json.loads(text).get("id") for text in redis.list(DEAD)] == ["kept-3", "kept-2", None]
    # Only where there are no others, and then what lay there before stays.
    (tmp_path / "refuse").write_text("no")
    redis.fill(QUEUE, [job(5, id="new-5"), job(4, id="new-4")])
    eventually(lambda: idle(redis) and redis.hash(STATS).get("buried") == "12")
    eventually(lambda: redis.hash(STATS).get("dead_dropped") == "13")
    assert [json.loads(text)["id"] for text in redis.list(DEAD)] == ["new-4", "kept-3", "kept-2"]


def test_more_dead_letters_than_are_read_at_once_are_dropped_to_the_limit(redis, library):
    """As when the limit is set lower."""
    raw = '{"reason":"x","raw":"{"}'
    refused = [job(n, tries=8, reason="no") for n in range(150)]
    redis.fill(DEAD, [*refused[:120], raw, *refused[120:], raw])
    queue = library.jobs.Queue(library.resp.Redis("127.0.0.1", redis.port, USER, "pw"), "donate-api", "main")
    assert queue.drop_beyond(200) == []
    assert queue.drop_beyond(151) == [raw]
    assert queue.drop_beyond(149) == [raw, refused[0]]
    assert redis.list(DEAD) == refused[1:]


def test_the_tool_prints_nothing_raw(redis, tool, capsys):
    """A terminal obeys what stands in a reason or in a name."""
    letters = ['{"id":"a\\u001b[2J","reason":"x\\u202ey","donation":{"last_name":"\u009b31m"}}', "[", "[" * 60000, "7"]
    redis.fill(DEAD, letters)
    for arguments in (["dead", "donate-api"], ["dead", "donate-api", "--json"], ["drop", "donate-api", "all"]):
        assert tool(arguments) == 0
        shown = capsys.readouterr().out
        assert not set(shown) & set("\x1b\x9b\u202e"), arguments
    assert redis.list(DEAD) == []


def test_a_full_redis_is_emptied(tmp_path, redis, worker):
    """Redis then refuses to move a job: it is worked on where it lies, or a full queue would stay full for ever."""
    redis.fill(QUEUE, [job(n) for n in (3, 2, 1)])
    redis.full(True)
    worker()
    eventually(lambda: len(references(tmp_path)) == 3 and idle(redis))
    assert redis.list(DEAD) == []


def test_in_a_full_redis_one_refused_job_does_not_hold_up_the_others(tmp_path, redis, worker):
    redis.fill(QUEUE, [job(2), job(1), "no job"])
    redis.full(True)
    worker()
    eventually(lambda: len(references(tmp_path)) == 2)
    eventually(lambda: redis.list(QUEUE) == ["no job"])
    redis.full(False)
    eventually(lambda: redis.list(DEAD) and idle(redis))


def test_a_full_redis_without_work_is_left_in_peace(redis, worker):
    """Another site's queue has filled it: this worker asks now and then, not as fast as it can."""
    redis.fill("donations:another", [job()])
    redis.full(True)
    worker()

    def asked() -> int:
        found = re.search(r"cmdstat_lrange:calls=(\d+)", redis.client.call("INFO", "commandstats"))
        return int(found[1]) if found else 0

    redis.client.call("CONFIG", "RESETSTAT")
    eventually(lambda: asked() > 1)
    before = asked()
    time.sleep(0.5)
    assert asked() - before < 10


def test_another_list_of_campaigns_is_reported_and_the_donation_taken(tmp_path, redis, worker):
    """S38: ext was converged and int was not, or the other way round."""
    campaign(tmp_path, "general")
    redis.fill(QUEUE, [job(2, donation={"campaign": "unheard-of"}), job(1, campaigns_version="v0")])
    worker()
    eventually(lambda: len(references(tmp_path)) == 2 and idle(redis))
    eventually(lambda: redis.hash(STATS).get("campaigns_unknown") == "1")
    assert redis.hash(STATS)["campaigns_mismatch"] == "1"
    assert "id-1 came with another list of campaigns (v0)" in (tmp_path / "worker.log").read_text()
    assert "campaign_id" not in crm(tmp_path)["Contribution"][1]


def test_told_to_stop_it_finishes_what_it_began(tmp_path, redis, worker):
    process = worker()
    redis.fill(QUEUE, [job()])
    eventually(lambda: references(tmp_path))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    assert idle(redis)


def test_a_wrong_password_is_said_and_not_fatal(tmp_path, redis, worker):
    redis.client.call("ACL", "SETUSER", USER, "resetpass", ">other")
    redis.fill(QUEUE, [job()])
    worker()
    eventually(lambda: "WRONGPASS" in (tmp_path / "worker.log").read_text())
    redis.client.call("ACL", "SETUSER", USER, ">pw")
    eventually(lambda: references(tmp_path) == ["donation:ch_1"])


@pytest.fixture
def tool(tmp_path, settings, library, monkeypatch, redis):
    """donation-queue on one queue."""
    (tmp_path / "donate-api.json").write_text(json.dumps(settings))
    monkeypatch.setattr(library.config, "DIRECTORY", tmp_path)
    return library.queue_tool.main


def test_the_tool_shows_lengths_and_counters(redis, tool, capsys):
    redis.fill(QUEUE, [job(1), job(2)])
    redis.client.call("HSET", STATS, "created", 7)
    assert tool(["status", "--json"]) == 0
    state = json.loads(capsys.readouterr().out)["donate-api"]
    assert (state["length"], state["in_flight"], state["dead"], state["created"]) == (2, 0, 0, 7)
    assert tool(["status"]) == 0
    shown = capsys.readouterr().out
    assert "donate-api" in shown and "proof" not in shown


def test_status_says_of_a_queue_that_nobody_proves_its_donations(tmp_path, settings, tool, capsys):
    (tmp_path / "donate-api.json").write_text(json.dumps(settings | {"proof": "none"}))
    assert tool(["status"]) == 0
    assert "(proof none: whatever is posted is taken for paid)" in capsys.readouterr().out


def test_dead_letters_are_listed_retried_and_dropped_by_id(redis, tool, capsys):
    redis.fill(DEAD, [job(n, tries=8, reason="Contact.create: no") for n in (3, 2, 1)] + ['{"reason":"x","raw":"{"}'])
    assert tool(["dead", "donate-api"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()] == ["none", "id-1", "id-2", "id-3"]
    assert "Lovelace" not in shown
    assert tool(["dead", "donate-api", "--json"]) == 0
    assert "Lovelace" in capsys.readouterr().out
    capsys.readouterr()
    assert tool(["retry", "donate-api", "none"]) == 3
    assert capsys.readouterr().out == "'none' in donate-api was never a job: drop it\n"
    assert tool(["drop", "donate-api", "none"]) == 0
    assert tool(["drop", "donate-api", "id-2"]) == 0
    assert tool(["retry", "donate-api", "all"]) == 0
    assert redis.list(DEAD) == []
    assert [json.loads(j) for j in redis.list(QUEUE)] == [json.loads(job(3)), json.loads(job(1))]
    capsys.readouterr()
    assert tool(["retry", "donate-api", "id-9"]) == 3
    assert capsys.readouterr().out == "no dead letter 'id-9' in donate-api\n"


def test_a_queue_that_is_away_has_a_metric_too(tmp_path, redis, tool):
    (tmp_path / "metrics").mkdir()
    assert tool(["metrics", str(tmp_path / "metrics/donation_worker.prom")]) == 0
    text = (tmp_path / "metrics/donation_worker.prom").read_text()
    assert 'donation_queue_up{queue="donate-api"} 1\n' in text
    assert 'donation_worker_created_total{queue="donate-api"} 0\n' in text
    assert 'donation_worker_campaigns_info{queue="donate-api",version="v1"} 1\n' in text
    redis.stop()
    assert tool(["metrics", str(tmp_path / "metrics/donation_worker.prom")]) == 0
    text = (tmp_path / "metrics/donation_worker.prom").read_text()
    assert 'donation_queue_up{queue="donate-api"} 0\n' in text
    assert "donation_queue_length{" not in text
    assert [path.name for path in (tmp_path / "metrics").iterdir()] == ["donation_worker.prom"]


def test_an_unknown_queue_is_one_clear_line(tool, capsys):
    assert tool(["status", "nonsense"]) == 1
    error = capsys.readouterr().err
    assert "no queue 'nonsense'" in error
    assert error.count("\n") == 1


@pytest.fixture
def check(tmp_path, settings, library, monkeypatch):
    """A function (campaigns, *arguments) -> exit status of donation-campaigns check."""
    (tmp_path / "etc").mkdir()
    monkeypatch.setattr(library.config, "DIRECTORY", tmp_path / "etc")
    monkeypatch.setattr(library.civicrm, "as_user", lambda user: {})

    def _check(campaigns: list[dict], *arguments: str) -> int:
        (tmp_path / "etc/donate-api.json").write_text(json.dumps(settings))
        (tmp_path / "etc/waiting.json").write_text(json.dumps(settings | {"queue": "waiting", "enabled": False}))
        (tmp_path / "etc/campaigns.json").write_text(json.dumps({"version": "v1", "campaigns": campaigns}))
        return library.campaigns.main(["check", *arguments])

    return _check


CAMPAIGNS = [
    {"name": "general", "title": "general", "state": "open"},
    {"name": "spring", "title": "Spring", "state": "closed"},
]


def test_campaigns_that_civicrm_lacks_are_reported_and_made_only_when_asked(tmp_path, check, capsys):
    """S38: a check changes nothing."""
    campaign(tmp_path, "general")
    assert check(CAMPAIGNS, "--json") == 3
    assert json.loads(capsys.readouterr().out) == {"donate-api": [{"name": "spring", "problem": "missing"}]}
    assert [c["name"] for c in json.loads((tmp_path / "civicrm.json").read_text())["Campaign"]] == ["general"]
    assert check(CAMPAIGNS, "--apply") == 0
    assert check(CAMPAIGNS) == 0
    renamed = [CAMPAIGNS[0] | {"title": "General fund"}, CAMPAIGNS[1] | {"state": "open"}]
    capsys.readouterr()
    assert check(renamed) == 3
    out = capsys.readouterr().out
    assert "general: other title" in out
    assert "spring: other is_active" in out


def test_a_civicrm_that_is_away_is_no_agreement(tmp_path, check, capsys):
    (tmp_path / "down").touch()
    assert check(CAMPAIGNS) == 1
    assert "cannot connect to the database" in capsys.readouterr().err
