"""Jails as their operator gets them."""

from __future__ import annotations

import configparser
import re

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
