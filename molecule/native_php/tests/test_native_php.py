"""The internal host on Debian's own PHP: the version is a variable of each site, nothing else changes (S3, S4)."""

import json

import pytest

SITES = {
    "crm": "crm.torproject.test",
    "staging-crm": "staging.crm.torproject.test",
    "test-crm": "test.crm.torproject.test",
}
PROBE = "<?php echo json_encode([PHP_VERSION, posix_getuid(), get_loaded_extensions()]);"
# What CiviCRM 6 asks for, and what our stores need.
EXTENSIONS = {
    "bcmath",
    "curl",
    "dom",
    "gd",
    "intl",
    "mbstring",
    "mysqli",
    "redis",
    "soap",
    "xml",
    "zip",
    "Zend OPcache",
}


@pytest.mark.parametrize("name", SITES)
def test_each_site_runs_the_php_it_names(browse, front_door, crm_int, name):
    path = f"/srv/civicrm/{name}/web/acceptance-probe.php"
    crm_int.check_output(f"printf %s '{PROBE}' > {path}")
    try:
        status, answer = browse(f"https://{SITES[name]}/acceptance-probe.php", user=front_door)
    finally:
        crm_int.check_output(f"rm {path}")
    assert status == 200, answer
    version, uid, extensions = json.loads(answer.strip().rsplit("\n", 1)[-1])
    assert version.startswith("8.4.")
    assert uid == crm_int.user(name).uid
    assert set(extensions) >= EXTENSIONS


def test_no_other_php_is_installed(crm_int):
    assert crm_int.check_output("ls /etc/php") == "8.4"
