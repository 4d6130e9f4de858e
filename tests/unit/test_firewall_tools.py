"""firewall-apply never leaves a host with rules that nobody confirmed; firewall-drops counts by user."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from civicrm_tools.core.command import Failure
from civicrm_tools.core.metrics import exposition
from civicrm_tools.host import firewall_apply, firewall_drops


@pytest.fixture(scope="module")
def tools():
    return [firewall_apply, firewall_drops]


TABLE = "inet civicrm_firewall"
OLD, NEW, NEWER = (f"table {TABLE} {{}} # {name}\n" for name in ("old", "new", "newer"))


class Kernel:
    """What nft and systemd would hold: the text that was loaded last, and whether the timer runs."""

    def __init__(self) -> None:
        self.rules = ""
        self.timer = 0
        self.refuses = ""

    def nft(self, *arguments: str, text: str = "") -> str:
        if arguments == ("-j", "list", "tables"):
            family, name = TABLE.split()
            tables = [{"table": {"family": family, "name": name}}] if self.rules else []
            return json.dumps({"nftables": tables})
        if arguments == ("-j", "list", "table", *TABLE.split()):
            return json.dumps({"nftables": [self.rules]})
        if arguments == ("list", "table", *TABLE.split()):
            return self.rules
        assert text
        if self.refuses and self.refuses in text:
            raise Failure(f"nft refuses {self.refuses}")
        if "--check" not in arguments:
            self.rules = "" if text == f"table {TABLE}\ndelete table {TABLE}\n" else text
        return ""


@pytest.fixture
def host(tools, tmp_path, monkeypatch):
    """The tool on a host whose confirmed ruleset is OLD."""
    apply, kernel = tools[0], Kernel()
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(apply, "STATE", tmp_path / "run")
    monkeypatch.setattr(apply, "CONFIGURATION", tmp_path / "nftables.conf")
    monkeypatch.setattr(apply, "nft", kernel.nft)
    monkeypatch.setattr(apply, "arm", lambda seconds: setattr(kernel, "timer", seconds))
    monkeypatch.setattr(apply, "disarm", lambda: setattr(kernel, "timer", 0))
    apply.kernel, apply.conf = kernel, tmp_path / "nftables.conf"
    for name, text in (("old", OLD), ("new", NEW), ("newer", NEWER)):
        (tmp_path / name).write_text(text)
    apply.rulesets = tmp_path
    apply.conf.write_text(OLD)
    kernel.rules = OLD
    apply.record(OLD)
    return apply


def test_what_is_loaded_and_confirmed_is_not_loaded_again(host):
    assert host.apply(host.rulesets / "old", 60) == "unchanged"
    assert host.kernel.timer == 0


def test_the_state_as_json(host, capsys):
    host.apply(host.rulesets / "new", 60)
    assert host.main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"status": "pending"}


def test_rules_changed_by_hand_are_brought_back(host):
    """The file alone does not tell what the kernel holds."""
    host.kernel.rules = OLD + "# and a door that somebody opened"
    assert host.status() == "changed"
    assert host.apply(host.rulesets / "old", 60).startswith("applied")
    assert (host.kernel.rules, host.kernel.timer) == (OLD, 60)


def test_a_ruleset_on_trial_does_not_come_up_at_a_boot(host):
    host.apply(host.rulesets / "new", 60)
    assert (host.kernel.rules, host.kernel.timer, host.status()) == (NEW, 60, "pending")
    assert host.conf.read_text() == OLD
    assert host.confirm() == "confirmed"
    assert (host.conf.read_text(), host.kernel.timer, host.status()) == (NEW, 0, "confirmed")
    assert host.apply(host.rulesets / "new", 60) == "unchanged"


def test_without_confirmation_the_rules_before_come_back(host):
    host.apply(host.rulesets / "new", 60)
    host.rollback()
    assert (host.kernel.rules, host.conf.read_text(), host.status()) == (OLD, OLD, "confirmed")
    with pytest.raises(Failure, match="nothing to confirm"):
        host.confirm()
    # The next converge tries again.
    assert host.apply(host.rulesets / "new", 60).startswith("applied")


def test_a_second_trial_goes_back_to_the_confirmed_rules(host):
    """Not to the first trial, which may be what locks out."""
    host.apply(host.rulesets / "new", 60)
    host.apply(host.rulesets / "newer", 60)
    host.rollback()
    assert host.kernel.rules == OLD


def test_the_first_ruleset_of_a_host_goes_back_to_none(host):
    host.kernel.rules = ""
    host.conf.write_text("flush ruleset\n")
    host.apply(host.rulesets / "new", 60)
    host.rollback()
    assert host.kernel.rules == ""
    assert host.conf.read_text() == "flush ruleset\n"


def test_what_nft_refuses_changes_nothing(host):
    host.kernel.refuses = "# new\n"
    with pytest.raises(Failure):
        host.apply(host.rulesets / "new", 60)
    assert (host.kernel.rules, host.kernel.timer, host.status()) == (OLD, 0, "confirmed")


def test_without_a_timer_nothing_is_loaded(host, monkeypatch):
    def broken(seconds):
        raise Failure("no systemd")

    monkeypatch.setattr(host, "arm", broken)
    with pytest.raises(Failure, match="no systemd"):
        host.apply(host.rulesets / "new", 60)
    assert (host.kernel.rules, host.status()) == (OLD, "confirmed")


def test_if_the_rules_before_cannot_be_loaded_the_boots_file_is(host):
    host.kernel.rules = OLD + "# by hand"
    host.apply(host.rulesets / "new", 60)
    host.kernel.refuses = "# by hand"
    host.rollback()
    assert host.kernel.rules == OLD


NAMES = f"define uid_root = 4294967294\ndefine uid_nobody-here = 4294967294\n{NEW}"


def test_the_uids_of_this_host_are_entered(host):
    """The file that the boot loads names no user: a name that is gone would keep all rules from being loaded."""
    (host.rulesets / "names").write_text(NAMES)
    host.apply(host.rulesets / "names", 60, "skip")
    assert host.kernel.rules == NAMES.replace("4294967294", "0", 1)
    host.confirm()
    # The same candidate, and a copy of what was made of it.
    for name in ("names", "copy"):
        (host.rulesets / "copy").write_text(host.conf.read_text())
        assert host.apply(host.rulesets / name, 60, "skip") == "unchanged"


def test_a_user_whom_the_host_lacks_is_named_and_nothing_is_loaded(host, capsys):
    """With an exit status of its own, as the role tells it from what broke."""
    (host.rulesets / "names").write_text(NAMES)
    assert host.main(["apply", str(host.rulesets / "names")]) == 3
    said = capsys.readouterr().err
    assert said.startswith("firewall-apply: this host has no user nobody-here: correct the name, or install")
    assert said.count("\n") == 1
    assert (host.kernel.rules, host.kernel.timer, host.status()) == (OLD, 0, "confirmed")


@pytest.mark.parametrize(("runs", "said"), [(True, "unchanged"), (False, "unchanged, nftables.service started")])
def test_the_unit_of_the_boot_is_started_and_never_stopped(host, monkeypatch, capsys, runs, said):
    """Once the rules are confirmed: what Debian's file would load before flushes the tables of others."""
    calls = []

    def systemctl(verb, *_, **__):
        calls.append(verb)
        return subprocess.CompletedProcess([], 0 if runs or verb != "is-active" else 3, "", "")

    monkeypatch.setattr(host, "systemctl", systemctl)
    assert host.main(["apply", str(host.rulesets / "old")]) == 0
    assert capsys.readouterr().out == f"{said}\n"
    assert calls == (["is-active"] if runs else ["is-active", "start"])
    calls.clear()
    assert host.main(["apply", str(host.rulesets / "new")]) == 0
    assert calls == []


def test_the_timer_calls_this_very_command_wherever_it_was_called_from(tools, monkeypatch):
    """A host that locked everybody out has no second try: systemd must find what it shall run."""
    begun = []
    monkeypatch.setattr(tools[0], "disarm", lambda: None)
    monkeypatch.setattr(tools[0], "run", lambda *words, **_: begun.extend(words))
    monkeypatch.setattr(sys, "argv", ["firewall-apply", "apply", "x"])
    tools[0].arm(7)
    assert begun[0] == "systemd-run" and begun[-1] == "rollback"
    program = begun[begun.index("7") + 2 : -1]
    assert program[0].startswith("/")
    done = subprocess.run([*program, "--help"], capture_output=True, text=True, cwd="/", env={"PATH": "/usr/bin:/bin"})
    assert done.stdout.startswith("usage: firewall-apply")


def test_counted_packets_are_no_change_of_the_rules(tools):
    def listing(handle, packets, elements):
        return {
            "nftables": [
                {"metainfo": {"version": "1"}},
                {"set": {"name": "s", "flags": ["dynamic"], "handle": handle, "elem": elements}},
                {"set": {"name": "peers", "elem": ["192.0.2.1"], "handle": handle}},
                {"rule": {"handle": handle, "expr": [{"counter": {"packets": packets, "bytes": 1}}, {"drop": None}]}},
            ]
        }

    clean = tools[0].without_state
    assert clean(listing(1, 0, [])) == clean(listing(9, 77, [{"elem": {"val": 990}}]))
    other = listing(1, 0, [])
    other["nftables"][2]["set"]["elem"] = ["192.0.2.2"]
    assert clean(other) != clean(listing(1, 0, []))


def test_refused_packets_are_counted_by_user(tools):
    elements = [{"elem": {"val": uid, "counter": {"packets": n, "bytes": 1}}} for uid, n in ((0, 3), (4242424, 4))]
    counters = {"in_invalid": 1, "in_unlisted": 2, "out_invalid": 0, "out_unlisted": 9}
    listing = {"nftables": [{"counter": {"name": name, "packets": n}} for name, n in counters.items()]}
    listing["nftables"].append({"set": {"name": "refused_users", "elem": elements}})
    text = exposition([tools[1].family(tools[1].drops(listing))])
    assert text.splitlines()[1:] == [
        "# TYPE firewall_drops_total counter",
        'firewall_drops_total{direction="in",reason="invalid",user=""} 1',
        'firewall_drops_total{direction="in",reason="unlisted",user=""} 2',
        'firewall_drops_total{direction="out",reason="invalid",user=""} 0',
        'firewall_drops_total{direction="out",reason="unlisted",user=""} 2',
        'firewall_drops_total{direction="out",reason="unlisted",user="4242424"} 4',
        'firewall_drops_total{direction="out",reason="unlisted",user="root"} 3',
    ]


def test_refused_packets_as_json(tools, monkeypatch, capsys):
    counters = ("in_invalid", "in_unlisted", "out_invalid", "out_unlisted")
    listing = json.dumps({"nftables": [{"counter": {"name": name, "packets": n}} for n, name in enumerate(counters)]})
    monkeypatch.setattr(tools[1], "nft", lambda *_: listing)
    assert tools[1].main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[1] == {"direction": "in", "reason": "unlisted", "user": "", "packets": 1}
    assert [row["packets"] for row in found] == [0, 1, 2, 3]


def test_the_exported_file_is_replaced_in_one_step_and_readable(tools, tmp_path, monkeypatch):
    counters = ("in_invalid", "in_unlisted", "out_invalid", "out_unlisted")
    listing = json.dumps({"nftables": [{"counter": {"name": name, "packets": 1}} for name in counters]})
    monkeypatch.setattr(tools[1], "nft", lambda *_: listing)
    for _ in range(2):
        assert tools[1].main(["--output", str(tmp_path / "firewall.prom")]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["firewall.prom"]
    assert (tmp_path / "firewall.prom").stat().st_mode & 0o777 == 0o644
    assert (
        'firewall_drops_total{direction="in",reason="invalid",user=""} 1\n' in (tmp_path / "firewall.prom").read_text()
    )
