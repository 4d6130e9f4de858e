#!/bin/bash
# One expects: an action plugin that extends another one by `class ActionModule(action_loader.get('copy', class_only=True))`, which
# works with Ansible's strategies, works with mitogen's, which are told to be drop-in.
# Happens: with mitogen_linear the run ends before its first task: "Cannot create a consistent method resolution order". Mitogen's
# loader hands out the base class with its mixin already in front, and puts the mixin in front of the derived class once more: the
# mixin then comes both before and after. Importing the base from its module (ansible.plugins.action.copy) works with both.
# Seen: mitogen 0.3.54 with ansible-core 2.19.14.
# Why it matters: the plugin passes all tests under stock Ansible, and the fast path, kept for the night of a rebuild, is broken.
# Source: none; the code is wrap_action_loader__get_with_context in ansible_mitogen/strategy.py.

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

pips ansible-core==2.19.14 mitogen==0.3.54 Jinja2==3.1.6 MarkupSafe==3.0.4 PyYAML==6.0.3 packaging==26.3 resolvelib==1.2.1
mkdir plugins
for how in loader import; do
    if [ $how = loader ]
    then printf '%s\n' 'from ansible.plugins.loader import action_loader' 'Base = action_loader.get("ansible.legacy.copy", class_only=True)'
    else printf 'from ansible.plugins.action.copy import ActionModule as Base\n'; fi >plugins/by_$how.py
    printf '%s\n' 'class ActionModule(Base):' '    def run(self, tmp=None, task_vars=None):' '        return {"changed": False}' >>plugins/by_$how.py
    printf -- '- hosts: all\n  connection: local\n  gather_facts: false\n  tasks:\n    - by_%s:\n' $how >$how.yml
done
results=
try() {   # base class from loader or import, strategy -> exit status
    rc=0
    env -i PATH="$PATH" HOME="$T" TMPDIR="$T" LC_ALL=C.UTF-8 PYTHONPATH="$T/py" ANSIBLE_HOME="$T/a" ANSIBLE_ACTION_PLUGINS="$T/plugins" \
        ANSIBLE_STRATEGY_PLUGINS="$T/py/ansible_mitogen/plugins/strategy" ANSIBLE_STRATEGY="$2" \
        timeout 60 python3 -m ansible playbook -i h1, "$1.yml" >out 2>&1 || rc=$?
    printf '  base by %-7s %-15s exit %s\n' "$1," "$2" "$rc"
    if [ "$rc" = 0 ]; then results="$results 0"
    elif grep -q 'Cannot create a consistent method resolution' out; then echo '      Cannot create a consistent method resolution order'; results="$results MRO"
    else cat out; results="$results other"; fi
}
echo "version:  $(PYTHONPATH=$T/py python3 -c 'import mitogen, ansible.release as r; print("mitogen", ".".join(map(str, mitogen.__version__)) + ", ansible-core", r.__version__)')"
echo "expected: exit 0 four times"
echo "seen:"
try loader linear; try import linear; try import mitogen_linear; try loader mitogen_linear
verdict "$results" " 0 0 0 MRO"
