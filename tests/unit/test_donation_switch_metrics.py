"""The kill switch of the donation API, and its numbers (S13)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from loading import ROOT

from civicrm_tools.core.metrics import exposition
from civicrm_tools.donations import intake_metrics as metrics
from civicrm_tools.donations import switch

NOW = 1_795_176_600


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(switch, "DIRECTORY", tmp_path / "etc")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/donate-api.json").write_text(json.dumps({"campaignsVersion": "abc"}))
    (tmp_path / "var/donate-api/spool").mkdir(parents=True)
    return tmp_path


def numbers(site: Path) -> dict[str, str]:
    text = exposition(metrics.families("donate-api", site / "etc", site / "var", NOW))
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def test_the_switch_turns_and_says_so(site, capsys):
    for position in ("off", "status", "on", "on", "status"):
        assert switch.main([position, "donate-api"]) == 0
    assert capsys.readouterr().out.split() == ["donate-api", "off"] * 2 + ["donate-api", "on"] * 3
    assert switch.main(["status"]) == 0


def test_the_switches_as_json(site, capsys):
    switch.main(["off", "donate-api"])
    (site / "etc/other.json").write_text("{}")
    capsys.readouterr()
    assert switch.main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"donate-api": "off", "other": "on"}


def test_the_switch_of_an_unknown_site_is_one_clear_line(site, capsys):
    """A slip of the finger must not look like a switch that was turned."""
    assert switch.main(["off", "donate"]) == 1
    assert capsys.readouterr().err == "donation-switch: no site 'donate'; there are donate-api\n"
    assert [path.name for path in (site / "etc").iterdir()] == ["donate-api.json"]
    assert switch.main(["off"]) == 2
    assert capsys.readouterr().err == "donation-switch: name a site (see donation-switch --help)\n"


def test_every_number_exists_at_zero(site):
    found = numbers(site)
    assert found['donation_intake_accepted_total{site="donate-api",status="queued"}'] == "0"
    assert found['donation_intake_refused_total{site="donate-api",code="key_reused"}'] == "0"
    assert found['donation_intake_spool_length{site="donate-api"}'] == "0"
    assert found['donation_intake_switch_on{site="donate-api"}'] == "1"
    assert found['donation_intake_campaigns_info{site="donate-api",version="abc"}'] == "1"


def test_counters_spool_and_switch_are_told(site):
    counts = {"accepted_spooled": 7, "refused_too_large": 2, "drained": 5, "replayed": 1}
    (site / "var/donate-api/counters.json").write_text(json.dumps(counts))
    for second in (20, 50):
        (site / f"var/donate-api/spool/{(NOW - second) * 1_000_000}-ab.json").touch()
    (site / "var/donate-api/spool/.ab-temporary").touch()
    (site / "etc/donate-api.off").touch()
    found = numbers(site)
    assert found['donation_intake_accepted_total{site="donate-api",status="spooled"}'] == "7"
    assert found['donation_intake_refused_total{site="donate-api",code="too_large"}'] == "2"
    assert found['donation_intake_drained_total{site="donate-api"}'] == "5"
    assert found['donation_intake_replayed_total{site="donate-api"}'] == "1"
    assert found['donation_intake_spool_length{site="donate-api"}'] == "2"
    assert found['donation_intake_spool_oldest_seconds{site="donate-api"}'] == "50"
    assert found['donation_intake_switch_on{site="donate-api"}'] == "0"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"replayed": "9\\nevil 1"}', '{"replayed": -1}', '{"replayed": 1.5}'])
def test_what_the_site_could_write_into_its_counters_does_not_reach_prometheus(site, text):
    """The file is the exposed site's own; the one who reads it is root."""
    (site / "var/donate-api/counters.json").write_text(text)
    assert numbers(site)['donation_intake_replayed_total{site="donate-api"}'] == "0"


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_root_follows_no_link_and_waits_on_no_pipe_of_the_site(site, kind):
    path = site / "var/donate-api/counters.json"
    (site / "secret").write_text('{"replayed": 9}')
    if kind == "link":
        path.symlink_to(site / "secret")
    else:
        os.mkfifo(path)
    assert numbers(site)['donation_intake_replayed_total{site="donate-api"}'] == "0"


def test_the_codes_of_refusals_are_those_of_the_application():
    """Two languages, one list."""
    text = (ROOT / "roles/donation_intake/files/usr/local/share/donation-intake/Refusal.php").read_text()
    listed = text.partition("CODES = [")[2].partition("]")[0]
    assert [word.strip(" '\n") for word in listed.split(",") if word.strip()] == list(metrics.REFUSALS)


def test_the_file_is_written_whole_and_readable(site, monkeypatch):
    monkeypatch.setattr(metrics, "CONFIG", site / "etc")
    monkeypatch.setattr(metrics, "STATE", site / "var")
    (site / "metrics").mkdir()
    assert metrics.main(["donate-api", str(site / "metrics")]) == 0
    (path,) = (site / "metrics").iterdir()
    assert path.name == "donation_intake_donate-api.prom"
    assert path.stat().st_mode & 0o777 == 0o644
    assert metrics.main(["nobody", str(site / "metrics")]) == 1
