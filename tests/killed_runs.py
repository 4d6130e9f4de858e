"""Change every file of every set, kill a converge in the middle, and compare hosts. For the tests and the bench."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time

from fixtures import ROOT, ansible_environment
from testinfra.host import Host

# On a host: a line for each file of each set, and for what an interrupted run would leave.
LOOK = r"""
import glob, hashlib, json, os, stat
look = {}
for manifest in sorted(glob.glob("/var/lib/file-sets/manifests/*.json")):
    for path in json.load(open(manifest)):
        status = os.lstat(path) if os.path.lexists(path) else None
        if status is None:
            look[path] = "missing"
            continue
        link = stat.S_ISLNK(status.st_mode)
        what = os.readlink(path) if link else hashlib.sha256(open(path, "rb").read()).hexdigest()
        look[path] = f"{status.st_mode:o} {status.st_uid}:{status.st_gid} {what}"
left = [*glob.glob("/var/lib/file-sets/journals/*"), *glob.glob("/var/lib/file-sets/pending/*")]
left += glob.glob("/run/file-sets-*")
for directory in ("/etc", "/usr/local", "/srv"):
    left += glob.glob(directory + "/**/.*.dpkg-new", recursive=True)
look["left behind"] = sorted(left)
print(json.dumps(look))
"""

# An empty line more harms no format, and changes every file of every role.
DRIFT = r"""
import glob, json, os
for manifest in glob.glob("/var/lib/file-sets/manifests/*.json"):
    for path in json.load(open(manifest)):
        if os.path.isfile(path) and not os.path.islink(path):
            open(path, "a").write("\n")
"""


RESULT = re.compile(r"^(?:ok|changed): \[", re.M)


def look(host: Host) -> dict[str, str]:
    """Return every file of every set with its owner, mode and digest, the units' states, and what runs left behind."""
    found = json.loads(host.check_output("python3 -c %s", LOOK))
    units = host.check_output(
        "systemctl list-unit-files --state=enabled --no-legend --plain | awk '{print $1}'"
    ).split()
    shown = host.check_output("systemctl show --property=Id,ActiveState,UnitFileState " + " ".join(units))
    found |= {
        f"unit {fields['Id']}": f"{fields['ActiveState']} {fields['UnitFileState']}"
        for block in shown.split("\n\n")
        if (fields := dict(line.split("=", 1) for line in block.splitlines()))
        and fields["Id"].endswith((".service", ".socket", ".path", ".timer"))
    }
    return found


def drift(host: Host) -> None:
    """Change every file of every set."""
    host.check_output("python3 -c %s", DRIFT)


def stale(host: Host, daemons: dict[str, str]) -> list[str]:
    """Return the units that were last started or reloaded before their file was written."""
    found = []
    for unit, pattern in daemons.items():
        script = (
            f'u=$(date +%s -d "$(systemctl show -p StateChangeTimestamp --value {unit})"); '
            f'for f in {pattern}; do [ "$u" -ge $(stat -c %Y "$f") ] || echo "{unit} is older than $f"; done'
        )
        found += host.check_output(script).splitlines()
    return found


def results_in(output: str) -> int:
    """Return how many results of tasks a run of Ansible has printed."""
    return len(RESULT.findall(output))


def converge_killed_after(results: int, **environment: str) -> bool:
    """Start a converge of both hosts and kill it, workers included, after so many results; False if it had ended.

    Not after so many seconds: the machine may be quicker now than it was.
    """
    run = subprocess.Popen(
        ["ansible-playbook", "playbooks/site.yml"],
        cwd=ROOT,
        env=ansible_environment() | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    seen = 0
    for line in run.stdout:
        seen += results_in(line)
        if seen >= results:
            break
    ended = run.poll() is not None
    if not ended:
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    run.stdout.close()
    return not ended


def wait_for_the_lock(hosts: list[Host], within: float = 60) -> float:
    """Wait until nobody holds the converge lock; returns the seconds it took."""
    start = time.monotonic()
    for host in hosts:
        while host.run("flock --nonblock /run/converge.lock true").rc != 0:
            assert time.monotonic() - start < within, f"{host}: the lock of a killed run is still held"
            time.sleep(0.5)
    return time.monotonic() - start
