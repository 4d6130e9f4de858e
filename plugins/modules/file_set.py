#!/usr/bin/python
# GPL-3.0-or-later
"""The host's side of file_set: see plugins/action/file_set.py for the controller's."""

from __future__ import annotations

DOCUMENTATION = r"""
module: file_set
short_description: Replace a set of files together, or not at all
description:
  - Renders all templates of a set on the controller, and compares, checks and replaces its files on the host in one
    call.
  - All changed files are shown to their parsers as candidates before the first one is replaced.
  - Files are replaced by rename under a journal in /var/lib/file-sets. A run that is killed leaves the old set, the
    new one,
    or a journal that the next run, or the unit file-sets.service at boot, completes.
  - What a changed file asks for (O(entries[].restart), O(entries[].reload), O(commands), O(entries[].notify)) is kept
    on the
    host until it is done, so a run that is killed before it loses nothing.
  - Files below /etc/sysusers.d and /etc/tmpfiles.d are handed to systemd-sysusers, before owners are looked up, and to
    systemd-tmpfiles, when the files are in place.
  - Missing parent directories are made, with owner root and mode 0755. Links in directories of lesser users are
    refused.
options:
  name:
    description: Name of the set, unique on the host. Lower-case letters, digits, _ and -.
    type: str
    required: true
  entries:
    description:
      - Files, directories, links and absences. The list is evaluated by the plugin, so that an entry can have a loop.
    type: list
    elements: dict
    default: []
    suboptions:
      src:
        description:
          - Template (name ends in .j2, below templates/), file or whole directory (below files/), or an absolute
            path.
        type: str
      content:
        description: The content itself, in place of O(entries[].src).
        type: str
      dest:
        description: Absolute path. Without it, C(/) and O(entries[].src) without .j2.
        type: path
      state:
        description:
          - What is to be at O(entries[].dest). With V(closed) it may be a pattern; files and directories that are there
            lose all rights of others and get O(entries[].group), and none is made. A path through a lesser user's link
            is left alone, with a warning.
        choices: [file, directory, link, absent, closed]
        default: file
        type: str
      target:
        description: Where a link points.
        type: str
      owner:
        description: Owner.
        type: str
        default: root
      group:
        description: Group.
        type: str
        default: root
      mode:
        description: Four octal digits as text. 0644 for files and 0755 for directories if it is left out.
        type: str
      search:
        description:
          - Users besides who may pass a directory and not list it, by a POSIX ACL. Its group must be allowed
            to. Refused before any change where the file system keeps no ACL.
        type: list
        elements: str
      validate:
        description: Command that checks the candidate at C(%s), which has the file's own name. Run without a shell.
        type: str
      compile:
        description: Command that compiles the candidate at C(%s) and leaves O(entries[].product)'s base name beside it.
        type: str
      product:
        description: Absolute path of the compiled form, replaced together with its source.
        type: path
      keep:
        description: Leave the content of a file that exists. Owner and mode are kept right.
        type: bool
        default: false
      loop:
        description: List; the entry stands once for each C(item).
        type: list
        elements: raw
      when:
        description: Expression or list of them. If one is false, the set does not have the entry.
        type: raw
      vars:
        description: Further variables for the entry and its template.
        type: dict
      restart:
        description:
          - Units that must be restarted after this entry changed. The C(unit_set) that names a unit does it, of this
            role or of another.
        type: list
        elements: str
      reload:
        description: Units that must be reloaded after this entry changed.
        type: list
        elements: str
      notify:
        description: Handlers to notify after this entry changed, by this run or by a later one if this one is killed.
        type: list
        elements: str
      no_log:
        description: Show neither a difference nor the output of a check.
        type: bool
        default: false
      uids:
        description: Replace C(@uid(NAME)@) in the content by the uid that NAME has on the host.
        type: bool
        default: false
  owns:
    description:
      - Patterns, as texts or as dictionaries. Files there that an earlier run wrote, and the set does not name any
        more, are
        removed. Files of strangers are named in a warning, or removed with C(strangers) C(remove).
    type: list
    elements: raw
    default: []
    suboptions:
      pattern:
        description:
          - Absolute glob. One that ends in C(/**) with O(owns[].strangers) C(remove) owns a whole tree, whose empty
            directories are removed, too. Bytecode stays and goes with its source.
        type: str
      strangers:
        description: What happens to files that we did not write.
        choices: [keep, remove]
        default: keep
        type: str
      except:
        description: Globs of paths that belong to others.
        type: list
        elements: str
      restart:
        description: Units that must be restarted after a removal.
        type: list
        elements: str
      reload:
        description: Units that must be reloaded after a removal.
        type: list
        elements: str
  checks:
    description: Checks of the whole candidate set, run if anything below their trees changes.
    type: list
    elements: dict
    default: []
    suboptions:
      command:
        description:
          - Command. C(%t) is the directory that holds copies of the trees with the set applied, whose files speak of
            the copies.
        type: str
        required: true
      trees:
        description: Directories to copy.
        type: list
        elements: path
        required: true
  commands:
    description: Commands to run when files changed, after they are in place.
    type: list
    elements: dict
    default: []
    suboptions:
      command:
        description: Command. Run without a shell.
        type: str
        required: true
      changed:
        description: Globs of the entries whose change asks for it.
        type: list
        elements: str
        required: true
  settles:
    description: Handlers whose notifications are done by this task. For handlers that are sets themselves.
    type: list
    elements: str
    default: []
author: CiviCRM on two hosts
"""

EXAMPLES = r"""
- name: Write who may enter
  file_set:
    name: people
    entries:
      - src: etc/apache2/civicrm/people-site.htpasswd.j2
        dest: /etc/apache2/civicrm/people-{{ item.name }}.htpasswd
        loop: "{{ front_doors }}"
        group: www-data
        mode: "0640"
        no_log: true
        reload: apache2.service
    owns:
      - /etc/apache2/civicrm/people-*.htpasswd
"""

RETURN = r"""
paths:
  description: Paths that were changed, or would be.
  type: list
  returned: always
done:
  description: What else was done, in words.
  type: list
  returned: always
"""

from ansible.module_utils.set_module import main

if __name__ == "__main__":
    main()
