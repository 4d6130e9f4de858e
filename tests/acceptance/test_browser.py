"""A real browser goes through both logins, and the HTTP Observatory scores what stands behind them (S10, S13)."""

import base64
import json
import re
import subprocess

import pytest
from fixtures import ROOT

SITE = "https://crm.torproject.test"
TOOLS = ROOT / "tests" / "tools"
OBSERVATORY = "@mdn/mdn-http-observatory@1.4.8"
# The newest of everything that it brings; later releases do not change a verdict.
OBSERVATORY_BEFORE = "2026-11-19"


@pytest.fixture(scope="module")
def chromium(world):
    """Chromium and its driver on the world, where names resolve as outside."""
    packages = "chromium chromium-driver python3-selenium"
    world.check_output(f"DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends {packages}")
    return world


@pytest.mark.mutates
def test_a_browser_reaches_the_dashboard_and_refuses_nothing(chromium, vault, front_door):
    """The content security policy must fit CiviCRM's own scripts, not only its headers; the screenshot is kept."""
    passwords = {"door": front_door.split(":", 1), "login": ["admin", vault["vault_sites"]["crm"]["admin_password"]]}
    picture = ROOT / ".lab" / "dashboard.png"
    script = (TOOLS / "dashboard.py").read_bytes()
    podman = ["podman", "exec", "-i", "world"]
    subprocess.run([*podman, "sh", "-c", "cat >/tmp/dashboard.py"], input=script, check=True, timeout=30)
    done = subprocess.run(
        [*podman, "python3", "/tmp/dashboard.py", SITE, "/tmp/dashboard.png"],
        input=json.dumps(passwords),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout)
    picture.write_bytes(subprocess.run([*podman, "cat", "/tmp/dashboard.png"], capture_output=True, check=True).stdout)
    assert picture.stat().st_size > 20_000
    assert "CiviCRM" in seen["title"]
    assert seen["violations"] == []


@pytest.fixture(scope="module")
def observatory(world, crm_ext):
    """A function (name, path, headers) -> the Observatory's verdict on that page of ext."""
    directory = ROOT / ".lab" / "observatory"
    if not (directory / "node_modules").is_dir():
        install = [
            "npm",
            "install",
            "--prefix",
            directory,
            "--before",
            OBSERVATORY_BEFORE,
            "--ignore-scripts",
            "--no-audit",
        ]
        subprocess.run([*install, "--no-fund", "--silent", OBSERVATORY], check=True, timeout=300)
        # Its installation would fetch the list of names that browsers preload; none of the lab's is in it.
        (directory / "node_modules/@mdn/mdn-http-observatory/conf/hsts-preload.json").write_text("{}")
    authority = directory / "ca.pem"
    authority.write_text(world.file("/etc/ssl/lab-ca.pem").content_string)
    address = crm_ext.check_output("ip -4 -o address show scope global dev eth0").split()[3].split("/")[0]

    def _observatory(name: str, path: str, headers: dict[str, str]) -> dict:
        done = subprocess.run(
            ["env", f"NODE_EXTRA_CA_CERTS={authority}", "node", TOOLS / "observatory.mjs", name, path, address],
            input=json.dumps(headers),
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return _observatory


@pytest.mark.mutates
def test_the_observatory_gives_the_dashboard_an_a(observatory, browse, world, vault, front_door):
    """On the page after both logins: a 401 has the same headers and nothing to protect."""
    login = {
        "cookie-jar": "/tmp/lab-observatory-cookies",
        "cookie": "wordpress_test_cookie=WP+Cookie+check",
        "data-urlencode": "pwd=" + vault["vault_sites"]["crm"]["admin_password"],
        "data": "log=admin&testcookie=1",
    }
    assert browse(f"{SITE}/wp-login.php", user=front_door, **login)[0] == 302
    jar = world.check_output("cat /tmp/lab-observatory-cookies; rm /tmp/lab-observatory-cookies")
    cookies = re.findall(r"\t(\S+)\t(\S+)$", jar, re.MULTILINE)
    basic = base64.b64encode(front_door.encode()).decode()
    headers = {"Authorization": f"Basic {basic}", "Cookie": "; ".join(f"{name}={value}" for name, value in cookies)}
    verdict = observatory(SITE.removeprefix("https://"), "/wp-admin/admin.php?page=CiviCRM", headers)
    assert verdict["status"] == 200, verdict
    assert verdict["score"] >= 90, verdict


def test_the_observatory_gives_the_donation_api_all_points(observatory):
    """Its answers are for programs and for pages of other origins: nothing has to be allowed."""
    verdict = observatory("donate-api.torproject.test", "/", {})
    assert verdict["status"] == 200, verdict
    assert verdict["score"] >= 100, verdict
