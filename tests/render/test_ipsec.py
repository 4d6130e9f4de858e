"""The private link as its operator gets it, seen from both of its ends."""

from __future__ import annotations

import json
import re

import pytest

INT = {
    "name": "crm-int-01",
    "id": "crm-int-01.example.org",
    "outer_address": "192.0.2.11",
    "inner_ipv4": "10.77.0.11",
    "inner_ipv6": "fd77::11",
}
EXT = {
    "name": "crm-ext-01",
    "id": "crm-ext-01.example.org",
    "outer_address": "192.0.2.12",
    "inner_ipv4": "10.77.0.12",
    "inner_ipv6": "fd77::12",
}
PPK = "c0ffee" * 10 + "c0ff"
PSK = "ab" * 32


@pytest.fixture
def link(render):
    """Render a template of the role on one host; `peer` is whom a connection is about."""

    def _render(template: str, here: dict = INT, peer: dict = EXT, **variables) -> str:
        return render(
            "ipsec",
            template,
            **{
                "item": peer,
                "ipsec_endpoints": [INT, EXT],
                "ipsec_local_name": here["name"],
                "ipsec_ppks": {"crm-ext-01--crm-int-01": PPK},
                "ipsec_psks": {"crm-ext-01--crm-int-01": PSK},
            }
            | variables,
        )

    return _render


def settings(text: str, block: str) -> dict[str, str]:
    """The `key = value` lines of the innermost block of that name."""
    body = re.search(rf"^\s*{re.escape(block)} {{\n([^{{}}]*)}}", text, re.MULTILINE)[1]
    return dict(re.findall(r"^\s*([\w-]+) = (.*)$", body, re.MULTILINE))


PEER = "etc/swanctl/conf.d/peer.conf"


def test_the_two_ends_mirror_each_other(link):
    """What one calls local the other calls remote, or no CHILD_SA is ever agreed on."""
    int_side, ext_side = link(PEER), link(PEER, here=EXT, peer=INT)
    for mine, theirs in (("local", "remote"), ("remote", "local")):
        assert settings(int_side, mine)["id"] == settings(ext_side, theirs)["id"]
        outer = [re.search(rf"{side}_addrs = (.*)", text)[1] for side, text in ((mine, int_side), (theirs, ext_side))]
        assert outer[0] == outer[1]
        child_int, child_ext = settings(int_side, "crm-ext-01"), settings(ext_side, "crm-int-01")
        assert child_int[f"{mine}_ts"] == child_ext[f"{theirs}_ts"]


def test_the_tunnel_carries_the_inner_addresses_of_both_families_and_nothing_else(link):
    child = settings(link(PEER), "crm-ext-01")
    assert child["mode"] == "tunnel"
    assert child["local_ts"] == "10.77.0.11/32,fd77::11/128"
    assert child["remote_ts"] == "10.77.0.12/32,fd77::12/128"


def test_each_end_proves_itself_with_a_certificate_of_the_links_own_ca(link):
    text = link(PEER)
    for side in ("local", "remote"):
        assert settings(text, side)["auth"] == "pubkey"
    assert settings(text, "remote")["cacerts"] == "civicrm-ca.pem"
    assert settings(text, "remote")["id"] == "crm-ext-01.example.org"
    assert not re.search(r"^\s*(auth = psk|ike-)", text, re.MULTILINE)
    assert PSK not in text


def test_with_psks_each_end_has_the_same_key_for_the_same_two_identities(link):
    """The other choice: no certificate is asked for, and the PPK stays."""
    sides = [link(PEER, ipsec_authentication="psk"), link(PEER, here=EXT, peer=INT, ipsec_authentication="psk")]
    for text, peer in zip(sides, ("crm-ext-01", "crm-int-01"), strict=True):
        assert settings(text, "local")["auth"] == settings(text, "remote")["auth"] == "psk"
        assert "cacerts" not in text
        secret = settings(text, f"ike-{peer}")
        assert secret["secret"] == f"0x{PSK}"
        assert {value for key, value in secret.items() if key.startswith("id")} == {INT["id"], EXT["id"]}
        assert re.search(r"^\s*ppk_required = yes$", text, re.MULTILINE)


def test_a_new_key_changes_no_connection(link):
    """charon closes the SAs of a connection that changed; a rotation must not (P17)."""

    def connections(**variables):
        return link(PEER, **variables).split("\nsecrets {")[0]

    for kind in ("certificate", "psk"):
        new = {"ipsec_ppks": {"crm-ext-01--crm-int-01": "11" * 32}, "ipsec_psks": {"crm-ext-01--crm-int-01": "22" * 32}}
        assert connections(ipsec_authentication=kind) == connections(ipsec_authentication=kind, **new)
    assert not re.search(r"^\s*(certs|pubkeys) =", link(PEER), re.MULTILINE)


def test_a_new_sa_is_made_before_the_old_one_goes(link):
    text = link("etc/strongswan.d/civicrm.conf", __ipsec_user_path=True)
    assert re.search(r"^\s*make_before_break = yes$", text, re.MULTILINE)


def test_without_the_ppk_there_is_no_tunnel_and_both_ends_name_the_same_one(link):
    sides = [link(PEER), link(PEER, here=EXT, peer=INT)]
    for text in sides:
        assert re.search(r"^\s*ppk_required = yes$", text, re.MULTILINE)
        assert text.count("crm-ext-01--crm-int-01") == 2  # asked for by the connection, given by the secret
        assert text.count(f"secret = 0x{PPK}") == 1
    assert settings(sides[0], "ppk-crm-ext-01") == settings(sides[1], "ppk-crm-int-01")


def test_a_lost_link_heals_from_either_end(link):
    """Whoever comes back first starts it; until then the trap keeps inner traffic from leaving in clear."""
    child = settings(link(PEER), "crm-ext-01")
    assert child["start_action"] == "trap|start"
    assert child["close_action"] == "trap"
    assert child["dpd_action"] == "restart"
    assert re.search(r"^\s*dpd_delay = 7s$", link(PEER, ipsec_dpd_delay_seconds=7), re.MULTILINE)


def test_only_ikev2_with_authenticated_encryption(link):
    text = link(PEER)
    assert re.search(r"^\s*version = 2$", text, re.MULTILINE)
    for proposal in re.findall(r"proposals = (.*)", text):
        assert re.fullmatch(r"aes256gcm16(-\w+)*-x25519", proposal)
    assert len(re.findall(r"proposals = ", text)) == 2


def test_esp_goes_in_udp_in_both_data_paths(link):
    """One firewall rule, and NAT does no harm."""
    assert re.search(r"^\s*encap = yes$", link(PEER), re.MULTILINE)


@pytest.mark.parametrize(("user_path", "load"), [(True, "yes"), (False, "no")])
def test_one_of_kernel_and_charon_encrypts_never_both(link, user_path, load):
    text = link("etc/strongswan.d/civicrm.conf", __ipsec_user_path=user_path)
    assert settings(text, "kernel-libipsec") == {"load": load}


UNIT = "etc/systemd/system/ipsec-inner-addresses.service"


def test_inner_addresses_are_there_before_what_binds_to_them(link):
    """After a reboot too: services order themselves after network.target."""
    text = link(UNIT)
    assert re.search(r"^Before=.*\bnetwork\.target\b", text, re.MULTILINE)
    assert re.search(r"^WantedBy=.*\bmulti-user\.target\b", text, re.MULTILINE)
    assert "DefaultDependencies=no" in text
    assert "RemainAfterExit=yes" in text


def test_inner_addresses_are_this_hosts_own(link):
    for here in (INT, EXT):
        started = re.findall(r"^ExecStart=.* replace (\S+) dev lo", link(UNIT, here=here), re.MULTILINE)
        assert started == [f"{here['inner_ipv4']}/32", f"{here['inner_ipv6']}/128"]
    # Duplicate address detection would keep a service from binding for a second.
    assert re.search(r"fd77::11/128 dev lo nodad$", link(UNIT), re.MULTILINE)


def test_inner_addresses_wait_for_the_guard_and_do_not_fall_with_it(link):
    """A restart of the guard loads it anew; Requires= would take the addresses from lo meanwhile."""
    text = link(UNIT)
    assert "AssertPathExists=/run/ipsec-guard.loaded" in text
    assert re.search(r"^After=ipsec-guard.service$", text, re.MULTILINE)
    assert not re.search(r"^(Requires|BindsTo|PartOf)=", text, re.MULTILINE)


GUARD = "etc/ipsec-guard.nft"
WITH_PORTS = [INT | {"protected_ports": [443, 6379]}, EXT]


def chain(text: str, name: str) -> list[str]:
    """Rules of a chain, without comments and empty lines."""
    body = re.search(rf"chain {name} {{\n(.*?)\n    }}", text, re.DOTALL)[1]
    return [line.strip() for line in body.splitlines() if line.strip() and not line.strip().startswith("#")][1:]


def test_the_guard_is_loaded_in_one_transaction(link):
    """Created, deleted, created: there is no moment without it, and no second copy of a rule."""
    lines = [line for line in link(GUARD).splitlines() if line and not line.startswith("#")]
    assert lines[:3] == ["table inet ipsec_guard", "delete table inet ipsec_guard", "table inet ipsec_guard {"]
    assert "flush ruleset" not in link(GUARD)


@pytest.mark.parametrize(("name", "device", "inside"), [("inbound", "iif", "meta"), ("outbound", "oif", "rt")])
def test_what_is_accepted_came_out_of_the_tunnel_or_goes_into_it(link, name, device, inside):
    """lo first, as a host reaches itself that way; then both data paths; all else that is inner is dropped."""
    rules = chain(link(GUARD), name)
    assert rules[:3] == [f"{device} lo accept", f"{inside} ipsec exists accept", f'{device}name "ipsec0" accept']
    assert all(re.search(r" counter name \w+ goto refused$", rule) for rule in rules[3:])
    for family in ("ip saddr @inner_ipv4", "ip daddr @inner_ipv4", "ip6 saddr @inner_ipv6", "ip6 daddr @inner_ipv6"):
        assert sum(rule.startswith(family) for rule in rules[3:]) == 1


def test_nothing_inner_is_routed_on(link):
    assert not any("accept" in rule for rule in chain(link(GUARD), "forwarded"))
    assert len(chain(link(GUARD), "forwarded")) == 4


def test_the_guard_covers_every_endpoint_and_prefix_on_every_host(link):
    prefixes = ["10.77.0.0/24", "fd77::/64"]
    texts = [link(GUARD, here=here, ipsec_inner_prefixes=prefixes) for here in (INT, EXT)]
    assert texts[0] == texts[1]
    for family, addresses in (
        ("inner_ipv4", ["10.77.0.11", "10.77.0.12", "10.77.0.0/24"]),
        ("inner_ipv6", ["fd77::11", "fd77::12", "fd77::/64"]),
    ):
        body = re.search(rf"set {family} {{(.*?)\n    }}", texts[0], re.DOTALL)[1]
        assert re.findall(r"^ +([0-9a-f.:/]+),", body, re.MULTILINE) == addresses


def test_protected_ports_are_one_endpoints_own(link):
    """int's 443 is for the tunnel; ext's 443 is the public front door, also for int and ops."""
    text = link(GUARD, ipsec_endpoints=WITH_PORTS)
    elements = re.findall(r"^add element inet ipsec_guard protected_ipv4 { (.*) }$", text, re.MULTILINE)
    assert elements == ["192.0.2.11 . 443", "192.0.2.11 . 6379"]
    for name in ("inbound", "outbound"):
        rules = [rule for rule in chain(text, name) if "protected" in rule]
        assert len(rules) == 4
        # Only between outer addresses of endpoints: what a stranger sends is the firewall's affair.
        assert all("@outer_ipv" in rule for rule in rules)


def test_the_guards_log_is_limited_and_every_refusal_is_counted(link):
    text = link(GUARD, ipsec_guard_log_per_minute=3)
    assert "limit rate 3/minute log prefix" in text
    declared = set(re.findall(r"^    counter (\w+) {}$", text, re.MULTILINE))
    assert declared == set(re.findall(r"counter name (\w+)", text))


def test_the_guard_is_there_before_the_network_and_stopping_it_opens_nothing(link):
    text = link("etc/systemd/system/ipsec-guard.service")
    assert "DefaultDependencies=no" in text
    assert re.search(r"^Before=network-pre\.target\b", text, re.MULTILINE)
    assert re.search(r"^Wants=network-pre\.target$", text, re.MULTILINE)
    assert not re.search(r"^(ExecStop|ExecStopPost|Conflicts)=", text, re.MULTILINE)


def test_every_command_of_nftables_service_loads_the_guard_in_the_same_transaction(link):
    """Debian's unit flushes all tables when it stops, and Debian's file when it starts."""
    text = link("etc/systemd/system/nftables.service.d/10-ipsec-guard.conf")
    for verb in ("ExecStart", "ExecReload", "ExecStop"):
        reset, command = re.findall(rf"^{verb}=(.*)$", text, re.MULTILINE)
        assert reset == ""
        assert command.startswith("/usr/sbin/nft '")
        assert command.endswith("""; include "/etc/ipsec-guard.nft"'""")


def test_charon_comes_back_whatever_ended_it(link):
    text = link("etc/systemd/system/strongswan.service.d/civicrm.conf")
    assert re.search(r"^Restart=always$", text, re.MULTILINE)
    assert not re.search(r"^Requires=", text, re.MULTILINE)


def test_the_health_check_knows_every_peer_and_both_families(link):
    config = json.loads(link("etc/ipsec-health.json"))
    assert config["own"] == ["10.77.0.11", "fd77::11"]
    assert config["peers"] == {"crm-ext-01": ["10.77.0.12", "fd77::12"]}
    assert set(config["certificates"]) == {"host", "ca"}
    assert json.loads(link("etc/ipsec-health.json", ipsec_authentication="psk"))["certificates"] == {}


def test_the_health_check_is_never_a_failed_unit_because_a_peer_is_gone(link):
    assert re.search(r"^SuccessExitStatus=3$", link("etc/systemd/system/ipsec-health.service"), re.MULTILINE)
    timer = link("etc/systemd/system/ipsec-health.timer", ipsec_health_interval_seconds=7)
    assert re.search(r"^OnUnitActiveSec=7s$", timer, re.MULTILINE)
