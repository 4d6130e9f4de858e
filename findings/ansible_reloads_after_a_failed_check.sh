#!/bin/bash
# One expects: of two handlers, a check and behind it the reload, the reload does not run on a host whose check failed; or at least not
# without the check.
# Happens: that holds for one flush. The reload stays notified, the check does not: if the host lives on to the next flush, that runs the
# reload alone. So it is after a block with flush_handlers and a rescue, at the end of the play, which is green; and with
# --force-handlers after any flush_handlers. With --force-handlers and the flush at the end of the play only, it is not.
# Seen: ansible-core 2.19.14.
# Why it matters: block, flush_handlers and rescue is how one keeps a single broken site from ending the deployment of a host. The daemon then
# reloads the very file that the check refused; and with force_handlers in ansible.cfg one flush_handlers in one role is enough. Let the rescue
# put the old file back, or end the host's play (meta: end_host).
# Source: Ansible's guide, Blocks, has flush_handlers in a rescue for what a failed task leaves notified; what a failed handler leaves is
# neither there nor under Handlers.

set -eu
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
trap 'exit 3' INT TERM

pips() {   # NAME==VERSION ...: into $T/py
    timeout 120 python3 -m pip install -q --no-cache-dir --no-deps --target "$T/py" "$@" >"$T/pip.log" 2>&1 ||
        { cat "$T/pip.log"; echo "a pinned version is not served any more, or does not suit this Python: $*"; exit 1; }
    cd "$T"
}
verdict() { if [ "$1" = "$2" ]; then echo "as described"; else echo "CHANGED: expected [$2], got [$1]"; exit 2; fi; }

pips ansible-core==2.19.14 Jinja2==3.1.6 MarkupSafe==3.0.4 PyYAML==6.0.3 packaging==26.3 resolvelib==1.2.1
play() {   # rest of the block
    cat <<P
- hosts: all
  connection: local
  gather_facts: false
  handlers:
    - name: Check the file
      command: grep -q good {{ file }}
      listen: Reload daemon
    - name: Reload
      command: cp {{ file }} {{ file }}.loaded
      listen: Reload daemon
  tasks:
    - block:
        - copy: {dest: "{{ file }}", content: bad}
          notify: Reload daemon
$1
    - debug: {msg: other sites}
P
}
results='' python=$(python3 -c 'import sys; print(sys.executable)')
try() {   # title, rest of the block, arguments -> how often the check ran, and what was loaded
    play "$2" >play.yml
    rm -rf etc; mkdir etc; rc=0
    env -i PATH="$PATH" HOME="$T" TMPDIR="$T" LC_ALL=C.UTF-8 PYTHONPATH="$T/py" ANSIBLE_HOME="$T/a" \
        timeout 60 python3 -m ansible playbook -i h1, -e "file=$T/etc/site" -e "ansible_python_interpreter=$python" "${@:3}" play.yml \
        >out 2>&1 || rc=$?
    checks=$(grep -c 'RUNNING HANDLER.*Check' out || :)
    loaded=$(cat etc/site.loaded 2>/dev/null || echo nothing)
    printf '  %-44s exit %s, checks: %s, loaded: %s\n' "$1" "$rc" "$checks" "$loaded"
    results="$results$rc/$checks/$loaded "
}
echo "version:  ansible-core $(PYTHONPATH=$T/py python3 -c 'import ansible.release as r; print(r.__version__)')"
echo "expected: nothing loaded"
echo "seen:"
flush='        - meta: flush_handlers'
rescue='      rescue:
        - debug: {msg: the site was refused}'
try 'no flush before the end:' ''
try 'no flush before the end, --force-handlers:' '' --force-handlers
try 'flush:' "$flush"
try 'flush, --force-handlers:' "$flush" --force-handlers
try 'flush and rescue:' "$flush
$rescue"
verdict "$results" '2/1/nothing 2/1/nothing 2/1/nothing 2/1/bad 0/1/bad '
