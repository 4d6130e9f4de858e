#!/usr/bin/env python3
"""Measure what a newcomer and a sysadmin wait for, and write docs/benchmarks/converge.md.

From a cleaned machine: `make lab` and a warm `make converge`, each with stock Ansible over ssh and with mitogen
(FAST=1), in one run on one machine. Ratios matter; seconds depend on the machine, which the page describes.
Standard library only, as it removes .venv before it starts.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import ROOT, table, write_page

LOGS = ROOT / ".lab" / "logs"
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


def page(rows: list[Measured]) -> None:
    cold = rows[0]
    compared = []
    for row in rows:
        base = next(r for r in rows if r.name == f"stock, {row.name.split(', ')[1]}")
        figures = [row.tasks, row.changed, row.sessions, f"{row.sessions / row.tasks:.2f}"]
        compared.append(
            [row.name, f"{row.seconds:.0f}", f"{row.seconds / base.seconds:.2f}", *(str(figure) for figure in figures)]
        )
    header = ["run", "seconds", "to baseline", "tasks", "changed", "ssh sessions", "sessions per task and host"]
    write_page(
        "converge",
        "Benchmark: from a bare machine to two hosts",
        [
            f"`make lab` after `make clean`: "
            f"**{cold.total_seconds / 60:.1f} minutes** (aim: under 12), with podman installed.",
            "",
            *table(["phase", "minutes"], [[name, str(minutes)] for name, minutes in cold.phases]),
            "",
            "## Ansible",
            "",
            "Baseline: stock Ansible over ssh, pipelined, as in `make test`. cold: prepare and converge of `make lab`,",
            "all four hosts; warm: `make converge`, nothing to change. A task is one result on one host.",
            "",
            *table(header, compared),
        ],
    )


def main() -> None:
    rows: list[Measured] = []

    def add(name: str, target: str, steps: list[str], mitogen: bool) -> None:
        rows.append(measure(name, target, steps, mitogen))
        page(rows)  # after each row: half an hour of measuring is not lost by a last failure

    run("make", "clean")
    add("stock, cold", "lab", ["prepare", "converge"], mitogen=False)
    add("stock, warm", "converge", ["converge"], mitogen=False)
    add("mitogen, warm", "converge", ["converge"], mitogen=True)
    run("lab/bin/launch", "lab/bin/remove-hosts")
    add("mitogen, cold", "lab", ["prepare", "converge"], mitogen=True)


if __name__ == "__main__":
    main()
