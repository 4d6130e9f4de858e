#!/bin/bash
# One expects: a role's `notify: restart` runs that role's handler `restart`, at least on a host where no other role with such a
# handler was included.
# Happens: include_role puts the handlers of all hosts' roles into one list of the play, and the last of a name wins for every host:
# host h1 includes role_one only, and its notification runs role_two's handler, on h1, with role_two's defaults. role_one's handler
# never runs; the run is green. The same with strategy linear and free. `notify: "role_one : restart"` is exact.
# Seen: ansible-core 2.19.14.
# Why it matters: two kinds of hosts converged side by side by one play (a role per host by include_role) restart the wrong
# service, and the changed one goes on with its old configuration; each role tested alone is right.
# Source: Ansible's guide, Handlers: those of roles are global to the play and the last of a name wins; that a role which only
# another host includes counts too is not spelt out.

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
for role in one two; do
    mkdir -p "roles/role_$role/tasks" "roles/role_$role/handlers" "roles/role_$role/defaults"
    cd "roles/role_$role"
    printf '%s\n' '- debug:' '  changed_when: true' '  notify: "{{ prefix }}restart"' >tasks/main.yml
    printf '%s\n' '- name: restart' "  debug: {msg: 'SAYS {{ inventory_hostname }}: handler of role_$role, service {{ service }}'}" >handlers/main.yml
    echo "service: daemon_of_role_$role" >defaults/main.yml
    cd "$T"
done
cat >play.yml <<'P'
- hosts: all
  connection: local
  gather_facts: false
  strategy: "{{ lookup('env', 'S') }}"
  tasks:
    - include_role:
        name: "{{ 'role_one' if inventory_hostname == 'h1' else 'role_two' }}"
P
play() {   # strategy, prefix of the notification -> what the handlers said
    env -i PATH="$PATH" HOME="$T" TMPDIR="$T" LC_ALL=C.UTF-8 PYTHONPATH="$T/py" ANSIBLE_HOME="$T/a" S="$1" \
        timeout 60 python3 -m ansible playbook -i h1,h2 -e "{\"prefix\": \"$2\"}" play.yml >out 2>&1 || { cat out >&2; exit 2; }
    sed -n 's/.*SAYS \(.*\)".*/\1/p' out | sort
}
echo "version:  ansible-core $(PYTHONPATH=$T/py python3 -c 'import ansible.release as r; print(r.__version__)')"
echo "expected: h1: handler of role_one, service daemon_of_role_one"
echo "seen:"
all=
on_h1() { sed -n 's/^h1: handler of \(role_[a-z]*\).*/\1/p'; }
for strategy in linear free; do
    said=$(play $strategy '')
    printf '%s\n' "$said" | sed "s/^/  $strategy: /"
    all="$all$(printf '%s\n' "$said" | on_h1) "
done
exact=$(play linear '{{ role_name }} : ' | on_h1)
echo "  linear, notify \"ROLE : restart\": h1: handler of $exact"
verdict "$all$exact" 'role_two role_two role_one'
