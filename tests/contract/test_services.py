"""Our services and timers have one form and one sandbox; a unit that needs less of it says why (docs/file-sets.md)."""

import re
import subprocess

import pytest
import yaml
from exposure import LIMIT, exceptions, limit, overall
from loading import ROOT

UNITS = "roles/*/templates/etc/systemd/system"
SERVICES = sorted(ROOT.glob(f"{UNITS}/*.service.j2"))
TIMERS = sorted(ROOT.glob(f"{UNITS}/*.timer.j2"))

MARK = "# The baseline of our services (docs/file-sets.md, Services); less where a line says why.\n"
# In the order in which they stand in each unit.
BASELINE = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "RestrictAddressFamilies": "AF_UNIX",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": "@system-service",
    "SystemCallErrorNumber": "EPERM",
    "UMask": "0077",
}
# Without CAP_SYS_ADMIN, as for any unit with User= and for all units in a container, these imply NoNewPrivileges.
IMPLY_NO_NEW_PRIVILEGES = set(BASELINE) - {"CapabilityBoundingSet", "UMask"}
# These need a mount namespace, which a container may refuse: no part of the baseline, and last where a unit has them.
MOUNTS = [
    "PrivateTmp",
    "ProtectHome",
    "ProtectSystem",
    "ProtectControlGroups",
    "ProtectProc",
    "PrivateMounts",
    "DevicePolicy",
]
TIMES = [
    "OnCalendar",
    "OnActiveSec",
    "OnBootSec",
    "OnUnitActiveSec",
    "OnUnitInactiveSec",
    "RandomizedDelaySec",
    "AccuracySec",
    "Persistent",
]

every_service = pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
every_timer = pytest.mark.parametrize("path", TIMERS, ids=lambda path: path.name)


def directives(text: str) -> list[tuple[str, str]]:
    """[(name, value)] in the order of the text."""
    return re.findall(r"^([A-Z]\w+)=(.*)$", text, re.M)


def reasons(text: str) -> dict[str, str]:
    """{option: reason} of comments such as "# NoNewPrivileges=no: sendmail ..." and "# UMask: others read ..."."""
    option = r"[A-Z]\w+(?:=no)?"
    found = re.findall(rf"^# ({option}(?:, {option})*): (\S+ .+)$", text, re.M)
    return {name.removesuffix("=no"): why for names, why in found for name in names.split(", ")}


def deviations(text: str) -> dict[str, str | None]:
    """{option: value} where a unit leaves the baseline; None for an option that it does not have."""
    found = directives(text)
    return {
        name: dict(found).get(name)
        for name, value in BASELINE.items()
        if [there for option, there in found if option == name] != [value]
    }


def test_all_services_are_looked_at():
    assert len(SERVICES) >= 22
    assert len(TIMERS) >= 13


@every_service
def test_a_service_has_the_baseline_or_says_why_not(path):
    text = path.read_text()
    assert text.count(MARK) == 1
    sandbox = text.partition(MARK)[2]
    given = reasons(sandbox)
    less = deviations(text)
    assert set(less) == set(given) & set(BASELINE), "an option with another value needs a reason, and no other does"
    for name, value in less.items():
        assert (value is None) == (f"{name}=no" in sandbox), f"{name}=no stands for an option that is left out"


@every_service
def test_the_baseline_stands_last_and_in_one_order(path):
    sandbox = path.read_text().partition(MARK)[2].partition("\n[Install]\n")[0]
    names = list(dict.fromkeys(name for name, _ in directives(sandbox)))
    assert names == [name for name in [*BASELINE, *MOUNTS] if name in names]


@every_service
def test_a_unit_that_needs_setgid_programs_has_nothing_that_stops_them(path):
    """sendmail's setgid postdrop fails, or hangs, under each of these options."""
    less = deviations(path.read_text())
    if "NoNewPrivileges" in less:
        assert {name for name, value in less.items() if value is None} == IMPLY_NO_NEW_PRIVILEGES


@every_service
def test_a_service_is_exposed_no_more_than_the_table_allows(path, tmp_path):
    """systemd-analyze's own figure, of the unit without what Jinja decides: its sandbox is literal."""
    text = re.sub(r"^\{%.*%\}\n", "", path.read_text(), flags=re.M)
    kept = [
        x for x in text.splitlines() if re.match(rf"({'|'.join([*BASELINE, *MOUNTS])}|User|SupplementaryGroups)=", x)
    ]
    unit = tmp_path / path.name.replace("@", "@x").removesuffix(".j2")
    unit.write_text("\n".join(["[Service]", "ExecStart=/bin/true", *kept, ""]).replace("{{ item.user }}", "nobody"))
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    (figure,) = overall(subprocess.run(command, capture_output=True, text=True, timeout=60).stdout).values()
    assert figure <= limit(unit.name)


def test_the_table_of_exceptions_says_why_of_each():
    table = exceptions()
    assert len(table) >= 8
    for pattern, (most, why) in table.items():
        assert LIMIT < most <= 10, pattern
        assert len(why.split()) >= 4, pattern


@every_service
def test_no_service_is_given_capabilities(path):
    """A bounding set only takes away; ambient ones would make a user's program more than that user."""
    assert "AmbientCapabilities" not in dict(directives(path.read_text()))


# Daemons that write no file: what they say goes to the journal, to a socket or to who asks.
WRITE_NOTHING = {"mail-metrics.service.j2", "mtail.service.d", "prometheus-node-exporter.service.d"}


def test_a_unit_that_may_write_nowhere_names_where_it_writes():
    """ProtectSystem=strict closes /run and /var, too; a container without mount namespaces passes over it."""
    units = {
        path.name if path in SERVICES else path.parent.name: dict(directives(path.read_text()))
        for path in [*SERVICES, *ROOT.glob(f"{UNITS}/*.service.d/*.conf.j2")]
    }
    strict = {name: unit for name, unit in units.items() if unit.get("ProtectSystem") == "strict"}
    assert len(strict) >= 5
    writable = {"ReadWritePaths", "RuntimeDirectory", "StateDirectory", "LogsDirectory", "CacheDirectory"}
    assert {name for name, unit in strict.items() if not writable & set(unit)} == WRITE_NOTHING


@every_service
def test_what_runs_for_long_comes_back(path):
    """A service of type oneshot has its timer; any other one restarts, or is started again by its socket."""
    text = path.read_text()
    unit = dict(directives(text))
    if unit.get("Type") == "oneshot":
        assert "Restart" not in unit
        return
    assert unit["StartLimitIntervalSec"] == "0"
    if "Restart" in reasons(text):
        name = path.name.removesuffix(".service.j2")
        assert "Restart" not in unit
        assert unit["Requires"] == f"{name}.socket"
        assert path.with_name(f"{name}.socket.j2").exists()
    else:
        assert (unit["Restart"], unit["RestartSec"]) == ("always", "1")


@every_service
def test_a_service_has_its_sections_in_order(path):
    text = path.read_text()
    sections = re.findall(r"^\[(\w+)\]$", text, re.M)
    assert sections in (["Unit", "Service"], ["Unit", "Service", "Install"])
    assert text.partition("[Unit]\n")[2].startswith("Description=")
    service = [name for name, _ in directives(text.partition("[Service]\n")[2])]
    first = ["Type", "RemainAfterExit", "User", "SupplementaryGroups", "Environment", "ExecStartPre", "ExecStart"]
    begin = [name for name in service if name in first]
    assert service[: len(begin)] == begin
    assert list(dict.fromkeys(begin)) == [name for name in first if name in begin]


@every_timer
def test_a_timer_runs_in_every_hour_of_the_year(path):
    """In local time all timers rest for an hour in autumn, and a run of the hour left out in spring is not made up."""
    (calendar,) = re.findall(r"^OnCalendar=(.*)$", path.read_text(), re.M) or [""]
    if variable := re.fullmatch(r"\{\{ (\w+) \}\}", calendar):
        calendar = yaml.safe_load((path.parents[4] / "defaults/main.yml").read_text())[variable[1]]
    assert not calendar or calendar == "{{ item.on_calendar }}" or calendar.endswith(" UTC")


def test_jobs_of_the_crm_run_in_every_hour_of_the_year():
    jobs = yaml.safe_load((ROOT / "roles/civicrm_int/defaults/main.yml").read_text())["civicrm_int_jobs"]
    assert [job for job in jobs if not job["on_calendar"].endswith(" UTC")] == []


@every_timer
def test_a_timer_has_one_form(path):
    text = path.read_text()
    assert re.findall(r"^\[(\w+)\]$", text, re.M) == ["Unit", "Timer", "Install"]
    names = [name for name, _ in directives(text.partition("[Timer]\n")[2].partition("[Install]\n")[0])]
    assert names == [name for name in TIMES if name in names]
    assert names[0].startswith("On")
    assert "AccuracySec" in names
    assert text.endswith("\n[Install]\nWantedBy=timers.target\n")
