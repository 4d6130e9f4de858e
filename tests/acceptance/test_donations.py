"""A donation that was accepted becomes one contribution in CiviCRM, whatever fails in between (S13, S38, N15)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import shlex
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
from loading import load

secrets = load("plugins/filter/secrets.py")
API = "https://donate-api.torproject.test"
TEST_API = "https://test.donate-api.torproject.test"
ORIGIN = "https://donate.torproject.test"
INT_OUTER = "198.51.100.11"
SITES = ("donate-api", "staging-donate-api", "test-donate-api")
METRICS = "/var/lib/prometheus/node-exporter"

# Runs on the visitor's host: posts `count` donations, `workers` at a time, each after `pace` seconds, and prints what
# was answered to each: [[status, id], ...].
POST_MANY = """
import concurrent.futures, json, ssl, sys, time, urllib.error, urllib.request, uuid
prefix, count, workers, pace = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
context = ssl.create_default_context(cafile="/etc/ssl/lab-ca.pem")
def post(n):
    donation = {
        "idempotency_key": str(uuid.uuid4()), "amount": "%d.50" % (n + 1), "currency": "EUR", "campaign": "general",
        "payment_reference": "%s%d" % (prefix, n),
        "contact": {"first_name": "Ada", "last_name": "Lovelace", "email": "%s%d@donor.test" % (prefix, n % 10)},
    }
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request("API/donations", json.dumps(donation).encode(), headers)
    time.sleep(pace)
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            return [answer.status, json.load(answer)["id"]]
    except urllib.error.HTTPError as error:
        return [error.code, None]
with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    print(json.dumps(list(pool.map(post, range(count)))))
""".replace("API/donations", f"{API}/donations")


def donation(**changes) -> dict:
    contact = {"first_name": "Ada", "last_name": "Lovelace", "email": "ada@donor.test"} | changes.pop("contact", {})
    return {
        "idempotency_key": str(uuid.uuid4()),
        "amount": "25.00",
        "currency": "EUR",
        "campaign": "general",
        "payment_reference": f"ch_{uuid.uuid4().hex}",
        "contact": contact,
    } | changes


@pytest.fixture
def post(browse) -> Callable[..., tuple[int, str, dict]]:
    """A function (donation or text, url=API, **curl options) -> (status, headers, JSON)."""

    def _post(body: dict | str, url: str = API, content_type: str = "application/json", **options):
        text = body if isinstance(body, str) else json.dumps(body)
        # curl's settings take a quoted string on one line.
        data = text.replace("\\", "\\\\").replace('"', '\\"')
        headers = {"header": f"Content-Type: {content_type}"} | options
        status, answer = browse(f"{url}/donations", data_binary=data, **headers)
        head, _, payload = answer.strip().rpartition("\n")
        return status, head.lower(), json.loads(payload)

    return _post


def post_many(world, prefix: str, count: int = 100, workers: int = 8, pace: float = 0.0) -> list[list]:
    script = base64.b64encode(POST_MANY.encode()).decode()
    command = f"echo {script} | base64 -d | python3 - {prefix} {count} {workers} {pace}"
    return json.loads(world.check_output(command))


def recorded(crm_int, prefix: str) -> list[dict]:
    """Contributions whose payment's reference begins so."""
    query = {
        "trxn_id": {"LIKE": f"donation:{prefix}%"},
        "return": ["trxn_id", "total_amount", "contact_id", "contribution_source", "contribution_campaign_title"],
        "options": {"limit": 0},
    }
    return json.loads(crm_int.check_output(f"lab-civicrm-api Contribution get {shlex.quote(json.dumps(query))}"))[
        "values"
    ]


def queue(crm_int, name: str = "donate-api") -> dict:
    return json.loads(crm_int.check_output(f"donation-queue status {name} --json"))[name]


def at_rest(crm_int, crm_ext, name: str = "donate-api") -> bool:
    """Nothing is spooled, waits or is in hand."""
    state = queue(crm_int, name)
    return not (state["length"] or state["in_flight"] or state["delayed"] or spooled(crm_ext, name))


def spooled(crm_ext, name: str = "donate-api") -> int:
    return int(crm_ext.check_output(f"ls /var/lib/donation-intake/{name}/spool | wc -l"))


def assert_each_once(crm_int, crm_ext, eventually, prefix: str, answers: list[list]) -> None:
    """Every POST was accepted, and each is one contribution with its own amount."""
    assert [status for status, _ in answers] == [202] * len(answers)
    assert len({donation_id for _, donation_id in answers}) == len(answers)
    eventually(
        lambda: at_rest(crm_int, crm_ext) and len(recorded(crm_int, prefix)) >= len(answers), within=240, every=2
    )
    rows = recorded(crm_int, prefix)
    wanted = {f"donation:{prefix}{n}": f"{n + 1}.50" for n in range(len(answers))}
    assert sorted((row["trxn_id"], row["total_amount"]) for row in rows) == sorted(wanted.items())
    assert len({row["contact_id"] for row in rows}) == min(10, len(answers)), "one contact for each e-mail address"
    assert queue(crm_int)["dead"] == 0


@pytest.fixture
def cut(crm_ext) -> Iterator[Callable[[], None]]:
    """A function that cuts the cable between both hosts until the test is over; cut.heal() repairs it earlier."""

    def _cut() -> None:
        rules = "; ".join(
            f"add chain inet cut {hook} {{ type filter hook {hook} priority -400 ; }}; "
            f"add rule inet cut {hook} ip {side} {INT_OUTER} drop"
            for hook, side in (("output", "daddr"), ("input", "saddr"))
        )
        crm_ext.check_output(f"nft {shlex.quote('add table inet cut; ' + rules)}")

    def heal() -> None:
        crm_ext.check_output("nft 'add table inet cut; delete table inet cut'")

    _cut.heal = heal
    yield _cut
    heal()


@pytest.fixture
def fresh(crm_int, crm_ext, eventually) -> str:
    """A prefix for payment references that nobody used; nothing waits."""
    eventually(lambda: at_rest(crm_int, crm_ext), within=60)
    return f"t{uuid.uuid4().hex[:10]}-"


# S13


@pytest.mark.mutates
def test_a_donation_becomes_a_contribution(post, crm_int, crm_ext, eventually, fresh):
    """The whole path: POST, queue, worker, CiviCRM's API (S13)."""
    contact = {
        "email": f"{fresh}@donor.test",
        "country": "DE",
        "address": {"street_address": "1 Example Street", "city": "Exampleton", "postal_code": "12345"},
    }
    status, _, answer = post(donation(payment_reference=f"{fresh}one", contact=contact))
    assert (status, answer["status"]) == (202, "queued")
    (row,) = eventually(lambda: recorded(crm_int, fresh))
    assert (row["total_amount"], row["contribution_source"]) == ("25.00", "donate-api: general")
    query = json.dumps({"contact_id": row["contact_id"], "return": ["first_name", "email", "city", "country"]})
    (person,) = json.loads(crm_int.check_output(f"lab-civicrm-api Contact get {shlex.quote(query)}"))["values"]
    assert (person["first_name"], person["city"], person["country"]) == ("Ada", "Exampleton", "Germany")


CITY = {"street_address": "1 Example Street", "city": "Exampleton"}
# What a donor writes, and what CiviCRM then has of it.
DONORS = {
    "no postal code": ({"address": CITY, "country": "HK"}, {"city": "Exampleton", "country": "Hong Kong"}),
    "UK": ({"address": CITY | {"postal_code": "A1 1AA"}, "country": "UK"}, {"country": "United Kingdom"}),
    "one name": ({"first_name": None, "last_name": "Sukarno"}, {"first_name": "", "last_name": "Sukarno"}),
    "called null": ({"last_name": "null"}, {"first_name": "Ada", "last_name": "Null"}),
}


@pytest.mark.mutates
def test_donors_of_all_countries_and_names_are_recorded_whole(post, crm_int, crm_ext, eventually, fresh):
    """None gets 422, and neither address nor name is dropped on the way into CiviCRM."""
    contacts = [contact | {"email": f"{fresh}{n}@b\u00fccher.test"} for n, (contact, _) in enumerate(DONORS.values())]
    for number, contact in enumerate(contacts):
        given = {name: value for name, value in donation(contact=contact)["contact"].items() if value is not None}
        body = donation(payment_reference=f"{fresh}{number}") | {"contact": given}
        assert post(body)[0] == 202, contact
    eventually(lambda: at_rest(crm_int, crm_ext) and len(recorded(crm_int, fresh)) == len(DONORS))
    ids = {row["trxn_id"]: row["contact_id"] for row in recorded(crm_int, fresh)}
    fields = ["first_name", "last_name", "email", "city", "country"]
    query = json.dumps({"id": {"IN": list(ids.values())}, "return": fields})
    found = json.loads(crm_int.check_output(f"lab-civicrm-api Contact get {shlex.quote(query)}"))["values"]
    people = {person["contact_id"]: person for person in found}
    for number, (what, (_, wanted)) in enumerate(DONORS.items()):
        person = people[ids[f"donation:{fresh}{number}"]]
        assert wanted.items() <= person.items(), what
        assert person["email"] == f"{fresh}{number}@xn--bcher-kva.test"


def person_of(crm_int, row: dict, *fields: str) -> dict:
    query = json.dumps({"contact_id": row["contact_id"], "return": [*fields]})
    return json.loads(crm_int.check_output(f"lab-civicrm-api Contact get {shlex.quote(query)}"))["values"][0]


@pytest.mark.mutates
def test_a_stranger_does_not_fill_in_a_known_person(post, crm_int, crm_ext, eventually, fresh):
    """Anybody may give somebody's e-mail address: what they say is kept at their donation."""
    contact = {"email": f"{fresh}@donor.test"}
    assert post(donation(payment_reference=f"{fresh}one", contact=contact))[0] == 202
    eventually(lambda: recorded(crm_int, fresh))
    stranger = contact | {"address": CITY | {"postal_code": "12345"}, "country": "DE"}
    assert post(donation(payment_reference=f"{fresh}two", contact=stranger))[0] == 202
    rows = eventually(lambda: len(recorded(crm_int, fresh)) == 2 and recorded(crm_int, fresh))
    assert len({row["contact_id"] for row in rows}) == 1
    assert person_of(crm_int, rows[0], "city", "country", "street_address")["city"] == ""
    second = next(row for row in rows if row["trxn_id"].endswith("two"))
    query = json.dumps({"entity_table": "civicrm_contribution", "entity_id": second["id"]})
    (note,) = json.loads(crm_int.check_output(f"lab-civicrm-api Note get {shlex.quote(query)}"))["values"]
    assert "Exampleton" in note["note"]


@pytest.fixture
def no_letters(crm_int) -> Iterator[None]:
    """No dead letter before and after."""
    crm_int.run("donation-queue drop donate-api all")
    yield
    crm_int.run("donation-queue drop donate-api all")


@pytest.mark.mutates
def test_a_job_with_a_call_of_civicrms_api_is_put_aside_unread(crm_int, vault, eventually, fresh, no_letters):
    """Who has the writer's password can push anything; CiviCRM ran it without a check of permissions."""
    address = CITY | {
        "postal_code": "1",
        "api.Contact.create": {"contact_type": "Individual", "email": f"{fresh}@x.test"},
    }
    body = donation(payment_reference=f"{fresh}one", contact={"email": f"{fresh}@donor.test", "address": address})
    job = {"id": f"{fresh}id", "site": "donate-api", "received_at": 1795176591, "test": False, "campaigns_version": "x"}
    writer = vault["vault_donation_queues"]["donate-api"]["writer"]
    text = json.dumps(job | {"donation": body})
    assert redis(crm_int, [f"LPUSH donations:donate-api '{text}'"], "writer-donate-api", writer) == ["1"]
    letter = eventually(lambda: crm_int.run("donation-queue dead donate-api").stdout.strip())
    assert "contact.address.?: it is not a field of a donation" in letter
    for email in (f"{fresh}@x.test", f"{fresh}@donor.test"):
        found = crm_int.check_output(f"lab-civicrm-api Email get {shlex.quote(json.dumps({'email': email}))}")
        assert json.loads(found)["values"] == [], email


@pytest.mark.mutates
def test_another_donor_with_a_known_reference_is_not_swallowed(post, crm_int, eventually, fresh, no_letters):
    assert post(donation(payment_reference=f"{fresh}one", contact={"email": f"{fresh}1@donor.test"}))[0] == 202
    eventually(lambda: recorded(crm_int, fresh))
    assert post(donation(payment_reference=f"{fresh}one", contact={"email": f"{fresh}2@donor.test"}))[0] == 202
    letter = eventually(lambda: crm_int.run("donation-queue dead donate-api").stdout)
    assert "has the same transaction id and another donor" in letter
    assert len(recorded(crm_int, fresh)) == 1


@pytest.mark.mutates
def test_the_same_request_again_is_the_same_donation(post, crm_int, crm_ext, eventually, fresh):
    """A client that did not see the answer repeats itself: same id, one contribution (S13)."""
    body = donation(payment_reference=f"{fresh}one")
    answers = [post(body) for _ in range(3)]
    assert {status for status, _, _ in answers} == {202}
    assert len({answer["id"] for _, _, answer in answers}) == 1
    status, _, answer = post(body | {"amount": "26.00"})
    assert (status, answer["error"]["code"], answer["error"]["field"]) == (409, "key_reused", "idempotency_key")
    eventually(lambda: recorded(crm_int, fresh))
    # The same payment under another key is the same payment.
    assert post(body | {"idempotency_key": str(uuid.uuid4())})[0] == 202
    eventually(lambda: at_rest(crm_int, crm_ext))
    assert len(recorded(crm_int, fresh)) == 1


@pytest.mark.mutates
def test_only_listed_origins_may_post(browse, post, crm_int, fresh):
    """Exactly, without credentials, and told to caches (S13)."""
    options = {"header": f"Origin: {ORIGIN}", "request": "OPTIONS"}
    status, answer = browse(f"{API}/donations", **options)
    answer = answer.lower()
    assert status == 204
    assert f"access-control-allow-origin: {ORIGIN}\n" in answer.replace("\r", "")
    assert "access-control-allow-methods: post" in answer
    assert re.search(r"^vary: .*origin", answer, re.M)
    assert "access-control-allow-credentials" not in answer
    for origin in (
        "https://evil.test",
        "null",
        "http://donate.torproject.test",
        f"{ORIGIN}.evil.test",
        f"{ORIGIN}:444",
        ORIGIN.upper(),
    ):
        status, answer = browse(f"{API}/donations", header=f"Origin: {origin}", request="OPTIONS")
        assert (status, "access-control-allow-origin" in answer.lower()) == (403, False), origin
    before = queue(crm_int)
    status, answer = browse(
        f"{API}/donations",
        header="Origin: https://evil.test",
        json=json.dumps(donation(payment_reference=f"{fresh}evil")).replace('"', '\\"'),
    )
    assert status == 403
    assert queue(crm_int)["created"] == before["created"]
    assert recorded(crm_int, fresh) == []


def test_ext_reaches_the_queue_and_no_database(crm_ext):
    """The donate site talks to the CRM through the API and the queue, nothing else (S13)."""
    for port, opens in ((6379, True), (3306, False), (22, False)):
        done = crm_ext.run(f"runuser -u donate-api -- timeout 5 bash -c '</dev/tcp/10.77.0.11/{port}'")
        assert (done.rc == 0) is opens, port
    assert crm_ext.run("command -v mariadb mysql").rc != 0


def test_what_a_browser_may_do_with_an_answer(browse):
    """Nothing; on success and on errors of the application and of Apache alike (S13)."""
    for path, wanted in (("/health", 200), ("/nothing", 404), ("/.git/HEAD", 404), ("/donations", 405)):
        status, answer = browse(f"{API}{path}")
        headers = [line.strip().lower() for line in answer.splitlines()]
        assert status == wanted
        assert headers.count("cache-control: no-store") == 1, path
        assert any(h.startswith("content-security-policy: default-src 'none'") for h in headers), path
        assert {"x-content-type-options: nosniff", "referrer-policy: no-referrer"} <= set(headers), path
        assert any(h.startswith("strict-transport-security: max-age=") for h in headers), path
        assert not [h for h in headers if h.startswith("x-powered-by")], path


def test_health_says_what_an_operator_asks_first_and_no_secret(browse, vault):
    for name, server_name in zip(SITES, ("", "staging.", "test."), strict=True):
        status, answer = browse(f"https://{server_name}donate-api.torproject.test/health")
        health = json.loads(answer.strip().rsplit("\n", 1)[-1])
        assert status == 200
        assert (health["site"], health["status"], health["queue"], health["switch"]) == (name, "ok", "reachable", "on")
        assert health["spool"]["length"] == 0
        assert vault["vault_donation_queues"][name]["writer"] not in answer


# Proof

STAGING, STAGING_API = "staging-donate-api", "https://staging.donate-api.torproject.test"
PROVIDER = "world.torproject.test"
# The lab's payment provider: knows the charges that lie in its directory, and who asks without its key gets 401.
PAYMENTS = """
import http.server, os, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = os.path.join("/run/lab-payments", os.path.basename(self.path))
        known = self.headers["Authorization"] == "Bearer " + open("/run/lab-payments/key").read()
        status = 401 if not known else 200 if os.path.exists(path) else 404
        body = open(path, "rb").read() if status == 200 else b"{}"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/run/lab-payments/tls.pem")
server = http.server.ThreadingHTTPServer(("0.0.0.0", 443), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


def charge(reference: str, **changes) -> dict:
    return {
        "object": "charge", "id": reference, "payment_intent": None, "livemode": False, "amount": 2500,
        "amount_captured": 2500, "amount_refunded": 0, "currency": "eur", "captured": True, "paid": True,
        "refunded": False, "disputed": False, "status": "succeeded",
    } | changes  # fmt: skip


def handed_on(crm_int, vault, reference: str) -> list[dict]:
    """Staging's donations with this reference that lie in its queue: its CRM takes none yet."""
    worker = vault["vault_donation_queues"][STAGING]["worker"]
    texts = redis(crm_int, [f"LRANGE donations:{STAGING} 0 -1"], f"worker-{STAGING}", worker)
    jobs = [json.loads(text) for text in texts if text.startswith("{")]
    return [job["donation"] for job in jobs if job["donation"]["payment_reference"] == reference]


@pytest.fixture
def notice(browse, vault) -> Callable[..., int]:
    """A function (charge, key=the provider's) -> the status that a signed notice of the charge gets."""

    def _notice(of: dict, key: str = vault["vault_payment_keys"][STAGING]["notice_keys"][0]) -> int:
        now = int(time.time())
        body = json.dumps({"type": "charge.succeeded", "created": now, "data": {"object": of}})
        signature = hmac.new(key.encode(), f"{now}.{body}".encode(), hashlib.sha256).hexdigest()
        options = {"json": body.replace('"', '\\"'), "header": f"Stripe-Signature: t={now},v1={signature}"}
        return browse(f"{STAGING_API}/notices", **options)[0]

    return _notice


@pytest.fixture
def reference(crm_ext) -> Iterator[str]:
    """A charge's id; what waits at staging is forgotten before and after."""
    crm_ext.run(f"donation-pending drop {STAGING} all")
    yield f"ch_{uuid.uuid4().hex}"
    crm_ext.run(f"donation-pending drop {STAGING} all")


@pytest.mark.mutates
def test_a_donation_is_pending_until_the_provider_signs_that_it_was_paid(
    post, notice, browse, crm_int, crm_ext, vault, eventually, reference
):
    """An anonymous POST alone makes no contribution; a notice of another key, or of less, proves nothing."""
    status, _, answer = post(donation(payment_reference=reference), STAGING_API)
    assert (status, answer["status"]) == (202, "pending")
    assert f"25.00 EUR {reference}" in crm_ext.check_output(f"donation-pending list {STAGING}")
    assert notice(charge(reference), key="another") == 401
    assert notice(charge(reference, captured=False, amount_captured=0)) == 200
    crm_ext.check_output(f"systemctl start donation-drain-{STAGING}")
    assert handed_on(crm_int, vault, reference) == []
    metric = f'donation_intake_pending_length{{site="{STAGING}"}} 1'
    assert metric in crm_ext.check_output(f"cat {METRICS}/donation_intake_{STAGING}.prom")
    assert notice(charge(reference, id=reference)) == 200
    (handed,) = eventually(lambda: handed_on(crm_int, vault, reference), within=40)
    assert handed["contact"]["email"] == "ada@donor.test"
    assert crm_ext.check_output(f"donation-pending list {STAGING}") == ""
    # A second donation with the payment of the first waits for a person.
    assert post(donation(payment_reference=reference), STAGING_API)[2]["status"] == "pending"
    assert crm_ext.check_output(f"donation-pending list {STAGING}").endswith("odd")
    assert len(handed_on(crm_int, vault, reference)) == 1
    # Where nothing signs, there is no such address.
    assert browse(f"{API}/notices", json="{}")[0] == 404


@pytest.fixture
def payments(world, crm_ext, vault) -> Iterator[Callable[[dict], None]]:
    """A function (charge) that makes it known to a provider whom staging asks by https."""
    made = secrets._server(vault["vault_private_ca"], PROVIDER)
    key = vault["vault_payment_keys"][STAGING]["lookup_key"]
    pieces = {"tls.pem": made["certificate"] + made["private_key"], "key": key, "serve.py": PAYMENTS}
    world.check_output("install -d -m 0700 /run/lab-payments")

    def put(name: str, text: str) -> None:
        data = base64.b64encode(text.encode()).decode()
        world.check_output(f"printf %s {data} | base64 -d > /run/lab-payments/{name}")

    for name, text in pieces.items():
        put(name, text)
    world.check_output("systemd-run --quiet --collect --unit lab-payments python3 /run/lab-payments/serve.py")
    path = f"/etc/donation-intake/{STAGING}.json"
    crm_ext.check_output(f"cp -a {path} {path}.kept")
    try:
        crm_ext.check_output(f"""sed -i 's/"proof": "notice"/"proof": "lookup"/' {path}""")
        yield lambda known: put(known["id"], json.dumps(known))
    finally:
        crm_ext.check_output(f"mv {path}.kept {path}")
        world.check_output("systemctl stop lab-payments; rm -r /run/lab-payments")


@pytest.mark.mutates
def test_a_payment_is_looked_up_by_https(post, payments, crm_int, crm_ext, vault, eventually, reference):
    """ext asks the provider with its key; what the provider does not know goes on waiting."""
    invented = f"ch_{uuid.uuid4().hex}"
    payments(charge(reference))
    assert post(donation(payment_reference=invented), STAGING_API)[2]["status"] == "pending"
    assert post(donation(payment_reference=reference), STAGING_API)[2]["status"] == "pending"
    eventually(lambda: handed_on(crm_int, vault, reference), within=40)
    assert invented in crm_ext.check_output(f"donation-pending list {STAGING}")
    assert handed_on(crm_int, vault, invented) == []


def test_who_proves_nothing_is_told_where_an_operator_looks(crm_int, crm_ext):
    assert "proof none" in crm_ext.check_output("donation-pending list donate-api")
    lines = crm_int.check_output("donation-queue status").splitlines()
    assert [line.split()[0] for line in lines if "proof none" in line] == ["donate-api", "test-donate-api"]


# Bad input


BAD = {
    "no JSON": ("{", 400, "json_malformed", None),
    "no object": ("[]", 400, "json_malformed", None),
    "a float": (donation(amount=25.0), 422, "field_invalid", "amount"),
    "no decimals": (donation(amount="25"), 422, "field_invalid", "amount"),
    "nothing": (donation(amount="0.00"), 422, "field_invalid", "amount"),
    "less than nothing": (donation(amount="-5.00"), 422, "field_invalid", "amount"),
    "too much": (donation(amount="100000.01"), 422, "field_invalid", "amount"),
    "another currency": (donation(currency="XTS"), 422, "currency_unknown", "currency"),
    "an unknown campaign": (donation(campaign="nonsense"), 422, "campaign_unknown", "campaign"),
    "a planned campaign": (donation(campaign="winter"), 422, "campaign_unknown", "campaign"),
    "an extra field": (donation(is_admin="1"), 422, "field_unknown", "is_admin"),
    "an extra field inside": (donation(contact={"id": "1"}), 422, "field_unknown", "contact.id"),
    "no e-mail address": (donation(contact={"email": "ada"}), 422, "field_invalid", "contact.email"),
    "no country": (donation(contact={"country": "ZZ"}), 422, "field_invalid", "contact.country"),
    "no postal code where there is one": (
        donation(contact={"country": "DE", "address": CITY}),
        422,
        "field_missing",
        "contact.address.postal_code",
    ),
    "a header": (donation(contact={"email": "a@b.test\r\nBcc: c@d.test"}), 422, "field_invalid", "contact.email"),
    "a tag": (donation(contact={"last_name": "<script>"}), 422, "field_invalid", "contact.last_name"),
    "a NUL": (donation(contact={"last_name": "a\u0000b"}), 422, "field_invalid", "contact.last_name"),
    "no key": (
        {k: v for k, v in donation().items() if k != "idempotency_key"},
        422,
        "field_missing",
        "idempotency_key",
    ),
    "a short key": (donation(idempotency_key="1"), 422, "field_invalid", "idempotency_key"),
    "a reference with blanks": (donation(payment_reference="a b c d"), 422, "field_invalid", "payment_reference"),
    "oversized": (donation(contact={"first_name": "a" * 20000}), 413, "too_large", None),
}


@pytest.mark.mutates
def test_a_bad_donation_gets_a_clear_answer_and_nothing_is_queued(post, crm_int, crm_ext):
    """Which field, and what is wrong with it, for programs and for people."""
    before = queue(crm_int, "test-donate-api")["length"]
    for what, (body, status, code, field) in BAD.items():
        answer = post(body, TEST_API)
        assert (answer[0], answer[2]["error"]["code"], answer[2]["error"]["field"]) == (status, code, field), what
        assert answer[2]["error"]["message"], what
    assert queue(crm_int, "test-donate-api")["length"] == before
    assert spooled(crm_ext, "test-donate-api") == 0


@pytest.mark.mutates
def test_another_content_type_is_refused(post):
    """A form on any page could send these without asking: no preflight."""
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        status, _, answer = post(donation(), TEST_API, content_type=content_type)
        assert (status, answer["error"]["code"]) == (415, "media_type_unsupported")


@pytest.mark.mutates
def test_an_address_may_not_ask_without_end_and_others_do_not_notice(world, browse):
    """Questions have a bound, too: health, notices, what a browser asks before it posts."""
    ask = "curl -s -o /dev/null -w '%{http_code}\\n' --cacert /etc/ssl/lab-ca.pem --interface 198.51.100.30"
    codes = world.check_output(f"{ask} '{TEST_API}/health?[1-700]' | sort | uniq -c").split()
    counts = dict(zip(codes[1::2], map(int, codes[::2]), strict=True))
    assert set(counts) == {"200", "429"}
    assert 550 <= counts["200"] <= 650
    post = f"{ask} -X POST -H 'Content-Type: application/json' -d '{{}}' {TEST_API}/donations"
    assert world.check_output(post) == "422"
    assert browse(f"{TEST_API}/health")[0] == 200


# Isolation


def test_each_site_pushes_into_its_own_queue_only(crm_int, vault):
    """Staging's key, once leaked, must not invent donations in production, nor take its memory (S7, S13)."""
    for owner in SITES:
        writer, worker = (vault["vault_donation_queues"][owner][role] for role in ("writer", "worker"))
        for name in SITES:
            asked = [f"LRANGE donations:{name} 0 -1", f"RPOP donations:{name}", f"DEL donations:{name}"]
            asked += [f"LPUSH donations:{name} x"] if name != owner else []
            answers = redis(crm_int, asked, f"writer-{owner}", writer)
            assert [answer.partition(" ")[0] for answer in answers] == ["NOPERM"] * len(asked), (owner, name)
            (answer,) = redis(crm_int, [f"LRANGE donations:{name} 0 -1"], f"worker-{owner}", worker)
            assert answer.startswith("NOPERM") is (name != owner), (owner, name)


def redis(host, commands: list[str], user: str, password: str) -> list[str]:
    """Answers to commands on one connection, an empty one for an empty list; the password goes by standard input."""
    port = 6380 if "staging" in user or "test" in user else 6379
    login = f"redis-cli -h 10.77.0.11 -p {port} --user {user} --no-auth-warning"
    script = f"read -r REDISCLI_AUTH; export REDISCLI_AUTH; {login}"
    lines = shlex.join([password, *commands])
    output = host.check_output(f"printf '%s\\n' {lines} | sh -c '{script}'")
    answers = [line for line in output.splitlines() if line]
    return answers or [""]


def test_test_and_staging_have_a_queue_of_their_own(crm_int, crm_ext, vault):
    """Production's server does not know their users, and their API does not reach it: no flood takes its memory."""
    for name in SITES[1:]:
        writer = vault["vault_donation_queues"][name]["writer"]
        login = f"redis-cli -h 10.77.0.11 --user writer-{name} --no-auth-warning ping"
        script = f"read -r REDISCLI_AUTH; export REDISCLI_AUTH; {login}"
        assert "WRONGPASS" in crm_int.run(f"printf '%s\\n' {writer} | sh -c '{script}' 2>&1").stdout, name
        assert crm_ext.run(f"runuser -u {name} -- timeout 5 bash -c '</dev/tcp/10.77.0.11/6379'").rc != 0, name
        assert crm_ext.run(f"runuser -u {name} -- timeout 5 bash -c '</dev/tcp/10.77.0.11/6380'").rc == 0, name


def test_nobody_else_on_ext_reads_a_sites_donations_or_its_password(crm_ext):
    """Not the other sites, not the web server: what is spooled is names and addresses of donors."""
    for owner in SITES:
        for user in (*SITES, "www-data", "nobody"):
            state = f"/var/lib/donation-intake/{owner}"
            reads = crm_ext.run(
                f"runuser -u {user} -- sh -c 'ls {state}/spool {state}/keys; cat /etc/donation-intake/{owner}.json'"
            )
            assert (owner in reads.stdout) is (user == owner), (user, owner)


def test_nobody_else_on_int_reads_a_workers_password(crm_int):
    for user in ("staging-crm", "test-crm", "www-data", "nobody"):
        assert crm_int.run(f"runuser -u {user} -- cat /etc/donation-worker/donate-api.json").rc != 0, user
    assert crm_int.run("runuser -u crm -- cat /etc/donation-worker/donate-api.json").rc == 0


# The switch


@pytest.mark.mutates
def test_the_kill_switch_stops_one_site_at_once_and_shows(post, browse, crm_ext, eventually):
    crm_ext.check_output("donation-switch off test-donate-api")
    try:
        status, head, answer = post(donation(), TEST_API)
        assert (status, answer["error"]["code"]) == (503, "switched_off")
        assert re.search(r"^retry-after: \d+", head, re.M)
        assert json.loads(browse(f"{TEST_API}/health")[1].strip().rsplit("\n", 1)[-1])["status"] == "off"
        assert crm_ext.check_output("donation-switch status donate-api") == "donate-api on"
        metric = 'donation_intake_switch_on{site="test-donate-api"} 0'
        file = f"{METRICS}/donation_intake_test-donate-api.prom"
        eventually(lambda: metric in crm_ext.check_output(f"cat {file}"), within=30)
    finally:
        crm_ext.check_output("donation-switch on test-donate-api")
    assert json.loads(browse(f"{TEST_API}/health")[1].strip().rsplit("\n", 1)[-1])["status"] == "ok"


# S38


@pytest.mark.mutates
def test_campaigns_that_civicrm_lacks_are_reported_and_made_when_asked(crm_int, post, eventually, fresh):
    """One list in the inventory; CiviCRM is compared with it (S38)."""
    crm_int.run("donation-campaigns check donate-api")
    assert crm_int.run("donation-campaigns check donate-api --apply").rc == 0
    assert crm_int.run("donation-campaigns check").rc == 0
    find = json.dumps({"name": "spring"})
    (spring,) = json.loads(crm_int.check_output(f"lab-civicrm-api Campaign get {shlex.quote(find)}"))["values"]
    rename = json.dumps({"id": spring["id"], "title": "Autumn"})
    crm_int.check_output(f"lab-civicrm-api Campaign create {shlex.quote(rename)}")
    done = crm_int.run("donation-campaigns check donate-api")
    assert (done.rc, done.stdout) == (3, "donate-api: campaign spring: other title\n")
    assert crm_int.run("donation-campaigns check donate-api --apply").rc == 0
    assert post(donation(payment_reference=f"{fresh}one", campaign="spring"))[0] == 202
    (row,) = eventually(lambda: recorded(crm_int, fresh))
    assert row["contribution_campaign_title"] == "Spring campaign"


@pytest.mark.mutates
def test_another_list_on_the_other_host_is_reported_and_the_donation_taken(crm_int, crm_ext, post, eventually, fresh):
    """One host was converged, the other was not yet (S38)."""
    before = queue(crm_int)["campaigns_mismatch"]
    path = "/etc/donation-intake/donate-api.json"
    crm_ext.check_output(f"cp -a {path} {path}.kept")
    try:
        crm_ext.check_output(f"""sed -i 's/"campaignsVersion": "[0-9a-f]*"/"campaignsVersion": "old"/' {path}""")
        status, _, answer = post(donation(payment_reference=f"{fresh}one"))
        assert status == 202
    finally:
        crm_ext.check_output(f"mv {path}.kept {path}")
    eventually(lambda: recorded(crm_int, fresh))
    eventually(lambda: queue(crm_int)["campaigns_mismatch"] == before + 1)
    log = crm_int.check_output("journalctl -u donation-worker@donate-api --no-pager -o cat")
    assert f"{answer['id']} came with another list of campaigns (old)" in log


# N15


@pytest.mark.mutates
def test_a_tunnel_that_is_cut_during_100_posts_costs_no_donation(world, crm_int, crm_ext, eventually, cut, fresh):
    """N15, word by word: all are accepted while the link is down, and each is one contribution after it heals."""
    answers: list[list] = []
    posting = threading.Thread(target=lambda: answers.extend(post_many(world, fresh, pace=0.6)))
    posting.start()
    eventually(lambda: queue(crm_int)["length"] or len(recorded(crm_int, fresh)) > 5, every=0.1)
    cut()
    eventually(lambda: spooled(crm_ext) > 20, every=0.2)
    posting.join(timeout=300)
    assert len(answers) == 100
    assert spooled(crm_ext) > 20
    cut.heal()
    assert_each_once(crm_int, crm_ext, eventually, fresh, answers)


@pytest.mark.mutates
def test_a_worker_that_is_killed_in_the_middle_costs_no_donation(world, crm_int, crm_ext, eventually, fresh):
    """N15: SIGKILL to the worker and to its CiviCRM, again and again, while jobs run."""
    crm_int.check_output("systemctl stop donation-worker@donate-api")
    answers = post_many(world, fresh)
    assert queue(crm_int)["length"] == 100
    crm_int.check_output("systemctl start donation-worker@donate-api")
    kills = 0
    while len(recorded(crm_int, fresh)) < 100 and kills < 5:
        crm_int.check_output("systemctl kill --signal=KILL donation-worker@donate-api")
        kills += 1
    assert kills >= 2, "it was over before it could be killed"
    assert_each_once(crm_int, crm_ext, eventually, fresh, answers)


@pytest.mark.mutates
def test_redis_that_is_killed_costs_no_donation(world, crm_int, crm_ext, eventually, fresh):
    """N15: both ends lose Redis while they push and take."""
    answers: list[list] = []
    posting = threading.Thread(target=lambda: answers.extend(post_many(world, fresh, pace=0.4)))
    posting.start()
    eventually(lambda: queue(crm_int)["length"] or len(recorded(crm_int, fresh)) > 5, every=0.1)
    for _ in range(3):
        crm_int.check_output("systemctl kill --signal=KILL redis-server@queue")
        eventually(lambda: crm_int.run("donation-queue status donate-api").rc == 0)
    posting.join(timeout=300)
    assert len(answers) == 100
    assert_each_once(crm_int, crm_ext, eventually, fresh, answers)
    # What was done in a transaction is not undone: a finished job must not lie in the queue again.
    known = queue(crm_int)
    crm_int.check_output("systemctl kill --signal=KILL redis-server@queue")
    eventually(lambda: crm_int.run("donation-queue status donate-api").rc == 0)
    assert queue(crm_int) == known


@pytest.mark.mutates
def test_an_external_host_that_is_rebooted_with_a_full_spool_costs_no_donation(
    world, crm_int, crm_ext, eventually, cut, fresh
):
    """N15: what was accepted lies on disk, and goes its way after the start."""
    cut()
    answers = post_many(world, fresh)
    assert spooled(crm_ext) == 100
    subprocess.run(["podman", "restart", "--time", "30", "crm-ext-01"], check=True, capture_output=True, timeout=300)
    eventually(lambda: crm_ext.run("systemctl is-system-running").stdout.strip() in ("running", "degraded"), within=120)
    assert_each_once(crm_int, crm_ext, eventually, fresh, answers)


@pytest.mark.mutates
def test_what_donors_write_is_in_no_log(post, crm_int, crm_ext, eventually, fresh):
    """Accepted, refused and repeated: logs hold ids. Apache's own log of the API keeps addresses for its days."""
    marker = uuid.uuid4().hex[:12]
    contact = {"email": f"{marker}@donor.test", "last_name": f"L{marker}"}
    assert post(donation(payment_reference=f"{fresh}one", contact=contact))[0] == 202
    assert post(donation(campaign="nonsense", contact=contact))[0] == 422
    eventually(lambda: recorded(crm_int, fresh))
    eventually(lambda: at_rest(crm_int, crm_ext))
    for host in (crm_int, crm_ext):
        found = host.run(f"journalctl --no-pager -o cat | grep -c {marker}; grep -rlaI {marker} /var/log")
        assert found.stdout.split() == ["0"]
    assert "donation-intake" in crm_ext.check_output("ls /etc/logrotate.d")
    assert crm_ext.run("logrotate --debug /etc/logrotate.conf 2>&1 | grep -i 'error:\\|duplicate'").stdout == ""
