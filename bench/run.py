#!/usr/bin/env python3
"""Measure what a newcomer and a sysadmin wait for, and write docs/benchmarks.md.

From a cleaned machine: `make lab` and a warm `make converge`, each with stock Ansible over ssh and with mitogen
(FAST=1), in one run on one machine. Ratios matter; seconds depend on the machine, which the page describes.
Standard library only, as it removes .venv before it starts.
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
LOGS = ROOT / ".lab" / "logs"
PAGE = ROOT / "docs" / "benchmarks.md"
LIMIT = 3600  # seconds for one command; none comes near
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Measured:
    name: str
    seconds: float  # of Ansible's phases: hosts are there, the newsletter is not counted
    tasks: int  # results, one for each task and host, skipped ones included
    changed: int
    sessions: int  # ssh programs started
    total_seconds: float  # of the whole command
    phases: list[tuple[str, float]]  # minutes


def run(*command: str, **environment: str) -> str:
    """Run a command and return its output; exit with its end if it fails."""
    print(
        f"bench: {' '.join(f'{k}={v}' for k, v in environment.items() if k == 'FAST')} {' '.join(command)}", flush=True
    )
    done = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ) | environment, capture_output=True, text=True, timeout=LIMIT
    )
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def measure(name: str, target: str, steps: list[str], mitogen: bool) -> Measured:
    """Run `make TARGET` and count, in the logs of molecule's steps, what Ansible did."""
    with tempfile.TemporaryDirectory() as work:
        count = Path(work, "count")
        count.touch()
        wrapper = Path(work, "ssh")
        wrapper.write_text(f'#!/bin/sh\necho >>{count}\nexec /usr/bin/ssh "$@"\n')
        wrapper.chmod(0o755)
        start = time.monotonic()
        output = run("make", target, ANSIBLE_SSH_EXECUTABLE=str(wrapper), FAST="1" if mitogen else "")
        total = time.monotonic() - start
        sessions = len(count.read_text().splitlines())
    phases = [(p, float(m)) for p, m in re.findall(r"^ +([a-z ]+?) +([\d.]+)$", output, re.M) if p != "all"]
    recap = "".join(ANSI.sub("", (LOGS / f"default-{step}.log").read_text()) for step in steps)
    results = re.findall(r"ok=(\d+) +changed=(\d+) .*skipped=(\d+)", recap)
    return Measured(
        name=name,
        seconds=sum(minutes * 60 for phase, minutes in phases if phase in ("world and ops", "converge")),
        tasks=sum(int(ok) + int(skipped) for ok, _, skipped in results),
        changed=sum(int(changed) for _, changed, _ in results),
        sessions=sessions,
        total_seconds=total,
        phases=phases,
    )


def machine() -> str:
    """Describe the machine in one line."""
    memory = int(re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())[1]) // 2**20
    system = re.search(r'PRETTY_NAME="(.*)"', Path("/etc/os-release").read_text())[1]
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cpu = model[1] if model else platform.machine()
    return f"{os.cpu_count()} cores ({cpu}), {memory} GiB, {system}"


def page(rows: list[Measured]) -> str:
    cold = rows[0]
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; all figures are from one run on one machine. Trust the ratios.",
        "",
        f"Machine: {machine()}. Date: {time.strftime('%Y-%m-%d', time.gmtime())}.",
        "",
        "## From a bare machine to the report",
        "",
        f"`make lab` after `make clean`: "
        f"**{cold.total_seconds / 60:.1f} minutes** (aim: under 12), with podman installed.",
        "",
        "| phase | minutes |",
        "| --- | --- |",
        *[f"| {name} | {minutes} |" for name, minutes in cold.phases],
        "",
        "## Ansible",
        "",
        "Baseline: stock Ansible over ssh, pipelined, as in `make test`. cold: prepare and converge of `make lab`,",
        "all four hosts; warm: `make converge`, nothing to change. A task is one result on one host.",
        "",
        "| run | seconds | to baseline | tasks | changed | ssh sessions | sessions per task and host |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        base = next(r for r in rows if r.name == f"stock, {row.name.split(', ')[1]}")
        lines.append(
            f"| {row.name} | {row.seconds:.0f} | {row.seconds / base.seconds:.2f} | {row.tasks} | {row.changed} "
            f"| {row.sessions} | {row.sessions / row.tasks:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    rows: list[Measured] = []

    def add(name: str, target: str, steps: list[str], mitogen: bool) -> None:
        rows.append(measure(name, target, steps, mitogen))
        PAGE.write_text(page(rows))  # after each row: half an hour of measuring is not lost by a last failure

    run("make", "clean")
    add("stock, cold", "lab", ["prepare", "converge"], mitogen=False)
    add("stock, warm", "converge", ["converge"], mitogen=False)
    add("mitogen, warm", "converge", ["converge"], mitogen=True)
    run("lab/bin/launch", "lab/bin/remove-hosts")
    add("mitogen, cold", "lab", ["prepare", "converge"], mitogen=True)
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
