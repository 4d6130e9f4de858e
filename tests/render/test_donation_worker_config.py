"""A donation queue's worker as its operator gets it (S13, N15)."""

import json
import re
from dataclasses import fields

import pytest

from civicrm_tools.donations import config

QUEUE = {
    "name": "donate-api",
    "redis_user": "worker-donate-api",
    "user": "crm",
    "enabled": True,
    "test": False,
    "api_command": "/usr/local/bin/cv --cwd=/srv/civicrm/crm/web scr /usr/local/share/donation-worker/api-lines.php",
}


@pytest.fixture
def worker(render):
    def _render(template: str, item=None):
        return render(
            "donation_worker",
            template,
            item=item,
            donation_worker_redis_host="10.77.0.11",
            donation_worker_redis_passwords={"donate-api": "canary"},
            donation_worker_campaigns=[{"name": "general", "title": "General fund", "state": "open"}],
        )

    return _render


def test_the_configuration_is_what_the_worker_reads(worker, tmp_path, monkeypatch):
    text = worker("etc/donation-worker/queue.json", QUEUE)
    assert set(json.loads(text)) == {field.name for field in fields(config.Config)}
    (tmp_path / "donate-api.json").write_text(text)
    monkeypatch.setattr(config, "DIRECTORY", tmp_path)
    read = config.Config.load("donate-api")
    assert read.api_command[:2] == ["/usr/local/bin/cv", "--cwd=/srv/civicrm/crm/web"]
    assert (read.redis_password, read.user, read.trxn_prefix) == ("canary", "crm", "donation:")


def test_both_sides_have_the_same_version_of_the_campaigns(worker, render):
    """S38: the same list renders to the same hash, so that a difference means a difference."""
    campaigns = [{"name": "general", "title": "General fund", "state": "open"}]
    site = {"name": "x", "environment": "test", "origins": [], "queue_user": "w"}
    intake = render(
        "donation_intake",
        "etc/donation-intake/site.json",
        item=site,
        donation_intake_queue_host="x",
        donation_intake_queue_passwords={"x": "y"},
        donation_intake_campaigns=campaigns,
    )
    version = json.loads(intake)["campaignsVersion"]
    assert json.loads(worker("etc/donation-worker/queue.json", QUEUE))["campaigns_version"] == version
    assert json.loads(worker("etc/donation-worker/campaigns.json")) == {"version": version, "campaigns": campaigns}


def test_a_worker_comes_back_however_often_it_dies(worker):
    text = worker("etc/systemd/system/donation-worker@.service")
    assert "Restart=always\n" in text
    assert "StartLimitIntervalSec=0\n" in text


def test_a_worker_runs_as_its_sites_user(worker):
    """As whom stands in the drop-in of the queue: without it the unit would be root's."""
    text = worker("etc/systemd/system/donation-worker@.service.d/user.conf", QUEUE)
    assert text.splitlines()[-2:] == ["[Service]", "User=crm"]


def test_a_worker_may_still_hand_mail_to_sendmail(worker):
    """What implies NoNewPrivileges stops the setgid postdrop."""
    text = worker("etc/systemd/system/donation-worker@.service")
    directives = {line.split("=")[0] for line in text.splitlines() if "=" in line and not line.startswith("#")}
    assert not directives & {"NoNewPrivileges", "SystemCallFilter", "PrivateDevices", "RestrictSUIDSGID"}


def test_metrics_are_written_where_node_exporter_reads(worker):
    text = worker("etc/systemd/system/donation-worker-metrics.service")
    assert re.search(r"^ExecStart=\S+/donation-queue metrics /var/lib/prometheus/node-exporter/\S+\.prom$", text, re.M)
