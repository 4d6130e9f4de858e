"""One inventory, one playbook: a second run changes nothing, and each host converges alone (S1)."""

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from fixtures import quick_strategy


@pytest.mark.mutates
def test_each_host_converges_alone_after_a_reboot_and_nothing_changes(playbook):
    """What an Ansible run finds to do on a host that was only restarted is a defect of the role that does it (S1)."""

    def alone(group: str) -> subprocess.CompletedProcess[str]:
        return playbook("playbooks/site.yml", "--limit", group, timeout=1200, **quick_strategy())

    with ThreadPoolExecutor() as pool:
        for done, host in zip(
            pool.map(alone, ["civicrm_int", "civicrm_ext"]), ["crm-int-01", "crm-ext-01"], strict=True
        ):
            assert done.returncode == 0, done.stdout[-3000:]
            (recap,) = re.findall(rf"^{host} .*ok=(\d+) +changed=(\d+) ", done.stdout, re.M)
            changed = re.findall(r"^TASK \[([^\n]*)\] \**\n(?:(?:ok|skipping): [^\n]*\n)*changed:", done.stdout, re.M)
            assert (int(recap[0]) > 40, recap[1]) == (True, "0"), changed[:5]
