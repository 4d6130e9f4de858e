#!/usr/bin/python
# GPL-3.0-or-later
"""Documentation only: converge_lock runs on the controller, see plugins/action/converge_lock.py."""

DOCUMENTATION = r"""
module: converge_lock
short_description: Keep two runs from changing one host at once
description:
  - Takes a lock on the host and holds it until this ansible-playbook process ends, however it ends.
  - If another run holds it, fails and says who and since when.
  - A lock of a controller that is gone, or cut off, ends within a minute.
  - Taken again by the same run, it does nothing. In check mode it does nothing.
author: CiviCRM on two hosts
"""

EXAMPLES = r"""
- name: Take this host's lock
  converge_lock:
"""

RETURN = r"""
"""
