"""ipsec-health finds what is broken, repairs that and nothing else, and never goes round in circles."""

from __future__ import annotations

import datetime
import json
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from loading import load

from civicrm_tools.host import ipsec_health, ipsec_link, ipsec_repair

SA = (
    "list-sa event {b {uniqueid=7 version=2 state=%s local-id=a.example.org remote-id=b.example.org established=5 "
    "child-sas {b-9 {name=b uniqueid=9 state=%s bytes-in=10 local-ts=[10.0.0.1/32 fd00::1/128]}}}}\n"
)
UP = SA % ("ESTABLISHED", "INSTALLED")
REPLY = "list-sas reply {}\n"
TABLE = "table inet ipsec_guard {\n}\n"
COUNTERS = {"nftables": [{"metainfo": {}}, {"counter": {"name": "out_inner_source", "packets": 3, "bytes": 180}}]}


@pytest.fixture(scope="module")
def module():
    return ipsec_health


class Host:
    """A host as ipsec-health sees it: what commands answer, and which were run to change something."""

    def __init__(self, module, tmp_path: Path, monkeypatch) -> None:
        self.module, self.done, self.now = module, [], 1000.0
        self.sas: str | None = UP + REPLY
        self.charon = "active"
        self.table: str | None = TABLE
        self.answers = True
        self.unknown = False
        self.heals_guard = True
        for owner, name, file in (
            (module, "CONFIG", "config"),
            (ipsec_repair, "STATE", "state"),
            (ipsec_link, "GUARD_FILE", "guard"),
            (ipsec_link, "GUARD_RECORD", "record"),
        ):
            monkeypatch.setattr(owner, name, tmp_path / file)
        ipsec_link.GUARD_FILE.write_text("rules")
        self.record()
        self.metrics = tmp_path / "ipsec.prom"
        self.config = {
            "own": ["10.0.0.1", "fd00::1"],
            "peers": {"b": ["10.0.0.2", "fd00::2"]},
            "certificates": {},
            "metrics_directory": str(tmp_path),
            "hold_off_seconds": 120,
        }
        monkeypatch.setattr(ipsec_link, "run", self.run)
        monkeypatch.setattr(ipsec_link, "probe", lambda own, addresses: dict.fromkeys(addresses, self.answers))
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)

    def record(self) -> None:
        digest = ipsec_link.hashlib.sha256(ipsec_link.GUARD_FILE.read_bytes()).hexdigest()
        ipsec_link.GUARD_RECORD.write_text(f"{digest}  -\n{TABLE}")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        status, output, error = 0, "", ""
        if command[:2] == ("swanctl", "--list-sas"):
            status, output = (1, "") if self.sas is None else (0, self.sas)
        elif command[:2] == ("systemctl", "show"):
            output = self.charon + "\n"
        elif command[:3] == ("nft", "--stateless", "list"):
            status, output = (1, "") if self.table is None else (0, self.table)
        elif command[:2] == ("nft", "--json"):
            status, output = (1, "") if self.table is None else (0, json.dumps(COUNTERS))
        else:
            self.done.append(" ".join(command))
            if "--initiate" in command and self.unknown:
                status, error = 22, "initiate failed: CHILD_SA config 'b' not found"
            if "ipsec-guard.service" in command and self.heals_guard:
                self.table = TABLE
                self.record()
        return subprocess.CompletedProcess(command, status, output, error)

    def main(self, *arguments: str) -> int:
        self.module.CONFIG.write_text(json.dumps(self.config))
        return self.module.main(list(arguments))

    def repair(self, times: int = 1, every: float = 15) -> list[str]:
        """Run the repair this often; return the commands that changed something."""
        self.done = []
        for _ in range(times):
            self.main("--repair")
            self.now += every
        return self.done

    def sample(self, name: str) -> str:
        return dict(line.rsplit(" ", 1) for line in self.metrics.read_text().splitlines() if line[0] != "#")[name]


@pytest.fixture
def host(module, tmp_path, monkeypatch):
    return Host(module, tmp_path, monkeypatch)


def test_a_healthy_link_is_left_alone(host, capsys):
    assert host.main() == 0
    assert capsys.readouterr().out.splitlines()[:3] == ["guard: loaded", "charon: answers", "peer b: up"]
    assert host.repair(10) == []
    assert capsys.readouterr().out == ""
    assert host.sample('ipsec_peer_up{peer="b"}') == "1"


def test_json_names_every_part(host, capsys):
    assert host.main("--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is True
    assert report["peers"]["b"]["answers"] == {"10.0.0.2": True, "fd00::2": True}
    assert report["dropped"] == {"out_inner_source": 3}


def test_one_of_two_sas_is_enough(host):
    """Both sides initiate: crossing initiations leave a second IKE_SA, or one that is going."""
    host.sas = SA % ("DELETING", "DELETED") + UP + SA % ("CONNECTING", "CREATED") + REPLY
    assert host.main() == 0


@pytest.mark.parametrize(
    ("sas", "problem"),
    [
        (REPLY, "no IKE_SA"),
        (SA % ("CONNECTING", "CREATED"), "no IKE_SA"),
        (SA % ("ESTABLISHED", "REKEYED"), "no CHILD_SA"),
        (SA % ("DELETING", "INSTALLED"), "no IKE_SA"),
    ],
)
def test_a_peer_without_sas_is_named(host, capsys, sas, problem):
    host.sas = sas
    assert host.main() == 3
    assert f"peer b: {problem}" in capsys.readouterr().out


def test_sas_without_an_answer_are_not_enough(host, capsys):
    host.answers = False
    assert host.main() == 3
    assert "peer b: no answer from 10.0.0.2, fd00::2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("break_guard", "state"),
    [
        (lambda h: setattr(h, "table", None), "missing"),
        (lambda h: setattr(h, "table", TABLE.replace("{", "{ # a rule less")), "differs"),
        (lambda h: ipsec_link.GUARD_FILE.write_text("newer rules"), "differs"),
        (lambda h: ipsec_link.GUARD_RECORD.unlink(), "differs"),
    ],
    ids=["flushed", "changed by hand", "file is newer", "nobody knows what was loaded"],
)
def test_a_guard_that_is_not_the_files_is_loaded_at_once(host, capsys, break_guard, state):
    """Also while charon is down: the guard is what remains then."""
    break_guard(host)
    host.sas, host.charon = None, "inactive"
    host.repair()
    assert host.done == ["systemctl restart ipsec-guard.service"]
    assert f"guard: {state}: loaded" in capsys.readouterr().out
    assert host.sample("ipsec_guard_loaded") == "1"
    assert host.sample('ipsec_repairs_total{action="guard"}') == "1"


def test_a_guard_that_cannot_be_loaded_is_an_alert(host, capsys):
    host.table, host.heals_guard = None, False
    assert host.main("--repair") == 3
    assert "guard: missing: could not be loaded" in capsys.readouterr().out
    assert host.sample("ipsec_guard_loaded") == "0"


def test_a_peer_that_is_gone_is_called_again_but_nothing_restarts(host, capsys):
    """An hour without the peer: one line, no restart, and each run asks once more."""
    host.sas = REPLY
    done = host.repair(240)
    assert set(done) == {"swanctl --initiate --child b --timeout -1"}
    assert len(done) == 240
    assert capsys.readouterr().out == "peer b: no CHILD_SA: initiated\n"
    assert host.sample('ipsec_repairs_total{action="initiate"}') == "1"
    host.sas = UP
    host.repair()
    assert capsys.readouterr().out == "peer b: up again after 3600 s\n"


def test_a_connection_attempt_in_flight_is_not_doubled(host):
    host.sas = SA % ("CONNECTING", "CREATED")
    assert host.repair(3) == []


def test_a_connection_that_charon_does_not_know_is_loaded(host, capsys):
    """It started without its configuration, or somebody unloaded it."""
    host.sas, host.unknown = REPLY, True
    assert host.repair() == ["swanctl --initiate --child b --timeout -1", "swanctl --load-all --noprompt"]
    assert "did not know the connection" in capsys.readouterr().out


def test_a_silent_peer_is_reauthenticated_after_dead_peer_detection_had_its_time(host):
    """Make before break, and once per hold-off: a peer that only refuses ping loses nothing."""
    host.answers = False
    assert host.repair(3) == []
    assert host.repair(8) == ["swanctl --rekey --ike b --reauth"]
    assert host.repair(8) == ["swanctl --rekey --ike b --reauth"]


def test_a_charon_that_failed_is_restarted_once_per_hold_off(host, capsys):
    """Systemd has given up by then. Never a restart loop."""
    host.sas, host.charon = None, "failed"
    done = host.repair(16)
    assert done.count("systemctl restart --no-block strongswan.service") == 2
    assert "charon: failed: restarted" in capsys.readouterr().out


def test_a_charon_that_hangs_gets_a_second_chance(host):
    """Mute once may be a restart that has just begun."""
    host.sas, host.charon = None, "active"
    assert host.repair() == []
    assert "systemctl restart --no-block strongswan.service" in host.repair()


@pytest.mark.parametrize("state", ["inactive", "activating", "deactivating"])
def test_a_charon_that_somebody_else_works_on_is_left_alone(host, state):
    host.sas, host.charon = None, state
    assert host.repair(20) == []


def test_a_charon_stopped_by_hand_is_said_once(host, capsys):
    host.sas, host.charon = None, "inactive"
    host.repair(20)
    assert capsys.readouterr().out.count("stopped by hand") == 1


def test_a_lost_state_file_loses_no_repair(host):
    ipsec_repair.STATE.write_text("{not json")
    host.sas = REPLY
    assert host.repair() == ["swanctl --initiate --child b --timeout -1"]


def test_metrics_are_whole_and_named_as_the_alerts_expect(host, module):
    host.repair()
    text = host.metrics.read_text()
    for line in text.splitlines():
        name = line.split()[2] if line[0] == "#" else line.split("{")[0].split()[0]
        assert name in module.METRICS
    assert host.sample('ipsec_peer_answers{peer="b",family="ipv6"}') == "1"
    assert host.sample('ipsec_guard_dropped_packets_total{direction="out",reason="inner_source"}') == "3"
    assert int(host.sample("ipsec_last_check_timestamp_seconds")) > 1_700_000_000
    assert [path.name for path in host.metrics.parent.glob("*.new")] == []


def test_without_a_directory_there_are_no_metrics(host):
    host.config["metrics_directory"] = ""
    assert host.main("--repair") == 0
    assert not host.metrics.exists()


@pytest.mark.parametrize("config", ["", "{}", '{"own": [], "peers": [], "certificates": {}}'])
def test_a_broken_configuration_is_one_line(host, module, capsys, config):
    module.CONFIG.write_text(config)
    assert module.main([]) == 1
    assert capsys.readouterr().err.startswith(f"ipsec-health: {module.CONFIG}: ")


@pytest.mark.parametrize("days", [1, 13, 825, 36500], ids=["1", "13", "825", "after 2049"])
def test_days_left_are_read_from_the_certificate(module, tmp_path, days):
    """Two forms of time in X.509: UTCTime until 2049, GeneralizedTime after."""
    secrets = load("plugins/filter/secrets.py")
    secrets.CERTIFICATE_DAYS = days
    made = secrets.new_secrets(None, [], [{"name": "a", "id": "a", "outer_address": "192.0.2.1"}], [], [], [], [])
    pem = made["vault_ipsec_endpoints"]["a"]["certificate"]
    path = tmp_path / "a.pem"
    path.write_text(pem)
    expires = x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc
    now = datetime.datetime.now(datetime.UTC)
    assert ipsec_link.days_left(path, now) == pytest.approx((expires - now).total_seconds() / 86400, abs=0.01)


def test_a_certificate_that_runs_out_is_not_healthy(host, module, tmp_path, monkeypatch):
    monkeypatch.setattr(ipsec_link, "days_left", lambda path, now: 13.0)
    host.config["certificates"] = {"host": str(tmp_path / "x")}
    assert host.main() == 3


def test_an_unreadable_certificate_counts_as_expired(module, tmp_path):
    now = datetime.datetime.now(datetime.UTC)
    assert ipsec_link.days_left(tmp_path / "missing", now) == 0
    (tmp_path / "broken").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert ipsec_link.days_left(tmp_path / "broken", now) == 0


def test_peers_are_pinged_from_the_inner_address_of_each_family(monkeypatch):
    """From another address the guard refuses the packet; an address that is gone makes a peer silent, no error."""
    asked = []

    def fping(*command: str) -> subprocess.CompletedProcess[str]:
        asked.append((command[0], command[1], command[-1]))
        if ":" in command[1]:
            return subprocess.CompletedProcess(command, 4, "", "fping: cannot bind source address")
        return subprocess.CompletedProcess(command, 1, "10.0.0.2 is alive\n10.0.0.3 is unreachable\n", "")

    monkeypatch.setattr(ipsec_link, "run", fping)
    answers = ipsec_link.probe(["10.0.0.1", "fd00::1"], ["10.0.0.2", "fd00::2", "10.0.0.3"])
    assert answers == {"10.0.0.2": True, "fd00::2": False, "10.0.0.3": False}
    assert asked == [("fping", "--src=10.0.0.1", "10.0.0.3"), ("fping", "--src=fd00::1", "fd00::2")]


def test_reauthentication_waits_for_a_new_sa(host, module, monkeypatch, capsys):
    """The old one is no proof of the new keys."""
    monkeypatch.setattr(module.time, "sleep", lambda seconds: setattr(host, "now", host.now + seconds))
    assert host.main("--reauthenticate", "b") == 3
    assert "peer b: no new SA" in capsys.readouterr().err

    def later(seconds: float) -> None:
        host.now += seconds
        host.sas = UP.replace("uniqueid=7", "uniqueid=8")

    monkeypatch.setattr(module.time, "sleep", later)
    host.done = []
    assert host.main("--reauthenticate", "b") == 0
    assert host.done == ["swanctl --rekey --ike b --reauth"]
