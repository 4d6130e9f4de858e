"""Find the persons that abuse reports are about: by VERP address, or by queue ID or Message-ID through the mail log."""

from __future__ import annotations

from civicrm_tools.mail import deliveries
from civicrm_tools.mail import log as maillog
from civicrm_tools.mail.addresses import Address, Verb
from civicrm_tools.mail.feedback import Person, Report
from civicrm_tools.mail.providers import Owners
from civicrm_tools.mail.return_path import Settings, Site

# More persons than a report has: somebody lists addresses, and a human must look.
PERSONS_LIMIT = 20


def resolve(reports: list[Report], settings: Settings) -> None:
    """Fill in the persons of each report, with one pass through the mail log for all of them."""
    message_ids = {key for report in reports for key in report.message_ids if not report.addresses}
    queue_ids = {key for report in reports for key in report.queue_ids if not report.addresses}
    senders = {site.format(a.to(Verb.BOUNCE)) for report in reports for site, a in report.addresses if a.queue}
    passages = deliveries.lookup(maillog.rotated(settings.mail_log), message_ids, queue_ids, senders)
    by_message_id = {p.message_id: p for p in passages.values() if _person_of(p, settings)}
    by_sender = {p.sender: p for p in passages.values()}
    owners = settings.owners()
    for report in reports:
        if not report.evidence:
            continue
        _resolve(report, settings, owners, passages, by_message_id, by_sender)
        if len(report.persons) > PERSONS_LIMIT:
            report.persons = []
            report.show(f"names more than {PERSONS_LIMIT} persons: read it")
        elif not report.persons:
            report.shape = "unparsed"
            report.show("none of its queue IDs and Message-IDs is that of a mailing in the mail log")


def _person_of(passage: deliveries.Passage, settings: Settings) -> tuple[Site, Address] | None:
    for site in settings.sites:
        address = site.parse(passage.sender)
        if address is not None:
            return site, address
    return None


def _resolve(
    report: Report,
    settings: Settings,
    owners: Owners,
    passages: dict[str, deliveries.Passage],
    by_message_id: dict[str, deliveries.Passage],
    by_sender: dict[str, deliveries.Passage],
) -> None:
    found: dict[tuple[str, int, int, str], Person] = {}
    evidence: list[tuple[Site, Address, str, deliveries.Passage | None]] = []
    for site, address in report.addresses:
        if address.verb is not Verb.SUBSCRIBE:
            evidence.append((site, address, "address", by_sender.get(site.format(address.to(Verb.BOUNCE)))))
    if not evidence:
        for how, keys, known in (
            ("queue-id", report.queue_ids, passages),
            ("message-id", report.message_ids, by_message_id),
        ):
            for key in reversed(keys):
                passage = known.get(key)
                if passage and (meant := _person_of(passage, settings)) and not evidence:
                    evidence.append((*meant, how, passage))
    for site, address, how, passage in evidence:
        person = Person(
            site.name, address.job, address.queue, site.format(address.to(Verb.OPT_OUT)), how, address.recipient or ""
        )
        if passage and passage.recipients:
            person.recipient = passage.recipients[-1]
        person.provider = owners.of(person.recipient or report.reporter)
        found.setdefault((site.name, address.job, address.queue, address.hash), person)
    report.persons = list(found.values())
