#!/usr/bin/env python3
"""A CiviCRM that keeps all in a directory and speaks as api-lines.php does: civicrm_api.py DIRECTORY.

What it does wrong is asked of the directory: `down` (does not start), and in Contribution.create `refuse` (an error),
`die` (ends, "before" or "after" it was stored), `mute` (never answers), `slow` (takes 50 ms).
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
import unicodedata
from pathlib import Path

DIRECTORY = Path(sys.argv[1])


def load() -> dict:
    path = DIRECTORY / "civicrm.json"
    return json.loads(path.read_text()) if path.exists() else {"Contact": [], "Contribution": [], "Campaign": []}


def store(data: dict) -> None:
    (DIRECTORY / "civicrm.json.new").write_text(json.dumps(data))
    (DIRECTORY / "civicrm.json.new").rename(DIRECTORY / "civicrm.json")


def fault(name: str) -> str | None:
    path = DIRECTORY / name
    return path.read_text() if path.exists() else None


def answer(entity: str, action: str, params: dict) -> dict:
    with (DIRECTORY / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        data = load()
        if (entity, action) == ("Contribution", "get"):
            wanted, test = params["trxn_id"].lower(), str(params["is_test"])
            rows = data["Contribution"]
            return {"values": [r for r in rows if r["trxn_id"].lower() == wanted and r["is_test"] == test]}
        if (entity, action) == ("Email", "get"):
            rows = data["Contact"]
            if "contact_id" in params:
                rows = [c for c in rows if c["id"] == params["contact_id"]]
            if "email" in params:
                wanted = [plain(address) for address in params["email"]["IN"]]
                rows = [c for c in rows if plain(c["email"]) in wanted]
            names = {f"contact_id.{n}": n for n in ("first_name", "last_name")}
            columns = {"contact_id": "id", "email": "email", **names}
            return {"values": [{name: c[key] for name, key in columns.items() if key in c} for c in rows]}
        if (entity, action) == ("Campaign", "get"):
            return {"values": [c for c in data["Campaign"] if params.get("name", c["name"]) == c["name"]]}
        if entity == "Campaign":
            known = [c for c in data["Campaign"] if c["id"] == params.get("id")] or [
                {"id": str(len(data["Campaign"]) + 1)}
            ]
            row = known[0] | {key: str(value) for key, value in params.items()}
            data["Campaign"] = [c for c in data["Campaign"] if c["id"] != row["id"]] + [row]
            store(data)
            return {"values": [row]}
        if entity == "Address":
            if action == "get":
                return {"values": []}
            if params.get("country_id") == "ZZ":
                return {"error": "'ZZ' is not a valid option for field country_id"}
        return create(data, entity, params)


def plain(text: str) -> str:
    """As the database compares: neither case nor accents count."""
    return "".join(c for c in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(c))


def create(data: dict, entity: str, params: dict) -> dict:
    if entity == "Contribution":
        if fault("slow") is not None:
            time.sleep(0.05)
        if fault("mute") is not None:
            time.sleep(60)
        if (refusal := fault("refuse")) is not None:
            return {"error": refusal}
        if fault("die") == "before":
            os._exit(1)
        if any(r["trxn_id"].lower() == params["trxn_id"].lower() for r in data["Contribution"]):
            return {"error": "Duplicate error - existing contribution record(s) have a matching Transaction ID"}
    # As CiviCRM's database layer: the word is no value, but in this one spelling.
    given = {key: str(value) for key, value in params.items() if str(value) == "Null" or str(value).lower() != "null"}
    row = {"id": str(len(data.setdefault(entity, [])) + 1)} | given
    data[entity].append(row)
    store(data)
    if entity == "Contribution" and fault("die") == "after":
        os._exit(1)
    return {"values": [row]}


if fault("down") is not None:
    sys.exit("cannot connect to the database")
print('{"ready":true}', flush=True)
for line in sys.stdin:
    print(json.dumps(answer(*json.loads(line))), flush=True)
