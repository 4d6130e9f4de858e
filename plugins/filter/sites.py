"""One list of sites in the inventory becomes what each function role wants to know."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import Any

from ansible.errors import AnsibleFilterError

Site = dict[str, Any]

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
SERVER_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
PHP_VERSION = re.compile(r"[0-9]+\.[0-9]+")
DATABASE = re.compile(r"[a-z][a-z0-9_]{0,31}")
SHA256 = re.compile(r"[0-9a-fA-F]{64}")
STATES = ("planned", "live", "retired")
RELEASED = ("archive", "git")
COMMANDS = (
    "job_command",
    "account_command",
    "archive_command",
    "credential_command",
    "upgrade_command",
    "schema_command",
)
# A site's name is its user, its vhost's file and its units: these belong to Debian, or to this package.
TAKEN = re.compile(
    r"root|daemon|bin|sys|sync|games|man|lp|mail|news|uucp|proxy|www-data|backup|list|irc|nobody|sshd|messagebus"
    r"|mysql|redis|redis-.*|postfix|dovecot|dovenull|unbound|vmail|mtail|postdrop|opendkim|one-click|newsletter-archive|systemd-.*"
)
TAKEN_DATABASES = ("mysql", "sys", "test", "root", "information_schema", "performance_schema")
# Directory of a release that is served, unless the inventory says otherwise.
WEB = {"drupal": "web"}
# Where each CMS writes: places in the release that lead into shared/ unless the inventory says otherwise.
SHARED = {
    "drupal": [{"path": "web/sites/default/files", "to": "files"}, {"path": "private", "to": "private"}],
    "wordpress": [{"path": "wp-content/uploads", "to": "files"}],
    "standalone": [{"path": "public", "to": "files"}, {"path": "private", "to": "private"}],
}
# What below a docroot is for the site alone, wherever an application puts it: secrets, and what CiviCRM keeps beside
# its public files. `@` stands for CiviCRM's directory among the public files.
CIVICRM = ("ConfigAndLog", "custom", "templates_c", "upload", "civicrm.settings.php")
PRIVATE = {
    "drupal": ("sites/*/settings*.php", "sites/*/civicrm.settings.php", "sites/*/private", "sites/*/files/civicrm/@"),
    "wordpress": ("wp-config.php", "wp-content/uploads/civicrm/@"),
    "standalone": ("private", "data"),
}


def site_problems(sites: list[Site]) -> list[str]:
    """Return one sentence for each thing that is wrong with the list of sites; empty when all is well.

    Checked before anything else, because a name becomes a user, a path and a database. A site may stand twice with the
    same entry, as both profiles read the same list.
    """
    problems = []
    for site in sites:
        name = site.get("name")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            problems.append(
                f"site name {name!r}: use a letter, then letters, digits or '-', 31 at most, all lower case"
            )
        elif TAKEN.fullmatch(name):
            problems.append(f"site name {name!r}: a user of the system has this name; take another")
        server_name = site.get("server_name")
        if not isinstance(server_name, str) or not SERVER_NAME.fullmatch(server_name):
            problems.append(f"site {name!r}: server_name {server_name!r} is no domain name in lower case")
        docroot = site.get("docroot", "/")
        if not docroot.startswith("/") or ".." in docroot.split("/") or re.search(r"[\s\"']", docroot):
            problems.append(
                f"site {name!r}: docroot {docroot!r} must be an absolute path without '..', spaces or quotes"
            )
        problems += _application_problems(site) + _store_problems(site)
    archived = [
        site.get("name") for site in sites if site.get("archive_command") and site.get("state", "live") == "live"
    ]
    if len(set(archived)) > 1:
        problems.append(
            f"archive_command stands at {', '.join(map(repr, archived))}: one live site's newsletters at most"
        )
    for key, values in _taken_once(sites).items():
        for value, count in Counter(values).items():
            if count > 1:
                problems.append(f"{key} {value!r} stands {count} times; each site needs its own")
    return problems


def _taken_once(sites: list[Site]) -> dict[str, list[str]]:
    """Return what no two sites may share, with what follows from the names."""
    return {
        "name": [str(s["name"]) for s in sites if "name" in s],
        "server_name": [str(s["server_name"]) for s in sites if "server_name" in s],
        "database": [str(s.get("database", str(s["name"]).replace("-", "_"))) for s in sites if "name" in s],
        "docroot": [str(s["docroot"]) for s in sites if "docroot" in s],
    }


def _application_problems(site: Site) -> list[str]:
    name, application = site.get("name"), site.get("application", "none")
    problems = []
    source = site.get(application) if application in RELEASED else {}
    if not isinstance(source, dict):
        problems.append(f"site {name!r}: application {application} needs a key {application} that says from where")
    elif application == "archive" and not SHA256.fullmatch(str(source.get("sha256", ""))):
        problems.append(f"site {name!r}: archive needs url and sha256, 64 hexadecimal digits")
    elif application == "git" and not (source.get("repository") and source.get("ref")):
        problems.append(f"site {name!r}: git needs repository and ref")
    if application in RELEASED and "docroot" in site:
        problems.append(f"site {name!r}: docroot follows from the release; use web for the directory in it")
    if site.get("upgrade_command") and not site.get("schema_command"):
        problems.append(f"site {name!r}: upgrade_command needs schema_command, or a rollback could not be judged")
    if site.get("archive_command") and site.get("mail_policy", "deliver") != "deliver":
        problems.append(f"site {name!r}: archive_command publishes newsletters, but mail_policy is not deliver")
    for key in COMMANDS:
        command = site.get(key) or "/"
        if not command.startswith(("/", "{release}/")) or not command.isprintable():
            problems.append(f"site {name!r}: {key} must be one line that starts with an absolute path")
    return problems


def _store_problems(site: Site) -> list[str]:
    name, database, php = site.get("name"), site.get("database", "x"), site.get("php_version", "8.4")
    problems = []
    if not DATABASE.fullmatch(str(database)) or database in TAKEN_DATABASES:
        problems.append(f"site {name!r}: database {database!r}: a letter, then letters, digits or _, not MariaDB's own")
    if not isinstance(php, str) or not PHP_VERSION.fullmatch(php):
        problems.append(f'site {name!r}: php_version {php!r} must be a text such as "8.4"')
    return problems


def _cache_instance(name: str) -> str:
    """Return a Redis instance's name, 25 characters at most: its user is redis-<name>, and Linux takes 31."""
    return f"cache-{name if len(name) <= 19 else f'{name[:10]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}'}"


def _own_php(site: Site) -> bool:
    """Say whether a site has PHP's process manager, and its cache of compiled scripts, for itself: production has."""
    return bool(site.get("environment") == "production")


def live_sites(sites: list[Site], base: str = "/srv/civicrm") -> list[Site]:
    """Return the sites whose state is live, with everything that follows from the name filled in.

    Filled in unless given: user, database, docroot, socket (PHP-FPM), cache_instance and cache_socket
    (Redis), mail_domain, bounce_localpart, web, pool_environment. A key that the inventory gives is left as it is.
    """
    live = []
    for site in sites:
        if site.get("state", "live") not in STATES:
            raise AnsibleFilterError(
                f"site {site.get('name')!r}: state {site['state']!r} is none of {', '.join(STATES)}"
            )
        if site.get("state", "live") != "live":
            continue
        name = site["name"]
        web = site.get("web", WEB.get(site.get("cms", ""), "."))
        released = site.get("application") in RELEASED
        derived = {
            "user": name,
            "database": name.replace("-", "_"),
            "docroot": f"{base}/{name}/current/{web}".removesuffix("/.") if released else f"{base}/{name}/web",
            "release_path": f"{base}/{name}/release-path" if released else "",
            "web": web,
            "pool_environment": {"CIVICRM_ENVIRONMENT": site.get("environment", "production"), "CIVICRM_SITE": name},
            "socket": f"/run/php{f'-fpm-{name}' if _own_php(site) else ''}/{name}.sock",
            "cache_instance": _cache_instance(name),
            "cache_socket": f"/run/redis-{_cache_instance(name)}/redis.sock",
            "mail_domain": site["server_name"],
            "bounce_localpart": "civicrm+",
            "application": "none",
            "shared": SHARED.get(site.get("cms", ""), []) if released else [],
        }
        live.append(derived | site)
    return live


def site_served_shared(site: Site) -> list[str]:
    """Return where below the docroot a live site's releases lead into folders that the site writes."""
    web = "" if site["web"] == "." else f"{site['web']}/"
    return [entry["path"].removeprefix(web) for entry in site["shared"] if entry["path"].startswith(web)]


def site_private_files(sites: list[Site]) -> list[dict[str, str]]:
    """Return [{pattern, group}]: what of live sites' docroots nobody but the site may read, the web server neither."""
    return [
        {"pattern": f"{s['docroot']}/{pattern.removesuffix('@')}{name}", "group": s["user"]}
        for s in sites
        for pattern in ("civicrm.settings.php", ".env", *PRIVATE.get(s.get("cms", ""), ()))
        for name in (CIVICRM if pattern.endswith("@") else ("",))
    ]


def shown_certificates(names: list[str], address: str, port: int, starttls: str = "") -> list[dict[str, Any]]:
    """Return entries of certificates_shown: these names at one address and port."""
    extra = {"starttls": starttls} if starttls else {}
    return [{"server_name": name, "address": address, "port": port} | extra for name in names]


def site_pools(sites: list[Site], max_children: int, memory_limit_mb: int) -> list[dict[str, Any]]:
    """Return php_fpm_pools for live sites: one pool, uid and socket each."""
    return [
        {
            "name": s["name"],
            "php_version": s["php_version"],
            "user": s["user"],
            "group": s["user"],
            "socket": s["socket"],
            "own_master": _own_php(s),
            "max_children": s.get("php_max_children", max_children),  # 0: from memory
            "memory_limit_mb": s.get("php_memory_limit_mb", memory_limit_mb),
            "environment": s["pool_environment"],
            "php_values": {"sendmail_path": "/usr/sbin/sendmail -t -i"} | s.get("php_values", {}),
        }
        for s in sites
    ]


def site_databases(sites: list[Site], secrets: dict[str, dict[str, str]]) -> list[dict[str, str]]:
    """Return mariadb_databases for live sites: a database and a user of the same name each."""
    return [
        {"name": s["database"], "user": s["database"], "password": secrets[s["name"]]["database_password"]}
        for s in sites
    ]


def site_cache_instances(sites: list[Site], maxmemory_mb: int) -> list[dict[str, Any]]:
    """Return the volatile Redis instances for live sites: a unix socket each, for the site's group."""
    return [
        {
            "name": s["cache_instance"],
            "socket": s["cache_socket"],
            "socket_group": s["user"],
            "persistence": "none",
            "maxmemory_mb": maxmemory_mb,
            "maxmemory_policy": "allkeys-lru",
        }
        for s in sites
    ]


def site_mail(sites: list[Site]) -> list[dict[str, Any]]:
    """Return postfix_mailing_sites for live sites: who may write to them, who may send, where one click leads."""
    return [
        {
            "name": s["name"],
            "user": s["user"],
            "mail_domain": s["mail_domain"],
            "localpart": s["bounce_localpart"],
            "mail_policy": s["mail_policy"],
            "sender_domains": s.get("sender_domains", []),
        }
        | ({"unsubscribe_url": f"https://{s['server_name']}/one-click"} if s["mail_policy"] == "deliver" else {})
        for s in sites
    ]


def one_click_sites(sites: list[Site]) -> list[dict[str, str]]:
    """Return one_click_sites for live sites: those whose mailings reach people."""
    return [
        {"name": s["name"], "localpart": s["bounce_localpart"], "mail_domain": s["mail_domain"]}
        for s in sites
        if s["mail_policy"] == "deliver"
    ]


def site_mailboxes(sites: list[Site], secrets: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    """Return bounce_mailbox_accounts for live sites: a mailbox each, with the hash of its password.

    The second domain is where Postfix puts what a site that reaches nobody has tried to send.
    """
    return [
        {
            "name": s["name"],
            "domains": [s["mail_domain"], f"{s['name']}.caught.invalid"],
            "password_hash": secrets[s["name"]]["mailbox_password_hash"],
        }
        for s in sites
    ]


def site_return_paths(sites: list[Site]) -> list[dict[str, Any]]:
    """Return mail_tools_sites for live sites: where mail comes back to, and who fetches it where there is a job."""
    return [
        {
            "name": s["name"],
            "localpart": s["bounce_localpart"],
            "domains": [s["mail_domain"]],
            "maildir": f"/srv/mail/{s['name']}/Maildir",
        }
        | ({"fetch_unit": f"civicrm-{s['name']}-fetch-bounces.service"} if s.get("job_command") else {})
        for s in sites
    ]


def site_jobs(sites: list[Site], jobs: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Return a timer for each job of each live site that says how to run one (job_command with '{job}')."""
    return [
        {
            "unit": f"civicrm-{s['name']}-{job['name'].replace('_', '-')}",
            "site": s["name"],
            "user": s["user"],
            "job": job["name"],
            "on_calendar": job["on_calendar"],
            "command": s["job_command"]
            .replace("{job}", job["name"])
            .replace("{release}", f"/srv/civicrm/{s['name']}/current"),
            "environment": s["pool_environment"],
        }
        for s in sites
        if s.get("job_command")
        for job in jobs
    ]


def site_fetches(sites: list[Site], jobs: list[dict[str, Any]], at_once: bool) -> list[dict[str, Any]]:
    """Return for each fetch_bounces of site_jobs() its unit, site and mailbox, and whether mail lets it run at once."""
    wanted = {s["name"]: s.get("fetch_bounces_at_once", at_once) for s in sites}
    return [
        {
            "unit": job["unit"],
            "site": job["site"],
            "maildir": f"/srv/mail/{job['site']}/Maildir",
            "at_once": wanted[job["site"]],
        }
        for job in jobs
        if job["job"] == "fetch_bounces"
    ]


def newsletter_archive(sites: list[Site]) -> dict[str, Any]:
    """Return command, user and environment of the live site whose newsletters are published; {} if there is none."""
    for s in sites:
        if s.get("archive_command"):
            command = s["archive_command"].replace("{release}", f"/srv/civicrm/{s['name']}/current")
            return {"command": command, "user": s["user"], "environment": s["pool_environment"]}
    return {}


def site_firewall_entries(sites: list[Site]) -> list[dict[str, Any]]:
    """Return the entries of firewall_map for live CRM sites: what their users may reach, on loopback alone.

    A site whose mail is caught or held cannot reach any mail server by SMTP, this host's included: it has sendmail.
    """
    users = [s["user"] for s in sites]
    senders = [s["user"] for s in sites if s["mail_policy"] == "deliver"]
    purposes = [
        ("sites resolve names", users, "dns", "The sites ask this host's resolver."),
        ("sites read bounces", users, "imaps", "CiviCRM fetches bounces from the site's mailbox."),
        ("sites send mail", senders, "smtp", "Sites with mail_policy deliver, besides sendmail."),
        ("sites submit mail", senders, "submission", "As above, with the site's login."),
    ]
    return [
        {"name": name, "direction": "out", "who": who, "where": ["loopback"], "service": service, "why": why}
        for name, who, service, why in purposes
        if who
    ]


def api_firewall_entries(sites: list[Site], queue: list[str], payment_networks: list[str]) -> list[dict[str, Any]]:
    """Return the entries of firewall_map for live API sites: names, the donation queue, and payment providers if any.

    queue, payment_networks: addresses, networks or "@set".
    """
    users = [s["user"] for s in sites]
    serving = [s["user"] for s in sites if s.get("environment", "production") == "production"]
    trying = [user for user in users if user not in serving]
    purposes = [
        ("api sites resolve names", users, ["loopback"], "dns", "The sites ask this host's resolver."),
        ("donations", serving, queue, "redis", "The donation API pushes donations into the queue."),
        ("trial donations", trying, queue, "redis_trial", "Test and staging push into a queue of their own."),
        ("payment providers", users, payment_networks, "https", "The donation API asks them for payments."),
    ]
    return [
        {"name": name, "direction": "out", "who": who, "where": where, "service": service, "why": why}
        for name, who, where, service, why in purposes
        if who and where
    ]


class FilterModule:
    """Expose the filters to Ansible."""

    def filters(self) -> dict[str, Any]:
        return {
            "site_problems": site_problems,
            "live_sites": live_sites,
            "shown_certificates": shown_certificates,
            "site_served_shared": site_served_shared,
            "site_private_files": site_private_files,
            "site_pools": site_pools,
            "site_databases": site_databases,
            "site_cache_instances": site_cache_instances,
            "site_mail": site_mail,
            "one_click_sites": one_click_sites,
            "site_mailboxes": site_mailboxes,
            "site_return_paths": site_return_paths,
            "site_jobs": site_jobs,
            "newsletter_archive": newsletter_archive,
            "site_fetches": site_fetches,
            "site_firewall_entries": site_firewall_entries,
            "api_firewall_entries": api_firewall_entries,
        }
