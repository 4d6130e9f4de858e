"""A role's files are replaced together or not at all, and a run that dies is mended by the next (N33, N34)."""

import json
import os
import re
import subprocess
import time

import pytest
from fixtures import ROOT, ansible_environment, quick_strategy
from killed_runs import converge_killed_after, drift, look, results_in, stale, wait_for_the_lock

# Daemons that must have read what was written, and the files they read.
INT = {
    "apache2.service": "/etc/apache2/sites-enabled/*.conf /etc/apache2/conf-enabled/*.conf",
    "bounce-breaker.service": "/usr/local/lib/civicrm-tools/src/civicrm_tools/mail/*.py",
    "dovecot.service": "/etc/dovecot/dovecot.conf",
    "mariadb.service": "/etc/mysql/mariadb.conf.d/90-civicrm.cnf",
    "mtail.service": "/etc/mtail/postfix.mtail",
    "opendkim.service": "/etc/opendkim.conf",
    "postfix.service": "/etc/postfix/main.cf /etc/postfix/master.cf",
    "postfix-pace.service": "/usr/local/lib/civicrm-tools/src/civicrm_tools/mail/pace.py",
    "prometheus-node-exporter.service": "/etc/default/prometheus-node-exporter",
    "redis-server@queue.service": "/etc/redis/redis-queue.conf",
    "ssh.service": "/etc/ssh/sshd_config.d/10-civicrm.conf",
    "unbound.service": "/etc/unbound/unbound.conf.d/civicrm.conf",
}
EXT = {
    "apache2.service": "/etc/apache2/sites-enabled/*.conf /etc/apache2/conf-enabled/*.conf",
    "fail2ban.service": "/etc/fail2ban/jail.d/civicrm.local",
    "postfix.service": "/etc/postfix/main.cf",
    "ssh.service": "/etc/ssh/sshd_config.d/10-civicrm.conf",
    "unbound.service": "/etc/unbound/unbound.conf.d/civicrm.conf",
}
# Of a converge that changes every role; the bench asks for more of them.
# What builds from before the sets, and former inventories, wrote without a manifest.
OURS = "Managed by Ansible: change the inventory, not this file."
FORMER_INT = [
    "/etc/systemd/system/dovecot.service.d/restart.conf",
    "/etc/systemd/system/opendkim.service.d/restart.conf",
    "/etc/systemd/system/postfix.service.d/restart.conf",
    "/etc/systemd/system/civicrm-former.timer",
    "/etc/apache2/sites-enabled/former.example.conf",
    "/etc/redis/redis-former.conf",
    "/usr/local/lib/civicrm-tools/src/civicrm_tools/former/__init__.py",
    "/usr/local/lib/donation-worker/donation_worker/former.py",
    "/usr/local/lib/mail-tools/mail_tools/__pycache__/former.cpython-313.pyc",
    "/usr/local/lib/mail-tools/mail_tools/former.py",
]
# Trees that a set owns, or owned in an earlier build.
EMPTIED = [
    "/usr/local/lib/civicrm-tools/src/civicrm_tools/former",
    "/usr/local/lib/donation-worker",
    "/usr/local/lib/mail-tools",
]
FORMER_EXT = [
    "/etc/apache2/conf-enabled/front-door.conf",
    "/etc/apache2/mods-enabled/former.load",
    "/etc/apache2/sites-enabled/former.example.conf",
    "/etc/fail2ban/filter.d/civicrm-former.conf",
    "/etc/one-click/former.json",
]
STRANGER = "/etc/apache2/sites-enabled/stranger.conf"
COUNT = int(os.environ.get("N34_MOMENTS", "4"))
MOMENTS = [round(number / (COUNT + 1), 2) for number in range(1, COUNT + 1)]


@pytest.fixture(scope="module")
def undisturbed(crm_int, crm_ext, playbook):
    """What hosts of an earlier build look like after a converge that nobody killed: both hosts, and what it printed."""
    for host, former in ((crm_int, FORMER_INT), (crm_ext, FORMER_EXT)):
        drift(host)
        host.check_output("rm -r /var/lib/file-sets/manifests")
        for path in former:
            host.check_output(f"mkdir -p $(dirname {path}) && echo '# {OURS}' >{path}")
    crm_ext.check_output(f"echo '# of somebody else' >{STRANGER}")
    done = playbook("playbooks/site.yml", **quick_strategy())
    assert done.returncode == 0, done.stdout[-3000:]
    yield look(crm_int), look(crm_ext), done.stdout + done.stderr
    crm_ext.check_output(f"rm {STRANGER}")


@pytest.mark.mutates
def test_a_host_of_an_earlier_build_keeps_nothing_stale(undisturbed, crm_int, crm_ext):
    """It has no manifests: what our playbooks wrote then goes, and somebody else's file is named and stays (N33)."""
    for host, former in ((crm_int, FORMER_INT), (crm_ext, FORMER_EXT)):
        assert [path for path in [*former, *EMPTIED] if host.file(path).exists] == []
    assert crm_ext.file(STRANGER).exists
    assert f"{STRANGER} is not ours and stays" in " ".join(undisturbed[2].split())


@pytest.mark.mutates
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_converge_is_mended_by_the_next(undisturbed, moment, crm_int, crm_ext, playbook):
    """Every file of every role was changed; whatever the killed run did, the hosts end as undisturbed ones (N34)."""
    before_int, before_ext, output = undisturbed
    for host in (crm_int, crm_ext):
        drift(host)
    # Through mitogen the host's side dies with the controller's.
    assert converge_killed_after(int(moment * results_in(output)), **quick_strategy())
    wait_for_the_lock([crm_int, crm_ext])
    done = playbook("playbooks/site.yml", **quick_strategy())
    assert done.returncode == 0, done.stdout[-3000:]
    assert (look(crm_int), look(crm_ext)) == (before_int, before_ext)
    assert stale(crm_int, INT) + stale(crm_ext, EXT) == []
    assert before_int["left behind"] == before_ext["left behind"] == []


@pytest.mark.mutates
def test_the_second_converge_of_a_host_says_who_runs_the_first(crm_int):
    """Two at once would undo each other's work; the second ends before it changes anything (N34)."""
    first = subprocess.Popen(
        ["ansible-playbook", "playbooks/site.yml", "--limit", "civicrm_int"],
        cwd=ROOT,
        env=ansible_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while crm_int.run("flock --nonblock /run/converge.lock true").rc == 0:
            assert first.poll() is None, "the first converge ended without a lock"
            time.sleep(0.2)
        second = subprocess.run(
            ["ansible-playbook", "playbooks/site.yml", "--limit", "civicrm_int"],
            cwd=ROOT,
            env=ansible_environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert second.returncode != 0
        assert "another run is changing this host: root on " in second.stdout
        assert f"process {first.pid}, since 20" in second.stdout.replace("\n", " ")
        assert "changed=0" in second.stdout
    finally:
        first.terminate()
        first.wait(timeout=60)
    assert wait_for_the_lock([crm_int]) < 60


def test_a_check_of_bare_hosts_names_what_would_come():
    """A dry run comes first on a new host, which has no package lists, users or services (S1)."""
    log = (ROOT / ".lab" / "logs" / "default-check.log").read_text()
    assert "+++ after: /etc/postfix/main.cf" in log and "+++ after: /etc/apache2/ports.conf" in log
    assert "mariadb-server" in log and "account crm is to come" in log
    assert "started mariadb.service" in log and "apache2.service is to come" in log
    recaps = re.findall(r"^(crm-\S+) .*changed=(\d+) +unreachable=0 +failed=0", log, re.M)
    assert [(host, int(changed) > 15) for host, changed in recaps] == [("crm-ext-01", True), ("crm-int-01", True)]


def ad_hoc(module: str, arguments: dict, host: str = "crm-int-01") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ansible", host, "-m", module, "-a", json.dumps(arguments)],
        cwd=ROOT,
        env=ansible_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.mutates
def test_a_file_that_its_daemon_refuses_leaves_the_whole_set(crm_int):
    """One line that names the file and the parser's words; its good neighbour is not written either (N33)."""
    broken = {
        "name": "trial",
        "entries": [
            {"dest": "/etc/mysql/mariadb.conf.d/98-trial.cnf", "content": "[mariadbd]\n"},
            {
                "dest": "/etc/mysql/mariadb.conf.d/99-trial.cnf",
                "content": "[mariadbd]\nno_such_option = 1\n",
                "validate": "mariadbd --defaults-file=%s --user=mysql --verbose --help",
                "restart": "mariadb.service",
            },
        ],
        "units": [{"name": "mariadb.service"}],
    }
    started = crm_int.check_output("systemctl show -p MainPID --value mariadb.service")
    done = ad_hoc("unit_set", broken)
    said = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert "trial: /etc/mysql/mariadb.conf.d/99-trial.cnf is refused by 'mariadbd" in said
    assert "no_such_option" in said.replace("-", "_")
    assert crm_int.run("ls /etc/mysql/mariadb.conf.d/*-trial.cnf").rc != 0
    assert crm_int.check_output("systemctl show -p MainPID --value mariadb.service") == started


@pytest.mark.mutates
def test_a_boot_completes_what_a_killed_run_had_begun(crm_int):
    """The journal that a run left is finished before any daemon starts (N34)."""
    crm_int.check_output("mkdir -p /var/lib/file-sets/journals /etc/trial")
    crm_int.check_output("cd /etc/trial && printf old >a && printf new >.a.dpkg-new")
    journal = {
        "state": "committed",
        "staged": {"/etc/trial/a": "/etc/trial/.a.dpkg-new"},
        "made": [],
        "operations": [{"action": "rename", "path": "/etc/trial/a", "staged": "/etc/trial/.a.dpkg-new"}],
        "manifest": [],
        "marks": {"boot": "", "units": {}, "commands": [], "notify": [], "daemon_reload": False},
    }
    try:
        crm_int.check_output("printf %%s %s >/var/lib/file-sets/journals/trial.json", json.dumps(journal))
        crm_int.check_output("systemctl start file-sets.service")
        assert crm_int.check_output("cat /etc/trial/a") == "new"
        assert crm_int.run("ls /var/lib/file-sets/journals/trial.json").rc != 0
        before = crm_int.check_output("systemctl show -p Before --value file-sets.service")
        assert "sysinit.target" in before
    finally:
        crm_int.check_output("rm -rf /etc/trial /var/lib/file-sets/*/trial.json")
