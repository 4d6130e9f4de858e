"""Hosts, secrets and patience: see tests/fixtures.py."""

# pytest finds fixtures by the names in this module.
from fixtures import *  # noqa: F403
