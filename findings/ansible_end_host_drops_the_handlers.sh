#!/bin/bash
# One expects: `meta: end_host`, an early and green end of the play for one host, runs what that host's tasks have notified, as the end of the
# play does; with --force-handlers at the latest, which saves notifications from a failure.
# Happens: the host's notifications are dropped, with --force-handlers too, and the run is green. end_play and end_batch drop those of all
# hosts. end_role, which only leaves the role, keeps them.
# Seen: ansible-core 2.19.14.
# Why it matters: "nothing more to do here, end_host" behind tasks that wrote a file leaves the daemon with its old configuration; the next run
# finds the file as it should be and notifies nobody. Put flush_handlers in front, or a condition on the rest of the tasks.
# Source: ansible.builtin.meta says of end_role that handlers still run, and of the other three nothing.

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
mkdir -p roles/early/tasks
printf '%s\n' '- meta: end_role' "  when: inventory_hostname == 'h1'" '- debug: {msg: rest of the role}' >roles/early/tasks/main.yml
play() {   # what stands between the change and the rest
    cat <<P
- hosts: all
  connection: local
  gather_facts: false
  handlers:
    - name: Reload daemon
      debug: {msg: "SAYS {{ inventory_hostname }}"}
  tasks:
    - debug: {msg: a new configuration}
      changed_when: true
      notify: Reload daemon
$1
    - debug: {msg: the rest}
P
}
results=
try() {   # title, tasks, arguments -> the hosts whose handler ran
    play "$2" >play.yml; rc=0
    env -i PATH="$PATH" HOME="$T" TMPDIR="$T" LC_ALL=C.UTF-8 PYTHONPATH="$T/py" ANSIBLE_HOME="$T/a" \
        timeout 60 python3 -m ansible playbook -i h1,h2 "${@:3}" play.yml >out 2>&1 || rc=$?
    said=$(sed -n 's/.*SAYS \(h[12]\)".*/\1/p' out | sort | tr '\n' ' ')
    printf '  %-40s exit %s, handler ran on: %s\n' "$1" "$rc" "${said:-none}"
    results="$results/$rc $said"
}
echo "version:  ansible-core $(PYTHONPATH=$T/py python3 -c 'import ansible.release as r; print(r.__version__)')"
echo "expected: h1 h2 each time"
echo "seen:"
try 'no early end:' ''
for word in end_host end_play end_batch; do
    early="    - meta: $word
      when: inventory_hostname == 'h1'"
    try "$word for h1:" "$early"
    try "$word for h1, --force-handlers:" "$early" --force-handlers
done
try 'end_role for h1:' '    - import_role: {name: early}'
try 'flush_handlers, then end_host for h1:' "    - meta: flush_handlers
    - meta: end_host
      when: inventory_hostname == 'h1'"
verdict "$results" '/0 h1 h2 /0 h2 /0 h2 /0 /0 /0 /0 /0 h1 h2 /0 h1 h2 '
