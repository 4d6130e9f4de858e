"""One command tells the operator what Postfix did: sent, deferred, bounced, in either timestamp style of the log."""

from __future__ import annotations

import re
import shlex
import time

import pytest

RFC3339 = "2026-11-20T08:33:45.123456+00:00"
RFC3339_ZULU = "2026-11-20T08:33:45Z"
TRADITIONAL = "Nov 20 08:33:45"
TRADITIONAL_ONE_DIGIT = "Nov  2 08:33:45"


def delivery(stamp: str, tag: str, status: str) -> str:
    return (
        f"{stamp} crm-int-01 {tag}/smtp[3450]: 4jW8WD6NjJzDSVp: to=<person@example.test>, "
        f"relay=example.test[192.0.2.1]:25, delay=0.1, delays=0/0/0/0.1, dsn=2.0.0, status={status} (reply)"
    )


@pytest.fixture
def counted(crm_int):
    """Feed log lines to the host's own mtail and program, on a copy, and return the counters."""

    def _counted(lines: list[str]) -> set[str]:
        log = "".join(f"{line}\n" for line in lines)
        done = crm_int.run(
            f"d=$(mktemp -d) && printf %s {shlex.quote(log)} > $d/mail.log && "
            "mtail --one_shot --one_shot_format prometheus --emit_prog_label=false --port 0 "
            "--progs /etc/mtail/postfix.mtail --logs $d/mail.log; status=$?; rm -rf $d; exit $status"
        )
        assert done.rc == 0, done.stderr
        return {line for line in done.stdout.splitlines() if not line.startswith("#")}

    return _counted


@pytest.mark.parametrize("stamp", [RFC3339, RFC3339_ZULU, TRADITIONAL, TRADITIONAL_ONE_DIGIT])
def test_deliveries_are_counted_in_both_timestamp_styles(counted, stamp):
    statuses = ["sent"] * 3 + ["deferred"] * 2 + ["bounced"]
    assert counted([delivery(stamp, "postfix", status) for status in statuses]) == {
        'postfix_smtp_deliveries{postfix_instance="postfix",status="sent"} 3',
        'postfix_smtp_deliveries{postfix_instance="postfix",status="deferred"} 2',
        'postfix_smtp_deliveries{postfix_instance="postfix",status="bounced"} 1',
    }


def test_a_providers_transport_counts_for_itself(counted):
    found = counted([delivery(RFC3339, "postfix-gmail", "sent"), delivery(RFC3339, "postfix/relay", "sent")])
    assert 'postfix_smtp_deliveries{postfix_instance="postfix-gmail",status="sent"} 1' in found
    assert 'postfix_smtp_deliveries{postfix_instance="postfix",status="sent"} 1' in found


def test_what_is_refused_is_counted_by_code(counted):
    found = counted(
        [
            f"{RFC3339} crm-int-01 postfix/smtpd[1]: connect from unknown[192.0.2.1]",
            f"{RFC3339} crm-int-01 postfix/smtpd[1]: NOQUEUE: reject: RCPT from unknown[192.0.2.1]: "
            "550 5.1.1 <x@crm.example.org>: Recipient address rejected: User unknown; "
            "from=<> to=<x@crm.example.org> proto=ESMTP helo=<y>",
            f"{RFC3339} crm-int-01 postfix/cleanup[1]: 4jW8WD6NjJzDSVp: message-id=<a@b>",
            f"{RFC3339} crm-int-01 postfix/qmgr[1]: 4jW8WD6NjJzDSVp: removed",
        ]
    )
    assert found == {
        'postfix_smtpd_connects{postfix_instance="postfix"} 1',
        'postfix_smtpd_messages_rejected{code="550",postfix_instance="postfix"} 1',
        'postfix_cleanup_messages_processed{postfix_instance="postfix"} 1',
        'postfix_qmgr_messages_removed{postfix_instance="postfix"} 1',
    }


def test_a_handshake_is_counted_once_though_two_services_log_it(counted):
    handshake = (
        "Untrusted TLS connection established to mx.example.test[192.0.2.1]:25: TLSv1.3 with cipher X (256/256 bits)"
    )
    assert counted(
        [
            f"{RFC3339} crm-int-01 postfix/tlsproxy[1]: {handshake}",
            f"{RFC3339} crm-int-01 postfix-gmail/smtp[2]: {handshake}",
            f"{RFC3339} crm-int-01 postfix-gmail/smtp[2]: {handshake.replace('established', 'reused')}",
        ]
    ) == {'postfix_smtp_tls_connections{postfix_instance="postfix-gmail",protocol="TLSv1.3",trust="Untrusted"} 1'}


def test_a_line_that_only_quotes_a_delivery_counts_nothing(counted):
    quoted = delivery(RFC3339, "postfix", "sent")
    assert counted([f"{RFC3339} crm-int-01 dovecot: imap(crm)<1>: {quoted}", "status=sent"]) == set()


def test_what_expires_and_what_is_not_even_tried_is_counted(counted):
    """A destination that is dead for five days, and a table's refusal, left no trace in any metric (S19)."""
    head = f"{RFC3339} crm-int-01 postfix"
    error = "4jW8WD6NjJzDSVp: to=<person@example.test>, relay=none, delay=9, delays=9/0/0/0"
    expired = "4jW8WD6NjJzDSVp: from=<a@crm.example.org>, status=expired, returned to sender"
    assert counted(
        [
            f"{head}/qmgr[1]: {expired}",
            f"{head}/error[2]: {error}, dsn=5.1.2, status=bounced (the domain takes no mail)",
            f"{head}/error[2]: {error}, dsn=4.4.1, status=deferred (delivery temporarily suspended)",
            f"{head}/error[2]: {error}, dsn=4.4.1, status=deferred (delivery temporarily suspended)",
        ]
    ) == {
        'postfix_qmgr_messages_expired{postfix_instance="postfix"} 1',
        'postfix_error_deliveries{postfix_instance="postfix",status="bounced"} 1',
        'postfix_error_deliveries{postfix_instance="postfix",status="deferred"} 2',
    }


def test_a_reply_that_speaks_of_a_status_counts_as_what_it_is(counted):
    """The receiver writes what it likes."""
    line = delivery(RFC3339, "postfix", "deferred").replace(
        "(reply)", "(host x said: 450 dsn=2.0.0, status=sent (250 ok))"
    )
    assert counted([line]) == {
        'postfix_smtp_deliveries{postfix_instance="postfix",status="sent"} 0',
        'postfix_smtp_deliveries{postfix_instance="postfix",status="deferred"} 1',
        'postfix_smtp_deliveries{postfix_instance="postfix",status="bounced"} 0',
    }


COMMAND = (
    "curl -s localhost:3903/metrics | grep -v -e ^go_ -e '^#' -e '^mtail' -e ^process -e _tls_; postfix-queues-sizes"
)


def test_the_operators_command_shows_every_status_and_queue(crm_int):
    """Typed as it stands in the operators' notes; a missing line is read as "all is well" (S19)."""
    printed = crm_int.check_output(COMMAND)
    for status in ("sent", "deferred", "bounced"):
        assert f'postfix_smtp_deliveries{{postfix_instance="postfix",status="{status}"}} ' in printed
    for queue in ("active", "bounce", "corrupt", "deferred", "flush", "hold", "incoming", "maildrop"):
        assert f'postfix_queue_length{{postfix_instance="postfix",queue="{queue}"}} ' in printed


def statuses(crm_int) -> dict[str, int]:
    """Deliveries by status through Postfix's default transport, as the operator's command shows them."""
    pattern = r'^postfix_smtp_deliveries{postfix_instance="postfix",status="(\w+)"} (\d+)$'
    return {status: int(n) for status, n in re.findall(pattern, crm_int.check_output(COMMAND), re.M)}


@pytest.mark.mutates
def test_after_a_restart_the_counters_are_there_before_any_mail(crm_int, eventually):
    """No mail is needed for it: a counter that appears with its first deferral is no rise to Prometheus (S19)."""
    crm_int.check_output("systemctl restart mtail")
    eventually(lambda: statuses(crm_int).keys() == {"sent", "deferred", "bounced"}, within=10)
    said = crm_int.check_output("grep -E ' mail_metrics(\\[[0-9]+\\])?: counting for' /var/log/mail.log | tail -1")
    began = crm_int.check_output("systemctl show -P ExecMainStartTimestamp --timestamp=unix mtail").lstrip("@")
    assert int(crm_int.check_output(f"date -d {shlex.quote(said.split()[0])} +%s")) >= int(began)


@pytest.mark.mutates
def test_three_sent_two_deferred_one_bounced(crm_int, eventually):
    """Real mail, real answers: three accepted, two to a provider that is away, one unknown user (S19)."""
    before = statuses(crm_int)
    stamp = time.time_ns()
    recipients = [f"m{n}-{stamp}@refusing.test" for n in range(3)] + [f"m{n}-{stamp}@dead.test" for n in range(2)]
    for recipient in [*recipients, "nobody@refusing.test"]:
        crm_int.check_output(f"printf 'Subject: x\\n\\nx\\n' | /usr/sbin/sendmail -f root {recipient}")

    def counted() -> bool:
        now = statuses(crm_int)
        return {s: now[s] - before[s] for s in now} == {"sent": 3, "deferred": 2, "bounced": 1}

    try:
        eventually(counted)
        queue = crm_int.check_output(COMMAND)
        assert re.search(r'postfix_queue_length{postfix_instance="postfix",queue="deferred"} [2-9]', queue)
    finally:
        crm_int.check_output(
            "postqueue -j | jq -r 'select(.recipients[].address | endswith(\"@dead.test\")).queue_id' | postsuper -d -"
        )


@pytest.mark.whole_lab
def test_the_metrics_are_for_monitoring_alone(crm_int, crm_ext, ops, world):
    """Not reachable from outside, nor from the other host; ops reads them through the tunnel (S19)."""
    assert "postfix_smtp_deliveries" in ops.check_output("curl -s --max-time 10 http://10.77.0.11:3903/metrics")
    assert world.run("nc -z -w 3 crm-int-01.torproject.test 25").rc == 0, "the positive control"
    assert world.run("nc -z -w 3 crm-int-01.torproject.test 3903").rc != 0
    assert crm_ext.run("curl -s --max-time 3 http://10.77.0.11:3903/metrics").rc != 0


@pytest.mark.whole_lab
@pytest.mark.parametrize(("name", "inner"), [("crm_int", "10.77.0.11"), ("crm_ext", "10.77.0.12")])
def test_the_hosts_metrics_are_read_from_ops_and_from_nowhere_else(request, ops, world, eventually, name, inner):
    """Prometheus comes through the tunnel; a file that a job left is among what it reads. The world gets no answer."""
    host = request.getfixturevalue(name)
    canary = "/var/lib/prometheus/node-exporter/canary.prom"
    host.check_output(f"echo 'lab_canary 1' > {canary}")
    try:
        read = f"curl -s --max-time 10 http://{inner}:9100/metrics"
        eventually(lambda: "\nlab_canary 1\n" in ops.run(read).stdout, within=30)
        assert "\nnode_textfile_scrape_error 0\n" in ops.run(read).stdout
    finally:
        host.check_output(f"rm -f {canary}")
    outer = host.check_output("ip -4 -o addr show eth0").split()[3].split("/")[0]
    assert world.run(f"curl -s --max-time 3 http://{outer}:9100/metrics").rc in (7, 28)
