"""A site of the internal host as its operator gets it: vhost, jobs, health page."""

from __future__ import annotations

import re

import pytest
from loading import ROOT, load

from civicrm_tools.mail import mailing_state, obstacles

sites = load("plugins/filter/sites.py")

SITE = {
    "name": "staging-crm",
    "server_name": "staging.crm.example.org",
    "environment": "staging",
    "state": "live",
    "cms": "drupal",
    "php_version": "8.4",
    "mail_policy": "catch",
    "docroot": "/srv/civicrm/staging-crm/web",
    "job_command": "/usr/local/bin/cv --cwd=/srv/x api3 job.{job}",
}
DOORS = ["10.77.0.12", "fd77::12"]


@pytest.fixture
def vhost(render):
    """Render the vhost of one site; keywords change its entry in civicrm_int_sites."""

    def _render(**site) -> str:
        (item,) = sites.live_sites([SITE | site])
        return render(
            "civicrm_int",
            "etc/apache2/sites-available/site.conf",
            item=item,
            civicrm_int_inner_addresses=["10.77.0.11", "fd77::11"],
            civicrm_int_front_door_addresses=DOORS,
        )

    return _render


def section(text: str, opening: str) -> str:
    """What stands between an opening line and its closing tag."""
    tag = opening.split()[0]
    return re.search(rf"<{re.escape(opening)}>(.*?)</{tag}>", text, re.DOTALL)[1]


def gone(text: str, path: str) -> bool:
    """Whether Apache answers 404 to the path, whatever the application would say."""
    return any(re.search(pattern, path) for pattern in re.findall(r'^\s*RedirectMatch 404 "(.*)"$', text, re.MULTILINE))


def test_the_site_answers_on_inner_addresses_only(vhost):
    text = vhost()
    assert re.findall(r"<VirtualHost (.*)>", text) == ["10.77.0.11:443 [fd77::11]:443"]
    assert "ServerName staging.crm.example.org\n" in text
    assert "SSLEngine on" in text
    assert "SSLCertificateFile /etc/ssl/civicrm/staging.crm.example.org.pem" in text


def options_of(text: str) -> dict[str, str]:
    """The Options of each directory."""
    return dict(re.findall(r'<Directory "(.*)">\s*Options (.*)\n', text))


def test_a_link_where_a_site_writes_leads_to_its_own_files_or_nowhere(vhost):
    """Apache serves all sites as one user: a link could lead into another site."""
    assert options_of(vhost(application="external")) == {SITE["docroot"]: "SymLinksIfOwnerMatch"}
    released = {"application": "archive", "archive": {"url": "x", "sha256": "0" * 64}}
    current = "/srv/civicrm/staging-crm/current"
    site = {key: value for key, value in SITE.items() if key != "docroot"}
    for cms, web, files in (
        ("drupal", "/web", "sites/default/files"),
        ("wordpress", "", "wp-content/uploads"),
        ("standalone", "", "public"),
    ):
        (item,) = sites.live_sites([site | released | {"cms": cms}])
        found = options_of(vhost(**item))
        assert found[current + web] == "FollowSymLinks", "links in a release are root's and lead into shared/"
        assert found[f"{current}{web}/{files}"] == "SymLinksIfOwnerMatch"


def test_private_places_of_each_cms_are_closed():
    """What CiviCRM keeps among its public files, and settings, are for the site's own user."""
    (item,) = sites.live_sites([SITE | {"cms": "wordpress"}])
    files = sites.site_private_files([item])
    assert {f["group"] for f in files} == {"staging-crm"}
    below = {f["pattern"].removeprefix(SITE["docroot"] + "/") for f in files}
    assert {"wp-config.php", "civicrm.settings.php", ".env", "wp-content/uploads/civicrm/upload"} <= below
    assert "wp-content/uploads/civicrm/persist" not in below, "its public files"


def test_only_the_front_door_may_enter(vhost):
    """All at once: its address, its credential and its mark. One alone is a stolen password, or a process on ext."""
    location = section(vhost(), 'Location "/"')
    both = section(location, "RequireAll")
    assert "Require valid-user" in both
    assert "Require expr \"%{CONN_REMOTE_ADDR} in { '10.77.0.12', 'fd77::12' }\"" in both
    assert len(re.findall(r"^\s*Require ", location, re.MULTILINE)) == 3
    mark = re.search(r"Require expr \"req_novary\('X-Front-Door'\) =~ m#(.*)#\"", both)[1]
    for value, known in {
        "password": True,
        "public page view": True,
        "": False,
        "passwords": False,
        "public": False,
    }.items():
        assert bool(re.search(mark, value)) is known, value
    assert "AuthUserFile /etc/apache2/civicrm/front-door.htpasswd" in location
    # %{REMOTE_ADDR} and `Require ip` follow mod_remoteip: a header would then decide.
    assert "Require ip" not in location


def test_the_persons_address_is_believed_from_the_front_door_alone(vhost):
    text = vhost()
    assert re.findall(r"RemoteIPInternalProxy (\S+)", text) == DOORS
    unset = re.findall(r"^\s*RequestHeader unset (\S+)", text, re.MULTILINE)
    assert {"X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Server", "X-Forwarded-Port", "Forwarded"} <= set(
        unset
    )


def test_php_looks_at_each_request_before_the_site_does(vhost):
    """An admin value that each request brings: neither the site nor a worker can lose it."""
    script = "/usr/local/share/civicrm/front-door.php"
    assert f'ProxyFCGISetEnvIf "true" PHP_ADMIN_VALUE "auto_prepend_file={script}"' in vhost()
    assert (ROOT / f"roles/civicrm_int/files{script}").is_file()


def test_a_public_file_that_does_not_exist_is_no_route(vhost):
    text = vhost()
    rule = re.search(r"RewriteEngine On\n(.*?)RewriteRule \"\^\" \"-\" \[R=404,L\]", text, re.DOTALL)[1]
    assert 'RewriteCond "%{HTTP:X-Front-Door}" "^public asset " [NV]' in rule
    assert 'RewriteCond "%{DOCUMENT_ROOT}%{REQUEST_URI}" "!-f"' in rule


def test_the_log_says_which_public_path_it_was(vhost):
    assert 'SetEnvIf X-Front-Door "^public [a-z]+ ([a-z0-9-]+)" public_path=$1' in vhost()
    assert re.search(r'CustomLog \S+ "%v %h %\{public_path\}e - ', vhost())


def test_the_front_doors_credential_ends_at_apache(vhost):
    """CiviCRM would take a Basic header for a login of its own."""
    assert re.search(r"^\s*RequestHeader unset Authorization$", vhost(), re.MULTILINE)


@pytest.mark.parametrize("cms", ["drupal", "wordpress", "standalone"])
def test_clean_urls_reach_the_front_controller_and_missing_php_files_do_not_reach_php(vhost, cms):
    text = vhost(cms=cms)
    directory = section(text, f'Directory "{SITE["docroot"]}"')
    assert "FallbackResource /index.php" in directory
    assert "AllowOverride None" in directory
    php = section(section(text, r'FilesMatch "\.php$"'), 'If "-f %{REQUEST_FILENAME}"')
    assert 'SetHandler "proxy:unix:/run/php/staging-crm.sock|fcgi://staging-crm"' in php


def test_php_gets_the_real_path_of_a_release_and_other_sites_are_left_alone(vhost):
    """OPcache keys by path: through the link it would go on with the release before."""
    text = vhost(
        application="archive", docroot="/srv/civicrm/staging-crm/current/web", release_path="/srv/x/release-path"
    )
    assert '=~ m#/current(/.*)$#" SCRIPT_FILENAME "%{file:/srv/x/release-path}$1"' in text
    assert 'DOCUMENT_ROOT "%{file:/srv/x/release-path}$1"' in text
    assert "SCRIPT_FILENAME" not in vhost()


@pytest.mark.parametrize("cms", ["drupal", "wordpress", "standalone"])
@pytest.mark.parametrize(
    "path",
    [
        "/sites/default/files/civicrm/ConfigAndLog/CiviCRM.abc.log",
        "/wp-content/uploads/civicrm/upload/x.pdf",
        "/wp-content/uploads/civicrm/templates_c/en_US/x.php",
        "/sites/default/files/civicrm/custom/passport.jpg",
        "/sites/default/civicrm.settings.php",
        "/vendor/autoload.php",
        "/composer.json",
        "/composer.lock",
        "/backup/dump.sql",
        "/.git/HEAD",
        "/site.sql.gz",
    ],
)
def test_no_cms_serves_what_is_private(vhost, cms, path):
    assert gone(vhost(cms=cms), path)


@pytest.mark.parametrize("cms", ["drupal", "wordpress", "standalone"])
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/index.php",
        "/civicrm/mailing/unsubscribe",
        "/civicrm/mailing/open",
        "/sites/all/modules/civicrm/ext/x/y.js",
        "/sites/default/files/civicrm/ext/x/y.js",
        "/sites/default/files/civicrm/persist/contribute/banner.png",
        "/wp-content/uploads/2026/01/photo.jpg",
        "/.well-known/security.txt",
    ],
)
def test_every_cms_serves_what_people_need(vhost, cms, path):
    """ext and persist hold the files of extensions and of public pages: denying them breaks CiviCRM."""
    assert not gone(vhost(cms=cms), path)


DENIED = {
    "drupal": [
        "/sites/default/files/shell.php",
        "/sites/default/files/a/b.phtml",
        "/sites/default/settings.php",
        "/sites/default/settings.local.php",
        "/sites/default/services.yml",
        "/sites/default/private/x.pdf",
        "/core/install.php",
        "/update.php",
        "/modules/x/x.module",
        "/themes/x/page.html.twig",
    ],
    "wordpress": [
        "/wp-content/uploads/shell.php",
        "/wp-content/uploads/2026/shell.phar",
        "/xmlrpc.php",
        "/wp-config.php",
        "/wp-admin/install.php",
        "/wp-admin/setup-config.php",
        "/readme.html",
    ],
    "standalone": [
        "/private/compiler_cache/x.php",
        "/private",
        "/data/x",
        "/setup/install.sql",
        "/public/media/shell.php",
        "/civicrm.standalone.php",
        "/civicrm.config.php",
    ],
}


@pytest.mark.parametrize(("cms", "path"), [(cms, path) for cms, paths in DENIED.items() for path in paths])
def test_each_cms_keeps_its_own_private_paths(vhost, cms, path):
    assert gone(vhost(cms=cms), path)


@pytest.mark.parametrize(
    ("cms", "path"),
    [
        ("wordpress", "/wp-admin/admin.php"),
        ("wordpress", "/wp-login.php"),
        ("wordpress", "/wp-cron.php"),
        ("drupal", "/core/misc/drupal.js"),
        ("drupal", "/user/login"),
        ("standalone", "/core/packages/jquery/jquery.min.js"),
        ("standalone", "/public/media/logo.png"),
    ],
)
def test_each_cms_serves_its_own_pages(vhost, cms, path):
    assert not gone(vhost(cms=cms), path)


@pytest.mark.parametrize("cms", ["drupal", "wordpress", "standalone"])
def test_each_cms_has_its_own_rules_and_no_other(vhost, cms):
    rules = {name: set(re.findall(r"RedirectMatch 404 .*", vhost(cms=name))) for name in DENIED}
    assert rules[cms] - set.union(*(rules[other] for other in DENIED if other != cms))


def job(name: str = "process_mailing") -> dict:
    (item,) = sites.site_jobs(sites.live_sites([SITE]), [{"name": name, "on_calendar": "*:0/5"}])
    return item


def test_a_job_runs_as_its_sites_user_and_ends_some_day(render):
    text = render("civicrm_int", "etc/systemd/system/civicrm-job.service", item=job())
    assert "User=staging-crm\n" in text
    assert "ExecStart=/usr/local/bin/cv --cwd=/srv/x api3 job.process_mailing\n" in text
    assert 'Environment="CIVICRM_ENVIRONMENT=staging"\n' in text
    assert re.search(r"^Type=oneshot$", text, re.MULTILINE)
    assert re.search(r"^TimeoutStartSec=\d+h$", text, re.MULTILINE)


def test_a_job_may_still_hand_mail_to_sendmail(render):
    """Any non-zero exit of sendmail is booked as a bounce: what implies NoNewPrivileges stops the setgid postdrop."""
    text = render("civicrm_int", "etc/systemd/system/civicrm-job.service", item=job())
    directives = {line.split("=")[0] for line in text.splitlines() if "=" in line and not line.startswith("#")}
    implying = {"NoNewPrivileges", "SystemCallFilter", "RestrictNamespaces", "PrivateDevices", "ProtectKernelModules"}
    assert not directives & (implying | {"MemoryDenyWriteExecute", "RestrictSUIDSGID", "DynamicUser"})
    assert "ProtectSystem=full\n" in text  # strict would close Postfix's maildrop


def test_mailing_status_reads_from_a_unit_whose_mailings_it_works_off(render):
    """Of a site whose mail is caught or held a stopped job is no alarm."""
    text = render("civicrm_int", "etc/systemd/system/civicrm-job.service", item=job())
    assert obstacles.SITE_OF_JOB.findall(text) == ["staging-crm"]
    assert f"!{mailing_state.path('off')}\n" in text


def test_a_job_waits_for_its_application(render):
    text = render("civicrm_int", "etc/systemd/system/civicrm-job.service", item=job())
    assert "ConditionFileIsExecutable=/usr/local/bin/cv\n" in text


def test_the_timer_keeps_the_given_times(render):
    text = render("civicrm_int", "etc/systemd/system/civicrm-job.timer", item=job("fetch_bounces"))
    assert "OnCalendar=*:0/5\n" in text
    assert "WantedBy=timers.target" in text
    # Missed runs are not made up for: the next one does the same work.
    assert "Persistent" not in text


def test_the_health_page_names_the_site_and_gives_nothing_away(render):
    (item,) = sites.live_sites([SITE])
    text = render("civicrm_int", "srv/health.php", item=item)
    assert text.startswith("<?php\n")
    assert "'site' => 'staging-crm', 'environment' => 'staging', 'status' => 'ok'" in text
    assert "no-store" in text
    assert not re.search(r"phpinfo|_SERVER|_GET|phpversion", text)


@pytest.mark.parametrize(("job", "stops"), [("process_mailing", True), ("fetch_bounces", False)])
def test_the_switch_of_mailings_stops_mailings_and_not_bounces(render, job, stops):
    """Bounces of what was sent still have to be read while nothing is sent (S18)."""
    (item, *_) = sites.site_jobs(sites.live_sites([SITE]), [{"name": job, "on_calendar": "*:0/5"}])
    text = render("civicrm_int", "etc/systemd/system/civicrm-job.service", item=item)
    found = re.findall(r"^ConditionPathExists=!/var/lib/mail-tools/(\w+)\.json$", text, re.MULTILINE)
    assert found == (["off", "panic"] if stops else [])


def test_mail_starts_the_unit_that_the_timer_starts(render):
    """One unit is one lock: the job never runs twice at a time (S43)."""
    live = sites.live_sites([SITE])
    jobs = sites.site_jobs(
        live, [{"name": name, "on_calendar": "*:0/5"} for name in ("process_mailing", "fetch_bounces")]
    )
    (item,) = sites.site_fetches(live, jobs, False)
    assert item["maildir"] == sites.site_return_paths(live)[0]["maildir"]
    service = render("civicrm_int", "etc/systemd/system/civicrm-at-once.service", item=item)
    (started,) = re.findall(r"^ExecStart=/usr/local/sbin/civicrm-fetch-at-once (\S+) (\S+)$", service, re.MULTILINE)
    assert started == (sites.site_return_paths(live)[0]["fetch_unit"], item["maildir"])
    path = render("civicrm_int", "etc/systemd/system/civicrm-at-once.path", item=item)
    assert f"PathChanged={item['maildir']}/new\n" in path
    assert f"Unit={item['unit']}-at-once.service\n" in path


def test_whoever_stops_the_timer_stops_what_starts_the_job_at_once(render):
    """A deployment and a restore stop timers: no job may run into an upgrade, and all is back afterwards."""
    live = sites.live_sites([SITE])
    (item,) = sites.site_fetches(live, sites.site_jobs(live, [{"name": "fetch_bounces", "on_calendar": "*:0/5"}]), True)
    for kind in ("path", "service"):
        assert f"PartOf={item['unit']}.timer\n" in render(
            "civicrm_int", f"etc/systemd/system/civicrm-at-once.{kind}", item=item
        )
    assert f"WantedBy={item['unit']}.timer" in render(
        "civicrm_int", "etc/systemd/system/civicrm-at-once.path", item=item
    )


@pytest.mark.parametrize(
    ("host", "site", "watched"),
    [
        (False, {}, False),
        (True, {}, True),
        (True, {"fetch_bounces_at_once": False}, False),
        (False, {"fetch_bounces_at_once": True}, True),
    ],
)
def test_a_site_decides_for_itself_whether_mail_is_fetched_at_once(host, site, watched):
    live = sites.live_sites([SITE | site])
    (item,) = sites.site_fetches(live, sites.site_jobs(live, [{"name": "fetch_bounces", "on_calendar": "*:0/5"}]), host)
    assert item["at_once"] is watched


def test_each_run_of_a_job_is_measured_and_a_failed_measurement_stops_none(render):
    (item,) = sites.site_jobs(sites.live_sites([SITE]), [{"name": "fetch_bounces", "on_calendar": "*:0/5"}])
    text = render("civicrm_int", "etc/systemd/system/civicrm-job.service", item=item)
    for directive, event in (("ExecStartPre", "start"), ("ExecStopPost", "end")):
        assert (
            f"{directive}=-+/usr/local/sbin/civicrm-job-metrics {event} {item['unit']} staging-crm fetch_bounces\n"
            in text
        )


def test_a_silent_php_is_said_in_the_front_doors_words(vhost):
    """The front door has them for a host that is away; it hands on what int answers, which was Apache's stock page."""
    door = ROOT / "roles/civicrm_ext/templates/etc/apache2/sites-available/front-door.conf.j2"
    pattern = r'^\s*ErrorDocument (50\d) "(.*)"$'
    said = dict(re.findall(pattern, vhost(), re.MULTILINE))
    assert set(said) == {"502", "503", "504"}
    assert said == dict(re.findall(pattern, door.read_text(), re.MULTILINE))
