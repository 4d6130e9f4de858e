"""The donation API's sites as their operator gets them (S13, S38)."""

import json
import re

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from loading import ROOT

SITE = {
    "name": "staging-donate-api",
    "environment": "staging",
    "docroot": "/srv/donate-api/staging-donate-api/web",
    "php_version": "8.4",
    "origins": ["https://staging.donate.example.org"],
    "queue_user": "writer-staging-donate-api",
}
CAMPAIGNS = [
    {"name": name, "title": name.title(), "state": state}
    for name, state in (("general", "open"), ("spring", "closed"), ("winter", "planned"))
]


@pytest.fixture
def intake(render):
    def _render(template: str, item, **variables):
        return render(
            "donation_intake",
            template,
            item=item,
            donation_intake_queue_host="10.77.0.11",
            donation_intake_queue_passwords={SITE["name"]: "canary"},
            donation_intake_campaigns=CAMPAIGNS,
            **variables,
        )

    return _render


def test_the_configuration_names_what_the_application_reads(intake):
    """PHP takes the keys as named arguments: one too many or too few and no request is answered."""
    config = json.loads(intake("etc/donation-intake/site.json", SITE))
    source = (ROOT / "roles/donation_intake/files/usr/local/share/donation-intake/Config.php").read_text()
    assert set(config) == set(re.findall(r"public readonly \w+ \$(\w+),", source))
    assert config["queueKey"] == "donations:staging-donate-api"
    assert config["queueUser"] == "writer-staging-donate-api"
    assert config["queuePassword"] == "canary"
    assert config["origins"] == ["https://staging.donate.example.org"]


def test_a_donor_waits_briefly_for_the_queue(intake):
    config = json.loads(intake("etc/donation-intake/site.json", SITE))
    assert config["connectTimeoutSeconds"] == 0.3
    assert config["readTimeoutSeconds"] == 1


def test_closed_campaigns_still_take_payments_that_arrive_late_and_planned_ones_none(intake):
    assert json.loads(intake("etc/donation-intake/site.json", SITE))["campaigns"] == ["general", "spring"]


def test_the_front_controller_holds_no_secret_and_no_code(intake):
    """The web server may read it; what it requires is root's."""
    text = intake("srv/index.php", SITE)
    assert text.startswith("<?php\n")
    assert "require '/usr/local/share/donation-intake/http.php';" in text
    assert r"DonationIntake\answer('/etc/donation-intake/staging-donate-api.json');" in text
    assert "canary" not in text


def test_the_drain_runs_as_the_site_and_its_metrics_as_root(intake):
    text = intake("etc/systemd/system/donation-drain.service", [SITE, "service"])
    assert "User=staging-donate-api\n" in text
    assert re.search(
        r"^ExecStart=/usr/bin/php8\.4 \S+/drain\.php /etc/donation-intake/staging-donate-api\.json$", text, re.M
    )
    assert re.search(r"^ExecStopPost=\+/usr/local/sbin/donation-intake-metrics staging-donate-api /\S+$", text, re.M)


def test_a_drain_follows_the_one_before_and_does_not_overlap(intake):
    text = intake("etc/systemd/system/donation-drain.timer", [SITE, "timer"])
    assert "OnUnitInactiveSec=10s\n" in text


@pytest.mark.parametrize(("days", "old_files"), [(1, 0), (7, 6), (30, 29)])
def test_addresses_of_donors_are_gone_after_the_days_of_the_inventory(intake, days, old_files):
    """Today's file counts; an empty log is rotated as well, since only rotation removes old files."""
    text = intake("etc/logrotate.d/donation-intake", None, donation_intake_log_days=days)
    assert "/var/log/apache2/donation-api/*.log {" in text
    assert f"    rotate {old_files}\n" in text
    assert {"    daily", "    ifempty"} <= set(text.splitlines())


@pytest.mark.parametrize(
    ("changes", "before", "refused"),
    [
        ({}, [], ["donate-api"]),
        ({"proof": "none"}, ["/etc/donation-intake/another.json"], ["donate-api"]),
        ({}, ["/etc/donation-intake/donate-api.json"], []),
        ({"unproved_since": "2026-01-01"}, [], []),
        ({"proof": "notice"}, [], []),
        ({"environment": "test"}, [], []),
        ({"state": "planned"}, [], []),
    ],
)
def test_a_new_production_site_may_not_take_whatever_is_posted_for_paid(render, changes, before, refused):
    """One that is on the host, or was on a former one, goes on."""
    loader = DataLoader()
    scope = loader.load_from_file(str(ROOT / "roles/civicrm_ext/vars/main.yml"), trusted_as_template=True)
    site = {"name": "donate-api", "server_name": "donate-api.example.org", "environment": "production"}
    scope |= {"civicrm_ext_api_sites": [site | changes], "__civicrm_ext_intakes_before": {"stdout_lines": before}}
    templar = Templar(loader=loader, variables=scope)
    assert templar.template(trust_as_template("{{ __civicrm_ext_new_unproved }}")) == refused


def test_a_site_that_is_proved_gets_the_providers_keys_and_its_own_queue(intake):
    secrets = {SITE["name"]: {"notice_keys": ["new", "old"], "lookup_key": "rk"}, "another": {"notice_keys": ["x"]}}
    site = SITE | {"proof": "notice", "queue_port": 6380}
    config = json.loads(intake("etc/donation-intake/site.json", site, donation_intake_payment_secrets=secrets))
    assert (config["proof"], config["noticeKeys"], config["paymentKey"]) == ("notice", ["new", "old"], "rk")
    assert (config["queuePort"], config["paymentUrl"]) == (6380, "https://api.stripe.com")
    assert json.loads(intake("etc/donation-intake/site.json", SITE))["proof"] == "none"
