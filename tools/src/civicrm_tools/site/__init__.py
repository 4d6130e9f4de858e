"""A site of the CRM: its releases, its jobs, and who has logged in.

`release` is the command that deploys and goes back; `layout` knows where releases are and which is served, `archives`
unpacks one, `application` handles what it runs on. `fetch_at_once` starts the job that reads a mailbox when mail comes,
`job_metrics` writes down how jobs end, `front_door_known` tells whether somebody logged in from an address.
"""
