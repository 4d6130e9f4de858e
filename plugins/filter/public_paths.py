"""The public's way past the front door's password: an explicit list of requests becomes exact patterns."""

from __future__ import annotations

import re
from typing import Any

from ansible.errors import AnsibleFilterError

Entry = dict[str, Any]

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
KINDS = ("page", "tracking", "asset")
METHODS = {"GET": "(?:GET|HEAD)", "POST": "POST"}
# What a pattern may be made of: literal characters, \., positive classes, groups, repetition. There is no wildcard, so
# no pattern can match a question mark, an encoded character, a backslash or a semicolon by accident.
PIECES = r"[A-Za-z0-9_/-]|\\\.|\[[A-Za-z0-9_./-]+\]|[()|*+?]|\{[0-9]+(?:,[0-9]*)?\}"
PATH = re.compile(rf"/(?:{PIECES})*")
VALUE = re.compile(rf"(?:{PIECES}|%[0-9A-F]{{2}})*")
FIELD = re.compile(r"(?:[A-Za-z0-9_-]|\[[A-Za-z0-9_-]+\]|[*+?]|\{[0-9]+(?:,[0-9]*)?\})+")
PARAMETER = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*)?")
# Stands before every pattern. Never public, whatever an entry says: a long line (before any pattern is tried in depth);
# an empty segment, a hidden one, '.' and '..'; something after a script's name, which would run the script; a parameter
# that comes twice.
SAFE = (
    r"(?=.{1,600}$)"
    r"(?![^?]*(?://|/\.|\.[Pp][Hh][^ /?]*/))"
    r"(?!.*[?&]([^=&]+)=.*&\1=)"
)


def public_path_problems(entries: list[Entry]) -> list[str]:
    """Return one sentence for each thing that is wrong with a list of public paths; empty when all is well.

    An entry has name, kind, methods and either path (exact) or pattern (a whole path as a regular expression);
    query maps a parameter to the pattern of its value, fields lists patterns of the names that a form may post.
    """
    problems = []
    names = [entry.get("name") for entry in entries]
    for entry in entries:
        name = entry.get("name")
        problems += [f"public path {name!r}: {problem}" for problem in _entry_problems(entry)]
        if names.count(name) > 1 and f"public path {name!r} stands twice" not in problems:
            problems.append(f"public path {name!r} stands twice")
    return problems


def _entry_problems(entry: Entry) -> list[str]:
    problems = []
    if not NAME.fullmatch(str(entry.get("name"))):
        problems.append("name must be a letter, then letters, digits or '-', all lower case")
    if entry.get("kind") not in KINDS:
        problems.append(f"kind {entry.get('kind')!r} is none of {', '.join(KINDS)}")
    methods = entry.get("methods") or []
    if not methods or set(methods) - set(METHODS):
        problems.append(f"methods {methods!r} must be GET, POST or both; GET includes HEAD")
    if ("path" in entry) == ("pattern" in entry):
        problems.append("give either path or pattern")
    elif "path" in entry and not re.fullmatch(r"/[A-Za-z0-9_./-]*", str(entry["path"])):
        problems.append(f"path {entry['path']!r} may have letters, digits and / _ . - only")
    elif "pattern" in entry and not _is_pattern(PATH, entry["pattern"]):
        problems.append(f"pattern {entry['pattern']!r} {_PATTERN_RULE}")
    for parameter, value in (entry.get("query") or {}).items():
        if not PARAMETER.fullmatch(str(parameter)):
            problems.append(f"query parameter {parameter!r} is no plain name")
        if not _is_pattern(VALUE, value):
            problems.append(f"query {parameter}: {value!r} {_PATTERN_RULE}")
    fields = entry.get("fields") or []
    problems += [
        f"fields: {field!r} may have letters, digits, - and _, classes in [] and repetition only"
        for field in fields
        if not _is_pattern(FIELD, field)
    ]
    if fields and "POST" not in methods:
        problems.append("fields are for POST")
    return problems


_PATTERN_RULE = r"may have letters, digits, / _ -, \., [classes], (groups) and repetition only, and must be complete"


def _is_pattern(form: re.Pattern[str], text: object) -> bool:
    if not isinstance(text, str) or not form.fullmatch(text) or re.search(r"\((?:\?|\*)", text):
        return False
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def public_path_rules(entries: list[Entry]) -> list[dict[str, str]]:
    r"""Return one rule per entry and method: what a raw request line must be, and what int is told of it.

    Each rule has name, kind, request (a regular expression for the whole request line as it came over the wire,
    for PCRE and for Python alike, without '#' and '"') and mark: 'public KIND NAME FIELDS', where FIELDS is the
    regular expression of the names that a form may post. The raw line is matched and not the path that Apache
    decoded: what the CMS behind reads out of a line that was matched so is what stands in it, character by character.
    """
    problems = public_path_problems(entries)
    if problems:
        raise AnsibleFilterError("; ".join(problems))
    rules = []
    for entry in entries:
        path = entry["path"].replace(".", r"\.") if "path" in entry else f"(?:{entry['pattern']})"
        query = _query(entry.get("query") or {})
        for method in entry["methods"]:
            fields = "|".join(entry.get("fields") or []) if method == "POST" else ""
            rules.append(
                {
                    "name": entry["name"],
                    "kind": entry["kind"],
                    "request": rf"^{SAFE}{METHODS[method]} {_grouped(path)}{query} HTTP/(?:1\.[01]|2\.0)$",
                    "mark": f"public {entry['kind']} {entry['name']} {fields}".rstrip(),
                }
            )
    return rules


def near_miss_pattern(entries: list[Entry], prefixes: list[str]) -> str:
    r"""Return what the raw request line of a damaged link looks like; its one group is the link.

    It begins with a path of the list that a person opens, or with one of the prefixes, which end with '/'; what follows
    is no letter of the path. It is no reason to let a request pass: it is answered with a page, or with a redirection
    to what public_path_rules take.
    """
    paths = [e["path"].replace(".", r"\.") if "path" in e else _grouped(e["pattern"]) for e in entries if _is_link(e)]
    near = "|".join([*(rf"(?:{path})(?![A-Za-z0-9_/-])" for path in paths), *prefixes])
    return rf"^(?:GET|HEAD) ((?:{near})[^ ]{{0,600}}) HTTP/"


def link_rules(entries: list[Entry]) -> list[dict[str, str]]:
    """Return the rules of public_path_rules for what a person opens: a link that was mended must fit one of them."""
    return public_path_rules([entry | {"methods": ["GET"], "fields": []} for entry in entries if _is_link(entry)])


def _is_link(entry: Entry) -> bool:
    return entry["kind"] in ("page", "tracking") and "GET" in entry["methods"]


def _grouped(pattern: str) -> str:
    """Return the pattern with groups that capture nothing: the one capture is that of SAFE, which finds repetition."""
    return re.sub(r"\((?!\?)", "(?:", pattern)


def _query(query: dict[str, str]) -> str:
    """Return the pattern of a whole query, in any order; a parameter named '' is a bare value."""
    if not query:
        return ""
    pairs = "|".join((f"{name}=" if name else "") + f"(?:{_grouped(value)})" for name, value in query.items())
    return rf"(?:\?(?:{pairs})(?:&(?:{pairs}))*)?"


def site_public_paths(site: dict[str, Any], paths: dict[str, list[Entry]]) -> list[Entry]:
    """Return the entries of one site: those of its CMS, then its own (public_paths); none where they are off.

    They are on at production sites only, unless the site says otherwise (public_paths_enabled): mail of the others
    reaches people who have the password.
    """
    if not site.get("public_paths_enabled", site.get("environment") == "production"):
        return []
    own: list[Entry] = site.get("public_paths", [])
    return paths.get(site["cms"], []) + own


def one_click_paths(site: dict[str, Any], entry: Entry) -> list[Entry]:
    """Return [entry] for a site whose mailings reach people, who then unsubscribe with one click; else none."""
    return [entry] if site.get("mail_policy") == "deliver" else []


class FilterModule:
    """Expose the filters to Ansible."""

    def filters(self) -> dict[str, Any]:
        return {
            "public_path_problems": public_path_problems,
            "public_path_rules": public_path_rules,
            "near_miss_pattern": near_miss_pattern,
            "link_rules": link_rules,
            "site_public_paths": site_public_paths,
            "one_click_paths": one_click_paths,
        }
