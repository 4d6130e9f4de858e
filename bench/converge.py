#!/usr/bin/env python3
"""Measure what a newcomer and a sysadmin wait for, and write docs/benchmarks/converge.md.

From a cleaned machine: `make lab` and a warm `make converge`, each with stock Ansible over ssh and with mitogen
(FAST=1), in one run on one machine; with --base COMMIT first the same in a worktree of that commit. Then, on the
running lab: 100 files on two hosts beside pyinfra, and converges that are killed at 20 moments.

Ratios matter; seconds depend on the machine, which the page describes. Standard library only, as it removes .venv
before it starts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common import ROOT, table, write_page

LIMIT = 3600  # seconds for one command; none comes near
ANSI = re.compile(r"\x1b\[[0-9;]*m")
FILES = 100
PYINFRA = "pyinfra==3.10.0"
KILLS = 20

# Counts, for each host, results that were worked out on the host.
COUNTER = """
import os
from ansible.plugins.callback import CallbackBase
HERE = ("assert", "debug", "set_fact", "validate_argument_spec", "include", "import", "meta", "fail", "converge_lock")
class CallbackModule(CallbackBase):
    CALLBACK_VERSION, CALLBACK_TYPE, CALLBACK_NAME, CALLBACK_NEEDS_ENABLED = 2.0, "aggregate", "remote_results", False
    def v2_runner_on_ok(self, result):
        task = result._task
        if not any(word in task.action for word in HERE) and task.delegate_to != "localhost":
            with open(os.environ["REMOTE_RESULTS"], "a") as sink:
                sink.write(f"{result._host}: {task.get_name()}\\n")
"""


@dataclass(frozen=True)
class Measured:
    build: str
    name: str
    seconds: float  # of Ansible's phases: hosts are there, the newsletter is not counted
    tasks: int  # results, one for each task and host, skipped ones included
    remote: int  # results that came from a host
    changed: int
    sessions: int  # ssh programs started
    cpu_seconds: float  # of the controller, all its processes
    controller_mib: float  # the largest process of the controller
    module_mib: float  # the largest module on a host
    total_seconds: float  # of the whole command
    phases: list[tuple[str, float]]  # minutes


def run(tree: Path, *command: str, **environment: str) -> tuple[str, float]:
    """Run a command in a tree; returns its output and its CPU seconds. Exits with its end if it fails.

    Both builds keep Python's bytecode, as they do where nobody forbids it.
    """
    print(f"bench: {tree.name}: FAST={environment.get('FAST', '')} {' '.join(command)}", flush=True)
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile("w+") as sink:
        process = subprocess.Popen(
            command, cwd=tree, env=inherited | environment, stdout=sink, stderr=subprocess.STDOUT
        )
        killer = threading.Timer(LIMIT, process.kill)
        killer.start()
        _, status, usage = os.wait4(process.pid, 0)
        killer.cancel()
        sink.seek(0)
        output = sink.read()
    if status != 0:
        sys.exit(f"bench: {' '.join(command)} failed:\n{output[-3000:]}")
    return output, usage.ru_utime + usage.ru_stime


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Note the peak memory, in MiB, of the controller's Ansible and of the modules on the hosts while this lasts."""
    peaks = {"controller": 0.0, "module": 0.0}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    arguments = (process / "cmdline").read_bytes().split(b"\0")
                    kind = (
                        "controller"
                        if any(one.endswith(b"/ansible-playbook") for one in arguments[:3])
                        else "module"
                        if arguments[:2] == [b"/usr/bin/python3", b""]  # reads the module from its standard input
                        else None
                    )
                    if kind:
                        peak = re.search(r"VmHWM:\s+(\d+)", (process / "status").read_text())
                        peaks[kind] = max(peaks[kind], int(peak[1]) / 1024 if peak else 0)
                except OSError:  # it has ended since
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        stop.set()
        watcher.join()


def ansible_environment(tree: Path, mitogen: bool = False) -> dict[str, str]:
    """Return what Ansible needs to run in a tree's lab, as lab/bin/lab sets it."""
    environment = {
        "ANSIBLE_CONFIG": str(tree / "ansible.cfg"),
        "ANSIBLE_VAULT_PASSWORD_FILE": str(tree / ".lab/vault-password"),
        "PATH": f"{tree}/.venv/bin:{os.environ['PATH']}",
    }
    if mitogen:
        (plugins,) = (tree / ".venv").glob("lib/python3*/site-packages/ansible_mitogen/plugins/strategy")
        environment |= {"ANSIBLE_STRATEGY": "mitogen_linear", "ANSIBLE_STRATEGY_PLUGINS": str(plugins)}
    return environment


def site_seconds(tree: Path, mitogen: bool) -> float:
    """Return the seconds of `ansible-playbook playbooks/site.yml` on a running lab: the median of three runs."""
    command = ["lab/bin/launch", "ansible-playbook", "-i", "inventories/lab", "playbooks/site.yml"]
    return timed(tree, *command, **ansible_environment(tree, mitogen))


def measure(tree: Path, build: str, name: str, target: str, steps: list[str], mitogen: bool) -> Measured:
    """Run `make TARGET` and count, in the logs of molecule's steps, what Ansible did.

    The seconds of a converge that changes nothing are taken before, with nothing watching: looking at /proc costs.
    """
    seconds = site_seconds(tree, mitogen) if target == "converge" else None
    with tempfile.TemporaryDirectory() as work, watched() as peaks:
        count, remote = Path(work, "count"), Path(work, "remote")
        count.touch()
        remote.touch()
        wrapper = Path(work, "ssh")
        wrapper.write_text(f'#!/bin/sh\necho >>{count}\nexec /usr/bin/ssh "$@"\n')
        wrapper.chmod(0o755)
        Path(work, "remote_results.py").write_text(COUNTER)
        start = time.monotonic()
        output, cpu = run(
            tree, "make", target,
            ANSIBLE_SSH_EXECUTABLE=str(wrapper), ANSIBLE_CALLBACK_PLUGINS=work, REMOTE_RESULTS=str(remote),
            FAST="1" if mitogen else "",
        )  # fmt: skip
        total = time.monotonic() - start
        sessions, answered = len(count.read_text().splitlines()), len(remote.read_text().splitlines())
    phases = [(p, float(m)) for p, m in re.findall(r"^ +([a-z ]+?) +([\d.]+)$", output, re.M) if p != "all"]
    logs = tree / ".lab" / "logs"
    recap = "".join(ANSI.sub("", (logs / f"default-{step}.log").read_text()) for step in steps)
    results = re.findall(r"ok=(\d+) +changed=(\d+) .*skipped=(\d+)", recap)
    return Measured(
        build=build,
        name=name,
        seconds=seconds or sum(minutes * 60 for phase, minutes in phases if phase in ("world and ops", "converge")),
        tasks=sum(int(ok) + int(skipped) for ok, _, skipped in results),
        remote=answered,
        changed=sum(int(changed) for _, changed, _ in results),
        sessions=sessions,
        cpu_seconds=cpu,
        controller_mib=peaks["controller"],
        module_mib=peaks["module"],
        total_seconds=total,
        phases=phases,
    )


PLAY = """
- hosts: crm-int-01:crm-ext-01
  gather_facts: false
  strategy: free
  tasks:
    - name: Write a hundred files
      file_set:
        name: bench
        entries:
          - src: {work}/one.conf.j2
            dest: /etc/bench-files/{{{{ item }}}}.conf
            loop: "{{{{ range({files}) | list }}}}"
"""
DEPLOY = """
from pyinfra.operations import files
for number in range({files}):
    files.template(src="{work}/one.conf.j2", dest=f"/etc/bench-files/{{number}}.conf", mode="644", item=number,
                   ansible_managed="managed")
"""


def timed(tree: Path, *command: str, **environment: str) -> float:
    """Run a command three times in a tree and return the median of its seconds."""
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        run(tree, *command, **environment)
        seconds.append(time.monotonic() - start)
    return statistics.median(seconds)


def hundred_files() -> list[list[str]]:
    """Let us and pyinfra look at the same files of two hosts, with nothing to change."""
    launch, venv = str(ROOT / "lab/bin/launch"), ROOT / ".venv/bin"
    rows = []
    with tempfile.TemporaryDirectory() as work:
        Path(work, "one.conf.j2").write_text("# {{ ansible_managed }}\nnumber = {{ item }}\n")
        Path(work, "play.yml").write_text(PLAY.format(work=work, files=FILES))
        ours = [launch, str(venv / "ansible-playbook"), "-i", "inventories/lab", f"{work}/play.yml"]
        environment = ansible_environment(ROOT)
        # The inventory finds the lab's directory by the playbook's; here it is told.
        ours += ["-e", json.dumps({"lab_state_dir": str(ROOT / ".lab")})]
        run(ROOT, *ours, **environment)
        rows.append(["file_set", f"{timed(ROOT, *ours, **environment):.1f}"])
        run(ROOT, sys.executable, "-m", "venv", f"{work}/venv")
        run(ROOT, f"{work}/venv/bin/pip", "install", "--quiet", PYINFRA)
        shown = [str(venv / "ansible"), "-i", "inventories/lab", "crm-int-01:crm-ext-01"]
        hosts = subprocess.run(
            [*shown, "-m", "debug", "-a", "var=ansible_host"],
            cwd=ROOT, env=dict(os.environ) | environment, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        addresses = re.findall(r"\d+\.\d+\.\d+\.\d+", hosts)
        ssh = ROOT / ".lab/ssh"
        data = {
            "ssh_user": "root",
            "ssh_key": str(ssh / "id_ed25519"),
            "ssh_known_hosts_file": str(ssh / "known_hosts"),
        }
        Path(work, "inventory.py").write_text(f"hosts = {[(address, data) for address in addresses]!r}\n")
        Path(work, "deploy.py").write_text(DEPLOY.format(work=work, files=FILES))
        theirs = [launch, f"{work}/venv/bin/pyinfra", "-y", f"{work}/inventory.py", f"{work}/deploy.py"]
        run(ROOT, *theirs)
        rows.append([PYINFRA, f"{timed(ROOT, *theirs):.1f}"])
    for host in ("crm-int-01", "crm-ext-01"):
        run(ROOT, launch, "podman", "exec", host, "sh", "-c", "rm -rf /etc/bench-files /var/lib/file-sets/*/bench.json")
    return [[name, seconds, f"{float(seconds) / float(rows[0][1]):.2f}"] for name, seconds in rows]


def killed() -> list[str]:
    """Kill a converge that changes every role at 20 moments, run it again and compare with an undisturbed host."""
    run(
        ROOT, "lab/bin/launch", ".venv/bin/pytest", "-q", "tests/acceptance/test_file_sets.py", "-k", "killed_converge",
        N34_MOMENTS=str(KILLS), **ansible_environment(ROOT),
    )  # fmt: skip
    return [
        f"`ansible-playbook` killed at {KILLS} moments, spread over a converge that changes every file of every role,",
        "and run again: each time files, units and running configuration equal those of an undisturbed host (N34).",
    ]


def page(rows: list[Measured], files: list[list[str]], kills: list[str]) -> None:
    """Write what has been measured so far."""
    cold = next(row for row in rows if row.build == rows[-1].build)
    compared = []
    for row in rows:
        base = next(r for r in rows if r.name == f"stock, {row.name.split(', ')[1]}")
        figures = [row.tasks, row.remote, row.changed, row.sessions, f"{row.sessions / row.tasks:.2f}"]
        figures += [f"{row.cpu_seconds:.0f}", f"{row.controller_mib:.0f}", f"{row.module_mib:.0f}"]
        compared.append(
            [row.build, row.name, f"{row.seconds:.0f}", f"{row.seconds / base.seconds:.2f}", *map(str, figures)]
        )
    header = [
        "build",
        "run",
        "seconds",
        "to baseline",
        "results",
        "remote",
        "changed",
        "ssh sessions",
        "sessions per result",
    ]
    header += ["controller CPU s", "controller MiB", "module MiB"]
    lines = [
        f"`make lab` after `make clean`: **{cold.total_seconds / 60:.1f} minutes** (aim: under 12), podman installed.",
        "",
        *table(["phase", "minutes"], [[name, str(minutes)] for name, minutes in cold.phases]),
        "",
        "## Ansible",
        "",
        "Baseline: the first build's stock Ansible over ssh, pipelined. cold: prepare and converge of `make lab`, all",
        "four hosts; warm: `ansible-playbook playbooks/site.yml`, both hosts, nothing to change, the median of three.",
        "Results, sessions, CPU and memory are those of `make lab` and `make converge`. A result is one task on one",
        "host; remote: it came from there; CPU is that of the whole command, memory the largest process'.",
        "",
        *table(header, compared),
    ]
    if files:
        lines += ["", f"## {FILES} files on two hosts, nothing to change", "", "Median of three runs.", ""]
        lines += table(["tool", "seconds", "to file_set"], files)
    if kills:
        lines += ["", "## Killed runs", "", *kills]
    write_page("converge", "Benchmark: from a bare machine to two hosts", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", metavar="COMMIT", default=os.environ.get("BASE"), help="compare with this commit")
    parser.add_argument("--running", action="store_true", help="only what needs a running lab; prints, writes no page")
    options = parser.parse_args()
    if options.running:
        print(*table(["tool", "seconds", "to file_set"], hundred_files()), *killed(), sep="\n")
        return
    rows: list[Measured] = []

    def add(tree: Path, build: str, name: str, target: str, mitogen: bool = False) -> None:
        steps = ["prepare", "converge"] if target == "lab" else ["converge"]
        rows.append(measure(tree, build, name, target, steps, mitogen))
        page(rows, [], [])  # after each row: half an hour of measuring is not lost by a last failure

    if options.base:
        with tempfile.TemporaryDirectory() as work:
            tree = Path(work, "base")
            run(ROOT, "git", "worktree", "add", "--detach", str(tree), options.base)
            try:
                run(tree, "make", "clean")
                add(tree, options.base, "stock, cold", "lab")
                add(tree, options.base, "stock, warm", "converge")
                add(tree, options.base, "mitogen, warm", "converge", mitogen=True)
            finally:
                run(tree, "make", "clean")
                run(ROOT, "git", "worktree", "remove", "--force", str(tree))
    run(ROOT, "make", "clean")
    add(ROOT, "this", "stock, cold", "lab")
    add(ROOT, "this", "stock, warm", "converge")
    add(ROOT, "this", "mitogen, warm", "converge", mitogen=True)
    files = hundred_files()
    page(rows, files, [])
    page(rows, files, killed())


if __name__ == "__main__":
    main()
