"""Ask a site again and again, as a bounded number of visitors outside do."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

LIMIT = 600  # seconds after which visitors go by themselves, more than any test with them takes on a slow machine

# Reads {url, user, seconds, visitors} from the first line of standard input and goes on until it ends; prints
# [status, body, seconds] per request, status 0 where none came.
PROGRAM = r"""
import base64, http.client, json, ssl, sys, threading, time, urllib.parse
call = json.loads(sys.stdin.readline())
url = urllib.parse.urlsplit(call["url"])
end = time.monotonic() + call["seconds"]
def gone():
    global end
    sys.stdin.read()
    end = 0
threading.Thread(target=gone, daemon=True).start()
login = {"Authorization": "Basic " + base64.b64encode(call["user"].encode()).decode()}
context = ssl.create_default_context(cafile="/etc/ssl/lab-ca.pem")
def say(status, body, start):
    sys.stdout.write(json.dumps([status, body, time.monotonic() - start]) + "\n")
    sys.stdout.flush()
def visit():
    while time.monotonic() < end:
        start = time.monotonic()
        connection = http.client.HTTPSConnection(url.hostname, timeout=30, context=context)
        try:
            for _ in range(20):
                if time.monotonic() > end:
                    break
                start = time.monotonic()
                connection.request("GET", url.path, headers=login)
                answer = connection.getresponse()
                say(answer.status, answer.read().decode(errors="replace"), start)
        except Exception as error:
            say(0, repr(error), start)
        finally:
            connection.close()
threads = [threading.Thread(target=visit) for _ in range(call["visitors"])]
[t.start() for t in threads]
[t.join() for t in threads]
"""


@contextmanager
def visitors(url: str, user: str, count: int = 4) -> Iterator[list[tuple[int, str, float]]]:
    """Have visitors on the world ask for a page, 20 times on each connection, as long as the context lasts.

    The list holds (status, body, seconds) of all requests afterwards, as they ended. Status 0: no answer.
    """
    answers: list[tuple[int, str, float]] = []
    call = json.dumps({"url": url, "user": user, "seconds": LIMIT, "visitors": count})
    run = ["podman", "exec", "-i", "world", "python3", "-c", PROGRAM]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(run, stdin=subprocess.PIPE, stdout=output, text=True)
        try:
            process.stdin.write(call + "\n")
            process.stdin.flush()
            yield answers
        finally:
            process.communicate(timeout=LIMIT)
            output.seek(0)
            answers += [tuple(json.loads(line)) for line in output]
