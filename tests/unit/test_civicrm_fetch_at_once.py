"""Mail lets the job run within seconds, and an outage of the CRM is no loop (S43)."""

from __future__ import annotations

import subprocess

import pytest

from civicrm_tools.site import fetch_at_once

UNIT = "civicrm-crm-fetch-bounces.service"


class Site:
    """A mailbox, and a job that takes what lies in it as systemd would let it run."""

    def __init__(self, module, maildir, monkeypatch) -> None:
        self.module, self.maildir = module, maildir
        self.now, self.runs = 0.0, []
        self.works, self.blocked = True, set()
        self.active = False
        # What comes at which time, and when the timer's own run goes well again.
        self.comes: dict[float, list[str]] = {}
        self.timer_at: float | None = None
        for part in ("new", "cur", "tmp"):
            (maildir / part).mkdir(parents=True)
        monkeypatch.setattr(module, "systemctl", lambda *words, **_: self.systemctl(["systemctl", *words]))
        monkeypatch.setattr(module.time, "sleep", self.sleep)
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)

    def mail(self, *names: str) -> None:
        for name in names:
            (self.maildir / "new" / name).touch()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.timer_at is not None and self.timer_at <= self.now:
            self.works, self.timer_at = True, None
            self.job()
        for at in [at for at in self.comes if at <= self.now]:
            self.mail(*self.comes.pop(at))

    def job(self) -> None:
        seen = [*(self.maildir / "new").iterdir(), *(self.maildir / "cur").iterdir()] if self.works else []
        for path in seen:
            if path.name.partition(":2,")[0] in self.blocked:
                # IMAP's \Seen is a new file name.
                path.rename(self.maildir / "cur" / (path.name.partition(":2,")[0] + ":2,S"))
            else:
                path.unlink()

    def systemctl(self, command):
        status, answer = 0, ""
        if command[1] == "start":
            assert command == ["systemctl", "start", UNIT]
            self.runs.append(self.now)
            assert len(self.runs) < 50, "a hot loop"
            if self.active:
                self.active = False  # joins the run that goes on, which has looked already
            else:
                self.job()
            self.sleep(2)
            status = int(not self.works)
        elif command[2] == "--property=ActiveState":
            answer = "activating" if self.active else "inactive" if self.works else "failed"
        elif command[2] == "--property=Result":
            answer = "success" if self.works else "exit-code"
        return subprocess.CompletedProcess(command, status, answer + "\n", "")

    def main(self) -> None:
        assert self.module.main([UNIT, str(self.maildir)]) == 0

    def left(self) -> int:
        return len(self.module.messages(self.maildir))


@pytest.fixture
def site(tmp_path, monkeypatch):
    return Site(fetch_at_once, tmp_path / "Maildir", monkeypatch)


def test_one_mail_is_one_run(site):
    site.mail("a")
    site.main()
    assert site.runs == [1]
    assert site.left() == 0


def test_an_empty_mailbox_starts_nothing(site):
    """The path changes too when the job takes a message away."""
    site.main()
    assert site.runs == []


def test_mail_that_comes_during_a_run_is_not_left_to_the_timer(site):
    """It is nobody's event: while the service runs systemd does not look at the path."""
    site.mail("a")
    site.comes = {2.0: ["b"], 20.0: ["c"]}
    site.main()
    assert site.left() == 0
    assert len(site.runs) == 3


def test_a_run_that_the_timer_began_before_is_followed_by_one_of_our_own(site):
    """It may have read the mailbox just before the mail came."""
    site.mail("a")
    site.active = True
    site.main()
    assert (len(site.runs), site.left()) == (2, 0)


def test_a_steady_stream_starts_the_job_at_most_once_in_ten_seconds(site):
    """Ten thousand bounces must not start the CRM ten thousand times."""
    site.mail("first")
    site.comes = {float(second): [f"m{second}"] for second in range(2, 120)}
    site.main()
    gaps = [later - earlier for earlier, later in zip(site.runs, site.runs[1:], strict=False)]
    assert min(gaps) >= 10
    assert site.left() == 0


def test_a_message_that_the_job_leaves_is_no_loop(site):
    """The job succeeds and does not take it: that is for the timer, and for the watch over the mailbox."""
    site.blocked = {"poison"}
    site.mail("poison", "good")
    site.main()
    assert (len(site.runs), site.left()) == (1, 1)


def test_while_the_crm_is_away_nothing_is_lost_and_nothing_is_tried_again(site, capsys):
    """The timer goes on by itself; mail that comes meanwhile does not start the job either."""
    site.works = False
    site.mail("a")
    site.comes = {float(second): [f"m{second}"] for second in range(2, 900, 3)}
    site.main()
    assert site.runs == [1]
    assert site.left() == 301 - len(site.comes)
    assert site.now >= 900
    assert capsys.readouterr().out == f"{UNIT} failed: mail stays in the mailbox, the timer goes on\n"


def test_when_the_timers_run_goes_well_again_mail_is_fetched_at_once_again(site):
    site.works = False
    site.mail("a")
    site.timer_at = 300.0
    # After the timer's run, and before this one looks whether it went well.
    site.comes = {302.5: ["b"]}
    site.main()
    assert site.now < 340
    assert (len(site.runs), site.left()) == (2, 0)


def test_a_mailbox_that_never_had_mail_is_empty(site, tmp_path):
    assert site.module.messages(tmp_path / "none") == set()
