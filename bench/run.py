#!/usr/bin/env python3
"""Measure what a newcomer and a sysadmin wait for, and write docs/benchmarks.md.

From a cleaned machine: `make lab`; then converges, cold and warm, with stock Ansible over ssh and with
mitogen, in one run on one machine. Ratios matter; seconds depend on the machine, which the page describes.
Standard library only: it removes .venv before it starts.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
LIMIT = 3600  # seconds for one step; none comes near


@dataclass(frozen=True)
class Converge:
    seconds: float
    tasks: int  # results on both hosts: ok + skipped
    changed: int
    ssh_sessions: int


def run(*command: str, **environment: str) -> tuple[float, str]:
    """Run a command under the launcher; return wall seconds and output. Exits with the output if it fails."""
    print(f"bench: {' '.join(command)} {environment or ''}", flush=True)
    start = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ) | environment, capture_output=True, text=True, timeout=LIMIT
    )
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return time.monotonic() - start, done.stdout


def converge(mitogen: bool) -> Converge:
    """Run site.yml once on the hosts as they are, counting the ssh programs that Ansible starts."""
    with tempfile.TemporaryDirectory() as work:
        count = Path(work, "count")
        count.touch()
        wrapper = Path(work, "ssh")
        wrapper.write_text(f'#!/bin/sh\necho >>{count}\nexec /usr/bin/ssh "$@"\n')
        wrapper.chmod(0o755)
        environment = {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_VAULT_PASSWORD_FILE": str(ROOT / ".lab/vault-password"),
            "ANSIBLE_SSH_EXECUTABLE": str(wrapper),
            "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}",
        }
        if mitogen:
            (plugins,) = (ROOT / ".venv").glob("lib/python3*/site-packages/ansible_mitogen/plugins/strategy")
            environment |= {"ANSIBLE_STRATEGY": "mitogen_linear", "ANSIBLE_STRATEGY_PLUGINS": str(plugins)}
        seconds, output = run("ansible-playbook", "playbooks/site.yml", **environment)
        recaps = re.findall(r"ok=(\d+) +changed=(\d+) .*skipped=(\d+)", re.sub(r"\x1b\[[0-9;]*m", "", output))
        return Converge(
            seconds,
            sum(int(ok) + int(skipped) for ok, _, skipped in recaps),
            sum(int(changed) for _, changed, _ in recaps),
            len(count.read_text().splitlines()),
        )


def bare_hosts() -> None:
    """Destroy the hosts and make them again up to where site.yml begins."""
    run("make", "setup")
    run("lab/bin/launch", "lab/bin/lab", "bare", PATH=f"{ROOT}/.venv/bin:{os.environ['PATH']}")


def machine() -> str:
    """Describe the machine in one line."""
    memory = int(re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())[1]) // 2**20
    system = re.search(r'PRETTY_NAME="(.*)"', Path("/etc/os-release").read_text())[1]
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cpu = model[1] if model else platform.machine()
    return f"{os.cpu_count()} cores ({cpu}), {memory} GiB, {system}, Linux {platform.release()}"


def main() -> None:
    run("make", "clean")
    bare, output = run("make", "lab")
    phases = re.findall(r"^ +(hosts|world and ops|converge|first newsletter) +([\d.]+)$", output, re.M)
    warm = converge(mitogen=False)
    warm_mitogen = converge(mitogen=True)
    bare_hosts()
    cold = converge(mitogen=False)
    bare_hosts()
    cold_mitogen = converge(mitogen=True)

    rows = [
        ("stock, cold", cold),
        ("stock, warm", warm),
        ("mitogen, cold", cold_mitogen),
        ("mitogen, warm", warm_mitogen),
    ]
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; every figure below is from one run on one machine. Trust the ratios.",
        "",
        f"Machine: {machine()}. Date: {time.strftime('%Y-%m-%d', time.gmtime())}.",
        "",
        "## From a bare machine to the report",
        "",
        f"`make clean && make lab`: **{bare / 60:.1f} minutes** (aim: under 12), without podman itself.",
        "",
        "| phase | minutes |",
        "| --- | --- |",
        *[f"| {name} | {minutes} |" for name, minutes in phases],
        "",
        "## Converging both hosts (`playbooks/site.yml`)",
        "",
        "Baseline: stock Ansible over ssh with pipelining, as in `make test`. A task is one result on one host.",
        "",
        "| run | seconds | to baseline | tasks | changed | ssh sessions | sessions per task and host |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, result in rows:
        base = cold if "cold" in name else warm
        lines.append(
            f"| {name} | {result.seconds:.0f} | {result.seconds / base.seconds:.2f} | {result.tasks} "
            f"| {result.changed} "
            f"| {result.ssh_sessions} | {result.ssh_sessions / result.tasks:.2f} |"
        )
    PAGE.write_text("\n".join(lines) + "\n")
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
