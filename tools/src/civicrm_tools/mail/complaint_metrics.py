"""Count complaints and deliveries per provider and mailing job: the rate by which providers judge a sender."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter

from civicrm_tools.core.metrics import Family, gauge
from civicrm_tools.mail import deliveries
from civicrm_tools.mail.feedback_types import TYPES
from civicrm_tools.mail.provider_table import DEFAULT
from civicrm_tools.mail.return_path import Settings

# Complaint rate at which Google asks for care and at which it must never be.
RATE_LIMITS = {"warning": 0.001, "critical": 0.003}
RATE_DAYS = 7
JOBS_LIMIT = 20


def families(database: sqlite3.Connection, settings: Settings) -> list[Family]:
    """Return the metrics: complaints and deliveries per provider and mailing job, and the rate of the last days.

    Labels are the configured providers, "default", and the latest mailing jobs of each site; older jobs are "older".
    """
    names = settings.owners().names
    latest = latest_jobs(database, settings)
    shapes = database.execute("SELECT shape, COUNT(*) AS n FROM report GROUP BY shape").fetchall()
    types: Counter[str] = Counter()
    for row in database.execute("SELECT type, COUNT(*) AS n FROM typed GROUP BY type"):
        # Anybody may write any word.
        types[row["type"] if row["type"] in TYPES else "unknown"] += row["n"]
    return [
        Family(
            "mail_complaints_total",
            "counter",
            "Complaints by provider and mailing job.",
            counted(database, "complaint", "COUNT(*)", names, latest),
        ),
        Family(
            "mail_complaint_base_deliveries_total",
            "counter",
            "Mailings' messages that a provider took, the base of the rate.",
            counted(database, "delivered", "SUM(messages)", names, latest),
        ),
        Family(
            "mail_complaint_ratio",
            "gauge",
            f"Complaints per delivery over {RATE_DAYS} days.",
            [({"provider": name}, rate(database, name)) for name in names],
        ),
        Family(
            "mail_complaint_ratio_limit",
            "gauge",
            "Rate above which providers refuse.",
            [({"level": level}, value) for level, value in RATE_LIMITS.items()],
        ),
        Family(
            "mail_abuse_reports_total",
            "counter",
            "Messages examined, by what they were.",
            [({"shape": row["shape"]}, row["n"]) for row in shapes],
        ),
        Family(
            "mail_feedback_reports_total",
            "counter",
            "Feedback reports by their type.",
            [({"feedback_type": name}, number) for name, number in sorted(types.items())],
        ),
        gauge("mail_abuse_report_last_run_timestamp_seconds", "When the examiner last ended well.", int(time.time())),
    ]


def latest_jobs(database: sqlite3.Connection, settings: Settings) -> set[tuple[str, int]]:
    """Return (site, job) of each site's latest mailing jobs."""
    query = (
        "SELECT site, job FROM (SELECT site, job FROM delivered UNION SELECT site, job FROM complaint) "
        "WHERE site = ? ORDER BY job DESC LIMIT ?"
    )
    return {
        (row["site"], row["job"]) for site in settings.sites for row in database.execute(query, (site.name, JOBS_LIMIT))
    }


def counted(
    database: sqlite3.Connection, table: str, column: str, names: list[str], latest: set[tuple[str, int]]
) -> list[tuple[dict[str, str], float]]:
    """Return the samples of a table: provider, site and job, with those that have no name of their own together."""
    found: Counter[tuple[str, str, str]] = Counter()
    query = f"SELECT provider, site, job, {column} AS n FROM {table} GROUP BY provider, site, job"  # noqa: S608
    for row in database.execute(query):
        job = str(row["job"]) if (row["site"], row["job"]) in latest else "older"
        found[row["provider"] if row["provider"] in names else DEFAULT, row["site"], job] += row["n"]
    return [
        ({"provider": provider, "site": site, "job": job}, number)
        for (provider, site, job), number in sorted(found.items())
    ]


def rate(database: sqlite3.Connection, provider: str) -> float:
    """Return complaints per delivery at a provider over the last days."""
    since = deliveries.today() - RATE_DAYS
    complaints, delivered = (
        database.execute(f"SELECT {query} WHERE provider = ? AND day > ?", (provider, since)).fetchone()[0] or 0
        for query in ("COUNT(*) FROM complaint", "SUM(messages) FROM delivered")
    )
    return complaints / delivered if delivered else 0.0
