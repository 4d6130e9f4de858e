"""The hosts themselves: what runs, what is open, who hears of trouble."""

import json
import subprocess

import pytest


@pytest.mark.parametrize("name", ["crm_int", "crm_ext", "ops", "world"])
def test_every_unit_of_every_host_runs(request, eventually, name):
    """A host with a failed unit is a host somebody must look at."""
    host = request.getfixturevalue(name)
    eventually(lambda: host.run("systemctl is-system-running").stdout.strip() in ("running", "degraded"), within=120)
    # A job whose database another test killed is made good by its next run, five minutes later at most.
    eventually(lambda: host.check_output("systemctl list-units --failed --plain --no-legend") == "", within=330)


@pytest.mark.parametrize("name", ["crm_int", "crm_ext"])
def test_names_are_resolved_by_the_hosts_own_resolver(request, name):
    """No other program's queries leave the host."""
    host = request.getfixturevalue(name)
    assert "nameserver 127.0.0.1" in host.file("/etc/resolv.conf").content_string
    assert host.addr("mx.accepting.test").ipv4_addresses == ["198.51.100.21"]
    listening = host.check_output("ss -Hlnut 'sport = :53'")
    assert all(line.split()[4].startswith(("127.", "[::1]")) for line in listening.splitlines()), listening


def test_all_four_hosts_together_need_less_than_3_gb(crm_int, crm_ext, ops, world):
    """The lab must fit on a small machine. Resident memory counts shared pages twice: an upper bound."""
    used = [sum(map(int, host.check_output("ps -eo rss=").split())) for host in (crm_int, crm_ext, ops, world)]
    assert sum(used) / 1024 < 3000, used


@pytest.mark.parametrize("name", ["crm_int", "crm_ext"])
def test_man_finds_a_page_of_every_command(request, name):
    """An operator who was never told of a command or an option finds it on the host, and man can print it."""
    host = request.getfixturevalue(name)
    find = "find /usr/local -lname '*/civicrm-tools/bin/civicrm-tools' -printf '%f\\n'"
    commands = host.check_output(find).split()
    assert len(commands) > 5
    for command in commands:
        page = host.check_output(f"realpath $(man -w {command})")  # Debian's /usr/local/man is a link
        assert page == f"/usr/local/share/man/man8/{command}.8"
        shown = host.run(f"MANWIDTH=100 LC_ALL=C.UTF-8 man --warnings -l {page}")
        assert (shown.rc, shown.stderr) == (0, "")
        assert f"{command} - " in " ".join(shown.stdout.split())


@pytest.mark.mutates
def test_mail_cannot_leave_the_lab(world):
    """Even on a machine with internet. The positive control: another port of the same outside address answers,
    and so does port 25 once the rule is gone."""
    script = r"""
    set -eu
    cleanup() { ip netns delete outside 2>/dev/null || :; ip link delete lab-outside 2>/dev/null || :; }
    trap cleanup EXIT; cleanup
    ip netns add outside
    ip link add lab-outside type veth peer name eth0 netns outside
    ip address add 203.0.113.1/24 dev lab-outside; ip link set lab-outside up
    ip -n outside address add 203.0.113.25/24 dev eth0
    ip -n outside link set eth0 up; ip -n outside link set lo up
    ip -n outside route add default via 203.0.113.1
    for port in 25 8025; do
        ip netns exec outside timeout 60 python3 -c '
import socket, sys
s = socket.create_server(("203.0.113.25", int(sys.argv[1])))
while True: s.accept()[0].close()' $port &
    done
    for _ in $(seq 50); do [ "$(ip netns exec outside ss -Hlnt | wc -l)" = 2 ] && break; sleep 0.1; done
    try() { podman exec world nc -z -w 3 203.0.113.25 $1 && echo "$2 open" || echo "$2 closed"; }
    try 8025 other; try 25 mail
    nft list chain inet civicrm_lab forward | grep -o 'packets [0-9]*'
    rules=$(nft list table inet civicrm_lab); nft delete table inet civicrm_lab
    try 25 without-rule
    echo "$rules" | nft -f -
    kill $(jobs -p) 2>/dev/null || :
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    other, mail, counter, without = done.stdout.splitlines()
    assert (other, mail, without) == ("other open", "mail closed", "without-rule open")
    assert int(counter.split()[1]) > 0


@pytest.mark.mutates
@pytest.mark.parametrize(("name", "user"), [("crm_int", "root"), ("crm_ext", "root")])
def test_system_mail_reaches_a_human(request, world, eventually, name, user):
    """cron, unattended upgrades and systemd write to root; a person must read it, from the null client too."""
    host = request.getfixturevalue(name)
    marker = f"acceptance {name} {user} {host.check_output('date +%s%N')}"
    host.check_output(f"printf 'Subject: {marker}\\n\\nhello\\n' | runuser -u {user} -- /usr/sbin/sendmail {user}")

    def arrived():
        ledger = json.loads(world.check_output("fake-provider ledger --recipient oncall@accepting.test") or "[]")
        return any(marker in world.file(entry["message"]).content_string for entry in ledger if entry["message"])

    eventually(arrived, within=60)


def test_logs_are_kept_for_14_days_and_readable_by_adm(crm_int):
    """Whoever is paged must be able to read the mail log without being root."""
    log = crm_int.file("/var/log/mail.log")
    assert (log.group, log.mode) == ("adm", 0o640)
    assert "rotate 14" in crm_int.file("/etc/logrotate.d/rsyslog").content_string


@pytest.mark.parametrize("name", ["crm_int", "crm_ext"])
def test_nobody_logs_in_with_a_password(request, name):
    """Keys only, as sshd itself understands its configuration."""
    effective = request.getfixturevalue(name).check_output("sshd -T").lower()
    assert "passwordauthentication no" in effective
    assert "kbdinteractiveauthentication no" in effective
