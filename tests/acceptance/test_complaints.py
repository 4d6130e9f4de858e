"""From an abuse report to the person who complained, and that person's opt-out (S28, S31, P6, P7, N6, N7)."""

from __future__ import annotations

import json
import re
import time

import pytest
from newsletters import contact, ledger, newsletter, run_job

pytestmark = pytest.mark.mail

HUMAN = "oncall@accepting.test"
LOG = "/var/log/abuse-reports.jsonl"


@pytest.fixture(scope="module")
def mailing(crm_int, world, eventually) -> dict[str, str]:
    """{address: stored message} of four persons who got a newsletter."""
    stamp = time.time_ns()
    people = [f"{name}-{stamp}@accepting.test" for name in ("ada", "bob", "eve", "joe")]
    newsletter(crm_int, f"create --group complaints-{stamp} " + " ".join(f"--contact {person}" for person in people))
    run_job(crm_int, "process-mailing")
    eventually(lambda: all(ledger(world, recipient=person) for person in people), within=120)
    return {p: world.check_output(f"cat {ledger(world, recipient=p)[0]['message']}") for p in people}


def report(original: str, feedback: str = "abuse") -> str:
    """A feedback report (RFC 5965) as a provider sends it."""
    return (
        "From: feedback@accepting.test\nTo: abuse@crm.torproject.test\nSubject: complaint\n"
        f"Message-ID: <report-{time.time_ns()}@accepting.test>\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=feedback-report; boundary="limit"\n\n'
        "--limit\nContent-Type: text/plain\n\nSomebody complained.\n\n"
        "--limit\nContent-Type: message/feedback-report\n\n"
        f"Feedback-Type: {feedback}\nUser-Agent: Lab/1\nVersion: 1\n\n--limit\nContent-Type: message/rfc822\n\n"
        f"{original}\n--limit--\n"
    )


def message_id(original: str) -> str:
    return re.search(r"^Message-ID: (<.*>)", original, re.M | re.I)[1]


def send(world, text: str) -> None:
    """As a provider does, to abuse@ of the site."""
    options = "--from feedback@accepting.test --to abuse@crm.torproject.test --data -"
    world.run_expect([0], f"outside-swaks --server crm-int-01.torproject.test {options} <<'REPORT'\n{text}\nREPORT")


def records(crm_int) -> list[dict]:
    return [json.loads(line) for line in crm_int.check_output(f"cat {LOG}").splitlines()]


@pytest.mark.mutates
def test_a_complaint_opts_the_person_out_and_reaches_the_human(crm_int, world, mailing, eventually):
    """Report to abuse@ -> examined -> opt-out by mail -> CiviCRM; a complaint is not a bounce (P7, N6)."""
    person, other, *_ = mailing
    before = len(ledger(world, recipient=HUMAN))
    text = report(mailing[person])
    send(world, text)
    send(world, text)
    found = eventually(lambda: [r for r in records(crm_int) if person in str(r)], within=150)
    assert found[0]["shape"] == "arf"
    assert found[0]["persons"][0]["outcome"] in ("opted out", "would opt out")
    eventually(lambda: len(ledger(world, recipient=HUMAN)) >= before + 2)
    if found[0]["persons"][0]["outcome"] == "would opt out":
        assert json.loads(crm_int.check_output(f"printf %s {quoted(text)} | abuse-report --apply --json -"))
    eventually(lambda: run_job(crm_int, "fetch-bounces") or contact(crm_int, person)["is_opt_out"], within=120, every=5)
    assert contact(crm_int, person)["on_hold"] is False
    assert contact(crm_int, other)["is_opt_out"] is False
    opt_out = found[0]["persons"][0]["opt_out"]
    assert crm_int.check_output(f"grep -c '/lmtp.*to=<{opt_out}>.*status=sent' /var/log/mail.log") == "1"


def quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


@pytest.mark.mutates
def test_praise_changes_nothing(crm_int, world, mailing, eventually):
    """The type not-spam takes a message out of the junk folder; it must not opt out (N6)."""
    *_, person, _ = mailing
    send(world, report(mailing[person], "not-spam"))
    found = eventually(lambda: [r for r in records(crm_int) if person in str(r)], within=150)
    assert found[-1]["complaint"] is False
    run_job(crm_int, "fetch-bounces")
    assert contact(crm_int, person)["is_opt_out"] is False


def written(kind: str, original: str) -> str:
    """What comes to abuse@ and is no complaint: a letter or a notice with the person's newsletter below it."""
    top = (
        "From: reader@accepting.test\nTo: abuse@crm.torproject.test\n"
        f"Message-ID: <{kind}-{time.time_ns()}@accepting.test>\n"
    )
    person = re.search(r"civicrm\+b\.(\d+\.\d+\.[0-9a-z]{16}@[\w.-]+)", original)[1]
    below = (
        "Von: News <news@crm.torproject.test>\nGesendet: Freitag, 2. Januar 2026 10:00\nAn: reader@accepting.test\n"
        f"Betreff: January\n\nAbmelden: mailto:civicrm+u.{person}\n"
    )
    return {
        "vacation": f"{top}Subject: Automatische Antwort: January\n\nIch bin nicht da.\n\n{below}",
        "thanks": f"{top}Subject: AW: January\n\nDanke, das lese ich gern.\n\n{below}",
        "delay": f"{top}Subject: Delayed Mail\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="cut"\n\n'
        "--cut\nContent-Type: text/plain\n\nIt is late.\n\n--cut\nContent-Type: message/delivery-status\n\n"
        "Reporting-MTA: dns; accepting.test\n\nFinal-Recipient: rfc822; reader@accepting.test\nAction: delayed\n"
        f"Status: 4.4.1\n\n--cut\nContent-Type: message/rfc822\n\n{original}\n--cut--\n",
    }[kind]


@pytest.mark.mutates
def test_only_a_report_opts_out_not_a_letter_nor_a_notice(crm_int, world, mailing, eventually):
    """Readers who were away, or said thanks, were opted out of all mail, and counted as complaints (P7, N6, N7)."""
    _, reader, _, leaver = mailing
    complaints = "grep -h ^mail_complaints_total /var/lib/prometheus/node-exporter/abuse-report.prom || :"
    crm_int.check_output("systemctl start abuse-report.service")
    before, start = crm_int.check_output(complaints), len(records(crm_int))
    for kind in ("vacation", "thanks", "delay"):
        send(world, written(kind, mailing[reader]))
    send(world, report(mailing[leaver], "opt-out"))

    def examined() -> list[dict]:
        crm_int.run("systemctl start abuse-report.service")
        found = records(crm_int)[start:]
        return found if {r["shape"] for r in found} >= {"auto-reply", "reply", "dsn", "arf"} else []

    found = eventually(examined, within=60, every=4)
    outcome = {record["shape"]: [p["outcome"] for p in record["persons"]] for record in found}
    assert outcome["reply"] == ["shown"]
    assert outcome["arf"] in (["opted out"], ["would opt out"])
    assert crm_int.check_output(complaints) == before
    if outcome["arf"] == ["opted out"]:
        eventually(
            lambda: run_job(crm_int, "fetch-bounces") or contact(crm_int, leaver)["is_opt_out"], within=120, every=5
        )
    else:
        run_job(crm_int, "fetch-bounces")
    assert contact(crm_int, reader)["is_opt_out"] is False


@pytest.mark.mutates
def test_a_mere_message_id_leads_to_the_person(crm_int, mailing):
    """Providers black out everything else; the mail log knows. Dry run is the default (S28, S31)."""
    _, person, *_ = mailing
    text = report(f"Message-ID: {message_id(mailing[person])}\nSubject: x\n\n")
    found = json.loads(crm_int.check_output(f"printf %s {quoted(text)} | abuse-report --json -"))
    assert [p["recipient"] for p in found["persons"]] == [person]
    assert found["persons"][0]["outcome"] == "would opt out"
    assert contact(crm_int, person)["is_opt_out"] is False


def test_records_are_for_the_operators_only(crm_int):
    """They name persons (P6)."""
    assert crm_int.file(LOG).mode == 0o640
    assert crm_int.file(LOG).user == "abuse-report"


@pytest.mark.mutates
def test_the_rate_is_a_metric(crm_int, mailing, eventually):
    """Providers judge by 0.1 % and 0.3 % (N7)."""
    text = eventually(lambda: crm_int.run("cat /var/lib/prometheus/node-exporter/abuse-report.prom").stdout, within=90)
    assert 'mail_complaint_ratio_limit{level="critical"} 0.003' in text
    assert re.search(r'^mail_complaint_base_deliveries_total\{provider="\w+",site="crm",job="\d+"\} [1-9]', text, re.M)
