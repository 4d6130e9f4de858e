#!/usr/bin/python
# GPL-3.0-or-later
"""Documentation only: assert_all runs on the controller, see plugins/action/assert_all.py."""

DOCUMENTATION = r"""
module: assert_all
short_description: Check the variables of a role in one task
description:
  - Evaluates conditions on the controller and fails with the message of the first that does not hold.
  - One task for a role instead of an M(ansible.builtin.assert) for each rule, since each task costs a fork for each
    host. Nothing but the message is shown, so that a list may hold secrets.
options:
  checks:
    description: What must hold, in this order; a check may rely on the earlier ones.
    type: list
    elements: dict
    suboptions:
      that:
        description: One condition or several, as in M(ansible.builtin.assert).
        type: list
        elements: str
        required: true
      fail_msg:
        description: One line that names the variable, what is wrong and what to do.
        type: str
        required: true
      loop:
        description: Check each C(item) of this list.
        type: list
        elements: raw
      when:
        description: Check it under this condition only.
        type: str
      vars:
        description: Variables of this check. They may use C(item) and one another.
        type: dict
  roles:
    description: Directory of roles. With O(profiles), instead of O(checks).
    type: path
  profiles:
    description:
      - Roles whose checks are made, and those of all roles that they import, with the variables that the imports give
        them, before a host is reached. A name without a role, such as a group's, counts for nothing.
    type: list
    elements: str
author: CiviCRM on two hosts
"""

EXAMPLES = r"""
- name: validate | Check the pools
  assert_all:
    checks:
      - that: item.memory_limit_mb > 0
        fail_msg: "php_fpm_pools: memory_limit_mb of '{{ item.name }}' must be above 0"
        loop: "{{ php_fpm_pools }}"
"""

RETURN = r"""
"""
