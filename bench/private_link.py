#!/usr/bin/env python3
"""Measure the private link on the running lab, and write docs/benchmarks/private-link.md.

Throughput, latency and CPU from ext to int through the tunnel against the same bytes over the plain veth of the same
two hosts; then how long each fault keeps the link away. Inserted firewall rules and the guard are restored by
loading them again. Standard library only.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from common import LAUNCH, need_lab, on_host, start_on_host, table, write_page

INT, EXT = "crm-int-01", "crm-ext-01"
PORT = 5201
SECONDS = 8  # of each transfer
ROUND_TRIPS = 2000
PROBE_EVERY = 0.1  # seconds
LIMIT = 120  # seconds until a fault that does not heal is given up

SINK = f"""
import os, socket, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
listener = socket.create_server(("::", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    peer, _ = listener.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := peer.recv(1 << 20):
        if len(data) == 64:
            peer.sendall(data)
"""
SOURCE = f"""
import socket, sys, time
address, what = sys.argv[1:]
s = socket.create_connection((address, {PORT}), 10)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
if what == "throughput":
    block, sent, start = bytes(1 << 18), 0, time.monotonic()
    while time.monotonic() - start < {SECONDS}:
        s.sendall(block)
        sent += len(block)
    print(sent * 8 / (time.monotonic() - start) / 1e6)
else:
    took = []
    for _ in range({ROUND_TRIPS}):
        start = time.monotonic()
        s.sendall(bytes(64))
        s.recv(64)
        took.append((time.monotonic() - start) * 1e3)
    took.sort()
    print(took[len(took) // 2], took[len(took) * 99 // 100])
"""


def busy_seconds() -> float:
    """Return the CPU seconds that this machine has spent since it started."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK")


def transfer(address: str) -> list[float]:
    """Return Mbit/s, CPU ms of the whole machine per Mbit, and the round trips' median and p99 in ms."""
    before = busy_seconds()
    speed = float(on_host(EXT, "python3", "-c", SOURCE, address, "throughput"))
    cpu = (busy_seconds() - before) * 1e3 / (speed * SECONDS)
    median, p99 = (float(x) for x in on_host(EXT, "python3", "-c", SOURCE, address, "latency").split())
    return [speed, cpu, median, p99]


def open_port(host: str, chain: str) -> None:
    on_host(host, "nft", "insert", "rule", "inet", "civicrm_firewall", chain, "tcp", "dport", str(PORT), "accept")


def speeds(outer: str, inner: str) -> list[str]:
    open_port(INT, "inbound")
    open_port(EXT, "outbound")
    sink = start_on_host(INT, "python3", "-c", SINK)
    assert sink.stdin and sink.stdout
    try:
        assert sink.stdout.readline() == "ready\n"
        plain, tunnel = transfer(outer), transfer(inner)
    finally:
        sink.stdin.close()
        sink.wait(timeout=30)
        for host in (INT, EXT):
            on_host(host, "systemctl", "reload", "nftables")
    names = ["throughput, Mbit/s", "CPU of the machine, ms per Mbit", "round trip, median ms", "round trip, p99 ms"]
    rows = [[name, f"{a:.3g}", f"{b:.3g}", f"{b / a:.2f}"] for name, a, b in zip(names, plain, tunnel, strict=True)]
    return table(["", "plain veth", "tunnel (user path)", "tunnel / plain"], rows)


class Probe(threading.Thread):
    """Ping int's inner address from ext ten times a second; `answers` holds the times of the answers."""

    def __init__(self, inner: str) -> None:
        super().__init__(daemon=True)
        self.answers: list[float] = []
        self.process = subprocess.Popen(
            [LAUNCH, "podman", "exec", EXT, "ping", "-n", "-O", "-i", str(PROBE_EVERY), inner],
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            if "bytes from" in line:
                self.answers.append(time.monotonic())

    def back_after(self, moment: float) -> float:
        """Return the seconds from `moment` to the end of the last silence after it; inf if it does not end."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            after = [moment, *(t for t in self.answers if t > moment)]
            # Well again: five seconds of answers without a gap.
            gaps = [b for a, b in itertools.pairwise(after) if b - a > 3 * PROBE_EVERY]
            last = gaps[-1] if gaps else moment
            if after[-1] - last > 5:
                return last - moment
            time.sleep(0.2)
        return float("inf")


def kill(*hosts: str) -> None:
    for host in hosts:
        on_host(host, "systemctl", "kill", "--signal=KILL", "strongswan.service")


def cut(seconds: int) -> None:
    """Drop everything between the two hosts' outer addresses for a while."""
    rules = """table inet bench_cut {
        chain inbound { type filter hook input priority -500; iifname eth0 udp dport { 500, 4500 } drop; }
    }"""
    subprocess.run([LAUNCH, "podman", "exec", "-i", INT, "nft", "-f", "-"], input=rules, text=True, check=True)
    try:
        time.sleep(seconds)
    finally:
        on_host(INT, "nft", "delete", "table", "inet", "bench_cut")


FAULTS: dict[str, Callable[[], object]] = {
    "SIGKILL of int's charon": lambda: kill(INT),
    "SIGKILL of ext's charon": lambda: kill(EXT),
    "SIGKILL of both": lambda: kill(INT, EXT),
    "restart of int's charon": lambda: on_host(INT, "systemctl", "restart", "strongswan.service"),
    "30 s cut, after its end": lambda: cut(30),
}


def recoveries(inner: str) -> list[str]:
    rows = []
    probe = Probe(inner)
    probe.start()
    try:
        for name, strike in FAULTS.items():
            time.sleep(3)
            moment = time.monotonic()
            strike()
            if "cut" in name:
                moment = time.monotonic()
            rows.append([name, f"{probe.back_after(moment):.1f}"])
            print(f"bench: {name}: {rows[-1][1]} s", flush=True)
    finally:
        probe.process.kill()
    return table(["fault", "traffic again after, s"], rows)


def main() -> None:
    need_lab(INT)
    outer = on_host(INT, "ip", "-4", "-o", "addr", "show", "eth0").split()[3].split("/")[0]
    inner = on_host(INT, "ip", "-4", "-o", "addr", "show", "lo").split("inet ")[2].split("/")[0]
    lines = [
        "Baseline: the same TCP bytes between the same two hosts over the plain veth. The lab's kernel has no ESP, so",
        "charon itself encrypts (user path); a kernel that can is faster than this.",
        "",
        *speeds(outer, inner),
        "",
        "## Recovery",
        "",
        "Ten pings a second from ext to int's inner address; nobody helps. Aim: 5 s.",
        "",
        *recoveries(inner),
    ]
    print(write_page("private-link", "Benchmark: the private link", lines).read_text())


if __name__ == "__main__":
    main()
