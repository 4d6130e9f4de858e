"""civicrm-job-metrics remembers when a job last ended well, whatever came after (S26)."""

from __future__ import annotations

import pytest

from civicrm_tools.site import job_metrics as module

LABELS = 'site="crm",job_name="fetch_bounces"'
UNIT = "civicrm-crm-fetch-bounces"


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A function (event, at, result="success") that records it and returns the samples by name."""
    monkeypatch.setattr(module, "DIRECTORY", tmp_path)

    def _job(event: str, at: float, result: str = "success") -> dict[str, float]:
        monkeypatch.setattr(module.time, "time", lambda: at)
        monkeypatch.setenv("SERVICE_RESULT", result)
        assert module.main([event, UNIT, "crm", "fetch_bounces"]) == 0
        text = (tmp_path / f"{UNIT}.prom").read_text()
        samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
        assert all(name.split("{")[0] in module.METRICS and LABELS in name for name in samples)
        return {name.removeprefix("civicrm_job_").replace(LABELS, ""): float(v) for name, v in samples.items()}

    _job.module, _job.directory = module, tmp_path
    return _job


def test_a_failure_does_not_hide_when_it_last_went_well(job):
    """The age of the last success is what the alert looks at."""
    job("start", 1000)
    job("end", 1030)
    job("start", 2000)
    samples = job("end", 2004.5, "exit-code")
    assert samples["last_success_timestamp_seconds{}"] == 1030
    assert samples["last_end_timestamp_seconds{}"] == 2004.5
    assert samples["last_duration_seconds{}"] == 4.5
    assert samples['runs_total{,result="success"}'] == 1
    assert samples['runs_total{,result="failure"}'] == 1


def test_a_run_that_goes_on_is_seen(job):
    """A large mailing takes hours: its job is busy, not overdue."""
    job("end", 900)
    samples = job("start", 1000)
    assert samples["last_start_timestamp_seconds{}"] > samples["last_end_timestamp_seconds{}"]
    assert samples["last_success_timestamp_seconds{}"] == 900


def test_a_job_that_never_went_well_has_a_success_long_ago(job):
    assert job("start", 1000)["last_success_timestamp_seconds{}"] == 0


@pytest.mark.parametrize("damage", ["", "civicrm_job_runs_total{", "\0\xff", "x{} NaN\n"])
def test_a_damaged_file_is_begun_anew(job, damage):
    (job.directory / f"{UNIT}.prom").write_bytes(damage.encode("latin-1"))
    assert job("end", 1000)["last_success_timestamp_seconds{}"] == 1000


def test_without_a_directory_nothing_is_written(job, tmp_path, monkeypatch):
    monkeypatch.setattr(job.module, "DIRECTORY", tmp_path / "none")
    assert job.module.main(["end", UNIT, "crm", "fetch_bounces"]) == 0
