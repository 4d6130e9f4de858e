"""Hold connections to a site from outside: clients that send or read a byte now and then."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

LIMIT = 120  # seconds after which the clients go by themselves

# Reads {host, count, head, drip, source, window, seconds} from the first line of standard input, opens that many
# connections, sends the head on each and then the drip every half second, reading a little where a window is given;
# prints "open N" once all have tried, and again, with what is left, when standard input ends.
PROGRAM = r"""
import base64, json, select, socket, ssl, sys, time
call = json.loads(sys.stdin.readline())
context = ssl.create_default_context(cafile="/etc/ssl/lab-ca.pem")
head, drip = base64.b64decode(call["head"]), base64.b64decode(call["drip"])
family = socket.AF_INET6 if ":" in call["source"] else socket.AF_INET
address = socket.getaddrinfo(call["at"] or call["host"], 443, family, socket.SOCK_STREAM)[0][4]
connections = []
for number in range(call["count"]):
    plain = socket.socket(family)
    if call["window"]:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, call["window"])
    plain.settimeout(3)
    try:
        if family == socket.AF_INET6:
            plain.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND: any address of a network that is routed here
        if call["source"]:
            plain.bind((call["source"] + (f"{number + 1:x}" if call["source"].endswith("::") else ""), 0))
        plain.connect(address)
        one = context.wrap_socket(plain, server_hostname=call["host"])
        one.sendall(head)
        connections.append(one)
    except OSError:
        plain.close()
print("open", len(connections), flush=True)
end = time.monotonic() + call["seconds"]
while time.monotonic() < end and not select.select([sys.stdin], [], [], 0.5)[0]:
    for one in list(connections):
        try:
            if drip:
                one.sendall(drip)
            elif call["window"] and not one.recv(64):
                connections.remove(one)
        except OSError:
            connections.remove(one)
print("open", len(connections), flush=True)
"""


@contextmanager
def slow_clients(
    host: str, head: bytes, drip: bytes = b"", count: int = 20, source: str = "", window: int = 0, at: str = ""
) -> Iterator[dict[str, int]]:
    """Have slow clients on the world hold connections as long as the context lasts.

    head: what each sends at once; drip: what it sends every half second; window: bytes of its receive buffer, for one
    that reads 64 bytes every half second; source: its address, or the beginning of a network of 64 bits of which each
    has another; at: the site's address. The dictionary has `opened`, how many got a connection, and afterwards `left`.
    """
    encoded = {key: base64.b64encode(value).decode() for key, value in {"head": head, "drip": drip}.items()}
    call = {"host": host, "count": count, "source": source, "window": window, "at": at, "seconds": LIMIT} | encoded
    launch = [os.environ["LAUNCH"]] if "LAUNCH" in os.environ else []  # for callers that podman needs help for
    run = [*launch, "podman", "exec", "-i", "world", "python3", "-c", PROGRAM]
    process = subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    found: dict[str, int] = {}
    try:
        process.stdin.write(json.dumps(call) + "\n")
        process.stdin.flush()
        found["opened"] = int(process.stdout.readline().split()[1])
        yield found
    finally:
        rest, _ = process.communicate(timeout=LIMIT)
        found["left"] = int(rest.split()[1]) if rest.split() else 0
