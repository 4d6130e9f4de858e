"""Ask a site again and again, as a bounded number of visitors outside do."""

from __future__ import annotations

import json
import shlex

from testinfra.host import Host

# Reads {url, user, seconds, visitors} from standard input; prints [status, body] per request, status 0 where none came.
PROGRAM = """
import base64, http.client, json, ssl, sys, threading, time, urllib.parse
call = json.loads(sys.stdin.read())
url = urllib.parse.urlsplit(call["url"])
end = time.monotonic() + call["seconds"]
login = {"Authorization": "Basic " + base64.b64encode(call["user"].encode()).decode()}
context = ssl.create_default_context(cafile="/etc/ssl/lab-ca.pem")
def visit():
    while time.monotonic() < end:
        connection = http.client.HTTPSConnection(url.hostname, timeout=30, context=context)
        try:
            for _ in range(20):
                if time.monotonic() > end:
                    break
                connection.request("GET", url.path, headers=login)
                answer = connection.getresponse()
                print(json.dumps([answer.status, answer.read().decode(errors="replace")]), flush=True)
        except Exception as error:
            print(json.dumps([0, repr(error)]), flush=True)
        finally:
            connection.close()
threads = [threading.Thread(target=visit) for _ in range(call["visitors"])]
[t.start() for t in threads]
[t.join() for t in threads]
"""


def ask(world: Host, url: str, user: str, seconds: int, visitors: int = 4) -> list[tuple[int, str]]:
    """Return [(status, body)] of all requests as they ended; 20 on each connection. Status 0: no answer."""
    call = json.dumps({"url": url, "user": user, "seconds": seconds, "visitors": visitors})
    # The shell's own printf: no password in an argument list.
    out = world.check_output(f"printf %s {shlex.quote(call)} | python3 -c {shlex.quote(PROGRAM)}")
    return [tuple(json.loads(line)) for line in out.splitlines()]
