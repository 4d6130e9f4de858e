"""What every benchmark needs: the machine in one line, a command on a lab host, a Markdown page."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "benchmarks"
LAUNCH = ROOT / "lab" / "bin" / "launch"


def machine() -> str:
    """Describe the machine in one line."""
    memory = int(re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())[1]) // 2**20
    system = re.search(r'PRETTY_NAME="(.*)"', Path("/etc/os-release").read_text())[1]
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
