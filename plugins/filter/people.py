"""One list of people becomes the front door's files, and the accounts in the CRM."""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections import Counter
from typing import Any

from passlib.hash import bcrypt

Person = dict[str, Any]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
HASH = re.compile(r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")
PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+")
PARAMETER = re.compile(r"[A-Za-z0-9_-]+")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
STATES = ("active", "blocked")
CHANGES = ("add", "reset", "remove")

BCRYPT_BYTES = 72  # bcrypt does not look at what comes after
CHOSEN_LENGTH = 12
GENERATED_BYTES = 16  # 128 bits: nobody guesses it, so its bcrypt cost may be the lowest
GENERATED_ROUNDS = 5
CHOSEN_ROUNDS = 10

HEADER = """\
---
# Who may pass the front door, and has an account in the CRM. playbooks/user.yml adds, resets and removes people and
# writes this file anew. Machines: by hand, then playbooks/site.yml --tags people. Comments below are not kept.
"""


def people_problems(people: list[Person], sites: list[str]) -> list[str]:
    """Return one sentence for each thing that is wrong with the list of people; it names people, never a hash.

    sites: names of the sites that have a front door.
    """
    problems = []
    for person in people:
        name = person.get("name")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            problems.append(
                f"person {name!r}: a name is letters, digits and . _ @ -, 64 at most, a letter or digit first"
            )
            continue
        if not HASH.fullmatch(str(person.get("password_hash", ""))):
            problems.append(f"person {name!r}: password_hash is no bcrypt hash ($2y$...); playbooks/user.yml makes one")
        for site in person.get("sites", []):
            if site not in sites:
                problems.append(f"person {name!r}: there is no site {site!r}; sites are {', '.join(sites)}")
        problems += _machine_problems(person)
    for name, count in Counter(str(p.get("name")).lower() for p in people).items():
        if count > 1:
            problems.append(f"person {name!r} stands {count} times, whatever the case of the letters")
    return problems


def _machine_problems(person: Person) -> list[str]:
    name, paths = person["name"], person.get("paths", [])
    if not person.get("machine"):
        extra = [key for key in ("paths", "methods", "query") if key in person]
        return [f"person {name!r}: {' and '.join(extra)} only with machine: true"] if extra else []
    problems = []
    if not paths:
        problems.append(f"machine {name!r}: give the paths that it may ask for")
    problems += [
        f"machine {name!r}: path {p!r} must be like /civicrm/health" for p in paths if not PATH.fullmatch(str(p))
    ]
    if set(person.get("methods", [])) - set(METHODS):
        problems.append(f"machine {name!r}: methods are {', '.join(METHODS)}")
    wrong = [q for q in person.get("query", []) if not PARAMETER.fullmatch(str(q))]
    return problems + [f"machine {name!r}: query parameter {q!r} must be letters, digits, _ and -" for q in wrong]


def people_of_site(people: list[Person], site: str, machines: bool | None = None) -> list[Person]:
    """Return those who may pass the front door of `site`: active, and the site is among theirs.

    machines: only machines, or only people; left out, both.
    """
    return [
        p
        for p in people
        if p.get("state", "active") == "active"
        and site in p.get("sites", [site])
        and machines in (None, bool(p.get("machine")))
    ]


def account_plan(answers: list[dict[str, Any]], people: list[Person]) -> list[dict[str, Any]]:
    """Return what the sites' own commands must do so that their accounts agree with the list of people.

    answers: a site each, {site, user, command: [argument, ...], stdout: JSON {"accounts": [{name, state}]}}.
    Returns [{site, user, command, call: {action, name, email}}]. Machines have no account; an account that the
    command does not list is somebody else's affair.
    """
    plan = []
    for answer in answers:
        listed = {a["name"]: a["state"] for a in json.loads(answer["stdout"])["accounts"]}
        wanted = {p["name"]: p for p in people_of_site(people, answer["site"], machines=False)}
        target = {key: answer[key] for key in ("site", "user", "command")}
        for name, person in wanted.items():
            if listed.get(name) != "active":
                plan.append(target | {"call": {"action": "create", "name": name, "email": person.get("email", "")}})
        for name in listed:
            if name not in wanted and listed[name] == "active":
                plan.append(target | {"call": {"action": "block", "name": name}})
    return plan


def site_accounts(lines: list[str], sites: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the answers that account_plan takes from lines `SITE ANSWER`, the answer in Base64."""
    answers = {site: answer for site, _, answer in (line.partition(" ") for line in lines)}
    return [
        {
            "site": s["name"],
            "user": s["user"],
            "command": s["account_command"].split(),
            "stdout": base64.b64decode(answers[s["name"]]).decode(),
        }
        for s in sites
        if s["name"] in answers
    ]


def people_sites(sites: list[dict[str, Any]], person: Person) -> list[dict[str, Any]]:
    """Return the sites where this person has an account in the CRM."""
    return [
        s
        for s in sites
        if s.get("account_command") and not person.get("machine") and people_of_site([person], s["name"])
    ]


def person_calls(
    sites: list[dict[str, Any]], change: str, name: str, people: list[Person], passwords: dict[str, str]
) -> list[dict[str, Any]]:
    """Return what the sites' own commands must do for one person, as account_plan does, at once.

    sites: live ones. people: the list after the change. passwords: for each site.
    """
    entry = next((p for p in people if p["name"] == name), {"name": name})
    calls = []
    for site in people_sites(sites, entry):
        if change == "remove":
            call = {"action": "block", "name": name}
        else:
            given = {"email": entry.get("email", ""), "password": passwords[site["name"]]}
            call = {"action": "create", "name": name} | given
        command = site["account_command"].split()
        calls.append({"site": site["name"], "user": site["user"], "command": command, "call": call})
    return calls


def change_problem(people: list[Person], change: str, name: str, sites: list[str], known: list[str]) -> str:
    """Return why this change cannot be made, or nothing.

    people: the list as it stands. sites: the sites asked for, may be empty. known: names of all sites.
    """
    if change not in CHANGES:
        return f"change {change!r}: say change=add, change=reset or change=remove"
    if not NAME.fullmatch(name):
        return f"person {name!r}: a name is letters, digits and . _ @ -, 64 at most, a letter or digit first"
    found: list[Person | None] = [p for p in people if p["name"].lower() == name.lower()]
    (person,) = found or [None]
    if change == "add" and person:
        return f"{person['name']} is there already: change=reset makes a new password"
    if change != "add" and (not person or person["name"] != name):
        near = f"; is {person['name']} meant?" if person else ""
        return f"{name} is not in the list{near or ': to finish a removal that was cut off run site.yml --tags people'}"
    if change == "reset" and person and person.get("machine"):
        return f"{name} is a machine: change its password_hash by hand"
    unknown = [site for site in sites if site not in known]
    if unknown:
        return f"there is no site {', '.join(unknown)}; sites are {', '.join(known)}"
    return "sites: only with change=add" if sites and change != "add" else ""


def password_problem(password: str) -> str:
    """Return why a chosen password is refused, or nothing."""
    if len(password) < CHOSEN_LENGTH:
        return f"the password has fewer than {CHOSEN_LENGTH} characters"
    if len(password.encode()) > BCRYPT_BYTES:
        return f"the password has more than {BCRYPT_BYTES} bytes: bcrypt would not look at the rest"
    if not password.isprintable():
        return "the password holds a control character"
    return ""


def front_door_password(chosen: str = "") -> dict[str, str]:
    """Return {password, password_hash}: 128 random bits at bcrypt's lowest cost, or the chosen password at cost 10."""
    password = chosen or secrets.token_urlsafe(GENERATED_BYTES)
    rounds = CHOSEN_ROUNDS if chosen else GENERATED_ROUNDS
    return {"password": password, "password_hash": bcrypt.using(rounds=rounds, ident="2y").hash(password)}


def account_passwords(sites: list[str]) -> dict[str, str]:
    """Return {site: a password of 128 random bits}."""
    return {site: secrets.token_urlsafe(GENERATED_BYTES) for site in sites}


def with_person(
    people: list[Person],
    change: str,
    name: str,
    password_hash: str = "",
    sites: list[str] | None = None,
    email: str = "",
) -> list[Person]:
    """Return the list with one person added, given a new hash, or taken out; done twice, it is the same list."""
    if change == "remove":
        return [p for p in people if p["name"] != name]
    if any(p["name"] == name for p in people):
        return [_active(p) | {"password_hash": password_hash} if p["name"] == name else p for p in people]
    given = {"sites": list(sites or []), "email": email}
    return [*people, {"name": name, "password_hash": password_hash} | {k: v for k, v in given.items() if v}]


def _active(person: Person) -> Person:
    return {key: value for key, value in person.items() if key != "state"}


def people_file(people: list[Person]) -> str:
    """Return people.yml; values are written as JSON, which is YAML and never a date or a number by accident."""
    lines = [f"  {'- ' if n == 0 else '  '}{key}: {json.dumps(value, ensure_ascii=False)}"
             for person in people for n, (key, value) in enumerate(person.items())]  # fmt: skip
    return HEADER + ("\n".join(["crm_users:", *lines]) if lines else "crm_users: []") + "\n"


class FilterModule:
    """Expose the filters to Ansible."""

    def filters(self) -> dict[str, Any]:
        return {
            "people_problems": people_problems,
            "people_of_site": people_of_site,
            "account_plan": account_plan,
            "site_accounts": site_accounts,
            "people_sites": people_sites,
            "person_calls": person_calls,
            "change_problem": change_problem,
            "password_problem": password_problem,
            "front_door_password": front_door_password,
            "account_passwords": account_passwords,
            "with_person": with_person,
            "people_file": people_file,
        }
