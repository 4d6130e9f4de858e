"""A newsletter from the real CiviCRM through our own stores and mail system (S9, S32, S41, S42)."""

import email
import json
import re
import time

import pytest
from newsletters import ledger, newsletter, run_job

pytestmark = pytest.mark.mail

VERP = re.compile(r"civicrm\+b\.\d+\.\d+\.[0-9a-f]{16}@crm\.torproject\.test")


def unique(prefix: str) -> str:
    return f"{prefix}-{time.time_ns()}"


@pytest.fixture(scope="module")
def mailing(crm_int, world, eventually):
    """One newsletter to two fresh recipients at the accepting provider: [{ledger entry, message}]."""
    addresses = [f"{unique('reader')}@accepting.test" for _ in range(2)]
    contacts = " ".join(f"--contact {a}" for a in addresses)
    newsletter(crm_int, f"create --group {unique('readers')} {contacts}")
    run_job(crm_int, "process-mailing")
    entries = [eventually(lambda a=a: ledger(world, recipient=a)) for a in addresses]
    return [
        {"entry": e[0], "message": email.message_from_string(world.file(e[0]["message"]).content_string)}
        for e in entries
    ]


@pytest.mark.mutates
def test_the_headers_that_bulk_mail_needs(mailing):
    """Providers and CiviCRM's own bounce processing rely on them; a missing one is only noticed weeks later (S32)."""
    for item in mailing:
        message, sender = item["message"], item["entry"]["sender"]
        assert VERP.fullmatch(sender), sender
        assert message["X-CiviMail-Bounce"] == sender
        assert message["Precedence"] == "bulk"
        assert message["job_id"].isdigit()
        assert "civicrm+u." in message["List-Unsubscribe"]
        assert message["Date"]
        assert message["Message-ID"]


@pytest.mark.mutates
def test_the_envelope_sender_is_another_for_each_recipient(mailing):
    """VERP: the address alone tells who bounced (S32)."""
    assert len({item["entry"]["sender"] for item in mailing}) == len(mailing)


@pytest.mark.mutates
def test_the_mail_left_through_the_hosts_own_postfix_as_the_sites_user(mailing, crm_int):
    """The Received line proves who submitted it: the site's uid, not www-data and not root (S32, S42)."""
    uid = crm_int.user("crm").uid
    for item in mailing:
        received = " ".join(item["message"].get_all("Received")[-1].split())
        assert f"(Postfix, from userid {uid})" in received
        assert item["entry"]["helo"] == "crm-int-01.torproject.test"
        assert item["entry"]["peer"] == "198.51.100.11"


@pytest.mark.mutates
def test_links_in_the_mail_lead_to_the_public_name(mailing):
    """A relative or internal link in a newsletter is dead for every reader."""
    html = next(p for p in mailing[0]["message"].walk() if p.get_content_type() == "text/html")
    links = re.findall(r'href="([^"]+)"', html.get_payload(decode=True).decode())
    assert links
    assert all(link.startswith("https://crm.torproject.test/") for link in links), links


@pytest.mark.mutates
def test_only_those_who_may_get_mail_get_it(crm_int, world, eventually):
    """One contact per rule of exclusion; a mailing that ignores one of them is a complaint, or a scandal (S41)."""
    run = unique("rules")
    fields = {
        "plain": "", "no-email": "do_not_email=1", "opted-out": "is_opt_out=1", "held": "on_hold=1",
        "dead": "is_deceased=1", "deleted": "is_deleted=1",
    }  # fmt: skip
    for name, field in fields.items():
        newsletter(crm_int, f"contact {name}-{run}@accepting.test{':' if field else ''}{field} --group all-{run}")
    newsletter(crm_int, f"contact excluded-{run}@accepting.test --group all-{run} --group not-{run}")
    newsletter(crm_int, f"contact twin-{run}@accepting.test --group all-{run}")
    newsletter(crm_int, f"contact twin-{run}@accepting.test --another --group all-{run}")
    newsletter(crm_int, f"create --group all-{run} --exclude-group not-{run}")
    run_job(crm_int, "process-mailing")

    def received() -> list[str]:
        return [e["recipient"].split("-rules")[0] for e in ledger(world) if run in e["recipient"]]

    eventually(lambda: {"plain", "twin"} <= set(received()))
    eventually(lambda: not any(run in line for line in crm_int.check_output("postqueue -j").splitlines()))
    assert sorted(received()) == ["plain", "twin"]


def test_the_application_runs_on_our_own_stores(crm_int, vault):
    """The lab's CiviCRM is a real one, and it uses the role's database, cache and mailbox (S9)."""
    domain = json.loads(crm_int.check_output("lab-civicrm-api Domain get"))
    (row,) = domain["values"].values() if isinstance(domain["values"], dict) else domain["values"]
    assert row["version"].startswith("5.33")
    tables = crm_int.check_output(
        "mariadb -NBe \"SELECT COUNT(*) FROM information_schema.tables WHERE table_schema='crm'\""
    )
    assert int(tables) > 150
    keys = crm_int.check_output("redis-cli -s /run/redis-cache-crm/redis.sock dbsize")
    assert int(keys.split()[-1]) > 0


def test_the_jobs_run_on_timers_as_the_sites_user(crm_int):
    """process_mailing every 5 and fetch_bounces every 15 minutes, by systemd, never as root (S9)."""
    for job, calendar in (("process-mailing", "*:0/5"), ("fetch-bounces", "*:2/15")):
        unit = f"civicrm-crm-{job}"
        assert crm_int.check_output(f"systemctl show -p User --value {unit}.service") == "crm"
        assert crm_int.service(f"{unit}.timer").is_enabled
        assert crm_int.service(f"{unit}.timer").is_running
        normal = crm_int.check_output(f"systemd-analyze calendar '{calendar}' | sed -n 's/.*Normalized form: //p'")
        assert normal in crm_int.check_output(f"systemctl show -p TimersCalendar --value {unit}.timer")


@pytest.mark.alone
@pytest.mark.mutates
def test_a_job_that_fails_is_a_failed_unit(crm_int):
    """A job whose database is away must not look green."""
    crm_int.check_output("systemctl stop mariadb.service")
    try:
        assert crm_int.run("systemctl start civicrm-crm-fetch-bounces.service").rc != 0
    finally:
        crm_int.check_output("systemctl start mariadb.service")
    for job in ("fetch-bounces", "process-mailing"):
        run_job(crm_int, job)
