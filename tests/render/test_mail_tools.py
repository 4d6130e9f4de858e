"""The return path's settings and units as their operator gets them."""

from __future__ import annotations

import configparser
import json

import pytest

from civicrm_tools.mail import provider_table, providers
from civicrm_tools.mail.refusals import Limits
from civicrm_tools.mail.return_path import load_settings

SITES = [
    {"name": "crm", "localpart": "civicrm+", "domains": ["crm.example.org"], "maildir": "/srv/mail/crm/Maildir"},
    {
        "name": "old",
        "localpart": "news-",
        "separator": "-",
        "domains": ["old.example.org"],
        "maildir": "/srv/mail/old/Maildir",
    },
]


@pytest.fixture
def tools(render):
    def _render(template: str, **variables):
        given = {
            "mail_tools_hostname": "int.example.org",
            "mail_tools_sites": SITES,
            "mail_tools_bounce_breaker_pause_command": ["postfix-queue", "hold", "--provider", "{provider}"],
        }
        return render("mail_tools", template, **given | variables)

    return _render


def unit(text: str) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.optionxform = str
    parsed.read_string(text)
    return parsed


def test_the_commands_read_what_the_role_writes(tools, tmp_path):
    """One file for three commands: a wrong key would silently be a default."""
    (tmp_path / "x.json").write_text(
        tools("etc/mail-tools/return-path.json", mail_tools_bounce_breaker_storm_messages=33)
    )
    settings = load_settings(tmp_path / "x.json")
    assert [site.name for site in settings.sites] == ["crm", "old"]
    assert settings.sites[0].parse("civicrm+b.1.2.26d7b951968ebe4b@crm.example.org")
    assert settings.sites[1].parse("news-b-1-2-26d7b951968ebe4b@old.example.org")
    assert (settings.providers_file, settings.hosted_file) == (provider_table.TABLE, providers.HOSTED)
    limits = Limits.of(settings.section("bounce_breaker"))
    assert (limits.mode, limits.storm_messages, limits.storm_share) == ("shadow", 33, 0.5)
    assert limits.pause_command[-1] == "{provider}"
    assert limits.pause("x", ["a.example", "b.example"])[2:4] == ["--domain=a.example", "--domain=b.example"]
    known = json.loads((tmp_path / "x.json").read_text())["bounce_breaker"]
    assert set(known) == {*Limits.__dataclass_fields__, "window_seconds", "policy_texts"} - {"window", "policy"}


def test_opt_outs_are_sent_only_when_told(tools):
    """Dry run is the default, for the unit too."""
    command = unit(tools("etc/systemd/system/abuse-report.service"))["Service"]["ExecStart"]
    assert "--apply" not in command
    told = unit(tools("etc/systemd/system/abuse-report.service", mail_tools_abuse_report_apply=True))
    assert "--apply" in told["Service"]["ExecStart"]


@pytest.mark.parametrize("name", ["abuse-report", "bounce-breaker"])
def test_units_that_call_sendmail_do_not_forbid_setgid(tools, name):
    """With NoNewPrivileges sendmail neither fails nor ends."""
    service = unit(tools(f"etc/systemd/system/{name}.service"))["Service"]
    implying = {
        "NoNewPrivileges",
        "SystemCallFilter",
        "RestrictAddressFamilies",
        "PrivateDevices",
        "MemoryDenyWriteExecute",
    }
    implying |= {
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "RestrictNamespaces",
        "RestrictSUIDSGID",
        "LockPersonality",
    }
    assert not implying & set(service)


def test_reports_are_read_by_a_user_that_is_not_root(tools):
    """Strangers write them."""
    assert unit(tools("etc/systemd/system/abuse-report.service"))["Service"]["User"] == "abuse-report"
