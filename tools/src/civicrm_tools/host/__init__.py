"""A host: its backup (`backup`), its firewall (`firewall_apply`, `firewall_drops`), its private link (`ipsec_health`)
and the certificates that its daemons show (`certificate_expiry`).
"""
