#!/usr/bin/python
# GPL-3.0-or-later
"""Documentation only: print_text runs on the controller, see plugins/action/print_text.py."""

DOCUMENTATION = r"""
module: print_text
short_description: Print a text as it is
description:
  - M(ansible.builtin.debug) shows a text as part of a result, with spaces before each line. In a zone file a line that
    begins with a space belongs to the name above it.
options:
  text:
    description: What is printed on standard output, with a newline.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Print the records
  print_text:
    text: "{{ dns_all_records | dns_text(dns_zones) }}"
"""
