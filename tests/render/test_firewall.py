"""The ruleset as its operator gets it."""

from __future__ import annotations

import re

import pytest

SERVICES = [
    {"name": "https", "protocol": "tcp", "ports": [443], "why": "People."},
    {"name": "ike", "protocol": "udp", "ports": [500, 4500], "why": "The private link."},
    {"name": "queue", "protocol": "tcp", "ports": [6379], "sources": ["10.77.0.12", "fd77::12"], "why": "Donations."},
]


@pytest.fixture
def rules(render):
    """The lines of the inbound chain, without comments; variables over two admins, one prefix and three services."""

    def _render(**variables) -> list[str]:
        text = render(
            "firewall",
            "etc/nftables.conf",
            **{
                "firewall_admin_sources": ["192.0.2.1/32", "2001:db8::1/128"],
                "firewall_tunnel_prefixes": ["10.77.0.0/24", "fd77::/64"],
                "firewall_inbound": SERVICES,
            }
            | variables,
        )
        chain = re.search(r"chain inbound {\n(.*?)\n    }", text, re.DOTALL)[1]
        return [line.strip() for line in chain.splitlines() if line.strip() and not line.strip().startswith("#")]

    return _render


def position(rules: list[str], pattern: str) -> int:
    """Where the only rule that matches stands."""
    (found,) = [number for number, rule in enumerate(rules) if re.search(pattern, rule)]
    return found


def test_what_no_rule_accepts_is_dropped(rules):
    assert rules()[0] == "type filter hook input priority filter; policy drop;"
    # No rule accepts everything: each names an interface, a state, a type or a port.
    for rule in rules()[1:]:
        if " accept" in rule:
            assert re.match(r"iif lo accept$|ct state established,related accept$|icmp(v6)? type |.*dport ", rule), rule


def test_an_empty_list_of_services_leaves_the_admin_in_and_nobody_else(rules):
    accepted = [rule for rule in rules(firewall_inbound=[]) if "dport" in rule]
    assert len(accepted) == 2
    assert all('comment "ssh for the admin"' in rule for rule in accepted)


def test_ssh_is_for_the_admins_sources_alone_of_both_families(rules):
    ssh = [rule for rule in rules() if re.search(r"dport {? ?22\b", rule)]
    assert ssh == [
        'ip saddr 192.0.2.1/32 tcp dport 22 accept comment "ssh for the admin"',
        'ip6 saddr 2001:db8::1/128 tcp dport 22 accept comment "ssh for the admin"',
    ]
    assert any("tcp dport 2222 accept" in rule for rule in rules(firewall_ssh_port=2222))


def test_the_admins_way_in_stands_before_every_service(rules):
    """A wrong rule of a service must not lock the admin out."""
    last_ssh = position(rules(), r"^ip6 saddr 2001:db8::1/128 tcp dport 22 ")
    assert last_ssh < min(number for number, rule in enumerate(rules()) if re.search(r"dport { ", rule))
    assert last_ssh < min(number for number, rule in enumerate(rules()) if rule.startswith("icmp"))


def test_inner_addresses_are_taken_from_the_tunnel_only(rules):
    """Both data paths: ipsec0 is charon's own, `meta ipsec` is the kernel's. Before any accept but lo's."""
    first_accept = position(rules(), r"^ct state established,related accept$")
    assert position(rules(), r"^iif lo accept$") == 1
    for family, prefix in (("ip", "10.77.0.0/24"), ("ip6", "fd77::/64")):
        for side in ("saddr", "daddr"):
            rule = rf'^{family} {side} {prefix} iifname != "ipsec0" meta ipsec missing counter drop'
            assert position(rules(), rule) < first_accept


def test_a_service_with_sources_is_open_to_them_alone(rules):
    assert [rule for rule in rules() if "6379" in rule] == [
        'ip saddr 10.77.0.12 tcp dport { 6379 } accept comment "queue"',
        'ip6 saddr fd77::12 tcp dport { 6379 } accept comment "queue"',
    ]


def test_a_service_without_sources_is_open_to_all_and_keeps_its_protocol(rules):
    assert 'tcp dport { 443 } accept comment "https"' in rules()
    assert 'udp dport { 500, 4500 } accept comment "ike"' in rules()


def test_an_empty_list_of_sources_opens_nothing(rules):
    """Left out means anyone; empty means nobody."""
    service = SERVICES[0] | {"sources": []}
    assert not [rule for rule in rules(firewall_inbound=[service]) if "443" in rule]


def test_what_ip_itself_needs_is_let_in(rules):
    """Without these: no path MTU through the tunnel, and no IPv6 neighbour."""
    four, six = (rules()[position(rules(), rf"^{name} type ")] for name in ("icmp", "icmpv6"))
    assert "destination-unreachable" in four
    assert {"packet-too-big", "nd-neighbor-solicit", "nd-neighbor-advert"} <= set(re.findall(r"[\w-]+", six))


def test_drops_are_counted_all_and_logged_a_few(rules):
    assert rules(firewall_log_per_minute=3)[-2].startswith("limit rate 3/minute log prefix ")
    assert rules()[-1] == 'counter comment "dropped inbound"'


def test_only_its_own_table_is_replaced_in_one_transaction(render):
    """`flush ruleset` would take the tables of others along, such as what keeps a lab's mail in."""
    text = render("firewall", "etc/nftables.conf", firewall_admin_sources=["192.0.2.1/32"])
    assert "flush ruleset" not in text
    tables = re.findall(r"^(?:delete )?table \w+ \w+(?: {)?$", text, re.MULTILINE)
    assert tables == [
        "table inet civicrm_firewall",
        "delete table inet civicrm_firewall",
        "table inet civicrm_firewall {",
    ]
