"""Write down that a job of a site began or ended, as metrics for node_exporter.

The job's unit calls it before and after each run; SERVICE_RESULT is systemd's word for how the run ended. The file is
the only memory: what an earlier run wrote is read back.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path

from civicrm_tools.core import files

DIRECTORY = Path("/var/lib/prometheus/node-exporter")
METRICS = {
    "civicrm_job_last_start_timestamp_seconds": ("gauge", "When the job's last run began."),
    "civicrm_job_last_end_timestamp_seconds": (
        "gauge",
        "When the job's last run ended; before the start while it runs.",
    ),
    "civicrm_job_last_success_timestamp_seconds": ("gauge", "When a run of the job last ended well; 0 if none did."),
    "civicrm_job_last_duration_seconds": ("gauge", "How long the job's last run took."),
    "civicrm_job_runs_total": ("counter", "Ended runs of the job."),
}
START, END, SUCCESS, DURATION, RUNS = METRICS
RESULTS = ("failure", "success")


def read(path: Path) -> dict[tuple[str, str], float]:
    """Return {(metric, result): value}, all of them; what is missing or no number is 0."""
    values = dict.fromkeys([(name, "") for name in (START, END, SUCCESS, DURATION)], 0.0)
    values |= {(RUNS, result): 0.0 for result in RESULTS}
    try:
        text = path.read_text()
    except (OSError, ValueError):
        return values
    for name, result, number in re.findall(r'^(\w+)\{[^}]*?(?:result="(\w+)")?\} ([0-9.]+)$', text, re.MULTILINE):
        if (name, result) in values:
            values[name, result] = float(number)
    return values


def prometheus(site: str, job: str, values: dict[tuple[str, str], float]) -> str:
    lines = []
    for name, (kind, text) in METRICS.items():
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        for (metric, result), value in values.items():
            if metric == name:
                labels = f'site="{site}",job_name="{job}"' + (f',result="{result}"' if result else "")
                lines.append(f"{name}{{{labels}}} {round(value, 3)}")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("event", choices=["start", "end"])
    parser.add_argument("unit", help="the job's unit without .service: the name of the file")
    parser.add_argument("site")
    parser.add_argument("job", help="such as fetch_bounces")
    options = parser.parse_args(argv)
    if not DIRECTORY.is_dir():
        return 0  # without node_exporter there is nobody to write for
    path = DIRECTORY / f"{options.unit}.prom"
    now = time.time()
    values = read(path)
    if options.event == "start":
        values[START, ""] = now
    else:
        result = "success" if os.environ.get("SERVICE_RESULT") == "success" else "failure"
        values[END, ""] = now
        values[DURATION, ""] = max(0.0, now - (values[START, ""] or now))
        values[RUNS, result] += 1
        if result == "success":
            values[SUCCESS, ""] = now
    try:
        files.write(path, prometheus(options.site, options.job, values), sync=False)
    except OSError as error:
        print(f"civicrm-job-metrics: {error}", file=sys.stderr)
        return 1
    return 0
