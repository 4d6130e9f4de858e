"""What the release tool is told, worked out from the list of sites."""

import json

from loading import load

from civicrm_tools.site import release

releases = load("plugins/filter/releases.py")
sites = load("plugins/filter/sites.py")

BASE = {"server_name": "x.example.org", "environment": "test", "php_version": "8.4", "cms": "drupal"}
ARCHIVE = BASE | {
    "name": "a",
    "application": "archive",
    "archive": {"url": "https://example.org/a.tar", "sha256": "AB" * 32},
}
GIT = BASE | {"name": "b", "application": "git", "git": {"repository": "/srv/b.git", "ref": "main"}}
OTHER = BASE | {"name": "c", "application": "external"}


def test_only_sites_with_releases_are_deployed_and_their_jobs_pause():
    live = sites.live_sites([ARCHIVE | {"job_command": "/bin/x {job}"}, GIT, OTHER])
    jobs = sites.site_jobs(live, [{"name": "process_mailing", "on_calendar": "*:0/5"}])
    first, second = releases.site_releases(live, "/srv/civicrm", jobs)
    assert (first["name"], second["name"]) == ("a", "b")
    assert first["pause_units"] == ["civicrm-a-process-mailing"] and second["pause_units"] == []
    assert first["shared"][0] == {"path": "web/sites/default/files", "to": "files"}
    assert first["environment"]["CIVICRM_ENVIRONMENT"] == "test"


def test_a_release_is_named_after_what_is_in_it():
    commit = "c0ffee" * 6 + "abcd"
    made = releases.release_files([ARCHIVE, GIT], "/cache", [{"item": GIT, "stdout": commit}])
    assert made == [
        {"name": "a", "file": "/cache/" + "ab" * 32, "sha256": "ab" * 32, "id": "ab" * 6},
        {"name": "b", "file": f"/cache/{commit}.tar", "sha256": "", "id": "c0ffeec0ffee"},
    ]
    (local,) = releases.release_files([ARCHIVE | {"archive": {"url": "x/a.tar", "sha256": "0" * 64}}], "/cache", [])
    assert local["file"] == "x/a.tar"


def test_what_is_not_served_is_due_and_an_archive_is_sent_once():
    """A site that is new on the host is not listed yet; a release that waits unpacked needs no archive."""

    def fetched(name, release):
        return {"item": {"name": name, "file": "/f", "sha256": "", "id": release}, "stat": {"checksum": "ab" * 32}}

    listed = [json.dumps({"site": name, "current": "one", "releases": ["one", "two"]}) for name in ("a", "b", "c")]
    wanted = {"a": "one", "b": "two", "c": "3", "d": "one"}
    due = releases.releases_due([fetched(*pair) for pair in wanted.items()], listed)
    assert [(d["name"], d["unpacked"]) for d in due] == [("b", True), ("c", False), ("d", False)]
    assert due[0] == {"name": "b", "file": "/f", "sha256": "ab" * 32, "id": "two", "unpacked": True}


def test_shared_directories_are_the_sites_and_what_holds_them_is_roots():
    """Two places of a release may lead to one directory. Others (the web server) get into what is served alone."""
    shared = [{"path": path, "to": to} for path, to in (("files", "files"), ("web/files", "files"), ("log", "log"))]
    private = [{"path": "web/private", "to": "private"}]
    site = {"base": "/srv/a", "user": "u", "web": "web"}
    made = releases.release_shared_directories([site | {"shared": shared + private}, site | {"base": "/srv/b"}])
    assert [(d["path"], d["owner"], d["group"], d["mode"]) for d in made] == [
        ("/srv/a/shared", "root", "u", "0751"),
        ("/srv/a/shared/files", "u", "u", "0755"),
        ("/srv/a/shared/log", "u", "u", "0750"),
        ("/srv/a/shared/private", "u", "u", "0750"),
    ]


def test_the_tool_reads_all_its_keys():
    """A key that the tool does not know, or misses, stops every deployment."""
    (site,) = releases.site_releases(sites.live_sites([ARCHIVE]))
    described = releases.release_description(site, 3, 3, 300)
    assert set(described) == set(release.Site.__dataclass_fields__)
