"""The backup's files as their operator gets them."""

import json

TARGET = {
    "backup_target_host": "192.0.2.13",
    "backup_target_user": "backup-crm-int-01",
    "backup_known_host_key": "ssh-ed25519 AAAAC3Nz",
}


def test_the_tool_reads_what_the_inventory_says(render):
    text = render("backup", "etc/civicrm-backup.json", **TARGET, backup_databases=["crm"], backup_paths=["/srv/www"])
    settings = json.loads(text)
    assert settings["databases"] == ["crm"] and settings["paths"] == ["/srv/www"] and settings["keep"] == 14
    assert settings["signing_key"] == "/etc/civicrm-backup.signing-key"
    assert settings["target"] == {"host": "192.0.2.13", "user": "backup-crm-int-01", "port": 22, "path": "."}


def test_one_host_key_is_accepted(render):
    text = render("backup", "etc/civicrm-backup.known_hosts", **TARGET)
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        "civicrm-backup-target ssh-ed25519 AAAAC3Nz"
    ]


def test_the_timer_fires_when_the_inventory_says(render):
    text = render("backup", "etc/systemd/system/civicrm-backup.timer", backup_on_calendar="Sun 04:00")
    assert "OnCalendar=Sun 04:00\n" in text and "Persistent=true\n" in text


def test_the_run_steps_back_for_the_sites(render):
    text = render("backup", "etc/systemd/system/civicrm-backup.service")
    assert "Nice=10\n" in text and "IOSchedulingClass=idle\n" in text
