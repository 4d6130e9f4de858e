"""One table of addresses for everything that must agree on them: the parser and Postfix' table."""

from __future__ import annotations

DOMAIN = "crm.example.org"
LOCALPART = "civicrm+"
HASH = "26d7b951968ebe4b"

# What CiviMail makes today: the world may write to it, and our tools write to it.
TODAY = (
    f"civicrm+b.2936.7009506.{HASH}@{DOMAIN}",
    f"civicrm+u.1.2.{HASH}@{DOMAIN}",
    f"civicrm+o.1.2.{HASH}@{DOMAIN}",
    f"civicrm+e.1.2.{HASH}@{DOMAIN}",
    f"civicrm+r.1.2.{HASH}@{DOMAIN}",
    f"civicrm+c.1.2.{HASH}@{DOMAIN}",
    f"civicrm+u.1.2.zzzzzzzzzzzzzzzz@{DOMAIN}",
    f"civicrm+b.9999999999.9999999999.0123456789ghijkl@{DOMAIN}",
    f"civicrm+b.1.2.{HASH}@CRM.Example.Org",
)

# What only our tools read, in old logs and reports: the world may not write to it.
READ_ONLY = (
    f"civicrm+s.1.2.{HASH}@{DOMAIN}",
    f"unsubscribe.1.2.3.{HASH}@{DOMAIN}",
    f"civicrm+unsubscribe.1.2.3.{HASH}@{DOMAIN}",
    f"optOut.1.2.3.{HASH}@{DOMAIN}",
    f"reply.1.2.3.{HASH}@{DOMAIN}",
    f"bounce.1.2.3.{HASH}@{DOMAIN}",
    f"bounce.1.2.3.{HASH}-user=example.net@{DOMAIN}",
    f"bounce.1.2.3.{HASH}.-first.last=example.net@{DOMAIN}",
    f"subscribe.1.2@{DOMAIN}",
)

# What nobody takes.
NONE = (
    "",
    "@",
    DOMAIN,
    f"@{DOMAIN}",
    f"civicrm+@{DOMAIN}",
    f"civicrm@{DOMAIN}",
    f"civicrm+B.1.2.{HASH}@{DOMAIN}",
    f"Civicrm+b.1.2.{HASH}@{DOMAIN}",
    f"CIVICRM+B.1.2.{HASH}@{DOMAIN}".upper(),
    f"civicrm+b.1.2.{HASH.upper()}@{DOMAIN}",
    f"civicrm+x.1.2.{HASH}@{DOMAIN}",
    f"civicrm+bb.1.2.{HASH}@{DOMAIN}",
    f"civicrm+b.1.2.{HASH[:-1]}@{DOMAIN}",
    f"civicrm+b.1.2.{HASH}0@{DOMAIN}",
    f"civicrm+b.1.{HASH}@{DOMAIN}",
    f"civicrm+b.1.x.{HASH}@{DOMAIN}",
    f"civicrm+b.0.2.{HASH}@{DOMAIN}",
    f"civicrm+b.01.2.{HASH}@{DOMAIN}",
    f"civicrm+b.-1.2.{HASH}@{DOMAIN}",
    f"civicrm+b.1.12345678901.{HASH}@{DOMAIN}",
    f"civicrm+b.1.{'9' * 5000}.{HASH}@{DOMAIN}",
    f"civicrm+b-1-2-{HASH}@{DOMAIN}",
    f"civicrm+b.1.2.{HASH}-user=example.net@{DOMAIN}",
    f"xcivicrm+b.1.2.{HASH}@{DOMAIN}",
    f"civicrmmb.1.2.{HASH}@{DOMAIN}",
    f" civicrm+b.1.2.{HASH}@{DOMAIN}",
    f"civicrm+b.1.2.{HASH}@{DOMAIN} ",
    f"<civicrm+b.1.2.{HASH}@{DOMAIN}>",
    f'"civicrm+b.1.2.{HASH}"@{DOMAIN}',
    f"civicrm+b.1.2.{HASH}@crmxexample.org",
    f"civicrm+b.1.2.{HASH}@{DOMAIN}.evil.example",
    f"civicrm+b.1.2.{HASH}@mail.{DOMAIN}",
    f"civicrm+b.1.2.{HASH}@{DOMAIN}@{DOMAIN}",
    f"civicrm+b.1.2.{HASH}@other.example",
    f"civicrm+b.\u0661.2.{HASH}@{DOMAIN}",
    f"civicrm+b.1.2.{HASH}@crm.ex\u00e4mple.org",
    f"civicrm+b.1.2.{HASH}\0@{DOMAIN}",
    f"unsubscribe.1.2.{HASH}@{DOMAIN}",
    f"UNSUBSCRIBE.1.2.3.{HASH}@{DOMAIN}",
    f"unsubscribe.1.2.3.{HASH}-user=example.net@{DOMAIN}",
    f"bounce.1.2.3.{HASH}-user@{DOMAIN}",
)
