"""CiviCRM's APIv3 through a command that answers line by line, and a donation as calls to it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from dataclasses import dataclass
from decimal import Decimal
from typing import IO, Any, NamedTuple

from civicrm_tools.core.command import Failure
from civicrm_tools.core.run import as_user, start

Record = dict[str, Any]


class ApiGone(Exception):
    """CiviCRM cannot be asked now; no fault of the job. The message is safe to log."""


class ApiRefused(Exception):
    """CiviCRM answered with an error. It may quote a donor: logs get only what stands before the colon."""


class Conflict(Exception):
    """This payment is recorded already, with other figures: a person must look."""


@dataclass
class Running:
    """A started API command. errors: a file, as nobody reads a pipe; only what came before the first call counts."""

    process: subprocess.Popen[bytes]
    stdin: IO[bytes]
    stdout: IO[bytes]
    errors: IO[bytes]


class Api:
    """A running API command. It starts with the first call and again after close() or its death."""

    def __init__(self, command: list[str], user: str, timeout: float) -> None:
        self._command = command
        self._user = user
        self._timeout = timeout
        self._running: Running | None = None
        self._pending = b""
        self._campaigns: dict[str, str | None] = {}
        self.calls = 0

    def call(self, entity: str, action: str, **params: Any) -> list[Record]:
        """Return the values of one call; raises ApiGone or ApiRefused."""
        running = self._running or self._start()
        self.calls += 1
        line = json.dumps([entity, action, params], ensure_ascii=False).encode(errors="surrogateescape")
        answer = self._exchange(running, line + b"\n", "it died, or did not answer in time")
        if "error" in answer:
            raise ApiRefused(f"{entity}.{action}: {answer['error']}")
        return list(answer["values"])

    def campaign(self, name: str) -> str | None:
        """Id of a campaign in CiviCRM, None if it has none of this name; asked once per process."""
        if name not in self._campaigns:
            found = self.call("Campaign", "get", name=name, **{"return": ["id", "name"]})
            self._campaigns[name] = found[0]["id"] if found else None
        return self._campaigns[name]

    def close(self) -> None:
        """End the command, by force where it does not end with its input."""
        running, self._running = self._running, None
        self._pending, self._campaigns, self.calls = b"", {}, 0
        if running is None:
            return
        running.stdin.close()
        try:
            running.process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            running.process.kill()
            running.process.wait()
        running.stdout.close()
        running.errors.close()

    def _start(self) -> Running:
        # No with: it is open as long as the process lives, and close() closes it.
        errors = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            # It answers call after call, for as long as the worker lives.
            pipe = subprocess.PIPE
            process = start(self._command, stdin=pipe, stdout=pipe, stderr=errors, cwd="/", **as_user(self._user))
        except Failure as error:
            errors.close()
            raise ApiGone(str(error)) from error
        assert process.stdin and process.stdout
        self._running = Running(process, process.stdin, process.stdout, errors)
        if self._exchange(self._running, b"", "it did not start") != {"ready": True}:
            self.close()
            raise ApiGone(f"{self._command[0]} did not say that it is ready")
        return self._running

    def _exchange(self, running: Running, line: bytes, complaint: str) -> Record:
        try:
            running.stdin.write(line)
            running.stdin.flush()
            answer = json.loads(self._read_line(running.stdout))
            if isinstance(answer, dict) and answer.keys() & {"ready", "values", "error"}:
                return answer
            complaint = "its answer is no answer"
        except ValueError:
            complaint = "its answer is not JSON"
        except OSError:
            pass
        said = "" if line else first_error(running.errors)
        running.process.kill()
        self.close()
        raise ApiGone(f"{self._command[0]}: {complaint}{said}")

    def _read_line(self, source: IO[bytes]) -> bytes:
        deadline = time.monotonic() + self._timeout
        while b"\n" not in self._pending:
            ready, _, _ = select.select([source], [], [], max(0, deadline - time.monotonic()))
            data = os.read(source.fileno(), 65536) if ready else b""
            if not data:
                raise TimeoutError
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line


def first_error(errors: IO[bytes]) -> str:
    """Return the first line of a command's standard error, behind a colon; nothing where it said nothing."""
    errors.seek(0)
    lines = errors.read(2000).decode(errors="replace").strip().splitlines()
    return f": {lines[0][:200]}" if lines else ""


class Recorded(NamedTuple):
    """What became of a donation: "created" or "duplicates", and what of it CiviCRM did not know."""

    result: str
    campaign_known: bool = True
    address_kept: bool = True


def record(api: Api, job: Record, prefix: str, test: bool, fields: Record) -> Recorded:
    """Record a job's donation unless CiviCRM has its transaction already.

    prefix: put before the payment's reference. fields: what every contribution gets.
    Raises ApiGone, ApiRefused and Conflict; whatever happened before, the same call may follow.
    """
    donation = job["donation"]
    trxn_id = prefix + donation["payment_reference"]
    if find(api, trxn_id, job, test):
        return Recorded("duplicates")
    try:
        contact, address_kept, note = find_contact(api, donation["contact"]), True, {}
        if contact:
            note = address_note(donation["contact"])
        else:
            contact = create_contact(api, donation["contact"])
            address_kept = add_address(api, contact, donation["contact"])
        campaign = api.campaign(donation["campaign"])
        api.call(
            "Contribution",
            "create",
            **fields,
            contact_id=contact,
            total_amount=donation["amount"],
            currency=donation["currency"],
            trxn_id=trxn_id,
            invoice_id=job["id"],
            receive_date=f"@{job['received_at']}",
            source=source(job),
            contribution_status_id="Completed",
            is_test=int(test),
            **({"campaign_id": campaign} if campaign else {}),
            **note,
        )
    except (ApiRefused, ApiGone) as error:
        # Whose fault was it? If CiviCRM can still be asked, the job's, or it was recorded nevertheless.
        if find(api, trxn_id, job, test):
            return Recorded("duplicates")
        raise ApiRefused(str(error)) from error
    return Recorded("created", campaign is not None, address_kept)


def source(job: Record) -> str:
    return f"{job['site']}: {job['donation']['campaign']}"


def find(api: Api, trxn_id: str, job: Record, test: bool) -> bool:
    """Whether this donation is recorded under its transaction id; an API that cannot even look is ApiGone.

    Compared in full: what differs is another donation, which a person must see. Raises Conflict.
    """
    fields = ["trxn_id", "total_amount", "currency", "invoice_id", "contact_id", "source", "contribution_source"]
    try:
        found = api.call("Contribution", "get", trxn_id=trxn_id, is_test=int(test), **{"return": fields})
        for row in found:
            # The database ignores case, payment providers do not.
            if row["trxn_id"] != trxn_id:
                raise Conflict(f"contribution {row['id']} has nearly the same transaction id")
            if different := differences(api, row, job):
                raise Conflict(
                    f"contribution {row['id']} has the same transaction id and another {', '.join(different)}"
                )
    except ApiRefused as error:
        api.close()
        raise ApiGone("CiviCRM cannot look up a contribution") from error
    return bool(found)


def differences(api: Api, row: Record, job: Record) -> list[str]:
    """Return what a contribution has otherwise than a job: of amount, currency, campaign, donor."""
    donation = job["donation"]
    different = []
    if Decimal(row["total_amount"]) != Decimal(donation["amount"]):
        different.append("amount")
    if row["currency"] != donation["currency"]:
        different.append("currency")
    if row.get("invoice_id") == job["id"]:
        return different  # the id is made of all that the donor wrote
    if (row.get("contribution_source") or row.get("source")) != source(job):
        different.append("campaign")
    people = api.call("Email", "get", contact_id=row["contact_id"], **NAMED)
    if not any(is_address(person, donation["contact"]) and is_name(person, donation["contact"]) for person in people):
        different.append("donor")
    return different


# What is asked of an e-mail address: it, and whose it is.
NAMED: Record = {
    "return": ["email", "contact_id", "contact_id.first_name", "contact_id.last_name"],
    "options": {"limit": 100, "sort": "contact_id"},
}


def is_address(row: Record, person: Record) -> bool:
    """Whether it is the donor's. To the database an accent makes no difference; to a mail server it does."""
    return row["email"].casefold() in [address.casefold() for address in spellings(person["email"])]


def is_name(row: Record, person: Record) -> bool:
    names = ("first_name", "last_name")
    known = [str(row.get(f"contact_id.{name}") or "").casefold() for name in names]
    return known == [kept(person.get(name, "")).casefold() for name in names]


def find_contact(api: Api, person: Record) -> str | None:
    """Id of the person with this e-mail address; of several the one with the same name, else the oldest."""
    found = api.call(
        "Email",
        "get",
        email={"IN": spellings(person["email"])},
        **{"contact_id.contact_type": "Individual", "contact_id.is_deleted": 0},
        **NAMED,
    )
    found = [row for row in found if is_address(row, person)]
    for row in found:
        if is_name(row, person):
            return str(row["contact_id"])
    return str(found[0]["contact_id"]) if found else None


def spellings(email: str) -> list[str]:
    """Return an address as the API took it and, of an international domain, as people write it (RFC 3492)."""
    local, _, domain = email.rpartition("@")
    try:
        labels = [
            label[4:].encode().decode("punycode") if label.startswith("xn--") else label for label in domain.split(".")
        ]
    except UnicodeError:
        return [email]
    return list(dict.fromkeys([email, f"{local}@{'.'.join(labels)}"]))


def create_contact(api: Api, person: Record) -> str:
    names = {name: kept(person[name]) for name in ("first_name", "last_name") if person.get(name)}
    made = api.call("Contact", "create", contact_type="Individual", email=person["email"], **names)
    return str(made[0]["id"])


def add_address(api: Api, contact: str, person: Record) -> bool:
    """Add the address to a contact that was just made, and return whether all of it was kept.

    A country that CiviCRM does not know costs neither the donation nor the address.
    """
    address = address_of(person)
    country = {"country_id": person["country"]} if "country" in person else {}
    whole = address | country
    if not whole:
        return True
    attempts = (whole, address) if address and country else (whole,)
    for given in attempts:
        with contextlib.suppress(ApiRefused):
            api.call("Address", "create", contact_id=contact, location_type_id="Home", **given)
            return given == whole
    return False


def address_of(person: Record) -> Record:
    given = person.get("address", {})
    return {name: kept(given[name]) for name in ("street_address", "city", "postal_code") if given.get(name)}


def address_note(person: Record) -> Record:
    """Return the contribution's note: a person who is known keeps the address there, as anybody may give their name."""
    lines = [*address_of(person).values(), *([person["country"]] if "country" in person else [])]
    return {"note": "\n".join(["Address given with this donation:", *lines])} if lines else {}


def kept(text: str) -> str:
    """Return a donor's word as CiviCRM keeps it: "null" in any other case it takes for no value (CRM-15522)."""
    return "Null" if text.lower() == "null" else text
