#!/usr/bin/env python3
"""Measure the front door and the donation API on the running lab, and write docs/benchmarks/front-door.md.

Requests through the front door against the same requests to int itself; donations with the private link up and cut, and
while somebody floods the CRM with wrong passwords, with this package's limits and without, or 200 clients send slowly.
Loads are bounded; donations go to the test site's API and are taken out of its queue afterwards.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from common import LAUNCH, ROOT, on_host, start_on_host, table, write_page

INT, EXT, WORLD = "crm-int-01", "crm-ext-01", "world"
SITE, DONATIONS = "crm.torproject.test", "https://test.donate-api.torproject.test/donations"
INNER = "10.77.0.11"
SECONDS = 10  # of each load
CONNECTIONS = 4
TOOLS = {WORLD: "wrk", EXT: "wrk", INT: "libfcgi-bin"}  # Debian packages for the time of the run
JAILS = ("civicrm-address", "civicrm-login", "civicrm-flood")

# What wrk does with each request, and what it prints at the end: requests per second, 95th percentile in ms, and the
# answers that were not 2xx or 3xx.
DONE = """
function done(summary, latency, requests)
  io.write(string.format("RESULT %f %f %d\\n", summary.requests / summary.duration * 1e6,
    latency:percentile(95) / 1e3, summary.errors.status + summary.errors.timeout + summary.errors.connect))
end
"""
GET = DONE + f'wrk.headers["Host"] = "{SITE}"\n' + 'wrk.headers["Authorization"] = "Basic {basic}"\n{more}'
POST = (
    DONE
    + """
local serial = 0
function init(arguments) math.randomseed(os.time() + tonumber(tostring(wrk.thread):match("0x%x+") or 1)) end
function hex(count)
  local text = ""
  for _ = 1, count do text = text .. string.format("%x", math.random(0, 15)) end
  return text
end
function request()
  serial = serial + 1
  local key = hex(8) .. "-" .. hex(4) .. "-4" .. hex(3) .. "-a" .. hex(3) .. "-" .. hex(12)
  local body = string.format('{"idempotency_key":"%s","amount":"5.00","currency":"EUR","campaign":"general",'
    .. '"payment_reference":"bench_%s","contact":{"first_name":"Ada","last_name":"Lovelace","email":"a@donor.test"}}',
    key, hex(24))
  return wrk.format("POST", nil, {["Content-Type"] = "application/json"}, body)
end
"""
)

# Wrong passwords for alice from one address for so many seconds; prints how many were answered.
FLOOD = """
import base64, http.client, ssl, sys, threading, time
source, seconds = sys.argv[1], float(sys.argv[2])
context, end, answers = ssl._create_unverified_context(), time.monotonic() + seconds, []
def guess():
    while time.monotonic() < end:
        connection = http.client.HTTPSConnection("SITE", timeout=5, context=context, source_address=(source, 0))
        try:
            for n in range(50):
                login = base64.b64encode(b"alice:wrong%d" % n).decode()
                connection.request("GET", "/wp-login.php", headers={"Authorization": "Basic " + login})
                answer = connection.getresponse()
                answer.read()
                answers.append(answer.status)
                if time.monotonic() > end:
                    break
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
threads = [threading.Thread(target=guess) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
print(len(answers))
""".replace("SITE", SITE)


def load(host: str, url: str, script: str, user: str = "root") -> list[float]:
    """Return requests/s, the 95th percentile in ms and the number of refused or failed requests."""
    # In a file of its own: passwords do not belong in an argument list.
    path = "/run/bench-wrk.lua"
    write = f"umask 077; cat >{path}; chown {user} {path}"
    subprocess.run([LAUNCH, "podman", "exec", "-i", host, "sh", "-c", write], input=script, text=True, check=True)
    wrk = ["wrk", "-t", "2", "-c", str(CONNECTIONS), "-d", f"{SECONDS}s", "--latency", "-s", path, url]
    try:
        out = on_host(host, "runuser", "-u", user, "--", *wrk)
    finally:
        on_host(host, "rm", "-f", path)
    (figures,) = re.findall(r"RESULT (\S+) (\S+) (\S+)", out)
    return [float(figure) for figure in figures]


def vault() -> dict[str, Any]:
    """Return the lab's secrets."""
    done = subprocess.run(
        [ROOT / ".venv/bin/ansible-vault", "view", "--vault-password-file", ROOT / ".lab/vault-password",
         ROOT / "inventories/lab/group_vars/all/vault.yml"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    secrets: dict[str, Any] = yaml.safe_load(done.stdout)
    return secrets


def pages(secrets: dict[str, Any]) -> list[str]:
    """Compare requests through the front door with requests to int, from ext and with ext's own credential."""
    person = base64.b64encode(f"alice:{secrets['vault_people']['alice']['password']}".encode()).decode()
    conf = on_host(EXT, "cat", "/etc/apache2/civicrm/backend-credential.conf")
    ext = re.findall(r"Basic ([A-Za-z0-9+/=]+)", conf)[0]
    through = GET.format(basic=person, more="")
    direct = GET.format(basic=ext, more='wrk.headers["X-Front-Door"] = "password"\n')
    rows = []
    for name, path in (("a static file", "/wp-admin/css/login.min.css"), ("the login page", "/wp-login.php")):
        # int wants the site's name in TLS, which leads to ext everywhere else. /etc/hosts may be a mount: no sed -i.
        on_host(EXT, "sh", "-c", f"cp -p /etc/hosts /run/bench-hosts && echo '{INNER} {SITE}' >>/etc/hosts")
        try:
            a = load(EXT, f"https://{SITE}{path}", direct, user="www-data")
        finally:
            on_host(EXT, "sh", "-c", "cat /run/bench-hosts >/etc/hosts && rm /run/bench-hosts")
        b = load(WORLD, f"https://{SITE}{path}", through)
        failed = int(a[2] + b[2])
        rows.append(
            [name, f"{a[0]:.0f}", f"{b[0]:.0f}", f"{b[0] / a[0]:.2f}", f"{a[1]:.0f}", f"{b[1]:.0f}", str(failed)]
        )
    return table(["", "int, requests/s", "front door", "ratio", "int, p95 ms", "front door", "failed"], rows)


def opcache() -> str:
    """Return the hit rate of the pools' shared OPcache since it started, in percent."""
    # The one place whose scripts may ask; asked through the site's own pool.
    probe = "/usr/share/php/civicrm-opcache-bench.php"
    on_host(INT, "sh", "-c", f"echo '<?php echo json_encode(opcache_get_status(false));' >{probe}")
    socket = on_host(INT, "sh", "-c", "sed -n 's/^listen = //p' /etc/php/*/fpm/pool.d/civicrm-crm.conf").strip()
    request = ["REQUEST_METHOD=GET", f"SCRIPT_FILENAME={probe}", "HTTP_X_FRONT_DOOR=password"]
    try:
        answer = on_host(INT, "env", *request, "cgi-fcgi", "-bind", "-connect", socket)
    finally:
        on_host(INT, "rm", "-f", probe)
    statistics = json.loads(answer[answer.index("{") :])["opcache_statistics"]
    return f"{statistics['opcache_hit_rate']:.2f} % of {statistics['hits'] + statistics['misses']} look-ups"


def flooded(source: str) -> tuple[list[float], int]:
    """Return the donation API's figures while wrong passwords come from `source`, and how many were answered."""
    flood = start_on_host(WORLD, "python3", "-c", FLOOD, source, str(SECONDS + 9))
    time.sleep(6)  # what the limits need to see it
    figures = load(WORLD, DONATIONS, POST)
    return figures, int(flood.communicate(timeout=120)[0])


@contextmanager
def cut_link() -> Iterator[None]:
    """Drop everything between both hosts' outer addresses."""
    rules = """table inet bench_cut {
        chain inbound { type filter hook input priority -500; iifname eth0 udp dport { 500, 4500 } drop; }
        chain outbound { type filter hook output priority -500; oifname eth0 udp dport { 500, 4500 } drop; }
    }"""
    subprocess.run([LAUNCH, "podman", "exec", "-i", EXT, "nft", "-f", "-"], input=rules, text=True, check=True)
    try:
        yield
    finally:
        on_host(EXT, "nft", "delete", "table", "inet", "bench_cut")


def crowded() -> list[float]:
    """Return the donation API's figures while 200 clients send a body there, a byte every half second."""
    # Where the tests' slow clients are.
    sys.path.insert(0, str(ROOT / "tests"))
    os.environ["LAUNCH"] = str(LAUNCH)
    slow_clients = importlib.import_module("slow_clients").slow_clients
    host, path = DONATIONS.removeprefix("https://").split("/")
    head = f"POST /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 3000\r\n\r\n"
    with slow_clients(host, head.encode(), b" ", count=200):
        return load(WORLD, DONATIONS, POST)


def donations(source: str) -> list[str]:
    idle = load(WORLD, DONATIONS, POST)
    on_host(EXT, "fail2ban-client", "reload", "--restart", "--unban")
    limited, answered = flooded(source)
    for jail in JAILS:
        on_host(EXT, "fail2ban-client", "set", jail, "addignoreip", source)
    on_host(EXT, "fail2ban-client", "unban", "--all")
    unlimited, answered_all = flooded(source)
    on_host(EXT, "fail2ban-client", "reload", "--restart", "--unban")
    slow = crowded()
    with cut_link():
        down = load(WORLD, DONATIONS, POST)
    rows = [
        ("idle, link up", idle, "-"),
        ("wrong passwords for the CRM, limits on", limited, str(answered)),
        ("wrong passwords for the CRM, limits off", unlimited, str(answered_all)),
        ("200 clients that send slowly", slow, "-"),
        ("link cut: spooled on ext's disk", down, "-"),
    ]
    return table(
        ["", "donations/s", "ratio", "p95 ms", "failed", "guesses answered"],
        [
            [name, f"{f[0]:.0f}", f"{f[0] / idle[0]:.2f}", f"{f[1]:.0f}", f"{f[2]:.0f}", guesses]
            for name, f, guesses in rows
        ],
    )


def forget_donations() -> None:
    """Wait until ext's spool is drained, and take the donations out of the test site's queue."""
    deadline = time.monotonic() + 600
    spool = "ls /var/lib/donation-intake/test-donate-api/spool | wc -l"
    while int(on_host(EXT, "sh", "-c", spool)):
        if time.monotonic() > deadline:
            sys.exit("bench: ext's spool is not drained after ten minutes")
        on_host(EXT, "systemctl", "start", "donation-drain-test-donate-api", timeout=600)
        time.sleep(1)
    password = vault()["vault_donation_queues"]["test-donate-api"]["worker"]
    ask = f"read -r REDISCLI_AUTH; export REDISCLI_AUTH; redis-cli -h {INNER} -p 6380 --user worker-test-donate-api"
    subprocess.run(
        [LAUNCH, "podman", "exec", "-i", INT, "sh", "-c", f"{ask} DEL donations:test-donate-api"],
        input=f"{password}\n", text=True, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def main() -> int:
    for host, package in TOOLS.items():
        on_host(host, "apt-get", "install", "-qq", "--no-install-recommends", package)
    secrets = vault()
    source = on_host(WORLD, "getent", "hosts", "client.outside.test").split()[0]
    lines = [
        f"{CONNECTIONS} kept connections, {SECONDS} s each; the hosts share the machine's cores; bcrypt cost 5.",
        "", "## Pages", "", *pages(secrets), "",
        f"OPcache of the site: {opcache()}.",
        "", "## Donations", "",
        "The flood: 8 threads of wrong passwords from one address of a stranger. Aim with limits: 0.85; with slow "
        "clients: p95 within 1.5 of idle.",
        "",
    ]  # fmt: skip
    try:
        lines += donations(source)
    finally:
        forget_donations()
        for host, package in TOOLS.items():
            on_host(host, "apt-get", "purge", "-qq", package)
    print(write_page("front-door", "Benchmark: the front door and the donation API", lines).read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
