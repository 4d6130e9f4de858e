"""Links of a mailing as programs damage them: which of them lead to the link, and which can only get a page."""

from __future__ import annotations

HASH = "075d2e857b0cb0dd"
CLICK = "/one-click/u.1.2." + HASH


def optout(digest: str = HASH, job: str = "2", queue: str = "1") -> str:
    return f"/civicrm/mailing/optout/?reset=1&jid={job}&qid={queue}&h={digest}"


def harmless(link: str) -> dict[str, str]:
    """Return {what happened to it: the link as it comes}; each is mended."""
    return {
        "a full stop": f"{link}.",
        "a bracket and a comma": f"{link}),",
        "quotes of HTML": f"{link}%22%3E",
        "a blank": f"{link}%20",
        "a line's end": f"{link}%0D%0A",
        "a no-break space": f"{link}%C2%A0",
        "a zero-width space": f"{link}%E2%80%8B.",
        "HTML's ampersand": link.replace("&", "&amp;"),
        "HTML's ampersand twice": link.replace("&", "&amp;amp;"),
        "HTML's ampersand, encoded": link.replace("&", "%26amp%3B"),
        "encoded": link.replace("&", "%26").replace("=", "%3D"),
        "encoded from its question mark on": link.replace("&", "%26").replace("=", "%3D").replace("?", "%3F"),
        "quoted-printable": link.replace("=", "=3D"),
        "counters of clicks": f"{link}&utm_source=news&utm_medium=e-mail&fbclid=IwAR0_x-y",
        "a counter in front": link.replace("?", "?mc_cid=ab12&"),
        "several": link.replace("&", "&amp;") + "&amp;utm_source=news.",
    }


def beyond_repair(link: str) -> dict[str, str]:
    """Return the same for what gets the page that helps."""
    return {
        "cut": link[:-3],
        "a letter more": f"{link}x",
        "an unknown parameter": f"{link}&ref=1",
        "a route": f"{link}&q=civicrm/dashboard",
        "a route, encoded": f"{link}%26q=civicrm/dashboard",
        "a route behind a counter": f"{link}&utm_source=x&page=CiviCRM",
        "a parameter twice": f"{link}&amp;jid=3",
    }
