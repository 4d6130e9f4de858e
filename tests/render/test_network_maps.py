"""The maps that the profiles build from the inventory: whole, without a contradiction, and no wider than promised."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from loading import ROOT, load

firewall = load("plugins/filter/firewall.py")
INVENTORY = {
    "inventory_hostname": "crm-int-01",
    "firewall_admin_sources": ["198.51.100.1"],
    "ipsec_endpoints": [
        {"name": "crm-int-01", "outer_address": "192.0.2.11", "inner_ipv4": "10.77.0.11", "inner_ipv6": "fd77::11"},
        {"name": "crm-ext-01", "outer_address": "192.0.2.12", "inner_ipv4": "10.77.0.12", "inner_ipv6": "fd77::12"},
        {"name": "ops", "outer_address": "192.0.2.13", "inner_ipv4": "10.77.0.13", "inner_ipv6": "fd77::13"},
    ],
    "backup_target_host": "10.77.0.13",
    "civicrm_int_sites": [
        {"name": "crm", "server_name": "crm.example.org", "mail_policy": "deliver"},
        {"name": "staging-crm", "server_name": "staging.example.org", "mail_policy": "catch"},
        {"name": "later", "server_name": "later.example.org", "state": "planned"},
    ],
    "civicrm_int_inner_addresses": ["10.77.0.11", "fd77::11"],
    "civicrm_int_front_door_addresses": ["10.77.0.12", "fd77::12"],
    "civicrm_int_monitoring_addresses": ["10.77.0.13", "fd77::13"],
    "civicrm_ext_backend_address": "10.77.0.11",
    "civicrm_ext_monitoring_addresses": ["10.77.0.13", "fd77::13"],
    "civicrm_ext_front_door_sites": [],
    "civicrm_ext_api_sites": [{"name": "donate-api", "server_name": "donate-api.example.org"}],
}
USERS = [
    "root",
    "_apt",
    "postfix",
    "unbound",
    "systemd-timesync",
    "mail-policy",
    "mtail",
    "www-data",
    "crm",
    "staging-crm",
    "donate-api",
    "one-click",
]


@pytest.fixture
def network(render):
    """A function (profile, **inventory) -> {variable of the role firewall: value}, as the profile hands them over."""

    def _network(profile: str, **variables: Any) -> dict[str, Any]:
        loader = DataLoader()
        scope: dict[str, Any] = {}
        for role in ("resolver", "ipsec", "firewall", profile):
            for source in ("defaults/main.yml", "vars/main.yml"):
                path = ROOT / "roles" / role / source
                if path.is_file():
                    scope |= loader.load_from_file(str(path), trusted_as_template=True) or {}
        scope |= INVENTORY | variables
        tasks = loader.load_from_file(str(ROOT / "roles" / profile / "tasks/main.yml"), trusted_as_template=True)
        imports = [t for t in tasks if t.get("ansible.builtin.import_role", {}).get("name") == "firewall"]
        assert [t["vars"].get("firewall_missing_users", "refuse") for t in imports] == ["refuse", "skip", "refuse"]
        scope |= imports[-1]["vars"]
        templar = Templar(loader=loader, variables=scope)
        names = [*imports[-1]["vars"], "__firewall_services", "__firewall_problems"]
        return {name: templar.template(trust_as_template(f"{{{{ {name} }}}}")) for name in names}

    return _network


def reach(made: dict[str, Any], direction: str, user: str | None = None) -> set[tuple[str, str]]:
    """{(service, place)} of a user's entries, or of what comes in; a place is anywhere, or as the entry writes it."""
    return {
        (entry["service"], place)
        for entry in made["firewall_map"]
        if entry["direction"] == direction and (user is None or user in entry.get("who", []))
        for place in entry.get("where", ["anywhere"])
    }


@pytest.mark.parametrize("profile", ["civicrm_int", "civicrm_ext"])
def test_the_map_of_a_profile_has_no_problem(network, profile):
    made = network(profile)
    assert made["__firewall_problems"] == []
    assert firewall.firewall_missing_users(made["firewall_map"], made["firewall_confined_users"], USERS) == []


def test_what_comes_into_int(network):
    assert reach(network("civicrm_int"), "in") == {
        ("smtp", "anywhere"),
        ("ike", "anywhere"),
        ("esp", "anywhere"),
        ("https", "@front_door"),
        ("redis", "@front_door"),
        ("redis_trial", "@front_door"),
        ("mtail", "@monitoring"),
        ("node_exporter", "@monitoring"),
    }


def test_what_comes_into_ext(network):
    open_to_all = {(service, "anywhere") for service in ("https", "http", "ike", "esp")}
    assert reach(network("civicrm_ext"), "in") == open_to_all | {("node_exporter", "@monitoring")}


def test_newsletters_go_by_ssh_from_one_user_of_int_to_ext_and_nowhere_else(network):
    """Open only where newsletters are published; root's way to the backup host stays another one."""
    assert not any("newsletter-archive" in e.get("who", []) for e in network("civicrm_int")["firewall_map"])
    sites = [{**INVENTORY["civicrm_int_sites"][0], "archive_command": "/usr/local/bin/newsletters"}]
    made = network("civicrm_int", civicrm_int_sites=sites)
    assert made["__firewall_problems"] == []
    assert reach(made, "out", "newsletter-archive") == {("ssh", "@front_door")}
    newsletter = {"name": "newsletter", "server_name": "newsletter.example.org"}
    ext = network("civicrm_ext", civicrm_ext_newsletter_sites=[newsletter])
    assert ext["__firewall_problems"] == []
    assert ("ssh", "@backend") in reach(ext, "in")
    assert "newsletter" not in {user for entry in ext["firewall_map"] for user in entry.get("who", [])}
    planned = network("civicrm_ext", civicrm_ext_newsletter_sites=[newsletter | {"state": "planned"}])
    assert ("ssh", "@backend") not in reach(planned, "in")


def test_whom_ints_sites_reach(network):
    made = network("civicrm_int")
    assert made["firewall_confined_users"] == ["crm", "staging-crm"]
    assert reach(made, "out", "crm") == {
        ("dns", "loopback"),
        ("imaps", "loopback"),
        ("smtp", "loopback"),
        ("submission", "loopback"),
    }
    assert reach(made, "out", "staging-crm") == {("dns", "loopback"), ("imaps", "loopback")}
    assert reach(made, "out", "www-data") == set()
    assert reach(made, "out", "mail-policy") == {("diverted_mail", "loopback")}


def test_whom_exts_sites_reach(network):
    made = network("civicrm_ext", civicrm_ext_payment_networks=[])
    assert reach(made, "out", "donate-api") == {("dns", "loopback"), ("redis", "@backend")}
    assert reach(made, "out", "www-data") == {("https", "@backend"), ("dns", "loopback")}
    assert reach(made, "out", "one-click") == set()
    paying = network("civicrm_ext", civicrm_ext_payment_networks=["203.0.113.0/24"])
    assert paying["__firewall_problems"] == []
    assert ("https", "203.0.113.0/24") in reach(paying, "out", "donate-api")


def test_apache_reaches_an_acme_authority_wherever_it_is(network):
    """Its addresses change without notice; the way to int is part of anywhere (P15)."""
    made = network("civicrm_ext", civicrm_ext_tls_source="acme")
    assert made["__firewall_problems"] == []
    assert reach(made, "out", "www-data") == {("https", "anywhere"), ("dns", "loopback")}


@pytest.mark.parametrize("profile", ["civicrm_int", "civicrm_ext"])
def test_only_the_resolver_may_ask_outside(network, profile):
    made = network(profile)
    askers = {
        u for e in made["firewall_map"] if e["service"] == "dns" and e.get("where") != ["loopback"] for u in e["who"]
    }
    assert askers == {"unbound"}
    assert made["firewall_sets"]["dns_upstreams"] == ["0.0.0.0/0", "::/0"]
    upstreams = network(profile, resolver_upstreams=["192.0.2.53"])["firewall_sets"]["dns_upstreams"]
    assert upstreams == ["192.0.2.53"]


@pytest.mark.parametrize("profile", ["civicrm_int", "civicrm_ext"])
def test_the_inventory_adds_entries_and_sets(network, profile):
    entry = {"name": "agent", "direction": "out", "who": ["root"], "where": ["@agents"], "service": "ntp", "why": "x"}
    wrong = network(profile, **{f"{profile}_firewall_entries": [entry]})["__firewall_problems"]
    assert len(wrong) == 1
    assert "entry 'agent': unknown set @agents" in wrong[0]
    sets = {f"{profile}_firewall_entries": [entry], f"{profile}_firewall_sets": {"agents": ["192.0.2.9"]}}
    assert network(profile, **sets)["__firewall_problems"] == []
    # A site's user does not get out by one line.
    out = entry | {"who": ["crm", "donate-api"], "where": ["203.0.113.9"]}
    assert len(network(profile, **{f"{profile}_firewall_entries": [out]})["__firewall_problems"]) == 1
