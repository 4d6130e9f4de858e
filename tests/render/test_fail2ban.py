"""Jails as their operator gets them."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess

import pytest

MARKER = {
    "name": "login",
    "log_file": "/var/log/x.log",
    "pattern": "^ <F-ID><ADDR>=[a-z]{1,9}</F-ID>$",
    "max_failures": 10,
    "find_seconds": 600,
    "refuse_seconds": 300,
    "marker_dir": "/run/x",
    "unless_command": "/usr/local/sbin/known --minutes 60",
}
PACKETS = {k: v for k, v in MARKER.items() if k not in ("marker_dir", "unless_command")} | {
    "name": "flood",
    "ports": [80, 443],
}


@pytest.fixture
def jails(render):
    text = render(
        "fail2ban",
        "etc/fail2ban/jail.d/civicrm.local",
        fail2ban_jails=[MARKER, PACKETS],
        fail2ban_ignore_addresses=["192.0.2.0/24", "2001:db8::1"],
    )
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    return parser


def test_each_jail_has_its_own_limits(jails):
    login = jails["civicrm-login"]
    assert (login["maxretry"], login["findtime"], login["bantime"]) == ("10", "600", "300")
    assert login["logpath"] == "/var/log/x.log"
    assert login["enabled"] == "true"


def test_a_jail_marks_or_drops(jails):
    assert jails["civicrm-login"]["action"] == 'civicrm-marker[dir="/run/x"]'
    assert jails["civicrm-flood"]["action"] == 'civicrm-drop[type=multiport, port="80,443"]'


def test_colleagues_are_asked_for_where_a_command_is_given(jails):
    """Cached for seconds, as it is asked for every line of a flood."""
    assert jails["civicrm-login"]["ignorecommand"] == "/usr/local/sbin/known --minutes 60 <ip>"
    assert 'key="<ip>"' in jails["civicrm-login"]["ignorecache"]
    assert "ignorecommand" not in jails["civicrm-flood"]


def test_monitoring_and_the_admin_are_never_refused(jails):
    assert jails["DEFAULT"]["ignoreip"].split() == ["127.0.0.0/8", "::1", "192.0.2.0/24", "2001:db8::1"]
    assert jails["sshd"]["enabled"] == "false"


def test_no_name_in_the_dns_decides(jails):
    assert jails["DEFAULT"]["usedns"] == "no"


def test_a_filter_counts_what_its_pattern_says_after_the_date(render):
    text = render("fail2ban", "etc/fail2ban/filter.d/jail.conf", item=MARKER)
    assert "failregex = ^ <F-ID><ADDR>=[a-z]{1,9}</F-ID>$\n" in text
    assert "datepattern = ^%%Y-%%m-%%dT%%H:%%M:%%S%%z\n" in text


def test_markers_of_a_killed_fail2ban_do_not_stay(render):
    text = render("fail2ban", "etc/fail2ban/action.d/civicrm-marker.conf")
    start = re.search(r"actionstart = (.*\n.*)", text)[1]
    assert 'install -d -m 0755 "<dir>"' in start
    assert 'find "<dir>" -type f -delete' in start
    assert 'actionban = touch "<dir>/<fid>"' in text


def drop_rule(render, family: str, *ignored: str) -> str:
    """Return the rule that nft gets when somebody is dropped: fail2ban puts values into it, and a shell runs nft."""
    text = render("fail2ban", "etc/fail2ban/action.d/civicrm-drop.conf", fail2ban_ignore_addresses=list(ignored))
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    values = {"addr_family": "ip6" if family == "inet6" else "ip", "addr_set": "refused"} | dict(parser["Init"])
    values |= dict(parser["Init?family=inet6"]) if family == "inet6" else {}
    rule = parser["Definition"]["rule_stat"].replace("%(match)s", r"tcp dport \{ 80,443 \}")
    rule = re.sub(r"<(\w+)>", lambda name: values[name[1]], rule)
    shell = ["/bin/sh", "-c", f"echo add rule inet f2b-table f2b-chain {rule}"]
    return subprocess.run(shell, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("family", "ignored", "match"),
    [
        ("inet4", ["192.0.2.1", "2001:db8:1:2::13"], "ip saddr @refused"),
        ("inet6", ["192.0.2.1"], "ip6 saddr & ffff:ffff:ffff:ffff:: @refused"),
        (
            "inet6",
            ["192.0.2.1", "2001:db8:1:2::13", "2001:db8:e::/48", "2001:db8:e:1::5"],
            "ip6 saddr != 2001:db8:1:2::13 ip6 saddr != 2001:db8:e::/48 ip6 saddr != 2001:db8:e:1::5 "
            "ip6 saddr & ffff:ffff:ffff:ffff:: @refused",
        ),
    ],
    ids=["IPv4", "IPv6", "IPv6 but for the admin"],
)
def test_who_is_never_refused_is_not_dropped_with_its_network(render, family, ignored, match):
    """The rule as the shell hands it to nft, which reads it: nothing is loaded."""
    rule = drop_rule(render, family, *ignored)
    assert rule == f"add rule inet f2b-table f2b-chain tcp dport {{ 80,443 }} {match} drop"
    table = f"""table inet f2b-table {{
        set refused {{ type {"ipv6_addr" if family == "inet6" else "ipv4_addr"}; }}
        chain f2b-chain {{ type filter hook input priority -1; }}
    }}
    {rule}
    """
    nft = shutil.which("nft") or "/usr/sbin/nft"
    done = subprocess.run([nft, "--check", "--file", "-"], input=table, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
