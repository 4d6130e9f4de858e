"""Who may talk to whom: int and ext answer where they must, and send only what the map names (S11, N19)."""

import json
import re
import shlex
import subprocess

import pytest
from fixtures import ROOT

OUTER = {"crm_int": "198.51.100.11", "crm_ext": "198.51.100.12"}
INNER = "10.77.0.11"
WORLD, PROVIDER = "198.51.100.20", "198.51.100.21"
SITES = ["crm", "staging-crm", "test-crm"]

# Connects without waiting, thousands at a time: a dropped packet answers nothing, so each batch takes its time-out.
SCAN = """
import errno, json, resource, select, socket, sys, time
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
batch = min(16000, hard - 100)
found = {}
last = int(sys.argv[2])
for first in range(1, last + 1, batch):
    sockets, poll = {}, select.epoll()
    for port in range(first, min(first + batch, last + 1)):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex((sys.argv[1], port))
        sockets[s.fileno()] = (port, s)
        poll.register(s, select.EPOLLOUT)
    deadline = time.monotonic() + 1.5
    while (left := deadline - time.monotonic()) > 0:
        for number, _ in poll.poll(left, batch):
            port, s = sockets[number]
            error = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            found[port] = errno.errorcode[error] if error else "open"
            poll.unregister(number)
    for _, s in sockets.values():
        s.close()
print(json.dumps(found))
"""

# Attempts of one user, of at most three seconds each: connected, answered, silent or the error's name; and seconds.
PROBE = """
import errno, json, socket, sys, time
# A question for the address of mx.accepting.test, and an echo request with its checksum.
question = b"\\x12\\x34\\x01\\x00\\x00\\x01" + bytes(6) + b"\\x02mx\\x09accepting\\x04test\\x00\\x00\\x01\\x00\\x01"
for kind, host, port in json.loads(sys.argv[1]):
    six = ":" in host
    icmp = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    echo = b"\\x80\\x00\\x00\\x00\\x00\\x01\\x00\\x01" if six else b"\\x08\\x00\\xf7\\xfd\\x00\\x01\\x00\\x01"
    type, protocol = {"tcp": (socket.SOCK_STREAM, 0), "icmp": (socket.SOCK_RAW, icmp)}.get(kind, (socket.SOCK_DGRAM, 0))
    s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, type, protocol)
    s.settimeout(3)
    started = time.monotonic()
    try:
        s.connect(socket.getaddrinfo(host, None if kind == "icmp" else port, type=type, proto=protocol)[0][4])
        said = "connected"
        if kind != "tcp":
            s.send({"udp": b"x", "dns": question, "icmp": echo}[kind])
            s.recv(1500)
            said = "answered"
    except TimeoutError:
        said = "silent"
    except OSError as error:
        said = errno.errorcode[error.errno]
    print(json.dumps([said, time.monotonic() - started]))
"""
REFUSED = {"ECONNREFUSED", "EPERM", "EACCES", "EHOSTUNREACH"}


def attempts(host, user: str, *wanted: tuple[str, str, int]) -> list[str]:
    """What becomes of attempts (kind, address, port) of a user; a refused one must fail at once instead of hanging."""
    # Opening a raw socket takes a capability. With it only the firewall is in the way of an echo request.
    run_as = f"setpriv --reuid={user} --clear-groups --inh-caps=+net_raw --ambient-caps=+net_raw --"
    answer = host.check_output(f"{run_as} python3 -c {shlex.quote(PROBE)} {shlex.quote(json.dumps(wanted))}")
    results = [json.loads(line) for line in answer.splitlines()]
    slow = [
        (one, result) for one, result in zip(wanted, results, strict=True) if result[0] in REFUSED and result[1] > 1
    ]
    assert not slow
    return [said for said, _ in results]


def all_refused(host, user: str, *wanted: tuple[str, str, int]) -> bool:
    said = attempts(host, user, *wanted)
    assert set(said) <= REFUSED, list(zip(wanted, said, strict=True))
    return True


def refused_packets(host) -> dict[int, int]:
    """Packets that were refused on their way out, by uid, as the kernel counts them."""
    listing = json.loads(host.check_output("nft -j list set inet civicrm_firewall refused_users"))
    (found,) = [item["set"] for item in listing["nftables"] if "set" in item]
    return {e["elem"]["val"]: e["elem"]["counter"]["packets"] for e in found.get("elem", [])}


def refused_ports(host) -> dict[tuple, int]:
    listing = json.loads(host.check_output("nft -j list set inet civicrm_firewall refused_ports"))
    (found,) = [item["set"] for item in listing["nftables"] if "set" in item]
    return {tuple(e["elem"]["val"]["concat"]): e["elem"]["counter"]["packets"] for e in found.get("elem", [])}


def exported(host, user: str) -> int:
    """The metric of one user, exported now."""
    host.check_output("systemctl start firewall-drops.service")
    text = host.check_output("cat /var/lib/prometheus/node-exporter/firewall.prom")
    found = re.search(rf'^firewall_drops_total{{direction="out",reason="unlisted",user="{user}"}} (\d+)$', text, re.M)
    return int(found[1]) if found else 0


def scan(world, address: str, last: int = 65535) -> dict[int, str]:
    """What each TCP port from 1 to `last` answers, "open" or the error's name; silent ones are left out."""
    found = json.loads(world.check_output(f"python3 -c {shlex.quote(SCAN)} {address} {last}"))
    return {int(port): answer for port, answer in found.items()}


@pytest.mark.mutates
@pytest.mark.parametrize(("name", "ports"), [("crm_int", {25}), ("crm_ext", {80, 443})])
def test_from_the_world_only_the_doors_answer(world, name, ports):
    """Every port, and not even a refusal from the others. That the doors are seen shows that the scan sees (S11)."""
    assert scan(world, OUTER[name]) == dict.fromkeys(ports, "open")


@pytest.mark.mutates
def test_the_scan_sees_a_port_that_is_not_dropped(world, ops):
    """The control of the scan: ops has no firewall of ours, its closed ports answer, too."""
    found = scan(world, "198.51.100.13", last=1000)
    assert found[22] == "open"
    assert sum(answer == "ECONNREFUSED" for answer in found.values()) > 900


IKE = """
import socket, struct, sys
# An IKE header of a version that does not exist: charon answers INVALID_MAJOR_VERSION.
header = struct.pack("!8s8sBBBBII", b"initiate", bytes(8), 33, 0x30, 34, 0x08, 0, 28)
for port, mark in ((500, b""), (4500, bytes(4))):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(3)
    s.connect((sys.argv[1], port))
    s.send(mark + header)
    print(port, s.recv(1500)[len(mark):][:8] == b"initiate")
for port in (53, 69, 123, 161, 514, 3903, 5353, 10000):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(0.5)
    s.connect((sys.argv[1], port))
    s.send(b"x")
    try:
        print(port, s.recv(1500))
    except TimeoutError:
        pass
    except ConnectionRefusedError:
        print(port, "refused")
"""


@pytest.mark.mutates
@pytest.mark.parametrize("name", OUTER)
def test_by_udp_only_ike_answers(world, name):
    """The other hosts of the private link may have any address; nothing else listens, and nothing says so (S11)."""
    assert world.check_output(f"python3 -c {shlex.quote(IKE)} {OUTER[name]}").split("\n") == ["500 True", "4500 True"]


ATTEMPTS = [
    ("tcp", PROVIDER, 25),
    ("tcp", WORLD, 80),
    ("tcp", "203.0.113.9", 443),
    ("udp", WORLD, 9999),
    ("dns", WORLD, 53),
    ("tcp", WORLD, 53),
    ("icmp", WORLD, 0),
]


@pytest.mark.mutates
@pytest.mark.parametrize("user", [*SITES, "www-data"])
def test_the_sites_code_reaches_nothing_outside(crm_int, user):
    """Stolen data must not leave by any protocol; an attempt fails at once, is counted and exported (S11, N19)."""
    uid = crm_int.user(user).uid
    before, metric = refused_packets(crm_int).get(uid, 0), exported(crm_int, user)
    assert all_refused(crm_int, user, *ATTEMPTS)
    assert refused_packets(crm_int)[uid] >= before + len(ATTEMPTS)
    assert exported(crm_int, user) >= metric + len(ATTEMPTS)


@pytest.mark.mutates
def test_what_the_map_names_does_leave(crm_int):
    """The control: the same attempts by those for whom they are meant."""
    assert attempts(crm_int, "postfix", ("tcp", PROVIDER, 25)) == ["connected"]
    assert attempts(crm_int, "unbound", ("dns", WORLD, 53)) == ["answered"]
    assert attempts(crm_int, "root", ("icmp", WORLD, 0)) == ["answered"]
    # Whether or not something listens there, the answer is world's own: our counter does not move.
    before = refused_ports(crm_int).get((0, "tcp", 80), 0)
    assert attempts(crm_int, "root", ("tcp", WORLD, 80))[0] in ("connected", "ECONNREFUSED")
    assert refused_ports(crm_int).get((0, "tcp", 80), 0) == before


@pytest.mark.mutates
def test_outside_also_means_ipv6(crm_int, world):
    address = re.search(r"inet6 (fe80::\S+)/", world.check_output("ip -6 address show dev eth0"))[1] + "%eth0"
    for user in SITES:
        assert all_refused(crm_int, user, ("tcp", address, 53), ("icmp", address, 0))
    assert attempts(crm_int, "root", ("icmp", address, 0)) == ["answered"]


@pytest.mark.mutates
@pytest.mark.parametrize("name", OUTER)
def test_only_the_resolver_asks_outside_name_servers(request, name):
    """A name carries data, too. Root asks the host's own resolver like everybody else."""
    host = request.getfixturevalue(name)
    assert all_refused(host, "root", ("dns", WORLD, 53), ("tcp", WORLD, 53))
    assert attempts(host, "unbound", ("dns", WORLD, 53)) == ["answered"]
    assert attempts(host, "root", ("dns", "127.0.0.1", 53)) == ["answered"]


@pytest.mark.mutates
@pytest.mark.parametrize("user", ["staging-crm", "test-crm"])
def test_a_site_whose_mail_is_caught_reaches_no_mail_server_on_this_host(crm_int, user):
    """Postfix refuses and diverts by identity, which SMTP on loopback does not show. Loopback is also the way to the
    host's own addresses."""
    uid, before = crm_int.user(user).uid, refused_ports(crm_int)
    addresses, ports = ["127.0.0.1", "::1", OUTER["crm_int"], INNER, "fd77::11"], [25, 465, 587]
    assert all_refused(crm_int, user, *[("tcp", address, port) for address in addresses for port in ports])
    after = refused_ports(crm_int)
    for port in ports:
        assert after[(uid, "tcp", port)] - before.get((uid, "tcp", port), 0) >= len(addresses)
    # The mailbox and names, by contrast, are theirs; and port 25 does answer those who may.
    theirs = attempts(crm_int, user, ("tcp", "127.0.0.1", 993), ("dns", "127.0.0.1", 53))
    assert theirs == ["connected", "answered"]
    assert attempts(crm_int, "crm", ("tcp", "127.0.0.1", 25)) == ["connected"]
    open_to_root = attempts(crm_int, "root", ("tcp", "127.0.0.1", 25), ("tcp", OUTER["crm_int"], 25))
    assert open_to_root == ["connected", "connected"]


@pytest.mark.mutates
def test_who_runs_on_ext_finds_one_door_each(crm_ext):
    """ext is the exposed host: Apache reaches the sites, the API only the queue, root nothing of either (S11)."""
    sites, queue, mail = ("tcp", INNER, 443), ("tcp", INNER, 6379), ("tcp", INNER, 25)
    assert attempts(crm_ext, "www-data", sites) == ["connected"]
    assert attempts(crm_ext, "donate-api", queue) == ["connected"]
    assert attempts(crm_ext, "postfix", mail) == ["connected"]
    assert all_refused(crm_ext, "donate-api", sites, mail, ("tcp", PROVIDER, 25), ("dns", WORLD, 53))
    assert all_refused(crm_ext, "www-data", queue, ("tcp", PROVIDER, 25))
    assert all_refused(crm_ext, "root", queue, ("tcp", INNER, 22))


def ssh(address: str) -> bool:
    """Whether a new ssh connection from the admin's address comes in."""
    options = ["-i", ".lab/ssh/id_ed25519", "-o", "UserKnownHostsFile=.lab/ssh/known_hosts", "-o", "ConnectTimeout=3"]
    options += ["-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "ControlPath=none"]
    done = subprocess.run(
        ["ssh", *options, f"root@{address}", "true"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 255), done.stderr
    return done.returncode == 0


@pytest.mark.mutates
@pytest.mark.parametrize("name", OUTER)
def test_the_admin_comes_in_while_the_tunnel_is_down(request, eventually, name):
    """Whoever repairs the tunnel cannot come through it."""
    host = request.getfixturevalue(name)
    host.check_output("systemctl stop strongswan")
    try:
        assert host.run("swanctl --list-sas").rc != 0
        assert ssh(OUTER[name])
    finally:
        host.check_output("systemctl start strongswan")
    eventually(lambda: "INSTALLED" in host.run("swanctl --list-sas").stdout)


# 100 attempts a second at a port that is dropped: an answer of any kind would be a moment without rules. One
# connection to port 25 talks all the while.
WATCH = """
import select, socket, sys, time
address, closed, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
mail = socket.create_connection((address, 25), 5)
mail.settimeout(5)
mail.recv(500)
print("ready", flush=True)
deadline, sockets, poll, answers, talks = time.monotonic() + seconds, {}, select.epoll(), 0, 0
while time.monotonic() < deadline:
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex((address, closed))
    sockets[s.fileno()] = s
    poll.register(s, select.EPOLLOUT)
    for number, _ in poll.poll(0.01):
        answers += 1
        poll.unregister(number)
    if len(sockets) % 10 == 0:
        mail.send(b"NOOP\\r\\n")
        talks += mail.recv(500).startswith(b"250")
    time.sleep(max(0, min(0.01, deadline - time.monotonic())))
print(len(sockets), answers, talks)
"""


def watch(world, during, seconds: float = 6) -> tuple[int, int, int]:
    """(attempts, answers, mail replies) that world sees of int while `during` is called again and again."""
    name = world.check_output("hostname -s")
    watcher = subprocess.Popen(
        ["podman", "exec", "-i", name, "python3", "-c", WATCH, OUTER["crm_int"], "6379", str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watcher.stdout.readline() == "ready\n"
    while watcher.poll() is None:
        during()
    return tuple(int(number) for number in watcher.stdout.read().split())


@pytest.mark.mutates
def test_rules_are_replaced_without_a_moment_without_rules(world, crm_int):
    """Each load gives the same ruleset, nothing slips in between, and connections live on (S11)."""

    def load():
        crm_int.check_output("systemctl reset-failed nftables.service; systemctl reload nftables.service")
        assert crm_int.check_output("firewall-apply apply /etc/nftables.conf") == "unchanged"

    attempts, answers, talks = watch(world, load)
    assert (attempts > 200, answers, talks > 20) == (True, 0, True)
    assert crm_int.check_output("firewall-apply status") == "confirmed"


@pytest.mark.mutates
def test_a_moment_without_rules_would_be_seen(world, crm_int):
    """The control of the test above: stop and start instead of reload."""

    def hole():
        crm_int.check_output("systemctl reset-failed nftables.service; systemctl restart nftables.service")

    try:
        _, answers, _ = watch(world, hole)
        assert answers > 0
    finally:
        crm_int.check_output("systemctl start nftables.service")


@pytest.mark.mutates
def test_stopping_the_firewall_leaves_the_tables_of_others(crm_int):
    """Debian's unit would flush them all, the private link's guard with them."""
    crm_int.check_output("nft add table inet acceptance_probe")
    try:
        before = set(crm_int.check_output("nft list tables").splitlines())
        crm_int.check_output("systemctl stop nftables.service")
        assert before - set(crm_int.check_output("nft list tables").splitlines()) == {"table inet civicrm_firewall"}
    finally:
        crm_int.check_output("systemctl reset-failed nftables.service; systemctl start nftables.service")
        crm_int.check_output("nft delete table inet acceptance_probe")
    assert crm_int.check_output("firewall-apply status") == "confirmed"


@pytest.mark.mutates
@pytest.mark.parametrize("name", OUTER)
def test_a_ruleset_that_locks_the_admin_out_takes_itself_back(request, eventually, name):
    """The admin's way in survives every converge; and the ruleset could not come up at a boot either."""
    host = request.getfixturevalue(name)
    boot = host.check_output("sha256sum /etc/nftables.conf")
    assert ssh(OUTER[name])
    host.check_output("grep -v 'ssh for the admins' /etc/nftables.conf >/run/lock-out.nft")
    assert host.check_output("firewall-apply apply --rollback-seconds 8 /run/lock-out.nft").startswith("applied")
    assert not ssh(OUTER[name]), "the ruleset does not lock out: the test would prove nothing"
    assert host.check_output("sha256sum /etc/nftables.conf") == boot
    eventually(lambda: ssh(OUTER[name]), within=30)
    assert host.check_output("firewall-apply status") == "confirmed"
    assert "nothing to confirm" in host.run("firewall-apply confirm").stderr


@pytest.mark.parametrize("name", OUTER)
def test_only_what_the_world_may_reach_listens_on_all_addresses(request, name):
    """Whatever the firewall says: the rest listens on loopback or on inner addresses."""
    host = request.getfixturevalue(name)
    lines = host.check_output("ss -Hlntup").splitlines()
    anywhere = {
        row[4].rsplit(":", 1)[1] for row in map(str.split, lines) if row[4].startswith(("*:", "0.0.0.0:", "[::]:"))
    }
    assert anywhere <= {"22", "25", "80", "443", "500", "4500"}
