"""Where donations go is worked out from two lists of sites; staging never reaches production (S13, S38)."""

import hashlib

import pytest
from loading import load

donations = load("plugins/filter/donations.py")
secrets = load("plugins/filter/secrets.py")

API = {
    "name": "donate-api",
    "environment": "production",
    "crm_site": "crm",
    "application": "donation_intake",
    "docroot": "/srv/x",
    "php_version": "8.4",
    "origins": ["https://donate.example.org"],
}
STAGING = API | {"name": "staging-donate-api", "environment": "staging", "crm_site": "staging-crm"}
CRM = {"name": "crm", "environment": "production", "user": "crm", "api_command": "/usr/bin/cv scr x.php"}
STAGING_CRM = {"name": "staging-crm", "environment": "staging", "user": "staging-crm"}
SECRETS = {name: {"writer": f"w-{name}", "worker": f"k-{name}"} for name in ("donate-api", "staging-donate-api")}


def test_two_lists_that_fit_have_no_problem():
    assert donations.donation_problems([API, STAGING], [CRM, STAGING_CRM], SECRETS) == []


@pytest.mark.parametrize(
    ("apis", "sites", "secrets", "words"),
    [
        ([API | {"crm_site": "nowhere"}], [CRM], SECRETS, "no site of the CRM"),
        ([API | {"crm_site": "staging-crm"}], [STAGING_CRM], SECRETS, "is for production"),
        ([STAGING | {"crm_site": "crm"}], [CRM], SECRETS, "is for staging"),
        ([API], [CRM], {}, "playbooks/secrets.yml"),
    ],
    ids=["unknown site", "production into staging", "staging into production", "no secrets"],
)
def test_donations_without_a_right_place_are_refused(apis, sites, secrets, words):
    """Before the first change: a staging API that fed production's CRM would invent donations."""
    (problem,) = donations.donation_problems(apis, sites, secrets)
    assert words in problem


def test_a_queue_has_a_worker_only_where_its_site_runs_an_application():
    queues = donations.donation_queues([API, STAGING], [CRM, STAGING_CRM])
    assert [(q["name"], q["user"], q["enabled"], q["test"]) for q in queues] == [
        ("donate-api", "crm", True, False),
        ("staging-donate-api", "staging-crm", False, True),
    ]
    (waiting,) = donations.donation_queues([API], [])
    assert (waiting["enabled"], waiting["user"]) == (False, "")


def test_only_users_with_a_worker_reach_the_queue():
    """The sites' users are confined: what no entry opens is closed, on the host's own addresses too."""
    running = STAGING_CRM | {"api_command": "/usr/bin/cv"}
    apart = donations.donation_firewall_entries(donations.donation_queues([API, STAGING], [CRM, running]), ["x"])
    assert [(entry["who"], entry["service"]) for entry in apart] == [
        (["crm"], "redis"),
        (["staging-crm"], "redis_trial"),
    ]
    queues = donations.donation_queues([API, STAGING, API | {"name": "api-donate"}], [CRM, STAGING_CRM])
    (entry,) = donations.donation_firewall_entries(queues, ["@own_inner"])
    assert (entry["who"], entry["where"], entry["service"]) == (["crm"], ["@own_inner"], "redis")
    assert donations.donation_firewall_entries(donations.donation_queues([STAGING], [STAGING_CRM]), ["x"]) == []


def test_test_and_staging_have_a_queue_of_their_own():
    """What they try out, or a flood there, takes none of production's memory; both sides name the same port."""
    intakes, queues = (donations.donation_intakes([API, STAGING]), donations.donation_queues([API, STAGING], []))
    assert [site["queue_port"] for site in intakes] == [queue["redis_port"] for queue in queues] == [6379, 6380]


def test_only_sites_that_run_the_intake_get_it():
    assert [s["name"] for s in donations.donation_intakes([API, STAGING | {"application": "none"}])] == ["donate-api"]


def test_each_queues_users_reach_its_own_keys_alone():
    """One site's writer must not write into another's queue, whatever key it names."""
    users = donations.donation_redis_users(
        ["donate-api", "staging-donate-api"], SECRETS, "-@all +lpush", "-@all +blmove"
    )
    rules = {user["name"]: user["rules"] for user in users}
    assert rules == {
        "writer-donate-api": "resetkeys ~donations:donate-api -@all +lpush",
        "worker-donate-api": "resetkeys ~donations:donate-api ~donations:donate-api:* -@all +blmove",
        "writer-staging-donate-api": "resetkeys ~donations:staging-donate-api -@all +lpush",
        "worker-staging-donate-api": (
            "resetkeys ~donations:staging-donate-api ~donations:staging-donate-api:* -@all +blmove"
        ),
    }
    assert users[0]["password_sha256"] == hashlib.sha256(b"w-donate-api").hexdigest()


def test_each_side_gets_its_own_passwords():
    assert donations.donation_passwords(SECRETS, "writer") == {
        "donate-api": "w-donate-api",
        "staging-donate-api": "w-staging-donate-api",
    }


def test_the_version_of_the_campaigns_follows_their_content_and_not_their_order():
    one, two = ({"name": n, "title": n, "state": "open"} for n in "ab")
    version = donations.campaigns_version([one, two])
    assert donations.campaigns_version([two, one]) == version
    for other in ([one], [one, two | {"state": "closed"}], [one, two | {"title": "x"}]):
        assert donations.campaigns_version(other) != version


def test_a_production_site_whose_donations_nobody_proves_is_named():
    """Whatever is posted there is recorded as paid: the preflight says so, and refuses a new one."""
    proved = [API | {"proof": "notice"}, API | {"proof": "lookup"}]
    others = [STAGING, API | {"state": "planned"}, API | {"application": "none"}]
    assert donations.unproved_sites([*proved, *others]) == []
    assert donations.unproved_sites([API, API | {"proof": "none", "name": "api-donate"}]) == [
        "donate-api",
        "api-donate",
    ]


def test_an_older_vault_gets_the_queues_secrets_and_keeps_its_own():
    old = secrets.new_secrets(None, ["crm"], [], [], [], [], [])
    new = secrets.new_secrets(old, ["crm"], [], [], [], [], [], ["donate-api"])
    assert set(new["vault_donation_queues"]["donate-api"]) == {"writer", "worker"}
    assert {k: v for k, v in new.items() if k != "vault_donation_queues"} == {
        k: v for k, v in old.items() if k != "vault_donation_queues"
    }
    assert secrets.new_secrets(new, ["crm"], [], [], [], [], [], ["donate-api"]) == new
