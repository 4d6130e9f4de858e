"""Redis' instances as their operator gets them."""

import pytest

CONF = "etc/redis/redis-instance.conf"
UNIT = "etc/systemd/system/redis-server@.service.d/civicrm.conf"
CACHE = {
    "name": "cache-crm",
    "socket": "/run/redis-cache-crm/redis.sock",
    "socket_group": "crm",
    "persistence": "none",
    "maxmemory_mb": 64,
    "maxmemory_policy": "allkeys-lru",
}
QUEUE = {
    "name": "queue",
    "bind": ["192.0.2.11", "2001:db8::11"],
    "port": 6379,
    "persistence": "aof",
    "maxmemory_mb": 128,
    "maxmemory_policy": "noeviction",
    "users": [{"name": "ext", "password_sha256": "ab" * 32, "rules": "~queue:* +ping +lpush"}],
}


def directives(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_a_cache_has_no_port_and_forgets(render):
    lines = directives(render("redis", CONF, item=CACHE))
    assert {"port 0", "unixsocket /run/redis-cache-crm/redis.sock", "unixsocketperm 770"} <= set(lines)
    assert {'save ""', "appendonly no", "maxmemory 64mb", "maxmemory-policy allkeys-lru"} <= set(lines)
    assert not [line for line in lines if line.startswith("bind")]


def test_a_caches_client_administers_nothing(render):
    (user,) = [line for line in directives(render("redis", CONF, item=CACHE)) if line.startswith("user ")]
    assert user == "user default reset on nopass ~* &* +@all -@admin +config|get"


def test_a_queue_listens_on_its_addresses_and_writes_before_it_acknowledges(render):
    lines = directives(render("redis", CONF, item=QUEUE))
    assert {"bind 192.0.2.11 2001:db8::11", "port 6379", "appendonly yes", "appendfsync always"} <= set(lines)
    assert not [line for line in lines if line.startswith("unixsocket")]


def test_with_users_whoever_does_not_log_in_gets_nothing(render):
    lines = directives(render("redis", CONF, item=QUEUE))
    assert [line for line in lines if line.startswith("user ")] == [
        # Off: its rights are for Redis itself, which reads its own file back as this user.
        "user default reset off ~* &* +@all",
        f"user ext reset on #{'ab' * 32} ~queue:* +ping +lpush",
    ]


def test_only_the_sites_group_reaches_the_socket(render):
    lines = directives(render("redis", UNIT, item=CACHE))
    assert {"Group=crm", "SupplementaryGroups=redis", "RuntimeDirectoryMode=0750"} <= set(lines)
    assert not [line for line in directives(render("redis", UNIT, item=QUEUE)) if line.startswith("Group=")]


def test_an_instance_writes_only_its_own_directories(render):
    lines = directives(render("redis", UNIT, item=CACHE))
    assert [line for line in lines if line.startswith("ReadWritePaths=")] == [
        "ReadWritePaths=",
        "ReadWritePaths=/var/lib/redis/cache-crm /run/redis-cache-crm",
    ]


@pytest.mark.parametrize("enabled", [True, False])
def test_a_user_namespace_unless_switched_off(render, enabled):
    text = render("redis", UNIT, item=CACHE, redis_private_users_enabled=enabled)
    assert ("PrivateUsers=false" in text) is not enabled
