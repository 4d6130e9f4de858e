"""Kill a daemon as the kernel does when memory runs out, and see whether it is back."""

from __future__ import annotations

from testinfra.host import Host


def main_pid(host: Host, unit: str) -> str:
    """Return the process ID of a unit's main process, "0" or "" while it has none."""
    if unit == "postfix":
        # Debian 12 runs it in postfix@-.service, Debian 13 in postfix.service.
        return host.run("cat /var/spool/postfix/pid/master.pid").stdout.strip()
    return host.check_output(f"systemctl show -p MainPID --value {unit}.service")


def kill(host: Host, unit: str) -> str:
    """SIGKILL the main process of a unit and return its process ID."""
    pid = main_pid(host, unit)
    host.check_output(f"kill -KILL {pid}")
    return pid


def is_back(host: Host, unit: str, killed: str) -> bool:
    """Tell whether another process has taken the place of the killed one."""
    return main_pid(host, unit) not in (killed, "", "0") and host.service(f"{unit}.service").is_running
