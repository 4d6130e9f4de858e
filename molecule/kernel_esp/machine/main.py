#!/usr/bin/env python3
"""Run two hosts' private link on this machine's kernel and write down what is seen; tests judge it elsewhere.

Runs as root in the virtual machine of lab/bin/vm-run, where nothing else runs. /disks/HOST holds what was copied
from a host, /disks/program/endpoints.json the two entries of ipsec_endpoints. Each host is a network namespace of
its name with the host's own /etc/swanctl, /etc/strongswan.d and /etc/ipsec-guard.nft; a veth pair is the
network between them. Each line on /dev/ttyS1 is a JSON object: step, at (seconds since boot), and its own keys.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

CANARY = b"CANARY-IN-CLEAR"
PORT = 7777
PATIENCE = 90  # seconds for what takes one or two; an emulated machine on a busy one is slow
ETH_P_ALL, PACKET_OUTGOING, SO_RCVBUFFORCE = 3, 4, 33

# What the configuration needs out of ~50 plugins: charon starts in 2 s instead of 48. kernel-libipsec is not among
# them, so ESP is the kernel's; the hosts' own /etc/strongswan.d comes first and keeps its timeouts.
STRONGSWAN_CONF = """
include strongswan.d/*.conf
charon-systemd {{
    load_modular = no
    load = random nonce openssl pem pkcs1 pkcs8 x509 pubkey constraints revocation kernel-netlink socket-default vici
    plugins {{
        vici {{
            socket = unix:///run/{name}.vici
        }}
    }}
    filelog {{
        log {{
            path = /run/{name}.log
        }}
    }}
}}
"""


@dataclass
class Host:
    """One end: an entry of ipsec_endpoints, its charon while that runs, and what its servers received."""

    name: str
    outer: str
    outer_ipv6: str  # of this machine; IPv6 in clear needs a way, else its absence would prove nothing
    inner: dict[int, str]  # address family -> address
    charon: subprocess.Popen[bytes] | None = None
    received: set[bytes] = field(default_factory=set)

    def run(self, *command: str) -> str:
        """Return the output of a command in the host's namespaces; CalledProcessError if it fails."""
        return run("ip", "netns", "exec", self.name, *command)

    def swanctl(self, *arguments: str) -> str:
        return self.run("swanctl", *arguments, "--uri", f"unix:///run/{self.name}.vici")


def run(*command: str) -> str:
    """Return the output of a command; if it fails, its errors go to the console and CalledProcessError is raised."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode != 0:
        print(*command, done.stdout, done.stderr, flush=True)
    done.check_returncode()
    return done.stdout


def write_down(step: str, **seen: object) -> None:
    line = json.dumps({"step": step, "at": round(time.clock_gettime(time.CLOCK_BOOTTIME), 2), **seen})
    print(line[:200], flush=True)
    with open("/dev/ttyS1", "w") as answers:  # noqa: PTH123 (a device)
        answers.write(line + "\n")


def eventually(probe: Callable[[], bool], within: float = PATIENCE) -> float:
    """Return after how many seconds probe() was true; TimeoutError if it was not `within` seconds."""
    start = time.monotonic()
    while not probe():
        if time.monotonic() - start > within:
            raise TimeoutError(probe)
        time.sleep(0.05)
    return round(time.monotonic() - start, 2)


@contextmanager
def inside(host: Host) -> Iterator[None]:
    """Sockets that this thread makes belong to the host."""
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{host.name}") as there:  # noqa: PTH123 (kernel)
        os.setns(there.fileno(), os.CLONE_NEWNET)
        try:
            yield
        finally:
            os.setns(home.fileno(), os.CLONE_NEWNET)


# The two hosts and what is between them


def make_hosts() -> tuple[Host, Host]:
    """Give each endpoint a namespace, its own /etc, its addresses, and a default route to the other in clear."""
    endpoints = json.loads(Path("/disks/program/endpoints.json").read_text())
    hosts = [
        Host(
            name=e["name"],
            outer=e["outer_address"],
            outer_ipv6=f"2001:db8::{number}",
            inner={socket.AF_INET: e["inner_ipv4"], socket.AF_INET6: e["inner_ipv6"]},
        )
        for number, e in enumerate(endpoints, start=1)
    ]
    Path("/etc/netns").mkdir()
    for host in hosts:
        etc = Path("/etc/netns", host.name)
        etc.symlink_to(f"/disks/{host.name}/etc")
        (etc / "strongswan.conf").write_text(STRONGSWAN_CONF.format(name=host.name))
        Path("/etc/ipsec-guard.nft").touch()  # each host's own is mounted over it
        run("ip", "netns", "add", host.name)
    run(*f"ip link add wire netns {hosts[0].name} type veth peer name wire netns {hosts[1].name}".split())
    for host, peer in (hosts, hosts[::-1]):
        for command in (
            "link set lo up",
            f"address add {host.inner[socket.AF_INET]}/32 dev lo",
            f"address add {host.inner[socket.AF_INET6]}/128 dev lo nodad",
            f"address add {host.outer}/24 dev wire",
            f"address add {host.outer_ipv6}/64 dev wire nodad",
            "link set wire up",
            f"route add default via {peer.outer}",
            f"-6 route add default via {peer.outer_ipv6}",
        ):
            run("ip", "-n", host.name, *command.split())
    return hosts[0], hosts[1]


def guard(host: Host, on: bool) -> None:
    host.run("nft", *(["--file", "/etc/ipsec-guard.nft"] if on else ["flush", "ruleset"]))


def start(*hosts: Host) -> None:
    """Start charon and load the connections, as strongswan.service does."""
    for host in hosts:
        Path(f"/run/{host.name}.vici").unlink(missing_ok=True)
        host.charon = subprocess.Popen(["ip", "netns", "exec", host.name, "charon-systemd"])
    for host in hosts:
        eventually(Path(f"/run/{host.name}.vici").is_socket)
        host.swanctl("--load-all", "--noprompt")


def end(number: signal.Signals, *hosts: Host) -> None:
    for host in hosts:
        host.charon.send_signal(number)
    for host in hosts:
        host.charon.wait(PATIENCE)


def sas_with(host: Host, peer: Host) -> str:
    """What charon says of its SAs with the peer."""
    return host.swanctl("--list-sas", "--ike", peer.name)


def spis(host: Host, peer: Host) -> set[str]:
    """SPIs of the kernel's ESP SAs with the peer; the kernel's own of an acquire has 0."""
    pattern = rf"^src (?:{host.outer} dst {peer.outer}|{peer.outer} dst {host.outer})\n\tproto esp spi (0x\w+) "
    found = re.findall(pattern, run("ip", "-n", host.name, "xfrm", "state", "list", "nokeys"), re.M)
    return set(found) - {"0x00000000"}


def ike_spis(host: Host, peer: Host) -> set[str]:
    return set(re.findall(r"ESTABLISHED, IKEv2, (\w+)_i", sas_with(host, peer)))


def up(host: Host, peer: Host) -> bool:
    sas = sas_with(host, peer)
    return "ESTABLISHED" in sas and "INSTALLED" in sas


# Traffic and the wire


class Wire:
    """Everything that either host sends to the other, as it leaves: a receiver's side also shows what it decrypted."""

    def __init__(self, *hosts: Host) -> None:
        self.inner = {socket.inet_pton(family, a) for h in hosts for family, a in h.inner.items()}
        self.taps = []
        for host in hosts:
            with inside(host):
                tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
            tap.bind(("wire", 0))
            tap.setblocking(False)
            self.taps.append(tap)

    def kinds(self, frame: bytes) -> Iterator[str]:
        """What a frame is: canary, inner (an address), and one of arp, udp/PORT, ip/PROTOCOL, ip6/PROTOCOL, ..."""
        if CANARY in frame:
            yield "canary"
        match int.from_bytes(frame[12:14], "big"):
            case 0x0800:
                protocol, addresses, payload = frame[23], (frame[26:30], frame[30:34]), 14 + (frame[14] & 15) * 4
                name = "ip"
            case 0x86DD:
                protocol, addresses, payload = frame[20], (frame[22:38], frame[38:54]), 54
                name = "ip6"
            case other:
                yield "arp" if other == 0x0806 else f"ethertype/{other:#x}"
                return
        if self.inner.intersection(addresses):
            yield "inner"
        udp = protocol == socket.IPPROTO_UDP
        yield f"udp/{struct.unpack_from('!H', frame, payload + 2)[0]}" if udp else f"{name}/{protocol}"

    def take(self) -> Counter[str]:
        """Count kinds of frames since the last call."""
        counts: Counter[str] = Counter()
        for tap in self.taps:
            while True:
                try:
                    frame, (_, _, direction, *_) = tap.recvfrom(65535)
                except BlockingIOError:
                    break
                if direction == PACKET_OUTGOING:
                    counts.update(self.kinds(frame))
        return counts


def serve(host: Host) -> None:
    """Answer on the host's inner addresses: TCP and UDP, each message with itself."""

    def answer_tcp(listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(20)
                try:
                    message = connection.recv(4096)
                    host.received.add(message)
                    connection.sendall(message)
                except OSError as error:  # the client gave up, or the guard came between
                    print(f"{host.name} could not answer: {error}", flush=True)

    def answer_udp(server: socket.socket) -> None:
        while True:
            message, sender = server.recvfrom(4096)
            host.received.add(message)
            try:
                server.sendto(message, sender)
            except OSError as error:  # the guard refuses what would leave in clear
                print(f"{host.name} could not answer: {error}", flush=True)

    for family, address in host.inner.items():
        with inside(host):
            listener = socket.create_server((address, PORT), family=family)
            server = socket.socket(family, socket.SOCK_DGRAM)
        server.bind((address, PORT))
        threading.Thread(target=answer_tcp, args=(listener,), daemon=True).start()
        threading.Thread(target=answer_udp, args=(server,), daemon=True).start()


def try_everything(*hosts: Host, within: float) -> list[dict[str, object]]:
    """Send a canary each way in every form, at once; one dict per attempt: its form, arrived, answered, error.

    source "inner" is what a reply or a bound service has, "any" what the kernel takes for a client.
    """
    attempts, threads = [], []

    def send(attempt: dict[str, object], client: Host, server: Host, message: bytes) -> None:
        family, kind = attempt["family"], attempt["kind"]
        with inside(client):
            sender = socket.socket(family, kind)
        with sender:
            sender.settimeout(within)
            try:
                if attempt["source"] == "inner":
                    sender.bind((client.inner[family], 0))
                sender.connect((server.inner[family], PORT))
                sender.sendall(message)
                attempt["answered"] = sender.recv(4096) == message
            except OSError as error:
                attempt["error"] = str(error)

    for client, server in (hosts, hosts[::-1]):
        for family in client.inner:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                for source in ("inner", "any"):
                    attempt = {"client": client.name, "family": family, "kind": kind, "source": source}
                    attempt |= {"answered": False, "error": ""}
                    message = CANARY + os.urandom(4).hex().encode()
                    threads.append(threading.Thread(target=send, args=(attempt, client, server, message)))
                    attempts.append((attempt, server, message))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [
        attempt
        | {"family": attempt["family"].name, "kind": attempt["kind"].name, "arrived": message in server.received}
        for attempt, server, message in attempts
    ]


class RoundTrips(threading.Thread):
    """One UDP question after the other from client to server while the block runs; UDP repeats nothing that is lost."""

    def __init__(self, client: Host, server: Host) -> None:
        super().__init__()
        self.sent = self.answered = 0
        self.ending = threading.Event()
        with inside(client):
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(5)
        self.socket.bind((client.inner[socket.AF_INET], 0))
        self.socket.connect((server.inner[socket.AF_INET], PORT))

    def run(self) -> None:
        while not self.ending.is_set():
            question = b"question %d" % self.sent
            self.sent += 1
            try:
                self.socket.sendall(question)
                while self.socket.recv(4096) != question:
                    pass  # an answer that came after its time
                self.answered += 1
            except OSError as error:
                print(f"round trip {self.sent}: {error}", flush=True)
                self.ending.wait(1)

    def __enter__(self) -> RoundTrips:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.join()


# What is looked at, in this order


def look_at_the_start(a: Host, b: Host) -> None:
    probe = subprocess.run([f"/disks/{a.name}/usr/local/sbin/ipsec-kernel-can-esp"], capture_output=True, text=True)
    write_down("kernel", release=os.uname().release, probe=probe.returncode, output=probe.stdout + probe.stderr)
    files = {
        h.name: h.run("find", "/etc/swanctl", "/etc/ipsec-guard.nft", "-type", "f", "-exec", "sha256sum", "{}", "+")
        for h in (a, b)
    }
    write_down("files", **files)


def look_at_the_link(a: Host, b: Host, wire: Wire) -> None:
    start(a, b)
    seconds = eventually(lambda: up(a, b) and up(b, a))
    write_down(
        "up",
        seconds=seconds,
        sas={h.name: sas_with(h, peer) for h, peer in ((a, b), (b, a))},
        kernel={h.name: run("ip", "-n", h.name, "xfrm", "state", "list", "nokeys") for h in (a, b)},
    )
    wire.take()
    attempts = try_everything(a, b, within=20)
    write_down("through", attempts=attempts, wire=wire.take())


def look_at_a_rekey(a: Host, b: Host, wire: Wire) -> None:
    old, old_ike = spis(a, b) | spis(b, a), ike_spis(a, b)
    with RoundTrips(b, a) as trips:
        a.swanctl("--rekey", "--child", b.name)
        eventually(lambda: not old & (spis(a, b) | spis(b, a)))
        b.swanctl("--rekey", "--ike", a.name)
        eventually(lambda: not old_ike & ike_spis(a, b))
        eventually(lambda: trips.sent >= 200)
    new = spis(a, b) | spis(b, a)
    write_down("rekey", old=sorted(old), new=sorted(new), sent=trips.sent, answered=trips.answered, wire=wire.take())


def look_at_a_restart(a: Host, b: Host, wire: Wire) -> None:
    old = ike_spis(b, a)
    end(signal.SIGKILL, a)
    start(a)
    seconds = eventually(lambda: up(a, b) and bool(ike_spis(b, a) - old))
    write_down("restart", seconds=seconds, attempts=try_everything(a, b, within=20), wire=wire.take())


def look_at_the_guard(a: Host, b: Host, wire: Wire) -> None:
    end(signal.SIGTERM, a, b)
    wire.take()
    write_down("stopped", attempts=try_everything(a, b, within=3), wire=wire.take())

    start(a, b)
    eventually(lambda: up(a, b) and up(b, a))
    end(signal.SIGKILL, a, b)
    for host in (a, b):
        # What charon left: SAs and policies that still protect, and routes that lead nowhere in clear.
        for what in ("xfrm state flush", "xfrm policy flush", "route flush table 220", "-6 route flush table 220"):
            run("ip", "-n", host.name, *what.split())
    wire.take()
    write_down("killed", attempts=try_everything(a, b, within=3), wire=wire.take())

    # One side alone: what an unguarded host sends in clear, a guarded one does not take.
    guard(b, on=False)
    write_down("half", attempts=try_everything(a, b, within=3), wire=wire.take())
    guard(a, on=False)
    write_down("control", attempts=try_everything(a, b, within=20), wire=wire.take())


def main() -> None:
    a, b = make_hosts()
    look_at_the_start(a, b)
    guard(a, on=True)
    guard(b, on=True)
    serve(a)
    serve(b)
    wire = Wire(a, b)
    try:
        look_at_the_link(a, b, wire)
        look_at_a_rekey(a, b, wire)
        look_at_a_restart(a, b, wire)
        look_at_the_guard(a, b, wire)
    except Exception:
        for host in (a, b):
            print(f"--- charon of {host.name}", Path(f"/run/{host.name}.log").read_text()[-4000:], sep="\n", flush=True)
        raise


if __name__ == "__main__":
    main()
