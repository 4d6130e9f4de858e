#!/bin/bash
# One expects: `--check` runs what `validate` names: it needs the new text in a temporary file only, and changes nothing on the host.
# Happens: template, copy, lineinfile, blockinfile and replace report "changed" in check mode and leave the validation out; assemble alone
# validates. The run in earnest then fails at that task; what stands before it is done.
# Seen: ansible-core 2.19.14.
# Why it matters: "--check --diff on production first" is the gate in front of a deployment. sshd -t, visudo -c or a template's own check say
# nothing there; the run stops half way, on the host that the dry run called fine. Check rendered files elsewhere, in tests.
# Source: none; validate in the modules' pages and Ansible's guide, "Validating tasks: check mode and diff mode", do not speak of each other.

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
mkdir parts; echo bad >parts/a; echo '{{ word }}' >file.j2
cat >play.yml <<'P'
- hosts: all
  connection: local
  gather_facts: false
  ignore_errors: true  # every module gets its turn; what is refused is counted below
  vars: {word: bad}
  module_defaults:
    template: &check {validate: "grep -qx good %s"}
    copy: *check
    assemble: *check
    lineinfile: *check
    blockinfile: *check
    replace: *check
  tasks:
    - {name: template, template: {src: file.j2, dest: "{{ dir }}/template"}}
    - {name: copy, copy: {content: bad, dest: "{{ dir }}/copy"}}
    - {name: assemble, assemble: {src: "{{ parts }}", remote_src: true, dest: "{{ dir }}/assemble"}}
    - {name: lineinfile, lineinfile: {path: "{{ dir }}/lineinfile", line: bad, regexp: good}}
    - {name: blockinfile, blockinfile: {path: "{{ dir }}/blockinfile", block: bad}}
    - {name: replace, replace: {path: "{{ dir }}/replace", regexp: good, replace: bad}}
P
python=$(python3 -c 'import sys; print(sys.executable)')
run() {   # arguments: what each task said
    rm -rf etc; mkdir etc
    for name in copy assemble lineinfile replace template; do echo good >"etc/$name"; done; echo worse >etc/blockinfile
    env -i PATH="$PATH" HOME="$T" TMPDIR="$T" LC_ALL=C.UTF-8 PYTHONPATH="$T/py" ANSIBLE_HOME="$T/a" \
        timeout 90 python3 -m ansible playbook -i h1, -e "dir=$T/etc parts=$T/parts ansible_python_interpreter=$python" "$@" play.yml \
        >out 2>&1 || :
    awk -F'[][]' '
        /^TASK/ { task = $2 }
        /^changed: / { print task ":changed" }
        /^ok: / { print task ":ok" }
        /^fatal: / { print task ":" (/failed to validate/ ? "refused" : "failed") }' out | tr '\n' ' '
}
echo "version:  ansible-core $(PYTHONPATH=$T/py python3 -c 'import ansible.release as r; print(r.__version__)')"
echo "expected: the same for both"
echo "seen:"
check=$(run --check) earnest=$(run)
echo "  --check:    $check"
echo "  in earnest: $earnest"
all=(template copy assemble lineinfile blockinfile replace)
refused=$(printf '%s:refused ' "${all[@]}") changed=$(printf '%s:changed ' "${all[@]}")
verdict "$check/$earnest" "${changed/assemble:changed/assemble:refused}/$refused"
