#!/usr/bin/env python3
"""Score the lab's hosts with Lynis and OpenSCAP (ANSSI BP-028 enhanced), and write docs/benchmarks/hardening.md.

Ends with 1 where a host is below its floor. The packages are installed on the hosts for the run, and purged again.
In a container both see the kernel of the machine, which no playbook sets.
"""

from __future__ import annotations

import argparse
import re
import sys

from common import need_lab, on_host, table, write_page

HOSTS = ("crm-int-01", "crm-ext-01")
PACKAGES = ("lynis", "openscap-scanner", "ssg-debian")
AIMS = {"Lynis": 85.0, "OpenSCAP": 95.0}
# What is reached, less a point for what a run finds by chance.
FLOORS = {
    ("crm-int-01", "Lynis"): 64.0,
    ("crm-int-01", "OpenSCAP"): 84.0,
    ("crm-ext-01", "Lynis"): 70.0,
    ("crm-ext-01", "OpenSCAP"): 84.0,
}

# The newest profiles of Debian's package may be those of the release before.
OSCAP = r"""
source=$(ls /usr/share/xml/scap/ssg/content/ssg-debian*-ds.xml | sort -V | tail -n 1)
sed 's/\^12\.\[0-9\]+\$/^1[23].[0-9]+$/' "$source" > /run/hardening.xml
oscap xccdf eval --profile xccdf_org.ssgproject.content_profile_anssi_bp28_enhanced \
    --results /run/hardening-results.xml /run/hardening.xml 2>/dev/null || [ $? -eq 2 ]
grep -o '<score system="urn:xccdf:scoring:default".*</score>' /run/hardening-results.xml
rm -f /run/hardening.xml /run/hardening-results.xml
"""
LYNIS = "lynis audit system --quick --quiet --no-colors >/dev/null 2>&1 || :; cat /var/log/lynis-report.dat"


def lynis(host: str) -> tuple[float, list[str]]:
    """Return the hardening index, and what the tool suggests."""
    report = on_host(host, "sh", "-c", LYNIS)
    (index,) = re.findall(r"^hardening_index=(\d+)$", report, re.M)
    return float(index), sorted(set(re.findall(r"^(?:warning|suggestion)\[\]=([A-Z]+-\d+)\|", report, re.M)))


def openscap(host: str) -> tuple[float, list[str]]:
    """Return the score in per cent, and the rules that fail."""
    report = on_host(host, "sh", "-ec", OSCAP)
    (score,) = re.findall(r"<score [^>]*>([\d.]+)</score>", report)
    rules = re.findall(r"^Rule\s+\S+content_rule_(\S+)$.*?^Result\s+(\w+)$", report, re.M | re.S)
    return float(score), sorted(rule for rule, result in rules if result == "fail")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows, left, low = [], [], []
    for host in HOSTS:
        need_lab(host)
        on_host(host, "apt-get", "-qq", "update")
        on_host(host, "apt-get", "-qq", "-y", "--no-install-recommends", "install", *PACKAGES)
        for tool, measure in (("Lynis", lynis), ("OpenSCAP", openscap)):
            score, open_rules = measure(host)
            floor = FLOORS[host, tool]
            rows.append([host, tool, f"{score:.1f}", f"{floor:.0f}", f"{AIMS[tool]:.0f}"])
            left += [f"{host}, {tool}: {', '.join(open_rules)}.", ""]
            low += [f"{host}: {tool} {score:.1f} is below {floor:.0f}"] if score < floor else []
            print("bench:", *rows[-1])
        on_host(host, "apt-get", "-qq", "-y", "purge", *PACKAGES)
        on_host(host, "sh", "-c", "rm -f /var/log/lynis*")
    lines = [
        *table(["host", "tool", "score", "floor", "aim"], rows),
        "",
        "OpenSCAP: profile ANSSI BP-028, enhanced. What is left out on purpose, and why: [hardening](../hardening.md).",
        "",
        "## What is open",
        "",
        *left[:-1],
    ]
    print("bench: wrote", write_page("hardening", "Benchmark: scores of hardening", lines))
    if low:
        sys.exit("bench: " + "; ".join(low))


if __name__ == "__main__":
    main()
