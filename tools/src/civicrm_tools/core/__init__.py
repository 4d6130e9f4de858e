"""What every tool shares, each subject implemented once; nothing here knows mail, sites or donations.

`command`: errors, exit statuses and questions of a command. `files`: replace a file at once, read JSON. `locks`: one
process at a time. `run`: programs. `streams`: a program's output, compressed. `metrics`: Prometheus' text. `systemd`:
ask it, and be its daemon. `mariadb`: dumps. `ssh`: rsync to a host whose key is pinned. `certificates`: days left.
`lazy`: large libraries that a short command does without.
"""
