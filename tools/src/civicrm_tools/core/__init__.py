"""What every tool shares: the frame of a command, files, locks, metrics, programs, systemd.

Nothing here knows mail, sites or donations; each module is one subject with one implementation.
"""
