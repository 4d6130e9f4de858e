"""What the role site_release hands to its tool, worked out from the list of sites."""

from __future__ import annotations

import json
from typing import Any

Site = dict[str, Any]

COPIED = ("archive", "git", "upgrade_command", "schema_command")


def site_releases(
    sites: list[Site], base: str = "/srv/civicrm", jobs: list[dict[str, Any]] | None = None
) -> list[Site]:
    """Return site_release_sites for live sites whose application is archive or git.

    jobs: what site_jobs made; their timers pause during an upgrade.
    """
    return [
        {
            "name": s["name"],
            "user": s["user"],
            "base": f"{base}/{s['name']}",
            "web": s["web"],
            "shared": s["shared"],
            "environment": s["pool_environment"],
            "database": s["database"],
            "cache_socket": s["cache_socket"],
            "pause_units": [j["unit"] for j in jobs or [] if j["site"] == s["name"]],
        }
        | {key: s[key] for key in COPIED if s.get(key)}
        for s in sites
        if s["application"] in ("archive", "git")
    ]


def release_files(sites: list[Site], directory: str, commits: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return [{name, file, sha256, id}]: where each site's archive lies on the machine that runs Ansible.

    commits: registered results of `git rev-parse`. A release is named after the archive's sha256 or the commit; sha256
    is empty for a repository, whose commit is a checksum itself.
    """
    found = {c["item"]["name"]: c["stdout"] for c in commits}
    files = []
    for site in sites:
        if "git" in site:
            commit = found[site["name"]]
            files.append({"name": site["name"], "file": f"{directory}/{commit}.tar", "sha256": "", "id": commit[:12]})
        else:
            url, sha256 = site["archive"]["url"], site["archive"]["sha256"].lower()
            path = f"{directory}/{sha256}" if "://" in url else url
            files.append({"name": site["name"], "file": path, "sha256": sha256, "id": sha256[:12]})
    return files


def releases_due(fetched: list[dict[str, Any]], listed: list[str]) -> list[dict[str, Any]]:
    """Return [{name, file, id, sha256, unpacked}]: the releases that are not served yet.

    fetched: registered results of `stat` over release_files(). listed: lines of `civicrm-release --json list`; a site
    that the host does not know yet is not among them.
    """
    sites = {site["site"]: site for site in map(json.loads, listed)}
    due = []
    for result in fetched:
        release = result["item"] | {"sha256": result["stat"]["checksum"]}
        site = sites.get(release["name"], {"current": None, "releases": []})
        if site["current"] != release["id"]:
            due.append(release | {"unpacked": release["id"] in site["releases"]})
    return due


def release_shared_directories(sites: list[Site]) -> list[dict[str, str]]:
    """Return [{path, owner, group, mode}]: each site's shared/ and the directories in it that its releases lead to.

    shared/ itself is root's: in a directory of its own a site could put a link in the place of one of them. The web
    server reads as anybody else does, and passes the site's own directory alone: it gets into what is served, and not
    into what lies outside of `web` or is called private.
    """
    directories: dict[str, dict[str, str]] = {}
    for site in sites:
        base, user, shared = f"{site['base']}/shared", site["user"], site.get("shared", [])
        web = "" if site.get("web", ".") == "." else f"{site['web']}/"
        if shared:
            directories[base] = {"path": base, "owner": "root", "group": user, "mode": "0751"}
        for entry in shared:
            path = f"{base}/{entry['to']}"
            served = entry["path"].startswith(web) and entry["to"] != "private"
            mode = "0755" if served or directories.get(path, {}).get("mode") == "0755" else "0750"
            directories[path] = {"path": path, "owner": user, "group": user, "mode": mode}
    return list(directories.values())


def release_description(site: Site, keep_releases: int, keep_dumps: int, pause_seconds: int) -> dict[str, Any]:
    """Return /etc/civicrm-release/<site>.json."""
    texts = {key: site.get(key, "") for key in ("database", "upgrade_command", "schema_command", "cache_socket")}
    return {
        "name": site["name"],
        "base": site["base"],
        "user": site["user"],
        "web": site.get("web", "."),
        "shared": site.get("shared", []),
        "environment": site.get("environment", {}),
        "pause_units": site.get("pause_units", []),
        "pause_seconds": pause_seconds,
        "keep_releases": keep_releases,
        "keep_dumps": keep_dumps,
    } | texts


class FilterModule:
    """Expose the filters to Ansible."""

    def filters(self) -> dict[str, Any]:
        return {
            "site_releases": site_releases,
            "release_files": release_files,
            "releases_due": releases_due,
            "release_shared_directories": release_shared_directories,
            "release_description": release_description,
        }
