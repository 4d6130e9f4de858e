"""The network map: a mistake is said with its entry before a rule is loaded, and entries become the right rules."""

from __future__ import annotations

import pytest
import yaml
from loading import ROOT, load

firewall = load("plugins/filter/firewall.py")
sites = load("plugins/filter/sites.py")
SERVICES = yaml.safe_load((ROOT / "roles/firewall/vars/main.yml").read_text())["__firewall_known_services"]
SETS = {"peers": ["192.0.2.12", "192.0.2.13"], "inner": ["10.77.0.12", "fd77::12"]}
SMTP = {"name": "smtp", "direction": "in", "service": "smtp", "why": "Mail."}
OUT = {"name": "mailings", "direction": "out", "who": ["postfix"], "service": "smtp", "why": "Mail."}
SITE = {
    "name": "imap",
    "direction": "out",
    "who": ["crm"],
    "where": ["loopback"],
    "service": "imaps",
    "why": "Bounces.",
}
TUNNEL = {"name": "tunnel", "direction": "out", "where": ["@peers"], "service": "tunnel", "why": "Link."}
GOOD = [SMTP, OUT, SITE, TUNNEL]


def problems(*entries, services=SERVICES, sets=SETS, admins=("198.51.100.1",), port=22, networks=()):
    return firewall.firewall_map_problems(
        list(entries), sets, services, list(admins), port, ["crm", "staging"], list(networks)
    )


def test_a_map_without_a_mistake_has_no_problem():
    assert problems(*GOOD) == []


# What is wrong, and what the one sentence must say.
WRONG_ENTRIES = {
    "unknown service": (SMTP | {"service": "smpt"}, "entry 'smtp': unknown service 'smpt'; use one of "),
    "prefix too long": (
        SMTP | {"where": ["10.0.0.0/33"]},
        "entry 'smtp': '10.0.0.0/33' is no address or network; write for example",
    ),
    "host bits": (
        SMTP | {"where": ["10.0.0.1/24"]},
        "entry 'smtp': 10.0.0.1/24 has host bits set; write 10.0.0.0/24, or",
    ),
    "name for an address": (SMTP | {"where": ["mx.example.org"]}, "entry 'smtp': 'mx.example.org' is no address"),
    "number for an address": (SMTP | {"where": [10.77]}, "entry 'smtp': 10.77 is no address; put it between quotes"),
    "unknown set": (SMTP | {"where": ["@peer"]}, "entry 'smtp': unknown set @peer; use one of inner, peers, or"),
    "where is no list": (SMTP | {"where": "10.0.0.1"}, "entry 'smtp': where is '10.0.0.1'; write a list"),
    "direction": (SMTP | {"direction": "inn"}, "entry 'smtp': direction is 'inn'; use in or out"),
    "no reason": (SMTP | {"why": " "}, "entry 'smtp': why is empty; say in one sentence"),
    "who for in": (SMTP | {"who": ["root"]}, "entry 'smtp': who is for direction out"),
    "who is empty": (OUT | {"who": []}, "entry 'mailings': who names nobody; name users"),
    "user with a space": (OUT | {"who": ["a b"]}, "entry 'mailings': 'a b' in who is no user name"),
    "everybody anywhere": (
        {k: v for k, v in OUT.items() if k != "who"},
        "entry 'mailings': neither who nor where is limited",
    ),
    "everybody anywhere by a network": (
        {k: v for k, v in OUT.items() if k != "who"} | {"where": ["0.0.0.0/0"]},
        "entry 'mailings': neither who nor where is limited",
    ),
    "a limit for out": (
        OUT | {"connections_per_network": 9},
        "connections_per_network is for direction in and a service",
    ),
    "no limit": (SMTP | {"connections_per_network": 0}, "connections_per_network is 0; use a number from 1"),
    "loopback for in": (SMTP | {"where": ["loopback"]}, "entry 'smtp': where: loopback is for direction out with who"),
    "name that ends the comment": (SMTP | {"name": 'x" accept'}, "use a name of letters, digits"),
    "confined user outside": (
        OUT | {"who": ["postfix", "crm"], "where": ["203.0.113.9"]},
        "entry 'mailings': crm is one of firewall_confined_users but may go to 203.0.113.9/32; take it out of who",
    ),
    "confined user anywhere": (OUT | {"who": ["crm"]}, "but may go to anywhere; take it out of who"),
}


@pytest.mark.parametrize("mistake", WRONG_ENTRIES)
def test_a_wrong_entry_is_named_in_one_sentence(mistake):
    entry, sentence = WRONG_ENTRIES[mistake]
    (found,) = problems(*[e for e in GOOD if e["name"] != entry["name"]], entry)
    assert sentence in found
    assert "\n" not in found


@pytest.mark.parametrize("port", [0, 65536, -1, "25", True, 25.0])
@pytest.mark.parametrize("key", ["tcp", "udp", "source_ports"])
def test_a_port_that_is_none_is_refused(key, port):
    (found,) = problems(*GOOD, services=SERVICES | {"odd": {"tcp": [1], "udp": [1]} | {key: [port]}})
    assert found == f"firewall_services.odd.{key}: {port!r} is no port; use a number from 1 to 65535"


@pytest.mark.parametrize("port", [1, 65535])
def test_the_first_and_the_last_port_are_ports(port):
    assert problems(*GOOD, services=SERVICES | {"edge": {"tcp": [port]}}, port=port) == []


@pytest.mark.parametrize(
    ("service", "sentence"),
    [
        ({}, "names no port, protocol or ICMP type"),
        ({"source_ports": [1]}, "names no port, protocol or ICMP type"),
        ({"tpc": [1], "tcp": [1]}, "'tpc' is none of tcp, udp"),
        ({"tcp": 25}, "tcp: 25 is no list; write [25]"),
        ({"protocols": ["esp }"]}, "'esp }' is no name that nft knows"),
    ],
)
def test_a_wrong_service_is_refused(service, sentence):
    (found,) = problems(*GOOD, services=SERVICES | {"odd": service})
    assert found.startswith("firewall_services.odd")
    assert sentence in found


def test_a_name_that_stands_twice_is_refused():
    assert problems(*GOOD, SMTP | {"service": "https"}) == [
        "'smtp' stands 2 times in the map; give each entry a name of its own"
    ]


def test_without_an_admin_nothing_is_loaded():
    (found,) = problems(*GOOD, admins=[])
    assert found.startswith("firewall_admin_sources is empty: nobody could ssh to this host")
    (found,) = problems(*GOOD, admins=["192.0.2.1/24"])
    assert found.startswith("firewall_admin_sources: 192.0.2.1/24 has host bits set")


def test_an_entry_that_opens_what_another_limits_is_refused():
    limited = SMTP | {"name": "mail of ext", "where": ["@inner"]}
    (found,) = problems(*GOOD, limited)
    assert found.startswith("entry 'smtp' opens tcp 25 to anywhere, but 'mail of ext' limits it; remove one")
    # The same port by another service's name, and everywhere by a network.
    relay = {"relay": {"tcp": [25]}}
    everywhere = SMTP | {"where": ["0.0.0.0/0", "::/0"]}
    assert len(problems(everywhere, limited | {"service": "relay"}, services=SERVICES | relay)) == 1
    # Going out it depends on whom the entries are for.
    narrow = OUT | {"name": "relay", "where": ["@inner"]}
    (found,) = problems(*GOOD, narrow)
    assert "opens tcp 25 to anywhere for postfix, but 'relay' limits it" in found
    assert problems(*GOOD, narrow | {"who": ["root"]}) == []


def test_ssh_for_everybody_contradicts_ssh_for_the_admins():
    everybody = {"name": "shell", "direction": "in", "service": "ssh", "why": "?"}
    (found,) = problems(*GOOD, everybody)
    assert "opens tcp 22 to anywhere, but 'firewall_admin_sources' limits it" in found
    # ssh for a named host, such as one that brings files, is no contradiction.
    assert problems(*GOOD, everybody | {"where": ["@inner"]}) == []
    # On another port, ssh is what listens there.
    assert len(problems(*GOOD, everybody | {"service": "smtp", "name": "x"}, port=25)) >= 1


def test_a_confined_user_may_go_where_the_networks_say():
    queue = OUT | {"name": "queue", "who": ["crm"], "where": ["@inner"], "service": "redis"}
    assert len(problems(*GOOD, queue)) == 1
    assert problems(*GOOD, queue, networks=["@inner"]) == []
    assert len(problems(*GOOD, queue, networks=["10.77.0.0/24"])) == 1, "the other family is not covered"


USERS = {"root": 0, "postfix": 105, "crm": 990, "staging": 991, "_apt": 42}


def rules(*entries, users=USERS):
    return firewall.firewall_rules(list(entries), SETS, SERVICES, users, ["crm", "staging"])


def texts(chain):
    return [rule for entry in chain for rule in entry["rules"]]


def test_entries_become_rules_of_their_chain():
    made = rules(*GOOD)
    assert texts(made["inbound"]) == ["tcp dport { 25 }"]
    assert texts(made["outbound"]) == [
        "meta skuid { 105 } tcp dport { 25 }",
        "ip daddr { 192.0.2.12/31 } udp sport { 500, 4500 } udp dport { 500, 4500 }",
        "ip daddr { 192.0.2.12/31 } meta l4proto { esp }",
    ]
    assert texts(made["confined"])[:2] == [
        "meta skuid { 990 } ip daddr { 127.0.0.0/8 } tcp dport { 993 }",
        "meta skuid { 990 } ip6 daddr { ::1 } tcp dport { 993 }",
    ]
    # An encrypted packet belongs to the user whose data it carries: it must pass, whosever it is.
    assert len(texts(made["confined"])) == 4


def test_a_confined_user_is_let_out_only_in_the_chain_of_its_own():
    made = rules(OUT | {"who": ["crm", "postfix", "root"]})
    assert texts(made["outbound"]) == ["meta skuid { 0, 105 } tcp dport { 25 }"]
    assert texts(made["confined"]) == ["meta skuid { 990 } tcp dport { 25 }"]


def test_users_that_do_not_exist_yet_are_left_out():
    """A rule for nobody would be a rule for everybody."""
    made = rules(*GOOD, users={"root": 0})
    assert texts(made["outbound"]) == texts(rules(TUNNEL)["outbound"])
    assert firewall.firewall_missing_users(GOOD, ["crm", "staging"], ["root"]) == ["postfix", "crm", "staging"]


def test_an_empty_list_of_places_opens_nothing():
    """Left out means anywhere; empty means nobody: a host without monitoring has no open exporter."""
    assert rules(SMTP | {"where": []})["inbound"] == []


def test_each_family_gets_the_rules_that_it_understands():
    ping = {"name": "ping", "direction": "out", "who": ["root"], "service": "ping", "why": "x", "where": ["@inner"]}
    assert texts(rules(ping)["outbound"]) == [
        "meta skuid { 0 } ip daddr { 10.77.0.12 } icmp type { echo-request }",
        "meta skuid { 0 } ip6 daddr { fd77::12 } icmpv6 type { echo-request }",
    ]
    assert firewall.firewall_places(["0.0.0.0/0", "10.0.0.1", "fd00::/8"], "saddr") == [
        "meta nfproto ipv4",
        "ip6 saddr { fd00::/8 }",
    ]


def test_a_reason_with_a_line_break_stays_a_comment():
    assert rules(SMTP | {"why": "one\n    tcp dport 1 accept"})["inbound"][0]["why"] == "one tcp dport 1 accept"


LIVE = [
    {"user": "crm", "mail_policy": "deliver"},
    {"user": "staging-crm", "mail_policy": "catch"},
    {"user": "test-crm", "mail_policy": "hold"},
]


def test_only_sites_that_deliver_reach_a_mail_server_on_loopback():
    entries = sites.site_firewall_entries(LIVE)
    assert {e["service"]: e["who"] for e in entries} == {
        "dns": ["crm", "staging-crm", "test-crm"],
        "imaps": ["crm", "staging-crm", "test-crm"],
        "smtp": ["crm"],
        "submission": ["crm"],
    }
    assert all(entry["where"] == ["loopback"] for entry in entries)
    assert not {"smtp", "submission"} & {e["service"] for e in sites.site_firewall_entries(LIVE[1:])}
    assert sites.site_firewall_entries([]) == []


def test_api_sites_reach_the_queue_and_providers_only_where_some_are_named():
    entries = sites.api_firewall_entries([{"user": "donate-api"}], ["@backend"], [])
    assert {e["service"]: e["where"] for e in entries} == {"dns": ["loopback"], "redis": ["@backend"]}
    entries = sites.api_firewall_entries([{"user": "donate-api"}], ["@backend"], ["192.0.2.0/24"])
    assert {e["service"]: e["where"] for e in entries}["https"] == ["192.0.2.0/24"]
    assert sites.api_firewall_entries([], ["@backend"], []) == []
