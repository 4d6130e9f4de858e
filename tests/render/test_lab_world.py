"""The lab's names and fake providers as the rest of the lab meets them, on another network than the usual one."""

from __future__ import annotations

import json

import pytest

WORLD = {
    "lab_world_subnet": "203.0.113.0/24",
    "lab_world_address": "203.0.113.20",
    "lab_world_hostname": "world.example.test",
    "lab_world_client_address": "203.0.113.30",
    "lab_world_client_hostname": "client.outside.test",
    "lab_world_forwarders": ["203.0.113.1"],
    "lab_world_zones": [
        {"name": "example.test", "records": ['_dmarc.example.test. IN TXT "v=DMARC1; p=none"']},
        {"name": "refusing.test"},
        {"name": "outside.test"},
    ],
    "lab_world_hosts": [
        {
            "hostname": "int.example.test",
            "address": "203.0.113.11",
            "aliases": ["crm.example.test", "refusing.test.example.test"],
        },
        {"hostname": "int.inner.example.test", "address": "10.77.0.11"},
    ],
    "lab_world_mail_domains": [
        {"name": "crm.example.test", "exchanger": "int.example.test", "senders": ["203.0.113.11", "203.0.113.13"]},
        {"name": "refusing.test", "exchanger": "mx.refusing.test", "senders": ["203.0.113.22"]},
        {"name": "outside.test", "exchanger": "mx.refusing.test", "senders": ["203.0.113.30"]},
    ],
    "lab_world_providers": [
        {
            "name": "refusing",
            "hostname": "mx.refusing.test",
            "address": "203.0.113.22",
            "rules": [{"recipient": "nobody@refusing.test", "reply": "550 5.1.1 <{recipient}>: User unknown"}],
        }
    ],
}
ZONES = "etc/bind/zones/"


def records(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith((";", "$", "@"))]


@pytest.fixture(scope="session")
def world(render):
    return lambda template, **variables: render("lab_world", template, **WORLD | variables)


def test_a_zone_holds_its_own_names_only(world):
    zone = records(world(ZONES + "forward.zone", item=WORLD["lab_world_zones"][0]))
    assert zone == [
        "world.example.test. IN A 203.0.113.20",
        "int.example.test. IN A 203.0.113.11",
        "crm.example.test. IN A 203.0.113.11",
        "refusing.test.example.test. IN A 203.0.113.11",
        "int.inner.example.test. IN A 10.77.0.11",
        "crm.example.test. IN MX 10 int.example.test.",
        'crm.example.test. IN TXT "v=spf1 ip4:203.0.113.11 ip4:203.0.113.13 -all"',
        '_dmarc.example.test. IN TXT "v=DMARC1; p=none"',
    ]


def test_a_providers_domain_leads_to_the_provider(world):
    zone = records(world(ZONES + "forward.zone", item=WORLD["lab_world_zones"][1]))
    assert zone == [
        "mx.refusing.test. IN A 203.0.113.22",
        "refusing.test. IN MX 10 mx.refusing.test.",
        'refusing.test. IN TXT "v=spf1 ip4:203.0.113.22 -all"',
    ]


def test_every_address_of_the_subnet_has_one_name_that_points_back(world):
    """Receivers ask for forward-confirmed PTR; an alias or an inner address must not appear."""
    assert records(world(ZONES + "reverse.zone")) == [
        "20 IN PTR world.example.test.",
        "30 IN PTR client.outside.test.",
        "11 IN PTR int.example.test.",
        "22 IN PTR mx.refusing.test.",
    ]


def test_a_reverse_zone_takes_records_that_were_made_elsewhere(world):
    given = ["12.113.0.203.in-addr.arpa. IN PTR ext.example.test."]
    assert records(world(ZONES + "reverse.zone", lab_world_reverse_records=given))[-1:] == given


def test_the_parent_zone_delegates_each_zone(world):
    zone = records(world(ZONES + "parent.zone"))
    assert zone[1:] == [
        f"{name}. IN NS world.example.test." for name in ("example.test", "refusing.test", "outside.test")
    ]


def test_the_name_server_recurses_for_the_lab_alone(world):
    text = world("etc/bind/named.conf")
    assert "listen-on { 203.0.113.20; };" in text
    assert "allow-recursion { localhost; 203.0.113.0/24; };" in text
    assert "forwarders {\n        203.0.113.1;\n    };" in text
    assert 'zone "113.0.203.in-addr.arpa"' in text
    assert text.count("type primary;") == 5


def test_without_forwarders_the_root_servers_are_asked(world):
    assert "forward" not in world("etc/bind/named.conf", lab_world_forwarders=[]).split("options {")[1]


def test_a_provider_takes_mail_for_the_domains_whose_exchanger_it_is(world):
    provider = WORLD["lab_world_providers"][0]
    config = json.loads(world("etc/fake-provider/provider.json", item=provider))
    assert config["domains"] == ["refusing.test", "outside.test"]
    assert config["rules"] == provider["rules"]
    assert (config["listen"], config["answer_delay_seconds"], config["tls_key"]) == ("203.0.113.22", 0, "")
    assert "storage" not in config


def test_the_certificate_is_read_from_the_providers_copy(world):
    item = WORLD["lab_world_providers"][0]
    given = {"lab_world_tls_certificate": "/etc/ssl/world.crt", "lab_world_tls_key": "/etc/ssl/world.key"}
    config = json.loads(world("etc/fake-provider/provider.json", item=item, **given))
    assert config["tls_certificate"] == "/etc/fake-provider/tls.crt"
    assert config["tls_key"] == "/etc/fake-provider/tls.key"


def test_all_further_addresses_are_added(world):
    unit = world("etc/systemd/system/world-addresses.service", lab_world_interface="eth1")
    commands = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert commands == [
        "ExecStart=/usr/sbin/ip address replace 203.0.113.22/24 dev eth1",
        "ExecStart=/usr/sbin/ip address replace 203.0.113.30/24 dev eth1",
    ]


def test_a_backup_client_reaches_its_own_directory_only(render):
    clients = [
        {"name": "int", "public_key": "ssh-ed25519 AAAA root@int\n", "sources": ["10.77.0.11", "fd77::11"]},
        {"name": "ext", "public_key": "ssh-ed25519 BBBB root@ext"},
    ]
    text = render("lab_ops", "srv/backup/.ssh/authorized_keys", lab_ops_backup_clients=clients)
    keys = [line for line in text.splitlines() if not line.startswith("#")]
    assert keys == [
        'restrict,from="10.77.0.11,fd77::11",command="/usr/bin/rrsync /srv/backup/int" ssh-ed25519 AAAA root@int',
        'restrict,command="/usr/bin/rrsync /srv/backup/ext" ssh-ed25519 BBBB root@ext',
    ]
