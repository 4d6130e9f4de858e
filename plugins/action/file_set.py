"""Render a set of files on the controller and hand it to the host in one call.

The options stand in plugins/modules/file_set.py (ansible-doc file_set). Entries are evaluated here and not by Ansible,
so that each of them can have a loop, a condition and variables of its own.
"""

from __future__ import annotations

import base64
import json
import os
import re
import traceback
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import Templar, trust_as_template

# Evaluated entry by entry. The rest of the options Ansible evaluates as usual.
LISTS = ("entries", "owns", "checks", "commands", "units")
ENTRY = {
    "src", "content", "dest", "state", "target", "owner", "group", "mode", "validate", "compile", "product", "keep",
    "loop", "when", "vars", "restart", "reload", "notify", "no_log", "uids", "search",
}  # fmt: skip
OWN = {"pattern", "strangers", "except", "restart", "reload", "when", "loop"}
STATES = ("file", "directory", "link", "absent", "closed")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,60}")
# What an earlier run left in the source tree of a package is not part of it.
LEFT_BEHIND = ("__pycache__",)


def as_list(value: Any) -> list[str]:
    """Return a text as a list of one, nothing as an empty list."""
    if value is None or value == "":
        return []
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]


def place_of(error: BaseException, path: str, text: str) -> str:
    """Return FILE:LINE of a template that could not be rendered, as far as Jinja and the error tell the line."""
    shown = os.path.relpath(path)
    seen: BaseException | None = error
    line = None
    while seen is not None:
        for frame in traceback.extract_tb(seen.__traceback__):
            if frame.filename in ("<template>", "<unknown>", path):
                line = frame.lineno
        line = line or getattr(seen, "lineno", None)
        seen = seen.__cause__ or seen.__context__
    # An undefined variable comes to light only after the template has run.
    for name in re.findall(r"'(\w+)'", cause_of(error)) if line is None else []:
        numbers = [number for number, one in enumerate(text.splitlines(), 1) if re.search(rf"\b{name}\b", one)]
        line = line or next(iter(numbers), None)
    return f"{shown}:{line}" if line else shown


def cause_of(error: BaseException) -> str:
    """Return the innermost reason of an error, in one line."""
    texts: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        texts.append(getattr(seen, "_original_message", None) or getattr(seen, "message", None) or str(seen))
        seen = seen.__cause__
    return " ".join(texts[-1].split())


class ActionModule(ActionBase):
    """Evaluate, render, send."""

    MODULE = "file_set"
    OPTIONS = frozenset({"name", "entries", "owns", "checks", "commands", "settles"})
    TRANSFERS_FILES = False

    @classmethod
    def finalize_task_arg(cls, name: str, value: Any, templar: Any, context: Any) -> Any:
        """Leave the lists as they are written; `run` evaluates each element with its own variables."""
        if name in LISTS and not isinstance(value, str):
            return value
        return super().finalize_task_arg(name, value, templar, context)

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        self._variables = task_vars or {}
        unknown = set(self._task.args) - self.OPTIONS
        if unknown:
            raise AnsibleActionFail(f"{self.MODULE} has no option {', '.join(sorted(unknown))}")
        name = str(self._task.args.get("name") or "")
        if not NAME.fullmatch(name):
            raise AnsibleActionFail(f"{self.MODULE}: name '{name}' must be letters, digits, _ and -")
        self._set = name
        self._managed = str(self._variables.get("ansible_managed") or C.config.get_config_value("DEFAULT_MANAGED_STR"))
        payload = {
            "name": name,
            "check": self._task.check_mode,
            "diff": self._task.diff,
            "marker": self._managed.split(":")[0],
            "files": [file for entry in self._args("entries") for file in self._files(entry)],
            "owns": [own for entry in self._args("owns") for own in self._owns(entry)],
            "checks": [self._plain(one, {"command", "trees", "when"}) for one in self._wanted("checks")],
            "commands": [self._plain(one, {"command", "changed", "when"}) for one in self._wanted("commands")],
            "settles": as_list(self._task.args.get("settles")),
            **self._more(),
        }
        packed = base64.b64encode(zlib.compress(json.dumps(payload).encode(), 6)).decode()
        result: dict[str, Any] = self._execute_module(
            module_name=self.MODULE, module_args={"payload": packed}, task_vars=self._variables
        )
        result.pop("invocation", None)
        if result.get("notify"):
            result["_ansible_notify"] = result["notify"]
        for empty in ("notify", "warnings", "diff"):
            if not result.get(empty):
                result.pop(empty, None)
        return result

    def _more(self) -> dict[str, Any]:
        return {}

    def _args(self, option: str) -> list[Any]:
        value = self._task.args.get(option) or []
        if not isinstance(value, list):
            raise AnsibleActionFail(f"{self.MODULE} {self._set}: {option} must be a list")
        return value

    # --- one element with its variables

    def _templar_for(self, further: dict[str, Any]) -> Templar:
        return self._templar.copy_with_new_env(available_variables={**self._variables, **further})

    def _scopes(self, entry: dict[str, Any]) -> Iterator[Templar]:
        """Yield a templar for each time that an element stands in the set."""
        base = self._templar_for({})
        items: list[Any] = [None]
        if "loop" in entry:
            if "when" in entry and "item" not in str(entry["when"]) and not self._true(base, entry["when"]):
                return
            items = base.template(entry["loop"])
            if not isinstance(items, list | tuple):
                raise AnsibleActionFail(
                    f"{self.MODULE} {self._set}: loop of {entry.get('dest') or entry} is not a list"
                )
        for item in items:
            further = {"item": item} if "loop" in entry else {}
            templar = self._templar_for(further) if further else base
            if "vars" in entry:
                templar = self._templar_for({**further, **templar.template(entry["vars"])})
            if "when" not in entry or self._true(templar, entry["when"]):
                yield templar

    def _true(self, templar: Templar, when: Any) -> bool:
        conditions = when if isinstance(when, list) else [when]
        return all(templar.evaluate_conditional(one) for one in conditions)

    def _wanted(self, option: str) -> list[dict[str, Any]]:
        return [
            {key: templar.template(value) for key, value in entry.items() if key not in ("loop", "when", "vars")}
            for entry in self._args(option)
            for templar in self._scopes(entry)
        ]

    def _plain(self, entry: dict[str, Any], known: set[str]) -> dict[str, Any]:
        unknown = set(entry) - known
        if unknown:
            raise AnsibleActionFail(f"{self.MODULE} {self._set}: {', '.join(sorted(unknown))} is no option of {entry}")
        return {key: as_list(value) if key in ("trees", "changed") else value for key, value in entry.items()}

    def _owns(self, entry: Any) -> Iterator[dict[str, Any]]:
        entry = entry if isinstance(entry, dict) else {"pattern": entry}
        if set(entry) - OWN:
            raise AnsibleActionFail(f"{self.MODULE} {self._set}: {', '.join(set(entry) - OWN)} is no option of owns")
        for templar in self._scopes(entry):
            own = {key: templar.template(value) for key, value in entry.items() if key not in ("loop", "when", "vars")}
            yield {
                "pattern": str(own["pattern"]),
                "strangers": own.get("strangers", "keep"),
                **{key: as_list(own.get(key)) for key in ("except", "restart", "reload")},
            }

    # --- files

    def _files(self, entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if not isinstance(entry, dict):
            raise AnsibleActionFail(f"{self.MODULE} {self._set}: each entry is a dictionary, not '{entry}'")
        if set(entry) - ENTRY:
            unknown = ", ".join(sorted(set(entry) - ENTRY))
            raise AnsibleActionFail(
                f"{self.MODULE} {self._set}: {entry.get('dest') or entry.get('src')} has no option {unknown}"
            )
        for templar in self._scopes(entry):
            try:
                yield from self._file(entry, templar)
            except AnsibleActionFail:
                raise
            except AnsibleError as error:
                where = entry.get("dest") or entry.get("src")
                raise AnsibleActionFail(f"{self.MODULE} {self._set}: entry {where}: {cause_of(error)}") from None

    def _file(self, entry: dict[str, Any], templar: Templar) -> Iterator[dict[str, Any]]:
        skipped = ("loop", "when", "vars", "content")
        plain = {key: templar.template(value) for key, value in entry.items() if key not in skipped}
        state, source = plain.get("state", "file"), str(plain.get("src") or "")
        dest = str(plain.get("dest") or "/" + source.removesuffix(".j2"))
        if state not in STATES:
            raise AnsibleActionFail(f"{self.MODULE} {self._set}: state of {dest} must be one of {', '.join(STATES)}")
        if not dest.startswith("/") or ".." in dest.split("/"):
            raise AnsibleActionFail(f"{self.MODULE} {self._set}: dest '{dest}' must be an absolute path")
        if bool(plain.get("compile")) != bool(plain.get("product")):
            raise AnsibleActionFail(f"{self.MODULE} {self._set}: {dest} needs compile and product, or neither")
        mode = plain.get("mode") or ("0755" if state == "directory" else "0644")
        if not re.fullmatch(r"[0-7]{4}", str(mode)):
            raise AnsibleActionFail(
                f"{self.MODULE} {self._set}: mode {mode!r} of {dest} must be four octal digits in quotes"
            )
        search = as_list(plain.get("search"))
        if search and (state != "directory" or not int(mode, 8) & 0o010):
            raise AnsibleActionFail(
                f"{self.MODULE} {self._set}: search of {dest} is for directories whose group may pass them"
            )
        common = {
            "dest": os.path.normpath(dest),
            "kind": state,
            "owner": str(plain.get("owner") or "root"),
            "group": str(plain.get("group") or "root"),
            "mode": str(mode),
            "target": str(plain.get("target") or ""),
            "keep": bool(plain.get("keep")),
            "no_log": bool(plain.get("no_log")),
            "uids": bool(plain.get("uids")),
            "validate": str(plain.get("validate") or ""),
            "compile": str(plain.get("compile") or ""),
            "product": str(plain.get("product") or ""),
            "search": search,
            **{key: as_list(plain.get(key)) for key in ("restart", "reload", "notify")},
        }
        if state != "file":
            yield common
        elif "content" in entry:
            yield {**common, "content": self._encode(str(templar.template(entry["content"])).encode())}
        elif not source:
            raise AnsibleActionFail(f"{self.MODULE} {self._set}: {dest} needs src or content")
        elif source.endswith(".j2"):
            yield {**common, "content": self._encode(self._render(source, dest, templar))}
        else:
            yield from self._sources(source, common)

    @staticmethod
    def _encode(content: bytes) -> str:
        return base64.b64encode(content).decode()

    def _sources(self, source: str, common: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield a file of files/, or every file of a directory there."""
        found = Path(self._find_needle("files", source.rstrip("/")))
        if not found.is_dir():
            yield {**common, "content": self._encode(found.read_bytes())}
            return
        for path in sorted(found.rglob("*")):
            below = path.relative_to(found)
            if path.is_file() and not set(below.parts) & set(LEFT_BEHIND):
                yield {
                    **common,
                    "dest": os.path.join(common["dest"], str(below)),
                    "content": self._encode(path.read_bytes()),
                }

    def _render(self, source: str, dest: str, templar: Templar) -> bytes:
        path = self._find_needle("templates", source)
        variables = {"ansible_managed": self._managed, **templar.available_variables}
        text = trust_as_template(self._loader.get_text_file_contents(path))
        try:
            below = [
                os.path.dirname(path),
                *(os.path.join(p, "templates") for p in self._variables.get("ansible_search_path", [])),
            ]
            return str(
                templar.copy_with_new_env(searchpath=below, available_variables=variables).template(
                    text, escape_backslashes=False
                )
            ).encode()
        except AnsibleError as error:
            where = place_of(error, path, text)
            raise AnsibleActionFail(f"{where}: {cause_of(error)} (for {dest})") from None
