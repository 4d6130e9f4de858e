"""N33, N34: a set of files is replaced together or not at all, whenever its run dies."""

import base64
import errno
import grp
import json
import os
import pwd
import shlex
import stat
import struct
import sys
from pathlib import Path

import ansible.module_utils
import pytest
from loading import load

# As Ansible names them on the host.
journal = sys.modules["ansible.module_utils.set_journal"] = load("plugins/module_utils/set_journal.py")
checks = sys.modules["ansible.module_utils.set_checks"] = load("plugins/module_utils/set_checks.py")
ansible.module_utils.set_journal, ansible.module_utils.set_checks = journal, checks
sets = load("plugins/module_utils/file_sets.py")


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """The engine's own state, and its scratch space, apart from this machine's."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "etc").mkdir()
    monkeypatch.setattr(journal, "STATE", str(tmp_path / "state"))
    monkeypatch.setattr(journal, "SCRATCH", str(tmp_path / "scratch"))
    # pytest's own directories are a user's: here they stand for root's.
    monkeypatch.setattr(
        journal, "trusted", lambda status: status.st_mode & (stat.S_IWOTH | stat.S_ISVTX) != stat.S_IWOTH
    )
    return tmp_path / "state"


def file(dest, content="new\n", **further):
    entry = {"dest": str(dest), "kind": "file", "owner": "root", "group": "root", "mode": "0644"}
    return {**entry, "content": base64.b64encode(content.encode()).decode(), **further}


def apply(*files, name="trial", check=False, owns=(), checks=(), commands=(), **options):
    outcome = journal.Outcome()
    payload = {
        "name": name,
        "check": check,
        "diff": True,
        "marker": "Managed by Ansible",
        "files": list(files),
        "owns": [{"strangers": "keep", "except": [], "restart": [], "reload": [], **own} for own in owns],
        "checks": list(checks),
        "commands": list(commands),
        **options,
    }
    with journal.locked():
        sets.apply(payload, outcome)
    return outcome


def tree(path):
    """Everything below a directory: content and mode by path."""
    return {
        str(p.relative_to(path)): (p.read_text() if p.is_file() else "", stat.S_IMODE(p.lstat().st_mode))
        for p in sorted(path.rglob("*"))
    }


def test_a_second_run_changes_nothing(tmp_path):
    """Unchanged is ok, not changed."""
    entries = [file(tmp_path / "etc/a"), {**file(tmp_path / "etc/d"), "kind": "directory", "mode": "0750"}]
    assert apply(*entries).paths == [str(tmp_path / "etc/a"), str(tmp_path / "etc/d")]
    assert apply(*entries).paths == []


def test_a_check_changes_nothing_and_names_what_would_come(tmp_path):
    """--check --diff per file, also for owners who are to come."""
    outcome = apply(file(tmp_path / "etc/a", owner="nobody-yet"), check=True)
    assert outcome.paths == [str(tmp_path / "etc/a")]
    assert "account nobody-yet is to come" in outcome.done
    assert outcome.diff[0]["after"] == "new\n"
    assert tree(tmp_path / "etc") == {}


def test_a_secret_is_in_no_difference(tmp_path):
    """no_log is per entry: its neighbours still show theirs."""
    outcome = apply(file(tmp_path / "etc/a", "s3cret", no_log=True), file(tmp_path / "etc/b", "open"))
    assert [one["after"] for one in outcome.diff] == ["open"]


REFUSED = {
    "unknown owner": (lambda etc: file(etc / "b", owner="nobody-yet"), "this host has no user 'nobody-yet'"),
    "refused by its parser": (lambda etc: file(etc / "b", validate="grep -q old %s"), "is refused by 'grep -q old %s'"),
    "no parser": (
        lambda etc: file(etc / "b", validate="no-such-parser %s"),
        "no-such-parser, which checks it, is not on this host",
    ),
    "a directory in its place": (lambda etc: file(etc / "taken"), "is a directory where the set has a file"),
    "twice in the set": (lambda etc: file(etc / "a"), "stands twice in the set"),
    "no product": (
        lambda etc: file(etc / "b", compile="true %s", product=str(etc / "b.db")),
        "'true %s' left no b.db",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_file_leaves_the_whole_set_as_it_was(tmp_path, kind):
    """N33: one line, and everything is as before, although other files of the set are good."""
    etc = tmp_path / "etc"
    (etc / "taken").mkdir()
    (etc / "a").write_text("old\n")
    before = tree(etc)
    make, message = REFUSED[kind]
    with pytest.raises(journal.Refused, match=r"^[^\n]+$") as refused:
        apply(file(etc / "a"), make(etc))
    assert message in str(refused.value)
    assert tree(etc) == before
    assert not list((tmp_path / "scratch").iterdir())


def test_root_writes_nothing_below_a_directory_of_a_lesser_user(tmp_path):
    """What is a directory today may be a link tomorrow; the message names who could make it one, and the rule."""
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o777)
    theirs.chmod(0o777)  # stands for a directory that a lesser user can change
    (tmp_path / "etc/passwd").write_text("root\n")
    (theirs / "file").symlink_to(tmp_path / "etc/passwd")
    (theirs / "directory").symlink_to(tmp_path / "etc")
    (theirs / "plain").mkdir()
    for dest in (theirs / "file", theirs / "new", theirs / "directory/passwd", theirs / "plain/new"):
        with pytest.raises(journal.Refused, match=r"can change .*theirs .mode 0777.*, and root writes nothing below"):
            apply(file(dest))
    assert (tmp_path / "etc/passwd").read_text() == "root\n"
    assert not (theirs / "plain/new").exists()


@pytest.mark.parametrize(("mode", "who"), [(0o2775, "the group daemon"), (0o0777, "everybody")])
def test_a_directory_of_root_that_others_can_change_is_named_with_them(tmp_path, monkeypatch, mode, who):
    """/usr/local of hosts that came from an old release is root's, and the group staff's to change."""
    place = tmp_path / "local"
    monkeypatch.setattr(journal, "trusted", lambda status: status.st_mode != mode)
    place.mkdir()
    os.chown(place, 0, grp.getgrnam("daemon").gr_gid)
    place.chmod(mode)
    with pytest.raises(journal.Refused, match=rf"{who} can change .*local \(mode {mode:04o}\).*: chmod go-w .*local$"):
        apply(file(place / "a"))


def test_a_directory_of_the_set_counts_as_the_set_wants_it(tmp_path):
    """A host from before is put right by the set itself; and no set makes a directory only to write below it."""
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o777)
    directory = {**file(place), "kind": "directory", "mode": "0755"}
    apply(directory, file(place / "a"))
    assert stat.S_IMODE(place.stat().st_mode) == 0o755
    with pytest.raises(journal.Refused, match="mode 0777"):
        apply({**directory, "mode": "0777"}, file(place / "b"))


def test_a_link_that_a_lesser_user_planted_is_not_followed(tmp_path):
    """Not by what reads and closes, either."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o777)
    (theirs / "directory").symlink_to(tmp_path / "etc")
    with pytest.raises(journal.Refused, match="symbolic link in a directory of"):
        journal.status_of(str(theirs / "directory/passwd"))


def test_a_user_may_pass_a_directory_and_not_list_it(tmp_path):
    """By an ACL: the mode stays, and what somebody took away comes back."""
    directory = tmp_path / "etc/site"
    entry = {**file(directory), "kind": "directory", "mode": "0750", "search": ["nobody"]}
    for prepare in (lambda: None, lambda: os.removexattr(directory, journal.ACL)):
        prepare()
        assert apply(entry).paths == [str(directory)]
        assert stat.S_IMODE(directory.stat().st_mode) == 0o750
        assert apply(entry).paths == []
    # user nobody --x, as acl(5) writes it
    assert struct.pack("<HHi", 2, 1, pwd.getpwnam("nobody").pw_uid) in os.getxattr(directory, journal.ACL)


def test_a_file_system_without_acls_is_refused_before_any_change(tmp_path, monkeypatch):
    """Else the web server would need the group of each site."""

    def unsupported(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "getxattr", unsupported)
    entry = {**file(tmp_path / "etc/site"), "kind": "directory", "mode": "0750", "search": ["nobody"]}
    with pytest.raises(journal.Refused, match=r"keeps no ACL .*nobody.* mount it"):
        apply(file(tmp_path / "etc/a"), entry)
    assert not list((tmp_path / "etc").iterdir())


def test_what_is_there_is_closed_and_nothing_is_made(tmp_path):
    """Rights of others go; a path through a lesser user's link is named, and neither followed nor in the way."""
    etc, theirs = tmp_path / "etc", tmp_path / "theirs"
    (etc / "settings.php").write_text("secret")
    (etc / "settings.php").chmod(0o644)
    (etc / "log").mkdir(mode=0o755)
    theirs.mkdir()
    theirs.chmod(0o777)
    (theirs / "files").symlink_to(etc)
    entries = [
        {"dest": str(path), "kind": "closed", "owner": "root", "group": "root", "mode": "0644"}
        for path in (etc / "set*.php", etc / "log", etc / "missing", theirs / "files/settings.php")
    ]
    outcome = apply(*entries)
    assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in etc.iterdir()} == {"settings.php": 0o640, "log": 0o750}
    assert len(outcome.warnings) == 1 and "not closed" in outcome.warnings[0] and "theirs/files" in outcome.warnings[0]
    assert apply(*entries).paths == []


def test_the_set_is_checked_as_a_whole(tmp_path):
    """A file may be right alone and wrong beside the others; the copies speak of the copies."""
    etc = tmp_path / "etc"
    (etc / "old").write_text(f"include {etc}/gone\n")
    # The parser finds a file that is named and not there, in the copy of the tree.
    script = 'for f in $(sed -n "s/include //p" "$0"/*); do [ -e "$f" ] || { echo "$f is missing"; exit 1; }; done'
    parser = f"sh -c {shlex.quote(script)}"
    check = {"command": f"{parser} %t{etc}", "trees": [str(etc)]}
    with pytest.raises(journal.Refused, match=f"is refused by .*{etc}/gone is missing"):
        apply(file(etc / "a", f"include {etc}/b\n"), file(etc / "b"), checks=[check])
    (etc / "old").unlink()
    apply(file(etc / "a", f"include {etc}/b\n"), file(etc / "b"), checks=[check])
    assert (etc / "a").read_text() == f"include {etc}/b\n"


def test_of_a_tree_that_a_set_owns_nothing_stale_is_left(tmp_path):
    """Another version's files, their bytecode and the directories around them; what is wanted stays."""
    tools = tmp_path / "etc" / "tools"
    owns = [{"pattern": f"{tools}/**", "strangers": "remove"}]
    apply(file(tools / "a/x.py"), file(tools / "b/c/y.py"), owns=owns)
    (tools / "b" / "c" / "__pycache__").mkdir()
    (tools / "b" / "c" / "__pycache__" / "y.cpython-311.pyc").write_text("x")
    apply(file(tools / "a/new.py"), owns=owns)
    assert sorted(tree(tmp_path / "etc")) == ["tools", "tools/a", "tools/a/new.py"]
    assert apply(file(tools / "a/new.py"), owns=owns).paths == []
    apply(owns=owns)
    assert tree(tmp_path / "etc") == {}


def test_bytecode_stays_and_goes_with_its_source(tmp_path):
    """It is made on the host; removed at each run, each run would change something."""
    tools = tmp_path / "etc" / "tools"
    owns = [{"pattern": f"{tools}/**", "strangers": "remove"}]
    both = [file(tools / "a.py", "1\n"), file(tools / "p/b.py", "2\n")]
    compile_all = {
        "command": f"env -u PYTHONPYCACHEPREFIX {sys.executable} -m compileall -q {tools}",
        "changed": [f"{tools}/*"],
    }
    apply(*both, owns=owns, commands=[compile_all])
    assert len(list(tools.rglob("*.pyc"))) == 2
    assert apply(*both, owns=owns, commands=[compile_all]).paths == []
    apply(both[0], owns=owns)
    assert [path.name.split(".")[0] for path in tools.rglob("*.pyc")] == ["a"]
    assert not (tools / "p").exists()


def test_a_directory_with_a_hidden_file_stays(tmp_path):
    """An editor's own file, say: it is neither removed nor looked at again and again."""
    tools = tmp_path / "etc" / "tools"
    owns = [{"pattern": f"{tools}/**", "strangers": "remove"}]
    apply(file(tools / "x.py"), owns=owns)
    (tools / ".x.py.swp").write_text("")
    apply(owns=owns)
    assert sorted(tree(tmp_path / "etc")) == ["tools", "tools/.x.py.swp"]
    assert apply(owns=owns).paths == []


def test_a_program_becomes_a_link_and_its_library_goes(tmp_path):
    """Hosts of the build before have real programs and libraries of their own where links lead to one tree now."""
    sbin, lib = tmp_path / "etc" / "sbin", tmp_path / "etc" / "lib"
    before = [file(sbin / "mailing", mode="0755"), file(lib / "mail-tools/mail_tools/mailing.py")]
    apply(*before, owns=[{"pattern": f"{lib}/mail-tools/mail_tools/*.py", "strangers": "remove"}])
    (lib / "mail-tools/mail_tools/__pycache__").mkdir()
    (lib / "mail-tools/mail_tools/__pycache__/mailing.cpython-313.pyc").write_text("x")
    tools = file(lib / "civicrm-tools/bin/civicrm-tools", mode="0755")
    apply(tools, name="host_tools", owns=[{"pattern": f"{lib}/civicrm-tools/**", "strangers": "remove"}])
    link = {**file(sbin / "mailing"), "kind": "link", "target": "../lib/civicrm-tools/bin/civicrm-tools"}
    owns = [{"pattern": f"{lib}/mail-tools/**", "strangers": "remove"}]
    apply(link, owns=owns)
    assert (sbin / "mailing").resolve() == lib / "civicrm-tools/bin/civicrm-tools"
    assert [path.name for path in lib.iterdir()] == ["civicrm-tools"]
    assert apply(link, owns=owns).paths == []


def test_what_an_earlier_run_wrote_is_removed_and_a_strangers_file_is_named(tmp_path):
    """A set owns a pattern; it never deletes what it did not write."""
    etc, owns = tmp_path / "etc", [{"pattern": str(tmp_path / "etc/*.conf")}]
    apply(file(etc / "a.conf"), file(etc / "b.conf"), owns=owns)
    (etc / "mine.conf").write_text("by hand\n")
    (etc / "older.conf").write_text("# Managed by Ansible: change the inventory, not this file.\n")
    outcome = apply(file(etc / "a.conf"), owns=owns)
    assert sorted(tree(etc)) == ["a.conf", "mine.conf"]
    assert outcome.warnings == [f"{etc}/mine.conf is not ours and stays: remove it, or name it in the inventory"]
    everything = [{"pattern": str(etc / "*.conf"), "strangers": "remove"}]
    apply(file(etc / "a.conf"), owns=everything)
    assert sorted(tree(etc)) == ["a.conf"]


def test_compiled_tables_are_part_of_the_set(tmp_path):
    """They are replaced with their source, and made again where they are missing or older."""
    etc = tmp_path / "etc"
    entry = file(etc / "table", "one\n", compile="cp %s %s.db", product=str(etc / "table.db"))
    apply(entry)
    assert (etc / "table.db").read_text() == "one\n"
    assert apply(entry).paths == []
    (etc / "table.db").write_text("stale")
    os.utime(etc / "table.db", (1, 1))
    assert apply(entry).paths == [str(etc / "table.db")]
    assert (etc / "table.db").read_text() == "one\n"


def test_a_kept_file_keeps_its_content_and_gets_its_mode(tmp_path):
    """State that others write is made once."""
    etc = tmp_path / "etc"
    (etc / "a").write_text("state\n")
    (etc / "a").chmod(0o600)
    apply(file(etc / "a", "", keep=True))
    assert tree(etc) == {"a": ("state\n", 0o644)}


def test_what_files_ask_for_is_kept_until_it_is_done(tmp_path):
    """A run that dies before a restart leaves the mark; a restart includes a reload; a boot has done both."""
    etc = tmp_path / "etc"
    apply(file(etc / "a", reload=["x.service"], notify=["Handler"]), file(etc / "b", restart=["y.service"]))
    apply(file(etc / "c", restart=["x.service"]), name="other")
    assert apply(file(etc / "a"), file(etc / "b")).notify == ["Handler"]  # again, although nothing changed
    marks = journal.all_marks()
    assert marks["trial"]["units"] == {"x.service": "reload", "y.service": "restart"}
    journal.settle("units", "x.service")
    assert "other" not in journal.all_marks()
    journal.settle("notify", "Handler")
    assert apply(file(etc / "a"), file(etc / "b")).notify == []
    path = Path(journal.STATE) / "pending/trial.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "another"}))
    assert journal.all_marks()["trial"]["units"] == {}


def test_a_command_that_failed_is_run_again(tmp_path):
    """It is asked for until it has succeeded."""
    etc = tmp_path / "etc"
    command = {"command": f"rm {tmp_path}/obstacle", "changed": [str(etc / "*")]}
    with pytest.raises(journal.Refused, match="ended with status 1"):
        apply(file(etc / "a"), commands=[command])
    (tmp_path / "obstacle").write_text("")
    assert apply(file(etc / "a"), commands=[command]).done == [f"ran rm {tmp_path}/obstacle"]
    assert apply(file(etc / "a"), commands=[command]).done == []


def test_units_of_files():
    """A drop-in belongs to its unit; a timer, socket or path is restarted by itself."""
    assert journal.unit_of("/etc/systemd/system/a.timer") == "a.timer"
    assert journal.unit_of("/etc/systemd/system/a@b.service.d/civicrm.conf") == "a@b.service"
    assert journal.unit_of("/etc/systemd/journald.conf.d/x.conf") is None
    change = journal.Change("replace", journal.Target("/etc/systemd/system/a.timer", "file"))
    assert journal.marks_of([change], [])["units"] == {"a.timer": "restart"}
    assert journal.marks_of([change], [])["daemon_reload"]


CALLS = ("rename", "unlink", "mkdir", "fsync", "fchmod", "symlink", "rmdir")


def dies_after(calls, work):
    """Run work in a process that ends, as by SIGKILL, before its nth call that changes something. True if it did."""
    child = os.fork()
    if child == 0:
        left = [calls]

        def counted(original):
            def call(*arguments, **options):
                if left[0] == 0:
                    os._exit(9)
                left[0] -= 1
                return original(*arguments, **options)

            return call

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        except BaseException:  # a second pytest must not go on
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_run_that_dies_at_any_call_leaves_the_old_set_or_the_new_one(tmp_path):
    """N34: whenever it dies, completing gives all of the old or all of the new, and the new one's marks with it."""
    old = {"a": "old a\n", "b": "old b\n", "gone.conf": "Managed by Ansible\n"}
    entries = lambda etc: [  # noqa: E731
        file(etc / "a", "new a\n", restart=["x.service"]),
        file(etc / "b", "new b\n", mode="0600"),
        file(etc / "deep/er/c", "new c\n"),
        {**file(etc / "link"), "kind": "link", "target": "a"},
    ]
    seen = set()
    for calls in range(200):
        etc = tmp_path / str(calls)
        etc.mkdir()
        for name, text in old.items():
            (etc / name).write_text(text)
        before = tree(etc)
        died = dies_after(calls, lambda: apply(*entries(etc), owns=[{"pattern": str(etc / "*.conf")}]))  # noqa: B023
        with journal.locked():
            journal.complete_all()
        after = tree(etc)
        asked = journal.all_marks().get("trial", {}).get("units")
        if after == before:
            assert not asked
            seen.add("old")
        else:
            assert sorted(after) == ["a", "b", "deep", "deep/er", "deep/er/c", "link"]
            assert after["a"] == ("new a\n", 0o644) and after["b"] == ("new b\n", 0o600)
            assert asked == {"x.service": "restart"}
            seen.add("new")
            journal.settle("units", "x.service")
        assert not list(Path(journal.STATE).glob("journals/*"))
        if not died:
            break
    assert not died and calls > 20 and seen == {"old", "new"}


def test_a_full_disk_leaves_the_old_set(tmp_path, monkeypatch):
    """One line that names the file and the reason, and no half-written file beside it."""
    etc = tmp_path / "etc"
    (etc / "a").write_text("old\n")
    original = os.fsync

    def full(descriptor):
        if ".dpkg-new" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(28, "No space left on device", "/etc/a")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(journal.Refused, match="the disk is full: free space; nothing was changed"):
        apply(file(etc / "a"))
    assert tree(etc) == {"a": ("old\n", 0o644)}
    assert not list(Path(journal.STATE).glob("journals/*"))
