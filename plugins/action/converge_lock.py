"""Hold a lock on the host for as long as this ansible-playbook process lives.

A keeper process on the controller, which outlives the task, holds an ssh session; the session holds the lock (flock).
The keeper ends with ansible-playbook, and so does the lock. If the controller is cut off, the host misses the keeper's
signs of life and lets go.
"""

from __future__ import annotations

import datetime
import getpass
import json
import os
import select
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import connection_loader

LOCK = "/run/converge.lock"
SILENCE_SECONDS = 45  # the host lets go when it has heard nothing for so long
BEAT_SECONDS = 10
ANSWER_SECONDS = 60

# On the host: one line to say whether it has the lock, then it waits for the session to end.
HOLDER = f"""
import fcntl, json, os, select, sys
told = sys.argv[1]
handle = os.open({LOCK!r}, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
try:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("held " + os.read(handle, 4096).decode(), flush=True)
    sys.exit(0)
os.ftruncate(handle, 0)
os.write(handle, told.encode())
print("locked", flush=True)
while select.select([0], [], [], {SILENCE_SECONDS})[0] and os.read(0, 64):
    pass
"""

# On the controller, apart from the task: PID START COMMAND...
KEEPER = f"""
import os, subprocess, sys, time
pid, start, command = sys.argv[1], sys.argv[2], sys.argv[3:]
def lives():
    try:
        return open("/proc/" + pid + "/stat").read().rsplit(")", 1)[1].split()[19] == start
    except OSError:
        return False
held = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
answer = held.stdout.readline() or b"failed " + b" ".join(held.stderr.read().split())
os.write(1, answer.strip() + b"\\n")
null = os.open(os.devnull, os.O_RDWR)
os.dup2(null, 1)
os.dup2(null, 2)
beat = 0
while answer.startswith(b"locked") and lives() and held.poll() is None:
    if beat % {BEAT_SECONDS} == 0:
        try:
            held.stdin.write(b".")
            held.stdin.flush()
        except OSError:
            break
    beat += 1
    time.sleep(1)
held.kill()
"""


def start_of(pid: int) -> str:
    """Return when a process started, in ticks: with its number, a name that is not used twice."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]


class ActionModule(ActionBase):
    """Take the lock, or say who has it."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        if self._task.check_mode:
            return {"changed": False}
        main = os.getppid()  # tasks run in processes that ansible-playbook forks
        token = f"{socket.gethostname()}:{main}:{start_of(main)}"
        told = {
            "token": token,
            "who": f"{getpass.getuser()} on {socket.gethostname()}, process {main}",
            "since": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        }
        holder = ["python3", "-c", HOLDER, json.dumps(told)]
        answer = self._keep(str(main), start_of(main), self._command(holder, task_vars or {}))
        what, _, text = answer.partition(" ")
        if what == "locked":
            return {"changed": False}
        if what != "held":
            raise AnsibleActionFail(f"the lock of this host could not be asked for: {text or 'ssh said nothing'}")
        other = json.loads(text or "{}")
        if other.get("token") == token:
            return {"changed": False}
        raise AnsibleActionFail(
            f"another run is changing this host: {other.get('who', 'unknown')}, "
            f"since {other.get('since', 'just now')}. "
            "Wait until it ends, or stop it: its lock ends within a minute"
        )

    def _command(self, holder: list[str], variables: dict[str, Any]) -> list[str]:
        if variables.get("ansible_connection") == "local" or getattr(self._connection, "transport", "") == "local":
            return [sys.executable, *holder[1:]]
        connection_loader.get("ansible.builtin.ssh", class_only=True)  # loads its options
        given = {
            name: self._templar.template(value)
            for name, value in variables.items()
            if name.startswith("ansible_")
            and isinstance(value, str | int)
            and name not in ("ansible_password", "ansible_ssh_pass")
        }

        def option(name: str) -> Any:
            return C.config.get_config_value(name, plugin_type="connection", plugin_name="ssh", variables=given)

        command = [str(option("ssh_executable") or "ssh"), "-T", "-o", "BatchMode=yes"]
        for name in ("ssh_args", "ssh_common_args", "ssh_extra_args"):
            command += shlex.split(str(option(name) or ""))
        for flag, name in (("-p", "port"), ("-l", "remote_user"), ("-i", "private_key_file")):
            if option(name):
                command += [flag, str(option(name))]
        host = str(given.get("ansible_host") or given.get("ansible_ssh_host") or variables["inventory_hostname"])
        return [*command, host, shlex.join(holder)]

    def _keep(self, main: str, start: str, command: list[str]) -> str:
        keeper = subprocess.Popen(
            [sys.executable, "-c", KEEPER, main, start, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        assert keeper.stdout is not None
        if not select.select([keeper.stdout], [], [], ANSWER_SECONDS)[0]:
            keeper.kill()
            return f"failed no answer within {ANSWER_SECONDS} s"
        return keeper.stdout.readline().strip()
