"""The donation API's sites and the CRM's sites become queues, their users, and what each side of them wants to know."""

from __future__ import annotations

import hashlib
import json
from typing import Any

Site = dict[str, Any]

# Redis on the internal host: production's donations share no memory with what test and staging try out.
QUEUES = {True: {"port": 6379, "service": "redis"}, False: {"port": 6380, "service": "redis_trial"}}


def queue_of(api: Site) -> dict[str, Any]:
    """Return port and service of the Redis that holds an API site's queue."""
    return QUEUES[api["environment"] == "production"]


def donation_problems(apis: list[Site], sites: list[Site], secrets: dict[str, dict[str, str]]) -> list[str]:
    """Return one sentence for each live API site whose donations have no right place to go; empty when all is well.

    apis: entries with crm_site; sites: the CRM's sites, whatever their state; secrets: {API site: {writer, worker}}.
    """
    problems = []
    known = {site["name"]: site for site in sites}
    for api in apis:
        name, target = api["name"], api.get("crm_site")
        if target is None:
            continue
        if target not in known:
            problems.append(f"site {name!r}: crm_site {target!r} is no site of the CRM")
        elif known[target].get("environment") != api["environment"]:
            problems.append(
                f"site {name!r} is for {api['environment']} and its crm_site {target!r} for "
                f"{known[target].get('environment')}"
            )
        if name not in secrets:
            problems.append(f"site {name!r} has no secrets: run playbooks/secrets.yml, which makes what is missing")
    return problems


def donation_intakes(apis: list[Site]) -> list[Site]:
    """Return donation_intake_sites for live API sites that run the intake application."""
    return [
        {key: api[key] for key in ("name", "environment", "docroot", "php_version")}
        | {
            "origins": api.get("origins", []),
            "queue_user": f"writer-{api['name']}",
            "queue_port": queue_of(api)["port"],
            "proof": api.get("proof", "none"),
        }
        for api in apis
        if api["application"] == "donation_intake"
    ]


def donation_queues(apis: list[Site], sites: list[Site]) -> list[Site]:
    """Return donation_worker_queues for live API sites with a crm_site.

    sites: the CRM's live sites. A queue whose site is not live, or says no api_command, has no worker: its
    donations wait.
    """
    live = {site["name"]: site for site in sites}
    queues = []
    for api in apis:
        if "crm_site" not in api:
            continue
        site = live.get(api["crm_site"], {})
        queues.append(
            {
                "name": api["name"],
                "user": site.get("user", ""),
                "enabled": bool(site.get("api_command")),
                "api_command": site.get("api_command", ""),
                "test": api["environment"] != "production",
                "redis_user": f"worker-{api['name']}",
                "redis_port": queue_of(api)["port"],
                "proof": api.get("proof", "none"),
            }
        )
    return queues


def unproved_sites(apis: list[Site]) -> list[str]:
    """Return the production sites that take a donation for paid when it was posted, whoever posted it."""
    return [
        api["name"]
        for api in apis
        if api.get("application", "donation_intake") == "donation_intake"
        and api.get("environment") == "production"
        and api.get("state", "live") == "live"
        and api.get("proof", "none") == "none"
    ]


def donation_firewall_entries(queues: list[Site], where: list[str]) -> list[dict[str, Any]]:
    """Return the entries of firewall_map that let workers reach their queues at `where`; none without a worker."""
    entries = []
    for queue in QUEUES.values():
        users = sorted({q["user"] for q in queues if q["enabled"] and q["redis_port"] == queue["port"]})
        entry = {"name": f"donation workers, {queue['service']}", "direction": "out", "who": users, "where": where}
        why = "Workers take donations out of the queue."
        entries += [entry | {"service": queue["service"], "why": why}] if users else []
    return entries


def donation_redis_users(
    names: list[str], secrets: dict[str, dict[str, str]], writer: str, worker: str
) -> list[dict[str, str]]:
    """Return Redis users for queues: a writer and a worker each, on keys of their own queue alone.

    writer, worker: ACL rules after the keys, such as "-@all +lpush".
    """
    return [
        {
            "name": f"{role}-{name}",
            "password_sha256": hashlib.sha256(secrets[name][role].encode()).hexdigest(),
            "rules": f"resetkeys {keys.format(name)} {rules}",
        }
        for name in names
        for role, keys, rules in (
            ("writer", "~donations:{0}", writer),
            ("worker", "~donations:{0} ~donations:{0}:*", worker),
        )
    ]


def donation_passwords(secrets: dict[str, dict[str, str]], role: str) -> dict[str, str]:
    """Return {queue: password} of its writer or its worker."""
    return {name: passwords[role] for name, passwords in secrets.items()}


def campaigns_version(campaigns: list[dict[str, str]]) -> str:
    """Return a short hash of the list, the same for the same campaigns in any order."""
    entries = sorted([c["name"], c["title"], c["state"]] for c in campaigns)
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:12]


class FilterModule:
    """Expose the filters to Ansible."""

    def filters(self) -> dict[str, Any]:
        return {
            "donation_problems": donation_problems,
            "donation_intakes": donation_intakes,
            "donation_queues": donation_queues,
            "queue_of": queue_of,
            "unproved_sites": unproved_sites,
            "donation_firewall_entries": donation_firewall_entries,
            "donation_redis_users": donation_redis_users,
            "donation_passwords": donation_passwords,
            "campaigns_version": campaigns_version,
        }
