"""A big mailing does not hurt the server (S15)."""

import json
import shlex
import subprocess
import time

import pytest
from load import LIMIT, visitors

MESSAGES = 20_000
LOGIN = "https://crm.torproject.test/wp-login.php"
# As the site's mailer does: one connection, one message for each recipient with a return address of its own.
SUBMIT = """
import json, smtplib, sys
login, password, stamp, count = json.loads(sys.stdin.readline())
head = ["From: crm@crm.torproject.test", "Precedence: bulk", "Subject: x"]
text = chr(10).join(head) + chr(10) * 2 + "body " * 400
with smtplib.SMTP("127.0.0.1", 587, timeout=60) as session:
    session.login(login, password)
    for n in range(1, count + 1):
        sender = f"civicrm+b.{stamp % 10**9}.{n}.0123456789abcdef@crm.torproject.test"
        session.sendmail(sender, [f"n{n}-{stamp}@orange.test"], text)
"""


@pytest.mark.mutates
def test_the_login_page_answers_while_twenty_thousand_messages_are_submitted(crm_int, vault, front_door):
    """Two seconds at the 95th percentile, no message refused, no process killed for memory (S15)."""
    stamp, password = time.time_ns(), vault["vault_sites"]["crm"]["mailbox_password"]
    killed = "awk '/^oom_kill / {print $2}' /proc/vmstat"
    before = crm_int.check_output(killed)
    command = ["podman", "exec", "-i", "crm-int-01", "runuser", "-u", "crm", "--", "python3", "-c", SUBMIT]
    call = json.dumps(["crm", password, stamp, MESSAGES]) + "\n"
    mine = "find /var/spool/postfix/active /var/spool/postfix/incoming /var/spool/postfix/deferred -type f | wc -l"
    try:
        with visitors(LOGIN, front_door, 2) as answered:
            done = subprocess.run(command, input=call, capture_output=True, text=True, timeout=LIMIT - 10)
        assert done.returncode == 0, done.stderr
        assert int(crm_int.check_output(mine)) > MESSAGES * 0.9
    finally:
        end = shlex.quote(f"-{stamp}@orange.test")
        found = f"postqueue -j | jq -r --arg end {end} 'select(.recipients[].address | endswith($end)) | .queue_id'"
        crm_int.check_output(f"{found} | postsuper -d - 2>/dev/null")
    assert len(answered) > 100
    assert {status for status, _, _ in answered} == {200}
    seconds = sorted(took for _, _, took in answered)
    assert seconds[len(seconds) * 95 // 100] < 2
    assert crm_int.check_output(killed) == before
