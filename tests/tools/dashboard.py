"""Go through both logins to CiviCRM's dashboard in headless Chromium, and say what the browser refused.

    python3 dashboard.py SITE SCREENSHOT <passwords.json

SITE is https://name; passwords.json is {"door": [name, password], "login": [name, password]}. Prints one JSON object:
the dashboard's title, the number of its dashlets, violations of the content security policy and what else the console
says, and writes the screenshot. Needs Debian's chromium, chromium-driver and python3-selenium; any certificate is
taken, as another test verifies it.
"""

from __future__ import annotations

import base64
import json
import re
import sys

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

PAGES = ("/wp-admin/admin.php?page=CiviCRM", "/wp-admin/admin.php?page=CiviCRM&q=civicrm%2Fcontact%2Fsearch&reset=1")


def browser() -> webdriver.Chrome:
    """Return a headless Chromium that keeps its console."""
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000"):
        options.add_argument(argument)
    options.accept_insecure_certs = True
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))


def main(argv: list[str]) -> int:
    """Return 0 when the dashboard was shown; what was refused is for the caller to judge."""
    site, screenshot = argv
    passwords = json.load(sys.stdin)
    chrome = browser()
    try:
        credential = base64.b64encode(":".join(passwords["door"]).encode()).decode()
        chrome.execute_cdp_cmd("Network.enable", {})
        chrome.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {"Authorization": f"Basic {credential}"}})
        wait = WebDriverWait(chrome, 60)
        chrome.get(f"{site}/wp-login.php")
        name, password = passwords["login"]
        wait.until(lambda c: c.find_element(By.ID, "user_login").is_displayed())
        chrome.execute_script(
            "document.getElementById('user_login').value = arguments[0];"
            "document.getElementById('user_pass').value = arguments[1];",
            name,
            password,
        )
        chrome.find_element(By.ID, "wp-submit").click()
        wait.until(lambda c: "wp-login" not in c.current_url)
        console = chrome.get_log("browser")
        for page in reversed(PAGES):
            chrome.get(site + page)
            wait.until(lambda c: c.find_elements(By.CSS_SELECTOR, "#crm-container"))
            wait.until(lambda c: c.execute_script("return document.readyState + (window.CRM ? '' : '?')") == "complete")
            # Dashlets are fetched by script after the page.
            wait.until(lambda c: c.execute_script("return !window.jQuery || jQuery.active === 0"))
            console += chrome.get_log("browser")
        # The last page is the dashboard; its dashlets are drawn by scripts.
        wait.until(lambda c: all(dashlet.text for dashlet in c.find_elements(By.CSS_SELECTOR, ".crm-dashlet")))
        console += chrome.get_log("browser")
        chrome.save_screenshot(screenshot)
        messages = [entry["message"] for entry in console if entry["level"] in ("SEVERE", "WARNING")]
        dashlets = chrome.find_elements(By.CSS_SELECTOR, ".crm-dashlet")
        violations = [message for message in messages if re.search(r"Content Security Policy|EvalError", message)]
        others = [message for message in messages if message not in violations]
        print(
            json.dumps({"title": chrome.title, "dashlets": len(dashlets), "violations": violations, "others": others})
        )
    finally:
        chrome.quit()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
