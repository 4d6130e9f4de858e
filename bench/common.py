"""What every benchmark needs: the machine in one line, a command on a lab host, a Markdown page."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "benchmarks"
LAUNCH = ROOT / "lab" / "bin" / "launch"


def machine() -> str:
    """Describe the machine in one line."""
    (kilobytes,) = re.findall(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())
    memory = int(kilobytes) // 2**20
    (system,) = re.findall(r'PRETTY_NAME="(.*)"', Path("/etc/os-release").read_text())
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cpu = model[1] if model else platform.machine()
    return f"{os.cpu_count()} cores ({cpu}), {memory} GiB, {system}"


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows]]


def write_page(name: str, title: str, lines: list[str]) -> Path:
    """Write docs/benchmarks/NAME.md and return its path."""
    PAGES.mkdir(exist_ok=True)
    page = PAGES / f"{name}.md"
    head = [
        f"# {title}",
        "",
        f"Written by `make bench` (bench/{name.replace('-', '_')}.py); all figures are from one run on one machine. "
        "Trust the ratios.",
        "",
        f"Machine: {machine()}. Date: {time.strftime('%Y-%m-%d', time.gmtime())}.",
        "",
    ]
    page.write_text("\n".join(head + lines) + "\n")
    return page


def on_host(host: str, *command: str, timeout: int = 300) -> str:
    """Run a command on a lab host and return its output; exit with its end if it fails."""
    done = subprocess.run(
        [LAUNCH, "podman", "exec", "-i", host, *command], capture_output=True, text=True, timeout=timeout
    )
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(command)[:100]} on {host} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def start_on_host(host: str, *command: str) -> subprocess.Popen[str]:
    """Start a command on a lab host, with pipes; the caller ends it."""
    return subprocess.Popen(
        [LAUNCH, "podman", "exec", "-i", host, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def need_lab(host: str) -> None:
    """Exit if this lab host does not run."""
    if subprocess.run([LAUNCH, "podman", "exec", host, "true"], capture_output=True).returncode != 0:
        sys.exit("bench: the lab does not run: 'make lab' first")


def ask_agent(host: str, agent: str, timeout: float, **asked: Any) -> dict[str, Any]:
    """Run a program on a host: arguments as JSON on its stdin, as they may hold a password; its result as JSON.

    Raises RuntimeError with the program's last words, TimeoutExpired after `timeout` seconds.
    """
    done = subprocess.run(
        [LAUNCH, "podman", "exec", "-i", host, "python3", "-c", agent],
        input=json.dumps(asked), capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{asked['action']} on {host}: {done.stderr.strip()[-400:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def hosts_and_sizes(text: str | None, full: str) -> argparse.ArgumentParser:
    """Return a parser of what a benchmark with a mail agent can be told; `full` says what --full means."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--host", default="crm-int-01", help="container that is measured (%(default)s)")
    made.add_argument("--world", default="world", help="container with the fake providers (%(default)s)")
    made.add_argument("--site", default="crm", help="site that sends and gets reports (%(default)s)")
    made.add_argument("--full", action="store_true", help=full)
    made.add_argument("--divide", type=int, default=1, metavar="N", help="all sizes by N: a trial, no page is written")
    return made
