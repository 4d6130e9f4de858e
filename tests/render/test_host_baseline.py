"""What every host has, as its operator gets it: ssh by key, time, logs, mail to a human."""

from __future__ import annotations

import re

import pytest


@pytest.fixture
def baseline(render):
    """Render a template of the role on a null client."""

    def _render(template: str, **variables) -> str:
        return render(
            "host_baseline",
            template,
            **{
                "inventory_hostname": "crm-ext-01",
                "host_baseline_domain": "example.org",
                "host_baseline_admin_address": "human@example.net",
                "host_baseline_null_client_relay": "[10.77.0.11]",
            }
            | variables,
        )

    return _render


def directives(text: str, separator: str = "=") -> dict[str, str]:
    pairs = (line.split(separator, 1) for line in text.splitlines() if separator in line and line[0] not in "#/")
    return {name.strip(): value.strip() for name, value in pairs}


def test_nobody_logs_in_with_a_password(baseline):
    sshd = directives(baseline("etc/ssh/sshd_config.d/10-civicrm.conf"), " ")
    assert sshd["PasswordAuthentication"] == "no"
    assert sshd["KbdInteractiveAuthentication"] == "no"
    assert sshd["PermitRootLogin"] == "prohibit-password"


def test_ssh_takes_away_from_what_openssh_offers(baseline):
    """A list of our own would keep out what a newer OpenSSH brings, and stop an older one that lacks a name of it."""
    sshd = directives(baseline("etc/ssh/sshd_config.d/10-civicrm.conf"), " ")
    assert all(sshd[name].startswith("-") for name in ("KexAlgorithms", "HostKeyAlgorithms", "MACs"))


def test_a_null_client_takes_mail_from_its_own_programs_and_keeps_none(baseline):
    main = directives(baseline("etc/postfix/null_client.cf"))
    assert main["inet_interfaces"] == "loopback-only"
    assert main["mydestination"] == ""
    assert main["local_transport"].startswith("error:")
    assert main["relayhost"] == "[10.77.0.11]"
    assert main["authorized_submit_users"] == "root"
    assert main["authorized_mailq_users"] == main["authorized_flush_users"] == "root"
    assert main["myhostname"] == "crm-ext-01.example.org"


def test_a_null_client_delivers_nothing_on_its_own_host(baseline):
    """Without the services there is nothing that could."""
    lines = [x.split() for x in baseline("etc/postfix/master.cf").splitlines() if x and not x.startswith("#")]
    assert all(len(line) == 8 for line in lines)
    services = {line[0] for line in lines}
    assert {"pickup", "cleanup", "qmgr", "smtp", "error", "bounce"} <= services
    assert not {"local", "virtual", "lmtp"} & services
    # A port would take mail of any user (N46).
    assert not [line for line in lines if line[1] == "inet"]


@pytest.mark.parametrize(("item", "pid_file"), [("rsyslog", False), ("postfix", False), ("postfix@-", True)])
def test_a_daemon_comes_back_whatever_ended_it_and_as_often(baseline, item, pid_file):
    unit = directives(baseline("etc/systemd/system/daemon.service.d/civicrm.conf", item=item))
    assert (unit["Restart"], unit["RestartSec"], unit["StartLimitIntervalSec"]) == ("always", "1", "0")
    assert ("PIDFile" in unit) is pid_file


def test_an_interrupted_set_is_completed_before_any_daemon_reads_it(baseline):
    """The link's guard and the firewall start earlier than other daemons: they are named."""
    unit = baseline("etc/systemd/system/file-sets.service")
    before = set(re.search(r"^Before=(sysinit.*)$", unit, re.MULTILINE)[1].split())
    assert {"sysinit.target", "nftables.service", "ipsec-guard.service", "ipsec-inner-addresses.service"} <= before
    assert "DefaultDependencies=no\n" in unit
    assert "ConditionDirectoryNotEmpty=/var/lib/file-sets/journals\n" in unit


@pytest.mark.parametrize(
    ("address", "human"),
    [
        ("root@crm-ext-01.example.org", True),
        ("postmaster@crm-ext-01.example.org", True),
        ("someone@example.org", False),
        ("root@crm-ext-01xexample.org", False),
        ("root@crm-ext-01.example.org.evil.example", False),
    ],
)
def test_mail_to_the_hosts_own_names_reaches_the_human(baseline, address, human):
    lines = [x for x in baseline("etc/postfix/recipients").splitlines() if x and not x.startswith("#")]
    (line,) = lines
    pattern, target = re.fullmatch(r"/(.*)/ (\S+)", line).groups()
    assert target == "human@example.net"
    assert bool(re.search(pattern, address)) is human


def test_the_journal_loses_no_line_of_a_newsletter(baseline):
    """The default drops all after 10,000 lines in 30 s, and with them the counters of mail."""
    journal = directives(baseline("etc/systemd/journald.conf.d/civicrm.conf", host_baseline_journal_max_mb=99))
    assert journal["RateLimitBurst"] == "0"
    assert journal["SystemMaxUse"] == "99M"
    assert journal["Storage"] == "persistent"


def test_time_comes_from_debians_pool_unless_servers_are_given(baseline):
    template = "etc/systemd/timesyncd.conf.d/civicrm.conf"
    assert "NTP" not in directives(baseline(template))
    given = baseline(template, host_baseline_time_servers=["ntp1.example.org", "ntp2.example.org"])
    assert directives(given)["NTP"] == "ntp1.example.org ntp2.example.org"


@pytest.mark.parametrize(("enabled", "value"), [(True, "1"), (False, "0")])
def test_security_updates_come_by_night_unless_switched_off(baseline, enabled, value):
    text = baseline("etc/apt/apt.conf.d/52civicrm", host_baseline_unattended_upgrades_enabled=enabled)
    assert f'APT::Periodic::Unattended-Upgrade "{value}";' in text
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in text
    # apt reads // comments; a # at the head of a line is a directive to it.
    assert not [line for line in text.splitlines() if line.startswith("#")]


def test_only_the_mail_daemons_write_the_mail_log(baseline):
    """Any user may say that it is postfix/smtp; rsyslog asks the kernel, before any of Debian's rules (N46)."""
    main = baseline("etc/rsyslog.conf")
    assert 'SysSock.Annotate="on" SysSock.ParseTrusted="on"' in main
    assert main.index("$IncludeConfig /etc/rsyslog.d/*.conf") < main.index("/var/log/mail.log")
    text = baseline("etc/rsyslog.d/10-mail-log.conf", host_baseline_mail_log_users=["root", "mail-policy"])
    rule = text.replace("@uid(root)@", "0").replace("@uid(mail-policy)@", "984")
    assert 'if $syslogfacility-text == "mail" and not ($!uid == ["0", "984"]) then {' in rule
    assert rule.rstrip().endswith("stop\n}")
    assert "/var/log/mail-others.log\n" in baseline("etc/logrotate.d/rsyslog")


def test_logs_are_kept_as_long_as_asked_and_stay_readable_for_adm_alone(baseline):
    text = baseline("etc/logrotate.d/rsyslog", host_baseline_log_retention_days=30)
    assert re.search(r"^\s*rotate 30$", text, re.MULTILINE)
    assert re.search(r"^\s*daily$", text, re.MULTILINE)
    assert re.search(r"^\s*create 0640 root adm$", text, re.MULTILINE)
    assert "/var/log/mail.log\n" in text
    # rsyslog must let go of the old file, or mtail reads one that no longer grows.
    assert "/usr/lib/rsyslog/rsyslog-rotate" in text
