"""The mailing and the person in one of CiviMail's addresses, whatever stands before the verb at this site."""

from __future__ import annotations

import re
from typing import NamedTuple

from mail_tools import address_contract

FORM = re.compile(
    r"(?P<local>.*?)(?P<verb>[buoercs])\.(?P<job>\d+)\.(?P<queue>\d+)\.(?P<hash>[0-9a-z]{16})@(?P<domain>[^@\s]+)"
)


class Verp(NamedTuple):
    """`job` is the mailing's job, `bounce` the envelope sender of the person's copy."""

    job: int
    bounce: str


def parse(address: str) -> Verp | None:
    """What an address of CiviMail says, or None for any other."""
    form = FORM.fullmatch(address)
    if not form:
        return None
    if address_contract.parse(address, localpart=form["local"], domains=(form["domain"].lower(),)) is None:
        return None
    bounce = f"{form['local']}b.{form['job']}.{form['queue']}.{form['hash']}@{form['domain']}"
    return Verp(int(form["job"]), bounce)
