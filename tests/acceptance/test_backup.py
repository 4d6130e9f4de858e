"""A restore trusts neither what the sites left in a snapshot, nor the host that keeps it."""

import json
import re

import pytest

pytestmark = pytest.mark.mutates

TRIAL = "/srv/civicrm/test-crm/restore-trial"
OUTSIDE = "/var/tmp/restore-trial"
PREPARE = f"""
set -e
install -d -o test-crm -g test-crm {TRIAL}
install -d -m 0777 {OUTSIDE}
cat >/var/tmp/restore-trial.py <<'END'
import os, socket
os.makedirs("folder")
for name in ("folder/page", "file", "setuid"):
    with open(name, "w") as sink:
        sink.write("from the snapshot")
os.chmod("setuid", 0o6755)
os.mkfifo("pipe")
for _ in range(105):
    os.mkdir("d")
    os.chdir("d")
open("a", "w").close()
os.link("a", "b")
END
cd {TRIAL}
runuser -u test-crm -- python3 -I /var/tmp/restore-trial.py
"""
# As the site, after the snapshot.
LATER = f"""
cd {TRIAL} && rm -r folder file setuid d && ln -s {OUTSIDE} folder && mkdir -p file/inside
"""


@pytest.fixture(scope="module")
def snapshot(crm_int):
    """Make a snapshot of what a hostile site left, and return its name."""
    try:
        crm_int.run_expect([0], PREPARE)
        crm_int.check_output("systemctl start civicrm-backup.service")
        yield json.loads(crm_int.file("/var/lib/civicrm-backup/last-success.json").content)["snapshot"]
    finally:
        crm_int.check_output(f"rm -rf {TRIAL} {OUTSIDE} /var/tmp/restore-trial.py")


def test_a_site_leads_a_restore_nowhere_and_stops_nothing(crm_int, snapshot):
    """Root unpacks beside the sites' own processes: a link in the way once led it out, a directory ended it."""
    crm_int.run_expect([0], f"runuser -u test-crm -- sh -ec '{LATER}'")
    done = crm_int.run_expect([1], f"civicrm-backup restore --snapshot {snapshot} --path /srv/civicrm")
    assert re.search(r"not restored: '.*/pipe': it is a device or a pipe", done.stderr)
    assert re.search(r"not restored: '.*/file': a directory lies in its place", done.stderr)
    assert re.search(r"not as it was: '.*/setuid': mode 6755 is 755 now", done.stderr)
    assert done.stderr.splitlines()[-1].startswith("civicrm-backup: /srv/civicrm did not come back whole")
    assert crm_int.check_output(f"ls -A {OUTSIDE}") == ""
    assert crm_int.file(f"{TRIAL}/folder/page").content_string == "from the snapshot"
    assert crm_int.file(f"{TRIAL}/folder/page").user == "test-crm"
    assert crm_int.file(f"{TRIAL}/setuid").mode == 0o755
    deepest = f"{TRIAL}/{'/'.join('d' * 105)}"
    assert crm_int.check_output(f"stat -c %h {deepest}/b") == "2"
    # The web server's way into the sites, an ACL, came back with them.
    assert crm_int.run("runuser -u www-data -- test -x /srv/civicrm/test-crm").rc == 0


def test_what_the_backup_host_has_changed_is_not_restored(crm_int, ops, snapshot):
    """Whoever breaks into it may write any snapshot, and checksums to fit; the key that signs is not there."""
    assert "is whole and signed by this host" in crm_int.check_output("civicrm-backup verify")
    manifest = f"/srv/backup/crm-int-01/{snapshot}/manifest.json"
    before = json.loads(ops.file(manifest).content)
    restore = f"civicrm-backup restore --snapshot {snapshot} --path /var/lib/newsletter-archive"

    def write(values: dict) -> None:
        ops.run_expect([0], f"cat >{manifest} <<'END'\n{json.dumps(values)}\nEND")

    try:
        write(before | {"absent": ["/srv/other"]})
        assert "has a signature of another key" in crm_int.run_expect([1], restore).stderr
        write({key: value for key, value in before.items() if key != "signature"})
        assert "is not signed" in crm_int.run_expect([1], restore).stderr
        assert crm_int.run(f"{restore} --unauthenticated").rc == 0
    finally:
        write(before)
    assert crm_int.run(restore).rc == 0
