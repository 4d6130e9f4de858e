"""The list of sites: what is refused, and what each function role gets of it."""

import pytest
from loading import load

site_filters = load("plugins/filter/sites.py")

CRM = {
    "name": "staging-crm",
    "server_name": "staging.crm.example.org",
    "environment": "staging",
    "state": "live",
    "php_version": "8.4",
    "mail_policy": "catch",
    "job_command": "/usr/local/bin/cv api3 job.{job}",
}


@pytest.mark.parametrize("name", ["my crm", "../crm", "crm/../x", "", "Crm", "-crm", "crm\n", "c" * 40, "crm;id", None])
def test_a_name_that_could_leave_its_directory_is_refused(name):
    problems = site_filters.site_problems([CRM | {"name": name}])
    assert len(problems) == 1
    assert repr(name) in problems[0]


@pytest.mark.parametrize(
    "server_name", ["crm", "crm..org", "crm example.org", "crm.example.org/x", "*.example.org", "a\nb.org"]
)
def test_a_server_name_that_is_no_domain_is_refused(server_name):
    assert site_filters.site_problems([CRM | {"server_name": server_name}])


@pytest.mark.parametrize("docroot", ["srv/x", "/srv/../etc", '/srv/"x', "/srv/a b"])
def test_a_docroot_that_could_break_the_vhost_is_refused(docroot):
    assert site_filters.site_problems([CRM | {"docroot": docroot}])


def test_two_sites_never_share_a_name_a_server_name_or_a_database():
    twin = CRM | {"database": "one"}
    problems = site_filters.site_problems([twin, twin])
    assert {p.split()[0] for p in problems} == {"name", "server_name", "database"}


def test_a_good_list_has_no_problems():
    assert site_filters.site_problems([CRM, CRM | {"name": "crm", "server_name": "crm.example.org"}]) == []


def test_planned_and_retired_sites_render_nothing():
    states = [CRM | {"name": "a", "state": "planned"}, CRM | {"name": "b", "state": "retired"}, CRM]
    assert [s["name"] for s in site_filters.live_sites(states)] == ["staging-crm"]


def test_what_the_inventory_gives_wins_over_what_follows_from_the_name():
    (derived,) = site_filters.live_sites([CRM])
    assert (derived["database"], derived["socket"]) == ("staging_crm", "/run/php/staging-crm.sock")
    (given,) = site_filters.live_sites([CRM | {"docroot": "/usr/share/x"}])
    assert given["docroot"] == "/usr/share/x"


def test_every_live_site_has_its_own_uid_pool_database_mailbox_and_cache():
    live = site_filters.live_sites([CRM, CRM | {"name": "crm", "server_name": "crm.example.org"}])
    secrets = {s["name"]: {"database_password": "d", "mailbox_password_hash": "h"} for s in live}
    for made in (
        site_filters.site_pools(live, 5, 128),
        site_filters.site_databases(live, secrets),
        site_filters.site_cache_instances(live, 64),
        site_filters.site_mail(live),
        site_filters.site_mailboxes(live, secrets),
    ):
        assert len({m["name"] for m in made}) == 2
    assert {p["user"] for p in site_filters.site_pools(live, 5, 128)} == {"crm", "staging-crm"}


def test_jobs_need_a_command_and_name_the_job_in_it():
    live = site_filters.live_sites([CRM, {k: v for k, v in CRM.items() if k != "job_command"} | {"name": "crm"}])
    jobs = site_filters.site_jobs(live, [{"name": "fetch_bounces", "on_calendar": "*:0/15"}])
    assert [(j["unit"], j["command"]) for j in jobs] == [
        ("civicrm-staging-crm-fetch-bounces", "/usr/local/bin/cv api3 job.fetch_bounces")
    ]


RELEASE = {"application": "archive", "archive": {"url": "x.tar", "sha256": "0" * 64}}


@pytest.mark.parametrize("name", ["www-data", "mysql", "backup", "mail", "systemd-x"])
def test_a_name_that_belongs_to_a_user_of_the_system_is_refused(name):
    """The site's user would be that one: its PHP would own the databases, or the spool."""
    (problem,) = site_filters.site_problems([CRM | {"name": name}])
    assert "a user of the system" in problem


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"application": "archive"}, "needs a key archive"),
        (RELEASE | {"archive": {"url": "x", "sha256": "abc"}}, "64 hexadecimal"),
        ({"application": "git", "git": {"repository": "x"}}, "repository and ref"),
        (RELEASE | {"docroot": "/srv/x"}, "follows from the release"),
        ({"upgrade_command": "/bin/x"}, "needs schema_command"),
        ({"job_command": "cv api3"}, "absolute path"),
        ({"account_command": "/bin/x\n/bin/y"}, "one line"),
        ({"database": "mysql"}, "not MariaDB's own"),
        ({"database": "a`b"}, "a letter, then"),
        ({"php_version": 8.4}, "must be a text"),
        ({"php_version": "8.4 libapache2"}, "must be a text"),
    ],
)
def test_a_site_that_could_not_be_made_is_refused(keys, says):
    (problem,) = site_filters.site_problems([CRM | keys])
    assert says in problem and "\n" not in problem


def test_a_database_that_follows_from_another_sites_name_is_not_free():
    problems = site_filters.site_problems(
        [CRM, CRM | {"name": "crm", "server_name": "crm.example.org", "database": "staging_crm"}]
    )
    assert problems == ["database 'staging_crm' stands 2 times; each site needs its own"]


def test_a_site_of_releases_serves_the_one_that_is_current():
    (drupal,) = site_filters.live_sites([CRM | RELEASE | {"cms": "drupal"}])
    assert drupal["docroot"] == "/srv/civicrm/staging-crm/current/web"
    assert drupal["release_path"] == "/srv/civicrm/staging-crm/release-path"
    (wordpress,) = site_filters.live_sites([CRM | RELEASE | {"cms": "wordpress"}])
    assert wordpress["docroot"] == "/srv/civicrm/staging-crm/current"
    (other,) = site_filters.live_sites([CRM])
    assert (other["docroot"], other["release_path"]) == ("/srv/civicrm/staging-crm/web", "")


def test_the_application_is_told_its_environment():
    live = site_filters.live_sites([CRM])
    (pool,) = site_filters.site_pools(live, 5, 128)
    assert pool["environment"] == {"CIVICRM_ENVIRONMENT": "staging", "CIVICRM_SITE": "staging-crm"}
    (job,) = site_filters.site_jobs(live, [{"name": "x", "on_calendar": "*:0"}])
    assert job["environment"] == pool["environment"]


ARCHIVED = CRM | {
    "name": "crm",
    "server_name": "crm.example.org",
    "mail_policy": "deliver",
    "archive_command": "/bin/news",
}


def test_newsletters_of_one_site_that_sends_to_people_are_published():
    """Staging's mailings are nobody's business, and two sites' pages would overwrite each other's index."""
    assert site_filters.site_problems([ARCHIVED, CRM]) == []
    (problem,) = site_filters.site_problems([ARCHIVED | {"mail_policy": "catch"}])
    assert "site 'crm': archive_command" in problem
    second = ARCHIVED | {"name": "crm2", "server_name": "crm2.example.org"}
    (problem,) = site_filters.site_problems([ARCHIVED, second])
    assert problem.startswith("archive_command stands at 'crm', 'crm2'")
    assert site_filters.site_problems([ARCHIVED, second | {"state": "retired"}]) == []
    (problem,) = site_filters.site_problems([ARCHIVED | {"archive_command": "news"}])
    assert "archive_command must be one line" in problem


def test_the_archive_asks_as_the_sites_user():
    live = site_filters.live_sites([CRM, ARCHIVED | {"archive_command": "{release}/bin/news --public"}])
    assert site_filters.newsletter_archive(live) == {
        "command": "/srv/civicrm/crm/current/bin/news --public",
        "user": "crm",
        "environment": {"CIVICRM_ENVIRONMENT": "staging", "CIVICRM_SITE": "crm"},
    }
    assert site_filters.newsletter_archive(site_filters.live_sites([CRM])) == {}
