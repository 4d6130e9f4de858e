"""Donations: from a queue in Redis to CiviCRM, each recorded exactly once.

`worker` is the service of a queue: `jobs` is the queue as it lies in Redis, `resp` speaks to Redis, `civicrm` records a
donation, `config` reads what Ansible wrote. `queue_tool` is the operator's command for queues and dead letters,
`campaigns` compares the list of campaigns with CiviCRM's. `switch` stops the donation API and `intake_metrics` counts
what it took, `pending` lists what waits for its payment; all three run on ext. `form` is what a job may hold, by the
table that the donation API reads, too.
"""
