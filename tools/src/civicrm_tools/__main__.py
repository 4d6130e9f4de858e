"""Run a command by its name, or list all of them.

  civicrm-tools                      the commands, a line each
  civicrm-tools NAME [ARGUMENT...]   run one, also where it has no link
  civicrm-tools --version            the version, and a digest of the code; each command has it
  civicrm-tools --manuals DIRECTORY  write a man page for each command, and remove those of former commands

Each command is also a link by its own name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from civicrm_tools import __version__

NAME = "civicrm-tools"

# Command: the module below this package whose `main` it runs.
COMMANDS = {
    # Mail
    "abuse-report": "mail.reports",
    "bounce-breaker": "mail.breaker",
    "divert-submission": "mail.diversion",
    "mailbox-watch": "mail.watch",
    "mailing": "mail.mailing",
    "postfix-check-candidate": "mail.candidate",
    "postfix-pace": "mail.pace",
    "postfix-providers": "mail.forecast",
    "postfix-queue": "mail.queue",
    "postfix-queues-sizes": "mail.queue_sizes",
    "postfix-trace": "mail.trace",
    "postfix-trickle": "mail.trickle",
    "receipt-milter": "mail.receipts",
    "spool-reserve": "mail.spool_reserve",
    # Sites
    "civicrm-fetch-at-once": "site.fetch_at_once",
    "civicrm-job-metrics": "site.job_metrics",
    "civicrm-release": "site.release",
    "front-door-known": "site.front_door_known",
    # Donations
    "donation-campaigns": "donations.campaigns",
    "donation-intake-metrics": "donations.intake_metrics",
    "donation-pending": "donations.pending",
    "donation-queue": "donations.queue_tool",
    "donation-switch": "donations.switch",
    "donation-worker": "donations.worker",
    # Newsletters
    "newsletter-archive": "newsletter.archive",
    # Host
    "certificate-expiry": "host.certificate_expiry",
    "civicrm-backup": "host.backup",
    "firewall-apply": "host.firewall_apply",
    "firewall-drops": "host.firewall_drops",
    "ipsec-health": "host.ipsec_health",
}


def digest() -> str:
    """Return twelve hex digits over the names and contents of all modules."""
    import hashlib

    package = Path(__file__).parent
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        found.update(f"{path.relative_to(package)} {len(content)}\n".encode() + content)
    return found.hexdigest()[:12]


def summary(module: str) -> str:
    """Return the first line of a module's documentation, without running the module."""
    import ast

    path = Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py")
    return (ast.get_docstring(ast.parse(path.read_bytes())) or "").partition("\n")[0]


def listing() -> str:
    """Return all commands, a line each."""
    width = max(map(len, COMMANDS))
    return "\n".join(f"{name:{width}}  {summary(module)}" for name, module in sorted(COMMANDS.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command named by argv[0], the name of a link, or by argv[1]. Exit status 2 for an unknown one."""
    name, *arguments = sys.argv if argv is None else argv
    name = name.rpartition("/")[2]
    if name not in COMMANDS:
        name = NAME
        if arguments and arguments[0] not in ("-h", "--help", "--version", "--manuals"):
            name, *arguments = arguments
            sys.argv = [name, *arguments]  # argparse names the command by it
    if name not in (NAME, *COMMANDS):
        print(f"{NAME}: no command '{name}': {NAME} alone lists them", file=sys.stderr)
        return 2
    if arguments == ["--version"]:
        print(f"{name} {__version__} ({digest()})")
    elif name in COMMANDS:
        return int(importlib.import_module(f"civicrm_tools.{COMMANDS[name]}").main(arguments))
    elif len(arguments) == 2 and arguments[0] == "--manuals":
        from civicrm_tools import manuals

        manuals.write_all(Path(arguments[1]))
    else:
        print(__doc__ if arguments else listing())
    return 0


if __name__ == "__main__":
    sys.exit(main())
