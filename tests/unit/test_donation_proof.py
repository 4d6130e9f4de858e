"""A donation is pending until its payment proves it; one payment proves one, and strangers close nothing (S13)."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loading import ROOT

from civicrm_tools.donations import form

LIBRARY = ROOT / "roles/donation_intake/files/usr/local/share/donation-intake"
KEY, OLD_KEY = "whsec_" + "k" * 20, "whsec_" + "o" * 20

# Does one thing a line. What the form needs of PHP's extensions is not on every developer's machine.
DRIVER = """
namespace {
    function mb_strlen($text) { return iconv_strlen($text, 'UTF-8'); }
    foreach (['IDNA_NONTRANSITIONAL_TO_ASCII', 'IDNA_USE_STD3_RULES', 'INTL_IDNA_VARIANT_UTS46'] as $name) {
        defined($name) || define($name, 0);
    }
}
namespace DonationIntake {
    require '%s/load.php';
    ini_set('error_log', '/dev/stderr');
    Fields::$path = '%s';
    $config = (new \\ReflectionClass(Config::class))->newInstanceWithoutConstructor();
    foreach (json_decode($argv[1], true) as $name => $value) {
        (fn () => $this->$name = $value)->call($config);
    }
    $intake = new Intake($config);
    $spool = new Spool($config->stateDir, 0);
    $pending = new Pending($config, $spool, new Counters($config->stateDir));
    while (($line = fgets(STDIN)) !== false) {
        [$do, $body, $more] = json_decode($line, true) + [2 => null];
        ob_start();
        try {
            $answer = match ($do) {
                'post' => $intake->accept($body),
                'notice' => $intake->notice($body, $more),
                'settle' => $pending->settleAll($body),
                'look up' => $pending->lookUp(new Provider($config), $body),
                'evict' => $pending->evict(),
            };
        } catch (Refusal $refusal) {
            $answer = ['error' => $refusal->reason, 'field' => $refusal->field];
        }
        $said = ob_get_clean();
        echo json_encode(['said' => $said] + (array) $answer), "\\n";
    }
}
"""


# The drain with a queue that takes everything, into a file.
DRAIN = """
class RedisException extends \\Exception {}
class Redis {
    const OPT_MAX_RETRIES = 1;
    public function connect() { return true; }
    public function setOption() {}
    public function auth() { return true; }
    public function lPush($key, ...$jobs) {
        file_put_contents($key, implode("\\n", $jobs) . "\\n", FILE_APPEND);
        return count($jobs);
    }
}
require '%s/drain.php';
"""


class Site:
    """A site of the donation API on a directory, without its web server and queue."""

    def __init__(self, directory: Path, **settings) -> None:
        self.state = directory
        for name in ("spool", "keys"):
            (directory / name).mkdir()
        self.config = {
            "site": "donate-api", "environment": "production", "stateDir": str(directory), "proof": "notice",
            "currencies": ["EUR", "JPY"], "campaigns": ["general"], "campaignsVersion": "v1", "amountMax": 10000,
            "noticeKeys": [KEY, OLD_KEY], "paymentUrl": "", "paymentKey": "sk_1", "spoolMinFreeMb": 0,
            "retryAfterSeconds": 1, "pendingMax": 1000, "queueMax": 10, "spoolMax": 10, "pendingDays": 30,
            "paymentDays": 400, "lookupsAtOnce": 10,
        } | settings  # fmt: skip
        program = DRIVER % (LIBRARY, form.TABLE)
        command = ["php", "-d", "display_errors=stderr", "-r", program, "--", json.dumps(self.config)]
        self.errors = (directory / "errors").open("w+")
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.errors, text=True, bufsize=1)

    def do(self, what: str, body: object = None, more: object = None) -> dict:
        print(json.dumps([what, body, more]), file=self.process.stdin)
        return json.loads(self.process.stdout.readline())

    def post(self, number: int = 1, **changes) -> dict:
        contact = {"first_name": "Ada", "last_name": "Lovelace", "email": f"ada{number}@example.org"}
        donation = {
            "idempotency_key": f"{number:032d}",
            "amount": "25.00",
            "currency": "EUR",
            "campaign": "general",
            "payment_reference": f"ch_{number}",
            "contact": contact,
        }
        return self.do("post", json.dumps(donation | changes))

    def notice(self, charge: dict, key: str = KEY, at: int | None = None, created: int | None = None) -> dict:
        event = {"type": "charge.succeeded", "created": created or int(time.time()), "data": {"object": charge}}
        body = json.dumps(event)
        return self.do("notice", body, signature(body, key, at))

    def drain(self) -> subprocess.CompletedProcess:
        """Run the drain; what came into the queue is in the file "queue"."""
        rest = {
            "switchFile": "", "origins": [], "bodyMaxBytes": 1, "keyHours": 48, "queueHost": "", "queuePort": 1,
            "queueUser": "", "queuePassword": "", "queueKey": str(self.state / "queue"), "connectTimeoutSeconds": 1,
            "readTimeoutSeconds": 1, "pauseSeconds": 1,
        }  # fmt: skip
        path = self.state / "config.json"
        path.write_text(json.dumps(rest | self.config))
        # Without the machine's own extension for Redis.
        command = ["php", "-n", "-d", "display_errors=stderr", "-r", DRAIN % LIBRARY, "--", str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def files(self, ending: str) -> list[Path]:
        return sorted(self.state.glob(f"pending/*/*.{ending}"))

    def spooled(self) -> list[dict]:
        return [json.loads(path.read_text())["donation"] for path in sorted(self.state.glob("spool/*.json"))]

    def counters(self) -> dict[str, int]:
        return json.loads((self.state / "counters.json").read_text())

    def log(self) -> str:
        return (self.state / "errors").read_text()

    def close(self) -> None:
        self.process.communicate()
        self.errors.close()


def signature(body: str, key: str = KEY, at: int | None = None) -> str:
    at = at or int(time.time())
    return f"t={at},v1={hmac.new(key.encode(), f'{at}.{body}'.encode(), hashlib.sha256).hexdigest()}"


def charge(number: int = 1, **changes) -> dict:
    return {
        "object": "charge", "id": f"ch_{number}", "payment_intent": f"pi_{number}", "livemode": True, "amount": 2500,
        "amount_captured": 2500, "amount_refunded": 0, "currency": "eur", "captured": True, "paid": True,
        "refunded": False, "disputed": False, "status": "succeeded",
    } | changes  # fmt: skip


@pytest.fixture
def site(tmp_path) -> Iterator[Callable[..., Site]]:
    """A function (**settings) -> a site."""
    sites: list[Site] = []

    def start(**settings) -> Site:
        directory = tmp_path / str(len(sites))
        directory.mkdir()
        sites.append(Site(directory, **settings))
        return sites[-1]

    yield start
    for one in sites:
        one.close()


def test_a_donation_waits_for_its_payment_and_is_handed_on_with_it(site):
    """An anonymous POST made a completed contribution."""
    api = site()
    assert api.post()["status"] == "pending"
    assert api.spooled() == []
    assert api.notice(charge())["status"] == "noted"
    (donation,) = api.spooled()
    assert (donation["payment_reference"], donation["amount"]) == ("ch_1", "25.00")
    assert api.files("json") == []
    assert api.counters()["proved"] == 1


def test_a_payment_that_is_noticed_first_hands_on_at_once(site):
    """Nothing is pending then, however full the list is."""
    api = site(pendingMax=0)
    api.notice(charge())
    assert api.post()["status"] == "spooled"


def test_a_donation_may_name_its_payment_by_the_intent(site):
    """And comes to CiviCRM under the charge's id: two names of one payment are not two payments there."""
    api = site()
    api.post(payment_reference="pi_1")
    api.notice(charge())
    assert [donation["payment_reference"] for donation in api.spooled()] == ["ch_1"]


@pytest.mark.parametrize("second", ["ch_1", "pi_1"])
def test_one_payment_proves_one_donation(site, second):
    """By whatever name, also after the first is long gone; the other is kept, counted and told."""
    api = site()
    first = api.post(1)
    api.notice(charge())
    other = api.post(2, payment_reference=second)
    assert (first["status"], other["status"]) == ("pending", "pending")
    assert api.notice(charge())["status"] == "noted"
    api.do("settle", 100)
    assert len(api.spooled()) == 1
    (odd,) = api.files("odd")
    assert odd.name.endswith(f"{other['id']}.odd")
    assert f"donation {other['id']} waits for a person: its payment proves another donation" in api.log()
    assert api.counters()["odd"] == 1


WORTHLESS = {
    "authorised only": {"captured": False, "amount_captured": 0},
    "captured in part": {"amount_captured": 2400},
    "refunded": {"refunded": True, "amount_refunded": 2500},
    "refunded in part": {"amount_refunded": 1},
    "failed": {"status": "failed", "paid": False},
    "still going on": {"status": "pending"},
    "disputed": {"disputed": True},
    "test mode": {"livemode": False},
    "says nothing of refunds": {"refunded": None},
    "true as a text": {"captured": "true"},
    "no charge": {"object": "refund"},
}


@pytest.mark.parametrize("changes", WORTHLESS.values(), ids=WORTHLESS)
def test_what_is_no_whole_payment_proves_nothing(site, changes):
    api = site()
    api.post()
    assert api.notice(charge(**changes))["status"] in ("noted", "ignored")
    assert api.spooled() == []
    assert len(api.files("json")) == 1
    # When it is one later, it proves.
    api.notice(charge(), created=int(time.time()) + 5)
    assert len(api.spooled()) == 1


OTHERS = {
    "less": {"amount": 2499, "amount_captured": 2499},
    "another currency": {"currency": "jpy"},
    "units for hundredths": {"amount": 25, "amount_captured": 25},
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_another_amount_than_was_paid_waits_for_a_person(site, changes):
    api = site()
    api.post()
    api.notice(charge(**changes))
    assert api.spooled() == []
    assert len(api.files("odd")) == 1
    assert "its payment is of another amount" in api.log()


def test_a_currency_without_decimals_is_compared_as_the_provider_counts_it(site):
    api = site()
    api.post(amount="2500", currency="JPY", payment_reference="ch_1")
    api.notice(charge(currency="jpy"))
    assert len(api.spooled()) == 1


def test_an_older_notice_that_comes_late_changes_nothing(site):
    api = site()
    now = int(time.time())
    api.notice(charge(refunded=True, amount_refunded=2500), created=now)
    api.notice(charge(), created=now - 60)
    assert api.post()["status"] == "pending"


def test_a_payment_that_is_taken_back_after_its_donation_went_on_is_told(site):
    api = site()
    identity = api.post()["id"]
    api.notice(charge())
    api.notice(charge(amount_refunded=100))
    assert f"the payment of donation {identity}, which was handed on, is now: refunded" in api.log()
    assert api.counters()["undone"] == 1


def dispute(number: int = 1, **changes) -> dict:
    return {
        "object": "dispute", "id": f"du_{number}", "charge": f"ch_{number}", "payment_intent": f"pi_{number}",
        "livemode": True, "amount": 100, "currency": "eur", "status": "needs_response",
    } | changes  # fmt: skip


def test_a_payment_that_is_disputed_after_its_donation_went_on_is_told(site):
    """The provider's event is of the dispute, not of the charge, and was ignored; told once, whatever comes of it."""
    api = site()
    identity = api.post()["id"]
    api.notice(charge())
    assert api.notice(dispute())["status"] == "noted"
    assert api.notice(dispute(status="lost", payment_intent=None))["status"] == "noted"
    assert f"the payment of donation {identity}, which was handed on, is now: disputed" in api.log()
    assert api.counters()["undone"] == 1


@pytest.mark.parametrize("reference", ["ch_1", "pi_1"])
def test_a_payment_that_is_disputed_already_proves_nothing(site, reference):
    """Also where the notice that it was paid comes late."""
    api = site()
    now = int(time.time())
    api.notice(dispute(), created=now)
    api.notice(charge(), created=now - 60)
    assert api.post(payment_reference=reference)["status"] == "pending"
    assert api.spooled() == []


@pytest.mark.parametrize("changes", [{"charge": None}, {"charge": ["ch_1"]}, {"charge": "../x"}, {"object": "refund"}])
def test_a_dispute_about_nothing_is_let_pass(site, changes):
    api = site()
    api.post()
    api.notice(charge())
    assert api.notice(dispute(**changes))["status"] == "ignored"
    assert "undone" not in api.counters()


def test_only_the_providers_signature_of_now_is_believed(site):
    """In constant time, with any of the keys, and over the whole body."""
    api = site()
    api.post()
    body = json.dumps({"type": "charge.succeeded", "created": 1, "data": {"object": charge()}})
    now = int(time.time())
    right = signature(body)
    wrong = [
        "",
        "t=1",
        f"t={now}",
        f"t={now},v1=",
        right.replace("v1", "v0"),
        right + "0",
        right[:-1],
        "v1=" + right[-64:],
    ]
    wrong += [
        signature(body, "another"),
        signature(body, at=now - 301),
        signature(body, at=now + 330),
        signature(body + " "),
    ]
    wrong += [right.replace(f"t={now}", f"t={now + 1}"), "t=99999999999999999999," + right[-67:], signature(body, "")]
    for one in wrong:
        assert api.do("notice", body, one)["error"] == "signature_invalid", one
    assert api.spooled() == []
    assert api.do("notice", body, signature(body, OLD_KEY))["status"] == "noted"
    assert len(api.spooled()) == 1


def test_without_a_key_nothing_is_believed(site):
    api = site(noticeKeys=[])
    body = "{}"
    assert api.do("notice", body, signature(body, ""))["error"] == "signature_invalid"


@pytest.mark.parametrize("body", ["", "[]", "7", "{", '{"type":"charge.succeeded"}', '{"type":["charge."],"created":1}',
                                  '{"type":"charge.x","created":1,"data":7}', "[" * 9000,
                                  '{"type":"payout.paid","created":1,"data":{"object":{"id":"ch_1"}}}'])  # fmt: skip
def test_a_signed_notice_of_something_else_is_let_pass(site, body):
    api = site()
    assert api.do("notice", body, signature(body))["status"] == "ignored"


@pytest.mark.parametrize("reference", ["tx-1234", "ch_", "ch_../../x", "pi_1?expand", "../ch_1"])
def test_what_is_no_reference_of_the_provider_is_refused(site, reference):
    """Nobody could ever prove it."""
    assert site().post(payment_reference=reference)["field"] == "payment_reference"


def test_invented_donations_push_out_only_the_oldest_that_nobody_proved(site):
    """A flood must neither close the site nor grow for ever; who paid meanwhile was handed on."""
    api = site(pendingMax=20)
    payers = [api.post(n) for n in range(900, 903)]
    for number in range(60):
        assert api.post(number)["status"] == "pending"
    api.notice(charge(901))
    assert [donation["payment_reference"] for donation in api.spooled()] == ["ch_901"]
    said = api.do("evict")["said"]
    assert "42 donations that nobody proved are evicted" in said
    assert len(api.files("json")) == 20
    assert api.counters()["pending_evicted"] == 42
    kept = {json.loads(path.read_text())["donation"]["payment_reference"] for path in api.files("json")}
    assert kept == {f"ch_{n}" for n in range(40, 60)}
    assert json.loads((api.state / "pending.json").read_text())["length"] == 20
    # The site goes on, also for one that was pushed out: whoever posts again is taken again.
    again = api.post(900)
    assert (again["id"], again["status"]) == (payers[0]["id"], "pending")
    api.notice(charge(900))
    assert [donation["payment_reference"] for donation in api.spooled()] == ["ch_901", "ch_900"]


def test_who_posts_again_is_stored_again_and_not_twice(site):
    """The answer "pending" was repeated for a donation that was dropped by hand, and lay nowhere."""
    api = site()
    first = api.post()
    assert api.post() == first
    (path,) = api.files("json")
    path.unlink()
    assert api.post() == first
    assert len(api.files("json")) == 1
    assert api.post(campaign="general", amount="26.00")["error"] == "key_reused"
    assert len(api.files("json")) == 1
    # Paid and handed on, it is so once more at most, as int knows the payment.
    api.notice(charge())
    assert [api.post()["status"] for _ in range(3)] == ["spooled"] * 3
    assert len(api.spooled()) == 2
    assert (api.counters()["accepted_pending"], api.counters()["replayed"]) == (1, 5)


def test_who_never_pays_is_forgotten_after_the_days(site):
    api = site(pendingDays=0)
    api.post()
    time.sleep(1.1)
    assert "1 donations that nobody proved are expired" in api.do("evict")["said"]


def test_a_crash_between_proof_and_spool_loses_and_doubles_nothing(site):
    """The drain finds what was proved and not handed on, so many at a time; twice it is the same donation."""
    api = site()
    for number in range(6):
        api.post(number)
        kept = [(path, path.read_text()) for path in api.files("json")]
        api.notice(charge(number))
        for path, text in kept:
            path.write_text(text)  # as before the unlink
    before = len(api.spooled())
    api.do("settle", 4)
    assert len(api.spooled()) == before + 4
    api.do("settle", 100)
    assert api.files("json") == [] == api.files("odd")
    assert {donation["payment_reference"] for donation in api.spooled()} == {f"ch_{n}" for n in range(6)}


def test_donors_data_that_wait_are_the_sites_alone(site):
    api = site()
    api.post()
    (path,) = api.files("json")
    assert [oct(p.stat().st_mode & 0o077) for p in (path, path.parent, path.parent.parent)] == ["0o0"] * 3


def test_a_disk_that_takes_nothing_is_emptied_all_the_same(site, provider):
    """The drain died of what it could not write, before it had handed on a thing: the disk stayed full for ever."""
    api = site(proof="lookup", paymentUrl=provider["url"], pendingMax=3)
    for number in range(6):
        provider["answers"][f"/v1/charges/ch_{number}"] = (200, charge(number))
        api.post(number)
    api.do("look up", 1)
    assert len(api.spooled()) == 1
    # As on a full disk: neither a payment nor the list's state can be written.
    shutil.rmtree(api.state / "proofs")
    (api.state / "proofs").touch()
    (api.state / "pending.json").mkdir()
    done = api.drain()
    assert (done.returncode, done.stderr) == (0, "")
    queued = [json.loads(line)["donation"] for line in (api.state / "queue").read_text().splitlines()]
    assert [donation["payment_reference"] for donation in queued] == ["ch_0"]
    assert api.spooled() == []
    assert done.stdout.splitlines()[0] == "1 donations handed to the queue"
    assert done.stdout.count("what waits for its proof goes on waiting: the disk cannot be written") == 2
    # With the disk, it goes on.
    (api.state / "proofs").unlink()
    (api.state / "proofs").mkdir()
    (api.state / "pending.json").rmdir()
    assert api.drain().returncode == 0
    assert len(api.spooled()) == 5
    assert json.loads((api.state / "pending.json").read_text())["length"] == 0


# Look-up


@pytest.fixture
def provider() -> Iterator[dict]:
    """A provider: answers[path] is (status, JSON or text); asked is what came."""
    world: dict = {"answers": {}, "asked": []}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            world["asked"].append((self.path, self.headers["Authorization"]))
            status, body = world["answers"].get(self.path, (404, {"error": {}}))
            if status == 0:
                self.connection.close()
                return
            data = body if isinstance(body, str) else json.dumps(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Location", "/v1/charges/ch_1")
            self.end_headers()
            self.wfile.write(data.encode())

        def log_message(self, *_) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    world["url"] = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield world
    server.shutdown()
    server.server_close()


def test_the_provider_is_asked_and_its_answer_proves(site, provider):
    api = site(proof="lookup", paymentUrl=provider["url"])
    api.post(1)
    api.post(2, payment_reference="pi_2")
    api.post(3)
    provider["answers"]["/v1/charges/ch_1"] = (200, charge(1))
    provider["answers"]["/v1/payment_intents/pi_2?expand[]=latest_charge"] = (200, {"latest_charge": charge(2)})
    api.do("look up", 10)
    assert [donation["payment_reference"] for donation in api.spooled()] == ["ch_1", "ch_2"]
    assert len(api.files("json")) == 1
    assert provider["asked"][0] == ("/v1/charges/ch_1", "Bearer sk_1")


@pytest.mark.parametrize("answer", [(400, {}), (401, {}), (403, "x"), (429, {}), (500, "<html>"), (200, "["), (0, ""),
                                    (302, {}), (200, charge(2)), (200, [])])  # fmt: skip
def test_one_answer_that_is_none_does_not_hold_up_the_others(site, provider, answer):
    """The oldest is asked for first; whatever is said of it, those behind it are asked for in the same pass."""
    api = site(proof="lookup", paymentUrl=provider["url"])
    api.post(1)
    api.post(3)
    provider["answers"] = {"/v1/charges/ch_1": answer, "/v1/charges/ch_3": (200, charge(3))}
    said = api.do("look up", 10)["said"]
    assert [donation["payment_reference"] for donation in api.spooled()] == ["ch_3"]
    assert "sk_1" not in said + api.log()
    if answer[1] != []:
        assert "1 payments could not be looked up" in said


def test_the_oldest_is_looked_up_first_and_not_for_ever(site, provider):
    """So many in a pass; who was asked for waits as long as before, and the next have their turn."""
    api = site(proof="lookup", paymentUrl=provider["url"])
    for number in range(5):
        api.post(number)
        os.utime(api.files("json")[0], None)
    for path in api.files("json"):
        os.utime(path, (int(path.name.split("-")[1]) / 1e6 - 100,) * 2)
    api.do("look up", 2)
    api.do("look up", 2)
    assert [path for path, _ in provider["asked"]] == [f"/v1/charges/ch_{n}" for n in range(4)]
    api.do("look up", 10)
    api.do("look up", 10)
    assert len(provider["asked"]) == 5


def test_a_flood_pushes_out_nobody_whose_payment_was_never_looked_up(site, provider):
    """Look-ups are slower than a flood: who had paid was forgotten before his turn. Rather it takes no further one."""
    api = site(proof="lookup", paymentUrl=provider["url"], pendingMax=20)
    provider["answers"] = {f"/v1/charges/ch_{n}": (200, charge(n)) for n in (924, 999)}
    for number in range(900, 925):
        assert api.post(number)["status"] == "pending"
    said = api.do("evict")["said"]
    assert "25 donations wait for their first look-up, more than may" in said
    assert "evicted" not in said
    assert api.post(999)["error"] == "unavailable"
    # What is there is answered as before.
    assert api.post(900)["status"] == "pending"
    api.do("look up", 3)
    assert "3 donations that nobody proved are evicted" in api.do("evict")["said"]
    assert api.post(999)["error"] == "unavailable"
    api.do("look up", 10)
    assert "2 donations that nobody proved are evicted" in api.do("evict")["said"]
    assert api.post(999)["status"] == "pending"
    api.do("look up", 20)
    assert [donation["payment_reference"] for donation in api.spooled()] == ["ch_924", "ch_999"]
    assert json.loads((api.state / "pending.json").read_text())["length"] == 20


def test_one_payment_does_not_close_a_site_that_looks_payments_up(site, provider):
    """Donations that name a known payment are never looked up: they go like those that were."""
    api = site(proof="lookup", paymentUrl=provider["url"], pendingMax=5)
    provider["answers"]["/v1/charges/ch_1"] = (200, charge(1))
    api.post(1)
    api.do("look up", 10)
    for number in range(2, 10):
        api.post(number, payment_reference="ch_1")
    assert "3 donations that nobody proved are evicted" in api.do("evict")["said"]
    assert len(api.files("odd")) == 5
    assert api.post(10)["status"] == "pending"


def test_a_site_without_proof_takes_donations_as_before(site):
    """Into the spool, as there is no queue here."""
    api = site(proof="none", queueHost="127.0.0.1", queuePort=1, pauseSeconds=1000)
    (api.state / "queue-paused").touch()
    assert api.post(payment_reference="tx-1234")["status"] == "spooled"
    assert not (api.state / "pending").exists()


@pytest.mark.parametrize(("marker", "answer"), [("queue-full", "spooled"), ("spool-full", None)])
def test_a_site_that_has_its_share_leaves_room_for_the_others(site, marker, answer):
    """Of the queue: the rest waits in the spool. Of the disk: 503, and not a full disk for all sites."""
    api = site(proof="none", queueHost="127.0.0.1", queuePort=1, pauseSeconds=1000)
    (api.state / "queue-full").touch()
    (api.state / marker).touch()
    said = api.post(payment_reference="tx-1234")
    assert said.get("status") == answer
    assert said.get("error") == (None if answer else "unavailable")
