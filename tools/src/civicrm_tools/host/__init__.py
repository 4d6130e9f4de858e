"""A host: its backup, its firewall, its private link and the certificates that its daemons show.

`backup` is the command, `snapshots` the backup host and what lies there. `firewall_apply` loads rules and takes them
back, `firewall_drops` names what they refused. `ipsec_health` is the command of the private link, `ipsec_link` looks at
it, `ipsec_repair` mends it. `certificate_expiry` asks daemons for their certificates.
"""
