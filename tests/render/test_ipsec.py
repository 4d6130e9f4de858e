"""The private link as its operator gets it, seen from both of its ends."""

from __future__ import annotations

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
            }
            | variables,
        )

    return _render


def settings(text: str, block: str) -> dict[str, str]:
    """The `key = value` lines of the innermost block of that name."""
    body = re.search(rf"^\s*{re.escape(block)} {{\n([^{{}}]*)}}", text, re.MULTILINE)[1]
    return dict(re.findall(r"^\s*(\w+) = (.*)$", body, re.MULTILINE))


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
    assert "psk" not in text


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
