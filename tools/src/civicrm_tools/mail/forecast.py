"""Say what becomes of mail for a domain and how long a mailing takes, and learn which domains the providers host.

  postfix-providers check gmail.com example.org
  postfix-providers time 300000
  postqueue -j | jq -r '.recipients[].address' | postfix-providers time
  postfix-providers learn --file domains-of-the-next-mailing.txt

A provider's budget, so many messages a second, is shared by all its domains: those that the table names, and those
whose mail goes to one of its servers. `check` and `time` ask nobody: they read the table, what was learned, and the
budgets in force. `time N` spreads N as recipients_share in the table says; on standard input a line may begin with its
number, as `uniq -c` prints it. What `learn` finds holds for a day, and longer where a later look-up fails. Messages
that Postfix has in its active queue keep their transport.

Files:
  /etc/postfix/providers.json        the table
  /etc/postfix/hosted_domains        hosted domains, for Postfix
  /var/lib/mail-tools/domains.json   what was learned

Exit status: 0, 1 error, 2 wrong arguments, 3 a mailing that does not fit into the queue's lifetime.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from civicrm_tools.core import command, metrics
from civicrm_tools.core.command import DONE, NO, Failure, in_words
from civicrm_tools.core.metrics import Family, gauge
from civicrm_tools.mail import hosted, postfix, providers
from civicrm_tools.mail.hosted import Domains
from civicrm_tools.mail.provider_table import DEFAULT, TABLE, USED, Table, load
from civicrm_tools.mail.providers import domain_of

NAME = "postfix-providers"
# A quoted local part may hold blanks.
COUNTED = re.compile(r"\s*(\d{1,9})\s+(\S.*?)\s*")


def whose(domain: str, table: Table, hosted_at: Mapping[str, str]) -> str:
    """Return the provider of a domain, nothing for a domain of this host."""
    return "" if domain in table.own else providers.whose(domain, table, hosted_at)


def why(domain: str, table: Table, found: Domains) -> str:
    """Return why `whose` says so."""
    if domain in table.own:
        return "this host's own"
    if domain in table.by_domain:
        return "the table names it"
    if server := found.provider(domain, table)[1]:
        return f"hosted there: its mail goes to {server}"
    if domain in found.domains and found.domains[domain].looked_up:
        return f"its mail goes to {', '.join(found.domains[domain].mx) or 'nobody'}"
    return "not in the table, and its mail servers were never looked up"


def check(domain: str, table: Table, found: Domains, paces: dict[str, float]) -> dict[str, Any]:
    """What becomes of mail for a domain, as JSON types."""
    name = whose(domain, table, found.hosted(table))
    entry: dict[str, Any] = {"domain": domain, "provider": name or None, "why": why(domain, table, found)}
    if provider := table.get(name) if name else None:
        entry |= {
            "transport": name,
            "budget_per_second": provider.budget,
            "pace_per_second": paces.get(name),
            "connections": provider.connections,
        }
    elif name:
        entry |= {
            "transport": "smtp",
            "budget_per_second": None,
            "pace_per_second": None,
            "connections": table.default_connections,
        }
    return entry


def describe(entry: dict[str, Any]) -> str:
    """One line for a person."""
    if not entry["provider"]:
        return f"{entry['domain']}: stays here ({entry['why']})"
    if entry["budget_per_second"] is None:
        limits = f"no budget, {entry['connections']} connections to the domain"
    else:
        limits = f"{entry['budget_per_second']:g} a second over {entry['connections']} connections, shared"
        if (now := entry["pace_per_second"]) is not None and now < entry["budget_per_second"]:
            limits += f"; now {now:g} a second, as it complains about our pace"
    return f"{entry['domain']}: {entry['provider']} ({entry['why']}): {limits}"


def plan(recipients: Counter[str], table: Table, paces: dict[str, float]) -> list[dict[str, Any]]:
    """How long each provider takes for so many recipients, the slowest first. None: no budget limits it."""
    rows = []
    for name, number in recipients.items():
        provider = table.get(name)
        row: dict[str, Any] = {"provider": name, "recipients": number, "seconds": None, "seconds_now": None}
        if provider:
            row["seconds"] = round(number / (provider.budget * USED), 1)
            row["seconds_now"] = round(number / (paces.get(name, provider.budget) * USED), 1)
        row["fits"] = row["seconds"] is None or row["seconds"] <= table.lifetime
        rows.append(row)
    return sorted(rows, key=lambda row: row["seconds"] or 0, reverse=True)


def describe_plan(rows: list[dict[str, Any]], table: Table) -> str:
    """A line for each provider, and one for the whole."""
    lines = []
    for row in rows:
        text = f"{row['provider']}: {row['recipients']:,} recipients"
        if row["seconds"] is None:
            text += ", no budget: as fast as each domain takes them"
        else:
            text += f", {in_words(row['seconds'])}"
            if row["seconds_now"] > row["seconds"]:
                text += f" ({in_words(row['seconds_now'])} at the pace of now)"
        if not row["fits"]:
            text += f": LONGER than the queue's lifetime of {in_words(table.lifetime)}, the rest would bounce"
        lines.append(text)
    longest = max((row["seconds"] or 0 for row in rows), default=0)
    return "\n".join([*lines, f"all: {sum(row['recipients'] for row in rows):,} recipients, {in_words(longest)}"])


def shares(number: int, table: Table) -> Counter[str]:
    """So many recipients, spread as the table's recipients_share says. Raises Failure."""
    spread: Counter[str] = Counter()
    for provider in table.providers.values():
        if provider.share is not None:
            spread[provider.name] = round(number * provider.share)
    if not spread:
        raise Failure(
            "whose recipients? Give --provider, --domain or a list on standard input, or recipients_share in the table"
        )
    spread[DEFAULT] = max(0, number - sum(spread.values()))
    return spread


def count(lines: Iterable[str], table: Table, found: Domains) -> Counter[str]:
    """{provider: recipients} in lines of domains or addresses, each perhaps after its number as `uniq -c` prints it."""
    numbers: Counter[str] = Counter()
    hosted_at = found.hosted(table)
    for line in lines:
        pair = COUNTED.fullmatch(line)
        number, text = (int(pair[1]), pair[2]) if pair else (1, line)
        if domain := domain_of(text):
            if name := whose(domain, table, hosted_at):
                numbers[name] += number
        elif line.strip():
            raise Failure(f"'{line.strip()[:80]}' is no domain or address")
    return numbers


def standard_input() -> Iterable[str]:
    """Return the lines on standard input; a list in another encoding than UTF-8 is read all the same."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    return sys.stdin


def recipients(options: argparse.Namespace, table: Table, found: Domains) -> Counter[str]:
    """{provider: recipients} of what the command line asks. Raises Failure."""
    if options.recipients in (None, "-"):
        return count(standard_input(), table, found)
    if not options.recipients.isascii() or not options.recipients.isdigit() or len(options.recipients) > 9:
        raise Failure(f"'{options.recipients}' is no number of recipients (see {NAME} --help)", command.USAGE)
    number = int(options.recipients)
    if options.provider:
        table.get(options.provider)
        return Counter({options.provider: number})
    if options.domain:
        return count([f"{number} {options.domain}"], table, found)
    return shares(number, table)


def families(table: Table, found: Domains, failed: int, now: float) -> list[Family]:
    """Return what was learned as metrics."""
    numbers = Counter(found.hosted(table).values())
    hosts = [({"provider": name}, numbers[name]) for name in table.providers]
    return [
        Family("provider_hosted_domains", "gauge", "Domains that a provider hosts.", hosts),
        gauge("provider_domains_known", "Domains whose mail servers are known.", len(found.domains)),
        gauge("provider_lookups_failed", "Look-ups of the last run that got no answer.", failed),
        gauge("provider_domains_last_run_timestamp_seconds", "When domains were last looked up.", int(now)),
    ]


def learn(options: argparse.Namespace, table: Table, found: Domains) -> int:
    """Look up what the queue, the log and standard input name, and tell Postfix."""
    command.need_root()
    where, now = postfix.instance("postfix"), time.time()
    seen = {domain for domain in hosted.in_log(table.log, found)}
    # A Postfix that is down has no listing; the log and what is known are enough.
    try:
        seen |= set(hosted.in_queue(where))
    except Failure as failure:
        command.tell(NAME, str(failure))
    if options.file:
        given = standard_input() if options.file == "-" else Path(options.file).read_text(errors="replace").splitlines()
        seen |= {domain_of(line) for line in given}
    looked_up, failed = hosted.learn(found, seen, table, hosted.dns(), now)
    hosted.save(options.state, found)
    content = found.hosted(table)
    if hosted.write_map(where, content) or options.verbose:
        print(f"{len(content)} hosted domains; {looked_up} looked up, {failed} without an answer", flush=True)
    metrics.write(table.textfile_directory / f"{NAME}.prom", families(table, found, failed, now))
    return DONE


def parser() -> argparse.ArgumentParser:
    made = command.Parser(prog=NAME, description=__doc__)
    made.add_argument("--table", type=Path, default=TABLE, help=argparse.SUPPRESS)
    made.add_argument("--state", type=Path, default=hosted.STATE, help=argparse.SUPPRESS)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")

    checked = commands.add_parser("check", help="what becomes of mail for these domains")
    checked.add_argument("domain", nargs="+", metavar="DOMAIN", help="a domain or an address")
    checked.add_argument("--json", action="store_true", help="print JSON: one object per domain")

    timed = commands.add_parser("time", help="how long so many recipients take, and whether they fit into the lifetime")
    timed.add_argument(
        "recipients", nargs="?", metavar="N", help="number; - or none: domains or addresses, one a line, on stdin"
    )
    chosen = timed.add_mutually_exclusive_group()
    chosen.add_argument("--provider", metavar="NAME", help="all of them at this provider")
    chosen.add_argument("--domain", metavar="DOMAIN", help="all of them in this domain")
    timed.add_argument("--json", action="store_true", help="print JSON: one object per provider")

    learned = commands.add_parser(
        "learn", help="look up whose mail servers take the recipients' mail; a timer does this"
    )
    learned.add_argument("--file", metavar="FILE", help="also these domains or addresses, one a line; - is stdin")
    learned.add_argument("--verbose", action="store_true", help="say so even if nothing has changed")
    return made


def body(argv: Sequence[str] | None) -> int:
    options = parser().parse_args(argv)
    table = load(options.table)
    found = hosted.load(options.state)
    if options.command == "learn":
        return learn(options, table, found)
    if options.command == "check":
        paces = providers.paces()
        entries = []
        for text in options.domain:
            if not (domain := domain_of(text)):
                raise Failure(f"'{text[:80]}' is no domain or address")
            entries.append(check(domain, table, found, paces))
        print(json.dumps(entries, indent=2) if options.json else "\n".join(map(describe, entries)))
        return DONE
    rows = plan(recipients(options, table, found), table, providers.paces())
    print(json.dumps(rows, indent=2) if options.json else describe_plan(rows, table))
    return DONE if all(row["fits"] for row in rows) else NO


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
