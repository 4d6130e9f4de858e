"""`mailing status` knows every reason why mail is not sent: each alone, with since when and what to do next."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest

from civicrm_tools.core import metrics, systemd
from civicrm_tools.core.command import Failure
from civicrm_tools.mail import holds, mailing_state, obstacles, pace, storms
from civicrm_tools.mail.mailing import main

JOB = "civicrm-crm-process-mailing"
WELL = {"LoadState": "loaded", "ActiveState": "active", "Result": "success"}
TABLE = {
    "providers": [{"name": "gmail", "domains": ["gmail.test"], "budget_per_second": 10, "connections": 2}],
    "back_off": {"texts": [], "deferrals": 3, "window_seconds": 60, "step_seconds": 60, "recover_seconds": 600},
    "own_domains": [],
    "default_concurrency": 2,
    "queue_lifetime": "5d",
    "mail_log": "/var/log/mail.log",
    "textfile_directory": "/nowhere",
}


class Host:
    """A host on which all is well: units, sockets and files, to be broken one at a time."""

    def __init__(self, mta, tmp_path: Path) -> None:
        self.mta, self.directory = mta, tmp_path
        names = ("postfix.service", "postfix-pace.service", "opendkim.service")
        self.units = {name: dict(WELL) for name in names}
        (tmp_path / "units").mkdir()
        self.add_job("crm")
        (tmp_path / "units" / "civicrm-crm-fetch-bounces.service").write_text("[Unit]\n")
        (tmp_path / "providers.json").write_text(json.dumps(TABLE))
        self.signer = str(tmp_path / "opendkim.sock")
        mta.set(
            non_smtpd_milters=f"unix:{self.signer}", smtpd_milters=f"{{ unix:{self.signer}, default_action=tempfail }}"
        )
        self.listener = self.listen()

    def add_job(self, site: str) -> str:
        """The units of one more site's mailings; their name."""
        name = f"civicrm-{site}-process-mailing"
        condition = f"[Unit]\nConditionPathExists=!{mailing_state.path('off')}\n"
        measured = f"ExecStartPre=-+/usr/local/sbin/civicrm-job-metrics start {name} {site} process_mailing\n"
        (self.directory / "units" / f"{name}.service").write_text(f"{condition}[Service]\n{measured}")
        self.units |= {f"{name}.timer": dict(WELL), f"{name}.service": {**WELL, "ActiveState": "inactive"}}
        return name

    def listen(self, silent: bool = False) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        Path(self.signer).unlink(missing_ok=True)
        made.bind(self.signer)
        made.listen()

        def answer() -> None:
            while True:
                try:
                    connection, _ = made.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(100)
                    connection.sendall(obstacles.HELLO)

        if not silent:
            threading.Thread(target=answer, daemon=True).start()
        return made

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def systemctl(self, *arguments: str):
        missing = {"LoadState": "not-found", "ActiveState": "inactive", "Result": "success"}
        blocks = [self.units.get(name, missing) for name in arguments if not name.startswith("-") and name != "show"]
        text = "\n\n".join("\n".join(f"{key}={value}" for key, value in block.items()) for block in blocks)
        return type("Ended", (), {"stdout": text + "\n"})


@pytest.fixture
def host(mta, tmp_path, monkeypatch):
    made = Host(mta, tmp_path)
    monkeypatch.setattr(systemd, "systemctl", made.systemctl)
    monkeypatch.setattr(obstacles, "UNITS", tmp_path / "units")
    monkeypatch.setattr(obstacles, "TABLE", tmp_path / "providers.json")
    monkeypatch.setattr(obstacles, "SPEAKERS", tmp_path / "speakers.json")
    monkeypatch.setattr(obstacles, "BREAKER", tmp_path / "breaker.db")
    monkeypatch.setattr(obstacles, "MILTER_SECONDS", 0.3)
    monkeypatch.setattr(pace, "STATE", tmp_path / "pace.json")
    monkeypatch.setattr(metrics, "DIRECTORY", tmp_path / "metrics")
    yield made
    made.close()


@pytest.fixture
def reasons(run):
    """A function () -> (exit status, sending, [reason])."""

    def _reasons():
        status, said, error = run(main, "status", "--json")
        assert not error
        found = json.loads(said)
        return status, found["sending"], found["reasons"]

    return _reasons


def state(name: str, **more: object) -> None:
    mailing_state.DIRECTORY.mkdir(exist_ok=True)
    mailing_state.path(name).write_text(json.dumps({"since": 1000, "by": "alice", **more}))


def test_nothing_is_wrong(host, run):
    status, said, _ = run(main, "status")
    assert status == 0
    assert said.splitlines()[0] == "on: mailings are sent"


def panic(host):
    state("panic")
    host.mta.set(header_checks="")


def off(host):
    state("off")
    host.mta.set(header_checks="")


def ending(host):
    state("panic", left={"postfix": ["A", "B"]})


def damaged(host):
    mailing_state.DIRECTORY.mkdir()
    mailing_state.path("off").write_text("{")
    host.mta.set(header_checks="")


def reserve(host):
    mailing_state.DIRECTORY.mkdir()
    mailing_state.path("spool-full").write_text('{"since": 1000}')


def lost_switch(host):
    (host.mta.root / "etc" / "mailing_state.db").write_text("mailing HOLD of an old /etc\n")


def postfix_down(host):
    (host.mta.root / "down").touch()
    host.units["postfix.service"] = {**WELL, "ActiveState": "failed", "InactiveEnterTimestamp": "@1000"}


def signer_down(host):
    host.close()
    host.units["opendkim.service"] = {**WELL, "ActiveState": "failed", "StateChangeTimestamp": "@1000"}


def signer_hangs(host):
    host.close()
    host.listener = host.listen(silent=True)


def timer_stopped(host):
    host.units[f"{JOB}.timer"] = {**WELL, "ActiveState": "inactive", "InactiveEnterTimestamp": "@1000"}


def job_fails(host):
    host.units[f"{JOB}.service"] = {**WELL, "ActiveState": "failed", "Result": "exit-code"}
    (metrics.DIRECTORY / f"{JOB}.prom").write_text("civicrm_job_last_success_timestamp_seconds 1000\n")


def no_budget(host):
    broken = {**TABLE, "providers": [{**TABLE["providers"][0], "budget_per_second": 0}]}
    obstacles.TABLE.write_text(json.dumps(broken))


def pace_down(host):
    host.units["postfix-pace.service"] = {**WELL, "ActiveState": "failed", "InactiveEnterTimestamp": "@1000"}


def breaker_paused(host):
    with closing(storms.open_storms(obstacles.BREAKER)) as database:
        values = "('gmail', 'active', 1000, 1, '30 of 31 refuse us')"
        database.execute(f"INSERT INTO incident (provider, mode, since, paused, why) VALUES {values}")  # noqa: S608
        database.commit()


@pytest.mark.parametrize(
    "broken, sending, name, text, step, since",
    [
        (panic, "nothing", "panic", "PANIC: nothing leaves; by alice", "mailing resume", 1000),
        (off, "no mailings", "off", "OFF: mailings are not sent; by alice", "mailing on", 1000),
        (ending, "no mailings", "panic", "PANIC is ending: `mailing resume` has 2 messages", "mailing resume", 1000),
        (damaged, "no mailings", "off", "OFF: mailings are not sent: ", "mailing off, then mailing on", None),
        (reserve, "no mailings", "reserve", "the spool is below its reserve", "spool-reserve --dry-run", 1000),
        (lost_switch, "not everything", "switch", "postfix does not hold new mail as it should", "run the", None),
        (postfix_down, "nothing", "postfix", "postfix is not running", "systemctl start postfix", 1000),
        (signer_down, "nothing", "signer", "does not answer", "systemctl restart opendkim.service", 1000),
        (signer_hangs, "nothing", "signer", "(silent for", "systemctl restart opendkim.service", None),
        (timer_stopped, "no mailings", "timer", f"{JOB}.timer is stopped", f"systemctl start {JOB}.timer", 1000),
        (job_fails, "no mailings", "job", f"{JOB}.service fails (exit-code)", f"journalctl -u {JOB}", 1000),
        (no_budget, "not everything", "budget", "must be above 0", "mend postfix_mailing_providers", None),
        (pace_down, "not everything", "pace", "postfix-pace is down", "systemctl restart postfix-pace", 1000),
        (breaker_paused, "not everything", "breaker", "has paused the mailing to gmail", "bounce-breaker", 1000),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_reason_is_named(host, reasons, broken, sending, name, text, step, since):
    """It said "on: mailings are sent" with Postfix stopped, with a full spool and with the signer down."""
    broken(host)
    status, said, (found,) = reasons()
    assert (status, said, found["name"]) == (3, sending, name)
    assert text in found["text"]
    assert found["step"].startswith(step)
    assert found["since"] == since


def slowed(host):
    entry = {"level": 2, "stepped": 1000, "told": 1000, "reason": "slow down", "lowered": 2, "raised": 0}
    pace.STATE.write_text(json.dumps({"gmail": entry}))


def held(host):
    host.mta.put("4jWDX1GX7zLW0x", "hold")


def kept(host):
    held(host)
    mailing_state.DIRECTORY.mkdir()
    holds.path().write_text('{"others": {"postfix": {"4jWDX1GX7zLW0x": "bounce-breaker"}}, "released": {}}')


def no_link(host):
    (metrics.DIRECTORY / "ipsec.prom").write_text('ipsec_peer_up{peer="crm-ext-01"} 0\n')


@pytest.mark.parametrize(
    "broken, text",
    [
        (slowed, "gmail gets 2.5 of 10 a second: slow down"),
        (held, "1 message on hold by hand"),
        (kept, "1 message on hold by bounce-breaker"),
        (no_link, "the private link to crm-ext-01 is down: mailings do not use it"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_stops_no_mailing_is_told_and_is_no_failure(host, reasons, broken, text):
    broken(host)
    status, sending, (found,) = reasons()
    assert (status, sending, found["text"]) == (0, "everything", text)


def test_several_come_with_the_worst_first(host, reasons):
    for broken in (held, timer_stopped, postfix_down):
        broken(host)
    status, sending, found = reasons()
    assert (status, sending) == (3, "nothing")
    assert [reason["name"] for reason in found] == ["postfix", "timer", "held"]


def test_what_cannot_be_looked_at_is_a_reason(host, reasons, monkeypatch):
    def broken(*_):
        raise Failure("systemctl failed")

    monkeypatch.setattr(systemd, "systemctl", broken)
    status, sending, found = reasons()
    assert (status, sending) == (3, "not everything")
    assert {reason["text"] for reason in found} == {"it cannot be told: systemctl failed"}


def test_a_mailing_that_runs_after_a_failure_is_no_failure(host, reasons):
    host.units[f"{JOB}.service"] = {**WELL, "ActiveState": "activating", "Result": "exit-code"}
    assert reasons()[0] == 0


def silent_sites(*names: str) -> None:
    known = {"hostname": "int.example.org", "users": {}, "domains": {}, "silent": names, "relay": []}
    obstacles.SPEAKERS.write_text(json.dumps(known))


@pytest.mark.parametrize("broken", [timer_stopped, job_fails])
def test_the_job_of_one_site_of_two_stops_no_other_sites_mailings(host, reasons, broken):
    host.add_job("other")
    broken(host)
    status, sending, (found,) = reasons()
    assert (status, sending, found["sending"]) == (3, "not everything", "not everything")


def test_a_stopped_job_of_a_site_that_reaches_nobody_stops_nothing(host, reasons):
    """Staging and test are stopped as their people like; nobody shall be called for it."""
    staging = host.add_job("staging-crm")
    silent_sites("staging-crm")
    host.units[f"{staging}.timer"]["ActiveState"] = "inactive"
    status, sending, (found,) = reasons()
    assert (status, sending) == (0, "everything")
    assert found["text"].startswith(f"{staging}.timer is stopped")


def test_no_mailings_are_sent_if_the_jobs_of_all_that_send_are_stopped(host, reasons):
    """One by its timer, the other by its failure; staging's runs on."""
    other = host.add_job("other")
    host.add_job("staging-crm")
    silent_sites("staging-crm")
    host.units[f"{other}.service"]["Result"] = "exit-code"
    timer_stopped(host)
    status, sending, found = reasons()
    assert (status, sending) == (3, "no mailings")
    assert {reason["name"] for reason in found} == {"timer", "job"}


def test_a_site_of_which_nothing_is_known_counts_as_one_that_sends(host, reasons):
    silent_sites("crm")
    unit = obstacles.UNITS / f"{JOB}.service"
    unit.write_text(unit.read_text().partition("[Service]")[0])
    timer_stopped(host)
    assert reasons()[:2] == (3, "no mailings")


def test_a_milter_of_one_service_is_asked_too(host, reasons):
    """The signer stands in master.cf, where it belongs to one service."""
    host.mta.set(non_smtpd_milters="", smtpd_milters="")
    with (host.mta.root / "etc" / "services").open("a") as services:
        services.write(f"submitted/unix/non_smtpd_milters = unix:/nowhere/first.sock, unix:{host.signer}\n")
    status, sending, (found,) = reasons()
    assert (status, sending) == (3, "nothing")
    assert "/nowhere/first.sock" in found["text"]
