"""When a certificate expires, asked of openssl (openssl-x509(1), -enddate)."""

from __future__ import annotations

import datetime

from civicrm_tools.core import run

SECONDS = 15
DAY = 86400


def days_left(pem: str, now: datetime.datetime) -> float | None:
    """Return the days until the first certificate in a PEM text expires, or None if there is none.

    Raises ProgramFailed if openssl is missing.
    """
    said = run.run("openssl", "x509", "-noout", "-enddate", timeout=SECONDS, text=pem, statuses=()).stdout
    try:
        expires = datetime.datetime.strptime(said.strip(), "notAfter=%b %d %H:%M:%S %Y GMT")
    except ValueError:
        return None
    return round((expires.replace(tzinfo=datetime.UTC) - now).total_seconds() / DAY, 2)
