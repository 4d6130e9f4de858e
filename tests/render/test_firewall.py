"""The ruleset as its operator gets it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

MAP = [
    {"name": "https", "direction": "in", "service": "https", "why": "People."},
    {"name": "queue", "direction": "in", "where": ["@inner"], "service": "redis", "why": "Donations."},
    {"name": "tunnel", "direction": "out", "where": ["192.0.2.12"], "service": "tunnel", "why": "The private link."},
    {"name": "mailings", "direction": "out", "who": ["postfix"], "service": "smtp", "why": "Postfix delivers."},
    {"name": "bounces", "direction": "out", "who": ["crm"], "where": ["loopback"], "service": "imaps", "why": "Mail."},
    {"name": "ping", "direction": "out", "who": ["root"], "service": "ping", "why": "Health."},
]
VARIABLES = {
    "firewall_admin_sources": ["192.0.2.1/32", "2001:db8::1/128"],
    "firewall_map": MAP,
    "firewall_sets": {"inner": ["10.77.0.12", "fd77::12"]},
    "firewall_confined_users": ["crm", "staging"],
    "__firewall_users": {"root": 0, "postfix": 105, "crm": 990, "staging": 991},
}


CROWDED = {"name": "web", "direction": "in", "service": "https", "connections_per_network": 250, "why": "People."}


@pytest.fixture
def text(render):
    def _text(**variables) -> str:
        return render("firewall", "etc/civicrm-firewall/candidate.nft", **VARIABLES | variables)

    return _text


@pytest.fixture
def rules(text):
    """The lines of a chain, without comments."""

    def _rules(chain: str, **variables) -> list[str]:
        body = re.search(rf"chain {chain} {{\n(.*?)\n    }}", text(**variables), re.DOTALL)[1]
        return [line.strip() for line in body.splitlines() if line.strip() and not line.strip().startswith("#")]

    return _rules


def position(rules: list[str], pattern: str) -> int:
    """Where the only rule that matches stands."""
    (found,) = [number for number, rule in enumerate(rules) if re.search(pattern, rule)]
    return found


@pytest.mark.parametrize(("chain", "hook"), [("inbound", "input"), ("outbound", "output")])
def test_what_no_rule_accepts_is_refused(rules, chain, hook):
    assert rules(chain)[0] == f"type filter hook {hook} priority filter; policy drop;"
    # No rule accepts everything: each names an interface, a state, a type or a port.
    for rule in rules(chain)[1:]:
        if " accept" in rule:
            pattern = r"iif lo accept$|oif lo meta skuid 0 accept$|"
            pattern += r"ct state established,related accept$|.*\b(icmp(v6)? type|[ds]port|l4proto) "
            assert re.match(pattern, rule), rule


def test_an_empty_map_leaves_the_admin_in_and_nobody_else(rules):
    accepted = [rule for rule in rules("inbound", firewall_map=[]) if "dport" in rule]
    assert len(accepted) == 2
    assert all('comment "ssh for the admins"' in rule for rule in accepted)
    chain = rules("outbound", firewall_map=[])
    assert not [r for r in chain if re.search(r"dport|skuid (?!{ 990, 991 } goto|0 accept)", r)]
    assert rules("confined", firewall_map=[]) == ["goto refused"]


def test_ssh_is_for_the_admins_sources_alone_of_both_families(rules):
    ssh = [rule for rule in rules("inbound") if re.search(r"dport {? ?22\b", rule)]
    assert ssh == [
        'ip saddr { 192.0.2.1 } tcp dport 22 accept comment "ssh for the admins"',
        'ip6 saddr { 2001:db8::1 } tcp dport 22 accept comment "ssh for the admins"',
    ]
    assert any("tcp dport 2222 accept" in rule for rule in rules("inbound", firewall_ssh_port=2222))


def test_the_admins_way_in_stands_before_every_entry(rules):
    """A wrong entry must not lock the admin out."""
    last_ssh = position(rules("inbound"), r"^ip6 saddr { 2001:db8::1 } tcp dport 22 ")
    assert last_ssh < position(rules("inbound"), '"https"')
    assert last_ssh < position(rules("inbound"), "^icmp type")


def test_the_first_ruleset_does_not_cut_the_connection_that_brings_it(rules):
    """conntrack does not know a connection that is older: its packets are new, but none is a first one."""
    chain = rules("outbound")
    found = position(chain, r"^ip daddr { 192\.0\.2\.1 } tcp sport 22 tcp flags & \(syn \| ack\) != syn accept")
    assert found < position(chain, "goto confined")


def test_entries_are_open_to_those_they_name(rules):
    assert [rule for rule in rules("inbound") if "queue" in rule] == [
        'ip saddr { 10.77.0.12 } tcp dport { 6379 } accept comment "queue"',
        'ip6 saddr { fd77::12 } tcp dport { 6379 } accept comment "queue"',
    ]
    assert 'tcp dport { 443 } accept comment "https"' in rules("inbound")
    assert 'meta skuid { 105 } tcp dport { 25 } accept comment "mailings"' in rules("outbound")


def test_confined_users_never_reach_what_is_open_to_others(rules):
    """Whoever runs the sites' code must have left the chain before."""
    chain = rules("outbound")
    confined = position(chain, r"^meta skuid { 990, 991 } goto confined$")
    assert confined < position(chain, "^oif lo meta skuid 0 accept$")
    assert confined < position(chain, '"mailings"')
    chain = rules("confined")
    assert chain[-1] == "goto refused"
    # The private link's packets carry the user of the data in them.
    own = [rule for rule in chain[:-1] if '"tunnel"' not in rule]
    assert own == [
        'meta skuid { 990 } ip daddr { 127.0.0.0/8 } tcp dport { 993 } accept comment "bounces"',
        'meta skuid { 990 } ip6 daddr { ::1 } tcp dport { 993 } accept comment "bounces"',
    ]
    assert len(chain) == 5


def test_on_loopback_each_user_reaches_what_an_entry_says_and_root_all(rules):
    """A port knows no users: 10025, or another daemon's metrics, would take what anybody writes (N46)."""
    diverted = {"name": "diverted", "direction": "out", "who": ["postfix"], "where": ["loopback"], "why": "x"}
    chain = rules("outbound", firewall_map=[*MAP, diverted | {"service": "diverted_mail"}])
    assert [rule for rule in chain if "oif lo" in rule] == [
        "oif lo meta skuid 0 accept",
        "oif lo meta l4proto != { tcp, udp } accept",
    ]
    assert 'meta skuid { 105 } ip daddr { 127.0.0.0/8 } tcp dport { 10025 } accept comment "diverted"' in chain
    assert chain[-1] == "goto refused"


def test_without_confined_users_no_rule_names_nobody(rules):
    """`meta skuid { }` would be no ruleset at all."""
    assert not [r for r in rules("outbound", firewall_confined_users=["later"]) if "goto confined" in r]


def test_what_ip_itself_needs_passes(rules):
    """Without these: no path MTU through the tunnel, and no IPv6 neighbour."""
    four, six = (rules("inbound")[position(rules("inbound"), rf"^{name} type ")] for name in ("icmp", "icmpv6"))
    assert "destination-unreachable" in four
    neighbours = {"packet-too-big", "nd-neighbor-solicit", "nd-neighbor-advert"}
    assert neighbours <= set(re.findall(r"[\w-]+", six))
    out = rules("outbound")[position(rules("outbound"), r"^icmpv6 type ")]
    assert neighbours <= set(re.findall(r"[\w-]+", out))
    # Echo requests carry data: only for those whom an entry names.
    assert "echo" not in out


def test_going_out_is_answered_and_coming_in_is_not(rules):
    """An application fails at once; a scanner with a forged address learns and hits nothing."""
    assert rules("refused")[-2:] == ["meta l4proto tcp reject with tcp reset", "reject with icmpx admin-prohibited"]
    assert not [rule for rule in rules("inbound") if "reject" in rule]
    assert rules("outbound")[-1] == "goto refused"


def test_refusals_are_counted_all_and_logged_a_few(rules):
    chain = rules("inbound", firewall_log_per_minute=3)
    assert chain[-2].startswith("limit rate 3/minute log prefix ")
    assert chain[-1] == "counter name in_unlisted"
    chain = rules("refused", firewall_log_per_minute=3)
    assert chain[0] == "counter name out_unlisted"
    assert "add @refused_users { meta skuid }" in chain
    assert "meta skuid limit rate 3/minute" in chain[3]
    assert chain[3].endswith("flags skuid")


def test_an_ipv6_network_opens_so_many_connections_and_no_more(rules, text):
    """One person has all addresses of it. Counted after the handshake: a forged address shuts nobody out (N48)."""
    limited = {"firewall_map": [CROWDED]}
    (rule, mark) = rules("crowds", **limited)
    assert rule.startswith(
        "tcp dport { 443 } update @crowd_1 { ip6 saddr & ffff:ffff:ffff:ffff:: limit rate over 10/second burst 250"
    )
    assert "reject with tcp reset" in rule and mark == "ct mark set 1"
    chain = rules("inbound", **limited)
    jump = position(chain, r"ct state established ct direction original ct mark != 1 jump crowds$")
    assert position(chain, "^iif lo") < jump < position(chain, "^ct state established,related accept")
    assert "crowd" not in text()


def test_only_its_own_table_is_replaced_in_one_transaction(text):
    """`flush ruleset` would take the tables of others along, such as the private link's guard."""
    assert "flush ruleset" not in text()
    assert re.findall(r"^(?:delete )?table \w+ \w+(?: {)?$", text(), re.MULTILINE) == [
        "table inet civicrm_firewall",
        "delete table inet civicrm_firewall",
        "table inet civicrm_firewall {",
    ]


def test_the_unit_loads_and_removes_only_that_table(render):
    unit = render("firewall", "etc/systemd/system/nftables.service.d/civicrm.conf")
    assert "flush" not in unit
    for action in ("ExecStart", "ExecReload", "ExecStop"):
        # Debian's own line is taken away first.
        assert re.search(rf"^{action}=\n{action}=\S", unit, re.MULTILINE), action


def test_users_are_named_until_the_host_enters_their_uids(render):
    """So the candidate is the same before its users come, and one command opens the host at the end."""
    text = render("firewall", "etc/civicrm-firewall/candidate.nft", **named())
    assert re.findall(r"^define uid_(\S+) = 4294967294$", text, re.MULTILINE) == ["postfix", "crm", "root", "staging"]
    assert 'meta skuid { $uid_postfix } tcp dport { 25 } accept comment "mailings"' in text
    assert "meta skuid { $uid_crm, $uid_staging } goto confined" in text


def named() -> dict:
    return {name: value for name, value in VARIABLES.items() if name != "__firewall_users"}


@pytest.mark.parametrize(
    "variables", [VARIABLES, named(), VARIABLES | {"firewall_map": [CROWDED]}], ids=["uids", "names", "crowd"]
)
def test_nft_understands_it(render, variables):
    """The whole of it, by nft itself, which `make setup` installs: nothing is loaded."""
    text = render("firewall", "etc/civicrm-firewall/candidate.nft", **variables)
    nft = shutil.which("nft") or "/usr/sbin/nft"
    done = subprocess.run([nft, "--check", "--file", "-"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
