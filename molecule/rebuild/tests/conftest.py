"""Hosts, secrets and patience: see tests/fixtures.py."""

from fixtures import *  # noqa: F403
