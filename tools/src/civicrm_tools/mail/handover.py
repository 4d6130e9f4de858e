"""Hand a bounce to the application so that it reads it as what it is.

CiviCRM looks for words in the Diagnostic-Code of a delivery report, or in its text where there is none, and books
the first kind whose words it finds: "invalid" and "inactive" put a person on hold at once, a full mailbox and all else
at the third time. A plain report in words that it is known to read right is handed over as it came. Any other is
wrapped: a delivery report in such words, with the whole mail as it came as its last part.
"""

from __future__ import annotations

import re
import secrets
import time

from civicrm_tools.mail.delivery_report import Bounce
from civicrm_tools.mail.return_path import Site
from civicrm_tools.mail.verdict import ADDRESS, Verdict

# (kind of an address: words that are read right, the code and words that a wrapped report says).
RIGHT = {
    "gone": (re.compile(r"\b(?:no such user|user unknown|unknown user)\b", re.IGNORECASE), "5.1.1", "no such user"),
    "closed": (re.compile(r"\b(?:account inactive|inactive user)\b", re.IGNORECASE), "5.2.1", "account inactive"),
    "full": (
        re.compile(r"\b(?:mailbox full|quota exceeded)\b", re.IGNORECASE),
        "5.2.2",
        "mailbox full, quota exceeded",
    ),
}
# Words in a report about something else that may be read as a person's fault, at once or for another reason.
MISLEADING = re.compile(
    r"user|recipient|mailbox|address|account|inactive|disabled|invalid|unknown|spam|block|black|list|reject|polic"
    r"|content|virus|filter|banned|denied|exist|accept|deliver|vacation|office|unsolicited|sender",
    re.IGNORECASE,
)
# Known to be read as a server that cannot be reached.
NETWORK = re.compile(r"^(?:Host or domain name not found|connect to |conversation with |lost connection with )")
OTHER = "none of the usual reasons"
MARK = b"X-Bounce-Breaker: "


def read_right(bounce: Bounce, verdict: Verdict) -> bool:
    """Whether the application reads a bounce as what it is."""
    if not bounce.plain or not bounce.text:
        return False
    if verdict.subject == ADDRESS and verdict.kind in RIGHT:
        return bool(RIGHT[verdict.kind][0].search(bounce.text))
    return bool(NETWORK.match(bounce.text)) or not MISLEADING.search(bounce.text)


def envelope(bounce: Bounce, verdict: Verdict, site: Site, hostname: str) -> tuple[bytes, bytes]:
    """What stands before and after the mail as it came, in one that the application reads right."""
    words = RIGHT[verdict.kind][1:] if verdict.subject == ADDRESS and verdict.kind in RIGHT else ("5.0.0", OTHER)
    cut, to = secrets.token_hex(16), site.format(bounce.address)
    what = f"{verdict}, {verdict.rule}".encode("ascii", "replace").decode().replace("\n", " ")
    recipient = re.sub(r"[^!-~]", "?", bounce.recipient) or "unknown"
    head = f"""\
X-Bounce-Breaker: {what}
Return-Path: <>
Delivered-To: {to}
Date: {time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime())}
From: MAILER-DAEMON@{hostname}
To: {to}
Subject: Undelivered Mail Returned to Sender
Message-ID: <{cut}@{hostname}>
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="{cut}"

--{cut}
Content-Type: text/plain

The bounce breaker of {hostname} read the attached mail as: {what}.
The report below says it in words that CiviCRM understands.

--{cut}
Content-Type: message/delivery-status

Reporting-MTA: dns; {hostname}

Final-Recipient: rfc822; {recipient}
Action: failed
Status: {words[0]}
Diagnostic-Code: smtp; 550 {words[0]} {words[1]}

--{cut}
Content-Type: message/rfc822
Content-Disposition: attachment

"""
    return head.encode(), f"\n--{cut}--\n".encode()
