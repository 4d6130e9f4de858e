"""N33, N34: units are brought into their states, and do what changed files ask of them, once."""

import subprocess
import sys

import ansible.module_utils
import pytest
from loading import load

journal = sys.modules["ansible.module_utils.set_journal"] = load("plugins/module_utils/set_journal.py")
ansible.module_utils.set_journal = journal
units = load("plugins/module_utils/unit_sets.py")


MISSING = {
    "LoadState": "not-found",
    "ActiveState": "inactive",
    "UnitFileState": "",
    "ConditionResult": "no",
    "ConditionTimestampMonotonic": "0",
}


class Systemd:
    """Units and their states, as systemctl shows and changes them."""

    def __init__(self):
        self.units, self.orders = {}, []

    def has(self, name, active="active", file_state="enabled", **further):
        self.units[name] = {
            "LoadState": "loaded",
            "ActiveState": active,
            "UnitFileState": file_state,
            "ConditionResult": "yes",
            "ConditionTimestampMonotonic": "1",
        } | further

    def __call__(self, *arguments):
        what, names = arguments[0], [one for one in arguments[1:] if not one.startswith("-")]
        if what == "show":
            missing = {
                "LoadState": "not-found",
                "ActiveState": "inactive",
                "UnitFileState": "",
                "ConditionResult": "no",
            }
            blocks = [self.units.get(name, missing | {"ConditionTimestampMonotonic": "0"}) for name in names]
            return self.says("\n\n".join("\n".join(f"{k}={v}" for k, v in block.items()) for block in blocks))
        self.orders.append(" ".join([what, *names]))
        for name in names:
            unit = self.units[name]
            if what in ("start", "restart") and unit.get("broken"):
                return self.says("", f"Job for {name} failed.", 1)
            unit["ActiveState"] = {"start": "active", "restart": "active", "stop": "inactive"}.get(
                what, unit["ActiveState"]
            )
            unit["UnitFileState"] = {"enable": "enabled", "disable": "disabled"}.get(what, unit["UnitFileState"])
        return self.says("")

    @staticmethod
    def says(output, errors="", status=0):
        return subprocess.CompletedProcess([], status, output, errors)


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "STATE", str(tmp_path))
    fake = Systemd()
    monkeypatch.setattr(units, "systemctl", fake)
    return fake


def asks(**marks):
    """Leave the marks of a set whose files changed."""
    journal.save_marks(
        "trial", journal.empty_marks() | {"units": {name.replace("__", "."): a for name, a in marks.items()}}
    )


def bring(*wanted, check=False):
    outcome = journal.Outcome()
    units.bring([units.Wanted(**one) for one in wanted], outcome, check, set())
    return outcome


def left():
    return {name: marks["units"] for name, marks in journal.all_marks().items()}


def test_what_is_right_is_left_alone(systemd):
    """Unchanged is ok."""
    systemd.has("a.service")
    assert bring({"name": "a.service"}).done == []
    assert systemd.orders == []


@pytest.mark.parametrize(("mark", "order"), [("restart", "restart a.service"), ("reload", "reload a.service")])
def test_a_running_unit_does_what_its_files_ask_for_once(systemd, mark, order):
    """Also when another run, which died, left the mark."""
    systemd.has("a.service")
    asks(a__service=mark)
    assert bring({"name": "a.service"}).done == [f"{mark}ed a.service"]
    assert bring({"name": "a.service"}).done == []
    assert systemd.orders == [order] and left() == {}


def test_what_a_host_does_not_have_is_not_asked_for_again(systemd):
    """One set writes the programs of all daemons; a host that lacks one of them has nothing to restart."""
    systemd.has("a.service")
    asks(a__service="restart", b__service="restart")
    units.forget_missing("trial")
    assert left() == {"trial": {"a.service": "restart"}}
    assert systemd.orders == []


def test_a_stopped_unit_is_started_and_nothing_more(systemd):
    """It reads the new files as it starts."""
    systemd.has("a.service", active="failed", file_state="disabled")
    asks(a__service="restart")
    assert bring({"name": "a.service"}).done == ["enabled a.service", "started a.service"]
    assert systemd.orders == ["enable a.service", "reset-failed a.service", "start a.service"] and left() == {}


def test_a_failed_restart_is_asked_for_again(systemd):
    """The mark goes only when it is done."""
    systemd.has("a.service", broken="yes")
    asks(a__service="restart")
    with pytest.raises(journal.Refused, match=r"a\.service: systemctl restart failed: Job for a\.service failed"):
        bring({"name": "a.service"})
    assert left() == {"trial": {"a.service": "restart"}}


def test_a_restart_waits_while_it_would_hurt(systemd):
    """MariaDB is not restarted in a running mailing, and the run says so."""
    systemd.has("a.service")
    asks(a__service="restart")
    outcome = bring({"name": "a.service", "defer_while": "true"})
    assert outcome.done == [] and "its restart waits while 'true' succeeds" in outcome.warnings[0]
    assert left() == {"trial": {"a.service": "restart"}}
    assert bring({"name": "a.service", "defer_while": "false"}).done == ["restarted a.service"]


def test_a_reload_can_be_a_command_of_its_own(systemd, tmp_path):
    """swanctl loads connections; systemd does not."""
    systemd.has("a.service")
    asks(a__service="reload")
    bring({"name": "a.service", "reload_command": f"touch {tmp_path}/loaded"})
    assert (tmp_path / "loaded").exists() and systemd.orders == []


def test_only_a_reload_leaves_the_restart_to_others(systemd):
    """Who brings certificates does not restart Postfix."""
    systemd.has("a.service")
    asks(a__service="restart")
    assert bring({"name": "a.service", "state": "any", "only": "reload"}).done == []
    assert left() == {"trial": {"a.service": "restart"}}


def test_only_a_start_leaves_everything_to_others(systemd):
    """Apache's sites are written by another set than its modules."""
    systemd.has("a.service")
    asks(a__service="reload")
    assert bring({"name": "a.service", "only": "start"}).done == []
    systemd.has("b.service", active="inactive")
    assert bring({"name": "b.service", "only": "start"}).done == ["started b.service"]
    assert left() == {"trial": {"a.service": "reload"}}


def test_a_socket_is_restarted_with_its_service(systemd):
    """systemd refuses to start a socket again while the service holds it."""
    systemd.has("a.socket", Triggers="a.service")
    systemd.has("a.service", file_state="static")
    asks(a__socket="restart")
    bring({"name": "a.socket"}, {"name": "a.service", "enabled": None})
    assert systemd.orders == ["stop a.service", "stop a.socket", "start a.socket", "start a.service"]


def test_a_unit_that_its_condition_keeps_from_starting_is_no_change(systemd):
    """systemd-timesyncd in a container."""
    systemd.has("a.service", active="inactive", ConditionResult="no")
    assert bring({"name": "a.service"}, check=True).done == []


def test_a_check_orders_nothing(systemd):
    """And says what would be done; a unit that is missing on a bare host is to come."""
    systemd.has("a.service", active="inactive")
    assert bring({"name": "a.service"}, {"name": "b.service"}, check=True).done == [
        "started a.service",
        "b.service is to come",
    ]
    assert systemd.orders == []


def test_a_unit_that_is_not_there_is_refused_unless_it_shall_be_stopped(systemd):
    """A misspelt name is one line."""
    assert bring({"name": "a.service", "state": "stopped", "enabled": False}).done == []
    with pytest.raises(journal.Refused, match=r"a\.service: this host has no such unit"):
        bring({"name": "a.service"})


def test_units_whose_files_go_are_stopped_and_disabled_first(systemd):
    """A renamed drop-in stops nothing; one that a pattern owned stands for its unit."""

    def removed(path, **further):
        return journal.Change("remove", journal.Target(f"/etc/systemd/system/{path}", "absent", **further))

    systemd.has("a.timer")
    systemd.has("b.service")
    systemd.has("c@x.service")
    outcome = journal.Outcome()
    changes = [removed("a.timer"), removed("b.service.d/restart.conf"), removed("c@x.service.d/user.conf", former=True)]
    units.stop_removed(changes, outcome)
    assert systemd.orders == ["stop a.timer", "disable a.timer", "stop c@x.service", "disable c@x.service"]
