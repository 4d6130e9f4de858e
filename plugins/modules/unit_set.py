#!/usr/bin/python
# GPL-3.0-or-later
"""The host's side of unit_set: see plugins/action/unit_set.py for the controller's."""

from __future__ import annotations

DOCUMENTATION = r"""
module: unit_set
short_description: Replace a set of files together and bring systemd units into their states
description:
  - Does what M(file_set) does, with all its options, and then brings units into their states, in the order of the list.
  - One daemon-reload serves the whole set.
  - A unit for which a changed file asks for a restart or a reload gets it here, whichever set wrote the file, and
    although the
    run that wrote it died. A unit that is not running is started instead.
  - Timers, sockets and paths whose own unit file or drop-in changed are restarted. A unit whose file is removed is
    stopped and
    disabled first.
options:
  name:
    description: Name of the set, unique on the host.
    type: str
    required: true
  entries:
    description: As in M(file_set).
    type: list
    elements: dict
    default: []
  owns:
    description: As in M(file_set).
    type: list
    elements: raw
    default: []
  checks:
    description: As in M(file_set).
    type: list
    elements: dict
    default: []
  commands:
    description: As in M(file_set).
    type: list
    elements: dict
    default: []
  settles:
    description: As in M(file_set).
    type: list
    elements: str
    default: []
  units:
    description: Units, as dictionaries. Evaluated by the plugin, so that a unit can have a loop and a condition.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name with its suffix.
        type: str
        required: true
      state:
        description:
          - started and stopped as in M(ansible.builtin.systemd_service); any leaves it, and does what is asked of it
            if it runs.
        choices: [started, stopped, any]
        default: started
        type: str
      enabled:
        description: Whether it starts at boot; any leaves it as it is.
        choices: [true, false, any]
        default: true
        type: raw
      masked:
        description: Whether it is masked. Left as it is if not given.
        type: bool
      reload_command:
        description: Command that a reload of this unit means, in place of systemctl reload.
        type: str
      defer_while:
        description: Command. As long as its status is 0, a restart waits, and the run says so.
        type: str
      only:
        description:
          - With V(reload), a restart that is asked for is left to another set that names the unit; with V(start), a
            reload, too.
        choices: [reload, start]
        type: str
      loop:
        description: List; the unit stands once for each C(item).
        type: list
        elements: raw
      when:
        description: Expression or list of them. If one is false, the set does not have the unit.
        type: raw
author: CiviCRM on two hosts
"""

EXAMPLES = r"""
- name: Sign mail
  unit_set:
    name: dkim
    entries:
      - src: etc/opendkim.conf.j2
        validate: opendkim -n -x %s
        restart: opendkim.service
    units:
      - name: opendkim.service
"""

RETURN = r"""
paths:
  description: Paths that were changed, or would be.
  type: list
  returned: always
done:
  description: What was done with units and accounts, in words.
  type: list
  returned: always
"""

from ansible.module_utils.set_module import main

if __name__ == "__main__":
    main()
