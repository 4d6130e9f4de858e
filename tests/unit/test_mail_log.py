"""What a line of Postfix's log says of a delivery, whatever the receiver wrote into its reply."""

from __future__ import annotations

import pytest

from civicrm_tools.mail import log

STAMP = "2026-11-20T08:33:45.123456+00:00 int"
REPLY = (
    "host mx.example.net[192.0.2.1] said: 450 4.2.0 try again: dsn=2.0.0, status=sent (250 2.0.0 OK) "
    "(in reply to end of DATA command)"
)
LINES = {
    "sent": (
        "postfix-gmail/smtp[7]: 4jW8WD6NjJzDSVp: to=<ada@example.net>, relay=mx.example[2001:db8::1]:25, conn_use=3, "
        "delay=1.2, delays=0.1/0/0.5/0.6, dsn=2.0.0, status=sent (250 2.0.0 OK)",
        ("ada@example.net", "sent"),
    ),
    "deferred, and the reply tells of another time": (
        f"postfix/smtp[7]: 4jW8WD6NjJzDSVp: to=<ada@example.net>, relay=mx.example.net[192.0.2.1]:25, delay=1.2, "
        f"delays=0.1/0/0.5/0.6, dsn=4.2.0, status=deferred ({REPLY})",
        ("ada@example.net", "deferred"),
    ),
    "sent to an alias": (
        "postfix/lmtp[7]: 4jW8WD6NjJzDSVp: to=<ada@example.net>, orig_to=<the staff@example.net>, "
        "relay=int[private/dovecot-lmtp], delay=0.1, delays=0.1/0/0/0, dsn=2.0.0, status=sent (250 2.0.0 <a> x Saved)",
        ("ada@example.net", "sent"),
    ),
    "refused by a table": (
        "postfix/error[7]: 4jW8WD6NjJzDSVp: to=<ada@example.net>, relay=none, delay=0.1, delays=0.1/0/0/0, dsn=5.1.2, "
        "status=bounced (the domain takes no mail)",
        ("ada@example.net", "bounced"),
    ),
    "not tried, the destination is dead": (
        "postfix/error[7]: 4jW8WD6NjJzDSVp: to=<ada@example.net>, relay=none, delay=900, delays=900/0/0/0, dsn=4.4.1, "
        "status=deferred (delivery temporarily suspended: connect to mx.example[192.0.2.1]:25: Connection refused)",
        ("ada@example.net", "deferred"),
    ),
    "expired": ("postfix/qmgr[7]: 4jW8WD6NjJzDSVp: from=<a@example.org>, status=expired, returned to sender", None),
    "removed": ("postfix/qmgr[7]: 4jW8WD6NjJzDSVp: removed", None),
}


@pytest.mark.parametrize("what", LINES)
def test_the_status_is_postfixs_own(what):
    """A deferral whose reply says "status=sent" was counted as delivered: in the complaint rate, in the pace."""
    text, expected = LINES[what]
    parsed = log.parse(f"{STAMP} {text}\n")
    assert parsed
    found = log.DELIVERY.match(parsed.text)
    assert (found and (found["to"], found["status"])) == expected


def test_a_trickle_sees_a_deferral_as_one(tmp_path):
    path = tmp_path / "mail.log"
    path.write_text("")
    outcomes = log.Outcomes(path)
    outcomes.watch(["4jW8WD6NjJzDSVp"])
    path.write_text(f"{STAMP} {LINES['deferred, and the reply tells of another time'][0]}\n")
    outcomes.read()
    assert outcomes.share(10) == (1, 1)
