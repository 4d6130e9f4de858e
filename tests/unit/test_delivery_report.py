"""Whatever form a bounce has, it is read for what it says, and what is no bounce is told from it."""

from __future__ import annotations

import base64
import time
from email.header import Header
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import arf, attached, dsn, newsletter, plain, verp

from civicrm_tools.mail import delivery_report
from civicrm_tools.mail.return_path import Site

SITE = Site("crm", "civicrm+", ".", frozenset({"crm.example.org"}), Path("/nowhere"), "")
FIELDS = "Reporting-MTA: dns; mx.example.org\n\nFinal-Recipient: rfc822; ada@provider.example\nAction: failed\n"


def read(raw: bytes | str) -> delivery_report.Bounce:
    found = delivery_report.read(raw if isinstance(raw, bytes) else raw.encode(), SITE)
    assert found is not None
    return found


def report(fields: str, kind: str = "message/delivery-status", encoding: str = "", note: str = "Not delivered.") -> str:
    """A delivery report with these fields, word for word."""
    transfer = f"Content-Transfer-Encoding: {encoding}\n" if encoding else ""
    return (
        f"Return-Path: <>\nDelivered-To: {verp()}\nFrom: MAILER-DAEMON@mx.example.org\nTo: {verp()}\n"
        "Subject: Undelivered Mail Returned to Sender\nAuto-Submitted: auto-replied\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="cut"\n\n'
        f"--cut\nContent-Type: text/plain\n\n{note}\n\n--cut\nContent-Type: {kind}\n{transfer}\n{fields}\n"
        f"--cut\nContent-Type: message/rfc822\n\n{newsletter()}\n--cut--\n"
    )


def to_bounce(text: str, **fields: str) -> bytes:
    return plain(text, **({"To": verp(), "Delivered_To": verp()} | fields))


# Reports

GONE = FIELDS + "Status: 5.1.1\nRemote-MTA: dns; mx.provider.example\nDiagnostic-Code: smtp; 550 5.1.1 user unknown\n"


@pytest.mark.parametrize(
    "raw",
    [
        dsn("ada@provider.example", text="550 5.1.1 user unknown"),
        report(GONE),
        report(GONE).replace("\n", "\r\n"),
        report(base64.encodebytes(GONE.encode()).decode(), encoding="base64"),
        report(GONE.replace(": ", ":=20"), encoding="quoted-printable"),
        report(
            base64.encodebytes(GONE.replace("rfc822;", "utf-8;").encode()).decode(),
            kind="message/global-delivery-status",
            encoding="base64",  # RFC 6533 allows it
        ),
        report(GONE.replace("Action: failed", "Action: failure")),
        report(GONE.replace("Action: failed", "Action: error")),
        report(GONE.replace("Action: failed", "action: Failed (permanently)")),
        report(GONE.replace("; ada@provider.example", "; <ada@provider.example> (Ada Lovelace)")),
        report(GONE.replace("; ada@provider.example", ";ada@provider.example")),
        report(GONE.replace("rfc822; ada", "rfc822; (Ada <other@x.example>) ada")),
        report(GONE.replace("mx.provider.example", "mx.provider.example (192.0.2.25, the relay)")),
        report(GONE.replace("mx.provider.example", "(the relay) mx.provider.example")),
        report(GONE.replace("mx.example.org\n\n", "mx.example.org\n")),
        report(GONE.replace("\n\n", "\n\n\n\n")),
        report(GONE).replace('boundary="cut"', 'boundary="lost"'),
        report("\n" + GONE),
    ],
    ids=[
        *("Postfix", "fields", "CRLF", "base64", "quoted-printable", "global", "failure", "error", "comment-action"),
        *(
            "comment-address",
            "no-blank",
            "other-in-comment",
            "comment-mta",
            "comment-before-mta",
            "one-group",
            "blank-lines",
            "other-boundary",
            "begins-blank",
        ),
    ],
)
def test_a_dead_address_in_any_form_of_report(raw):
    found = read(raw)
    assert str(found.verdict) == "address/gone"
    assert (found.recipient, found.host) == ("ada@provider.example", "mx.provider.example")
    assert (found.action, found.status) == ("failed", "5.1.1")


@pytest.mark.parametrize("action", ["failed", "failure", "error", "Failed (expired)"])
def test_an_action_that_means_failed_counts_whatever_the_status_is(action):
    """Mail that expired has a Status of 4.x.x."""
    fields = FIELDS.replace("Action: failed", f"Action: {action}") + "Status: 4.2.2\n"
    assert (read(report(fields)).action, str(read(report(fields)).verdict)) == ("failed", "address/full")


def test_a_diagnostic_code_that_is_not_indented_goes_on():
    said = "smtp; 550-Relay is not permitted from your server.\n550-mx.example.org [192.0.2.9] is\n550 blocked.\n"
    found = read(
        report(f"Reporting-MTA: dns; mx.example.org\n\nDiagnostic-Code: {said}Status: 5.7.1\nAction: failed\n")
    )
    assert found.text.endswith("550 blocked.")
    assert found.verdict.subject == "us"


def test_what_a_relay_writes_into_status_does_not_hide_what_the_server_said():
    said = "Diagnostic-Code: smtp; 550 5.7.1 IP address blacklisted by recipient\n"
    assert read(report(FIELDS + "Status: 5.1.1\n" + said)).verdict.subject == "us"


def test_the_first_failed_recipient_counts():
    groups = (
        "Reporting-MTA: dns; mx.example.org\n\n"
        "Final-Recipient: rfc822; a@x.example\nAction: delivered\nStatus: 2.0.0\n\n"
        "Final-Recipient: rfc822; b@x.example\nAction: failed\nStatus: 5.2.2\n"
    )
    found = read(report(groups))
    assert (found.recipient, str(found.verdict)) == ("b@x.example", "address/full")
    assert found.plain is False


@pytest.mark.parametrize(
    ("phase", "subject"),
    [("refused to talk to me: 550 no", "us"), ("said: 550 no (in reply to MAIL FROM command)", "us")],
)
def test_the_readable_part_tells_which_command_was_refused(phase, subject):
    note = f"<ada@provider.example>: host mx.provider.example[192.0.2.25]\n    {phase}"
    fields = FIELDS + "Status: 5.0.0\nDiagnostic-Code: smtp; 550 no\n"
    assert read(report(fields, note=note)).verdict.subject == subject
    assert read(report(fields, note="no")).verdict.subject == "address"


def test_a_report_whose_fields_say_nothing_is_read_in_its_text():
    note = "   ----- Transcript of session follows -----\nmail.local: unknown user: ada\n554 Service unavailable"
    assert str(read(report(FIELDS + "Status: 5.5.0\n", note=note)).verdict) == "address/gone"


def test_a_report_that_lost_its_boundaries_is_read():
    """A relay has taken them out; the words of the server stand in what is left."""
    note = "   ----- Transcript of session follows -----\nmail.local: unknown user: ada\n554 Service unavailable"
    raw = report(FIELDS + "Status: 5.5.0\n", note=note).replace("--cut--", "").replace("--cut\n", "")
    assert (str(read(raw).verdict), read(raw).recipient) == ("address/gone", "ada@provider.example")


def test_an_address_in_a_text_is_no_code():
    said = "Diagnostic-Code: smtp; 552 mailbox full, says store 10.5.7.12\n"
    assert str(read(report(FIELDS + "Status: 5.0.0\n" + said)).verdict) == "address/full"


# Texts

EXIM = """This message was created automatically by mail delivery software.

A message that you sent could not be delivered to one or more of its
recipients. This is a permanent error. The following address(es) failed:

  ada@provider.example
    host mx.provider.example [192.0.2.25]
    SMTP error from remote mail server after RCPT TO:<ada@provider.example>:
    550 no such mailbox

------ This is a copy of the message, including all the headers. ------
"""
QMAIL = """Hi. This is the qmail-send program at old.example.
I'm afraid I wasn't able to deliver your message to the following addresses.
This is a permanent error; I've given up. Sorry it didn't work out.

<ada@provider.example>:
Sorry, no mailbox here by that name. (#5.1.1)

--- Below this line is a copy of the message.

"""
DOMINO = """Your message

  Subject: January

was not delivered to:

  ada@provider.example

because:

  User ada (ada@provider.example) not listed in Domino Directory
"""
EXCHANGE = """Your message did not reach some or all of the intended recipients.

      Subject:  January
      Sent:     02.01.2026 10:00

The following recipient(s) could not be reached:

      ada@provider.example on 02.01.2026 10:00
            The e-mail account does not exist at the organization this message was sent to.
            <mx.provider.example #5.1.1>
"""


@pytest.mark.parametrize(
    ("text", "subject", "sender"),
    [
        (EXIM, "Mail delivery failed: returning message to sender", "Mail Delivery System <Mailer-Daemon@old.example>"),
        (QMAIL, "failure notice", "MAILER-DAEMON@old.example"),
        (DOMINO, "DELIVERY FAILURE: User ada not listed in Domino Directory", "Postmaster@old.example"),
        (EXCHANGE, "Undeliverable: January", "System Administrator <postmaster@old.example>"),
    ],
    ids=["Exim", "qmail", "Domino", "Exchange"],
)
def test_a_bounce_in_plain_words(text, subject, sender):
    """Each brings our newsletter back in its text: its VERP address is not whose delivery failed."""
    found = read(to_bounce(f"<{verp()}>\n" * (text is EXCHANGE) + text + newsletter(), Subject=subject, From=sender))
    assert (str(found.verdict), found.recipient) == ("address/gone", "ada@provider.example")
    assert found.plain is False


def test_a_refusal_of_our_sender_in_plain_words():
    text = EXIM.replace("RCPT TO:<ada@provider.example>", f"MAIL FROM:<{verp()}>").replace("no such mailbox", "no")
    found = read(to_bounce(text, Subject="Mail delivery failed", From="Mailer-Daemon@old.example"))
    assert (found.verdict.subject, found.recipient, found.host) == ("us", "ada@provider.example", "mx.provider.example")


# What is no bounce

VACATION = "I am away until Monday. Ada no longer works here: 550 5.1.1 user unknown, so to say."
HEADINGS = """
Automatic reply: January | Out of Office | Abwesend: January | Automatische Antwort: January | Urlaub
Réponse automatique : January | Absence du bureau | Risposta automatica: January | Fuori sede
Respuesta automática: January | Ausencia | Resposta automática: January | Férias | Afwezig | Automatisch antwoord
Autosvar: January | Frånvaro | Fravær | Automaattinen vastaus: January | Poissa | Autoodpowiedź: January | Urlop
Automatická odpověď: January | Dovolená | Automatikus válasz: January | Szabadságon | Răspuns automat: January
Автоматичен отговор: January | Автоответ | Отпуск | Αυτόματη απάντηση: January | Otomatik cevap | Puhkus | Re: January
"""


@pytest.mark.parametrize("heading", [word.strip() for line in HEADINGS.strip().split("\n") for word in line.split("|")])
@pytest.mark.parametrize("encoded", [False, True])
def test_an_answer_in_any_language_is_about_nobody(heading, encoded):
    subject = Header(heading, "utf-8").encode() if encoded else heading
    for path in ({}, {"Return_Path": "<>"}):
        assert str(read(to_bounce(VACATION, Subject=subject, **path)).verdict) == "nobody/reply"


@pytest.mark.parametrize(
    "fields",
    [
        {"Auto_Submitted": "auto-replied"},
        {"X_Autoreply": "yes"},
        {"X_Autorespond": "January"},
        {"Precedence": "auto_reply"},
    ],
    ids=str,
)
def test_a_program_that_says_it_answers_is_about_nobody(fields):
    assert str(read(to_bounce(VACATION, Subject="January", **fields)).verdict) == "nobody/reply"


@pytest.mark.parametrize(
    "fields",
    [{"Auto_Submitted": "auto-generated"}, {"Precedence": "junk"}, {"X_Auto_Response_Suppress": "All"}],
    ids=str,
)
def test_a_program_that_does_not_say_why_it_writes_is_about_nobody(fields):
    assert str(read(to_bounce(VACATION, Subject="January", **fields)).verdict) == "nobody/notice"


def test_a_bounce_that_is_marked_as_an_automatic_reply_stays_one():
    """Domino and others mark theirs like a vacation reply."""
    raw = to_bounce(DOMINO, Subject="DELIVERY FAILURE", From="Postmaster@old.example", Auto_Submitted="auto-replied")
    assert str(read(raw).verdict) == "address/gone"


@pytest.mark.parametrize(
    ("raw", "verdict"),
    [
        (dsn("a@x.example", action="delayed", status="4.4.7", text="450 4.2.0 busy"), "nobody/delay"),
        (dsn("a@x.example", action="delayed", status="4.7.1", text="451 4.7.1 5.7.1 blocked"), "nobody/delay"),
        (dsn("a@x.example", action="delivered", status="2.0.0", text="250 ok"), "nobody/receipt"),
        (dsn("a@x.example", action="relayed", status="2.0.0", text="250 ok"), "nobody/receipt"),
        (
            to_bounce(
                "This message was created automatically by mail delivery software.\nA message that you sent has not "
                "yet been delivered to one or more of its recipients after more than 24 hours on the queue.",
                Subject="Warning: message 1abc delayed 24 hours",
                From="Mailer-Daemon@old.example",
            ),
            "nobody/delay",
        ),
        (
            to_bounce(
                "Your message was read.",
                Subject="Read: January",
                Content_Type='multipart/report; report-type=disposition-notification; boundary="x"',
            ),
            "nobody/receipt",
        ),
        (
            to_bounce(
                "To have your message delivered, please confirm that you sent it: click here.",
                Subject="Please confirm your message",
                From="postmaster@shield.example",
            ),
            "nobody/notice",
        ),
        (to_bounce("Ada no longer works here. Write to Grace.", Subject="January"), "nobody/notice"),
        (to_bounce("Ada arbeitet nicht mehr hier.", Subject="January", Return_Path="<>"), "nobody/notice"),
        (to_bounce("Thank you for the fine newsletter!", Subject="January"), "nobody/notice"),
        (arf(newsletter()).replace(b"To: abuse@crm.example.org", f"To: {verp()}".encode()), "nobody/notice"),
        (attached(newsletter()).replace(b"To: abuse@crm.example.org", f"To: {verp()}".encode()), "nobody/notice"),
    ],
    ids=[
        *("delay", "delay-of-us", "delivered", "relayed", "delay-in-words", "read", "challenge", "left", "left-null"),
        *("thanks", "complaint", "forwarded"),
    ],
)
def test_what_is_no_bounce_is_about_nobody(raw, verdict):
    assert str(read(raw).verdict) == verdict


@pytest.mark.parametrize("verb", ["u", "o", "r", "e", "c"])
def test_mail_to_another_address_of_the_application_is_not_judged(verb):
    for text in (VACATION, EXIM):
        raw = plain(text, To=verp(verb), Delivered_To=verp(verb), Auto_Submitted="auto-replied")
        assert delivery_report.read(raw, SITE) is None
    assert delivery_report.read(plain("hello", To=f"{verp()}x"), SITE) is None


@given(st.binary(max_size=200), st.integers(0, 900))
def test_no_mail_stops_the_reading(junk, place):
    for whole in (report(GONE).encode(), to_bounce(EXIM, Subject="failure notice", From="MAILER-DAEMON@old.example")):
        found = delivery_report.read(whole[:place] + junk + whole[place:], SITE)
        assert found is None or found.verdict.subject


@pytest.mark.parametrize("junk", ["a", "a.", "<", "(", "- ", "\n", "5.", "=?", "a@", "host [", "--cut\n", ": "])
def test_a_hostile_mail_takes_no_longer_than_another(junk):
    """64 KB of it in each place that is looked into: within a second, where a careless pattern takes minutes."""
    began = time.process_time()
    read(report(FIELDS + f"Diagnostic-Code: smtp; {junk * 60_000}\n"))
    read(report(FIELDS.replace("ada@provider.example", junk * 60_000)))
    for text in (junk * 60_000, f"host {junk * 60_000}", f"<{junk * 60_000}>: 550 5.1.1 x"):
        read(to_bounce(text, Subject=(junk * 9000).replace("\n", " "), From="MAILER-DAEMON@old.example"))
    assert time.process_time() - began < 1
