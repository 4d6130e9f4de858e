"""Write down that a job of a site began or ended, as metrics for node_exporter.

The job's unit calls it before and after each run; SERVICE_RESULT is systemd's word for how the run ended. The file is
the only memory: what an earlier run wrote is read back.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from civicrm_tools.core import command, metrics
from civicrm_tools.core.command import DONE
from civicrm_tools.core.metrics import Family

NAME = "civicrm-job-metrics"
DIRECTORY = metrics.DIRECTORY
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
    """Return {(metric, result): value}, all of them; what is missing is 0."""
    values = dict.fromkeys([(name, "") for name in (START, END, SUCCESS, DURATION)], 0.0)
    values |= {(RUNS, result): 0.0 for result in RESULTS}
    for (name, labels), value in metrics.read(path).items():
        key = (name, dict(labels).get("result", ""))
        if key in values and math.isfinite(value):
            values[key] = value
    return values


def families(site: str, job: str, values: dict[tuple[str, str], float]) -> list[Family]:
    """Return the job's metrics."""

    def samples(wanted: str) -> Iterator[tuple[dict[str, str], float]]:
        for (name, result), value in values.items():
            if name == wanted:
                yield {"site": site, "job_name": job} | ({"result": result} if result else {}), round(value, 3)

    return [Family(name, kind, text, samples(name)) for name, (kind, text) in METRICS.items()]


def body(argv: Sequence[str] | None) -> int:
    parser = command.Parser(prog=NAME, description=__doc__)
    parser.add_argument("event", choices=["start", "end"])
    parser.add_argument("unit", help="the job's unit without .service: the name of the file")
    parser.add_argument("site")
    parser.add_argument("job", help="such as fetch_bounces")
    options = parser.parse_args(argv)
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
    metrics.write(path, families(options.site, options.job, values))
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
