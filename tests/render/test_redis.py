"""Redis' instances as their operator gets them."""

import os
import subprocess

import pytest
import yaml
from loading import ROOT

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
    assert user.startswith("user default reset on nopass ~* &* +@all -@admin -@dangerous -@scripting ")


def test_a_queue_listens_on_its_addresses_and_writes_before_it_acknowledges(render):
    lines = directives(render("redis", CONF, item=QUEUE))
    assert {"bind 192.0.2.11 2001:db8::11", "port 6379", "appendonly yes", "appendfsync always"} <= set(lines)
    assert not [line for line in lines if line.startswith("unixsocket")]


def test_with_users_whoever_does_not_log_in_gets_nothing(render):
    lines = directives(render("redis", CONF, item=QUEUE))
    assert [line for line in lines if line.startswith("user ")] == [
        # Off: its rights are for Redis itself, which reads its own file back as this user.
        "user default reset off ~* &* +@all",
        f"user ext reset on #{'ab' * 32} ~queue:* +ping +lpush -@scripting",
    ]


def test_only_the_sites_group_reaches_the_socket(render):
    lines = directives(render("redis", UNIT, item=CACHE))
    assert {"Group=crm", "SupplementaryGroups=redis-cache-crm", "RuntimeDirectoryMode=0750"} <= set(lines)
    assert "Group=redis-queue" in directives(render("redis", UNIT, item=QUEUE))


@pytest.mark.parametrize("item", [CACHE, QUEUE], ids=lambda item: item["name"])
def test_each_instance_is_a_user_of_its_own(render, item):
    """Who breaks into one has the data of one. systemd makes its directory, as the package's is another user's."""
    name = f"redis-{item['name']}"
    assert {f"User={name}", f"StateDirectory={name}"} <= set(directives(render("redis", UNIT, item=item)))
    assert f"dir /var/lib/{name}" in directives(render("redis", CONF, item=item))
    assert f"u {name} - " in render("redis", "etc/sysusers.d/redis-instances.conf", redis_instances=[item])


def test_an_instance_writes_only_its_own_directories(render):
    lines = directives(render("redis", UNIT, item=CACHE))
    assert [line for line in lines if line.startswith("ReadWritePaths=")] == [
        "ReadWritePaths=",
        "ReadWritePaths=/var/lib/redis-cache-crm /run/redis-cache-crm",
    ]


@pytest.mark.parametrize("enabled", [True, False])
def test_a_user_namespace_unless_switched_off(render, enabled):
    text = render("redis", UNIT, item=CACHE, redis_private_users_enabled=enabled)
    assert ("PrivateUsers=false" in text) is not enabled


@pytest.fixture
def move(tmp_path):
    """Run the task that moves what durable instances have stored, below a directory of the test."""
    tasks = yaml.safe_load((ROOT / "roles/redis/tasks/main.yml").read_text())
    (shell,) = [task["ansible.builtin.shell"]["cmd"] for task in tasks if "ansible.builtin.shell" in task]
    before, _, after = shell.partition("{{")
    script = (before + "queue" + after.partition("}}")[2]).replace("/var/lib/redis", str(tmp_path / "redis"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/log\n')
    (tmp_path / "bin/systemctl").chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}

    def _move():
        return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)

    return _move


def test_what_a_queue_kept_is_moved_once_while_it_is_stopped(move, tmp_path):
    """A host from before: no donation is passed over, whether or not the new directory stands already."""
    old, new = tmp_path / "redis/queue", tmp_path / "redis-queue"
    old.mkdir(parents=True)
    new.mkdir()
    (old / "appendonly.aof").write_text("donations")
    assert move().stdout == "queue\n"
    assert (tmp_path / "log").read_text() == "stop redis-server@queue.service\n"
    assert (new / "appendonly.aof").read_text() == "donations" and not old.exists()
    assert move().stdout == "" and (tmp_path / "log").read_text().count("stop") == 1


def test_two_directories_with_data_end_the_run(move, tmp_path):
    """Nobody but an admin knows which of them is wanted."""
    old, new = tmp_path / "redis/queue", tmp_path / "redis-queue"
    for directory in (old, new):
        directory.mkdir(parents=True)
        (directory / "appendonly.aof").write_text("donations")
    done = move()
    assert done.returncode == 1 and str(old) in done.stderr and "move the other away" in done.stderr
    assert (old / "appendonly.aof").exists() and not (tmp_path / "log").exists()


def test_a_link_in_the_old_place_ends_the_run(move, tmp_path):
    """The former user of all instances can have put it there, or an admin: then the queue must not start empty."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("x")
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis/queue").symlink_to(tmp_path / "elsewhere")
    done = move()
    assert done.returncode == 1 and f"{tmp_path / 'redis/queue'} is a link" in done.stderr
    assert not (tmp_path / "redis-queue").exists() and not (tmp_path / "log").exists()
