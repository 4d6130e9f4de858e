"""One launcher starts every command by its name, quickly, and tells what it is."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

from loading import TOOLS

from civicrm_tools import LAUNCHER, __version__
from civicrm_tools.__main__ import COMMANDS, digest


def launch(*arguments, by=LAUNCHER):
    done = subprocess.run([by, *arguments], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    return done.returncode, done.stdout, done.stderr


def test_a_link_runs_the_command_of_its_name(tmp_path):
    (tmp_path / "postfix-trace").symlink_to(LAUNCHER)
    status, out, _ = launch("--help", by=tmp_path / "postfix-trace")
    assert status == 0
    assert out.startswith("usage: postfix-trace ")


def test_a_command_without_a_link_runs_by_its_name():
    status, out, _ = launch("postfix-trace", "--help")
    assert status == 0
    assert out.startswith("usage: postfix-trace ")


def test_an_unknown_name_is_told_in_one_line():
    assert launch("mailling") == (2, "", "civicrm-tools: no command 'mailling': civicrm-tools alone lists them\n")


def test_the_list_has_a_line_for_each_command():
    status, out, _ = launch()
    assert status == 0
    lines = dict(line.split(None, 1) for line in out.splitlines())
    assert sorted(lines) == sorted(COMMANDS)
    assert all(text.endswith((".", "?")) for text in lines.values())


def test_the_version_tells_which_code_runs(tmp_path):
    """A digest, as one version is changed by hand at night."""
    status, out, _ = launch("--version")
    assert (status, out) == (0, f"civicrm-tools {__version__} ({digest()})\n")
    assert launch("mailing", "--version")[1] == f"mailing {__version__} ({digest()})\n"
    copy = tmp_path / "src"
    subprocess.run(["cp", "-r", TOOLS, copy], check=True)
    with (copy / "civicrm_tools" / "mail" / "log.py").open("a") as module:
        module.write("\n")
    code = "from civicrm_tools.__main__ import digest; print(digest())"
    changed = subprocess.check_output([sys.executable, "-c", code], env={"PYTHONPATH": str(copy)}, text=True).strip()
    assert re.fullmatch("[0-9a-f]{12}", changed)
    assert changed != digest()


def test_a_command_imports_its_own_modules_only():
    """The start of a command, which some run for each message, must not hang on all others."""
    code = (
        "import sys; sys.argv = ['divert-submission', '--help']\n"
        "from civicrm_tools.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: print(*(n for n in sys.modules if n.startswith('civicrm_tools.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(TOOLS)}, capture_output=True, text=True)
    assert set(done.stderr.split()) >= {"civicrm_tools.mail.diversion"}
    assert not {name for name in done.stderr.split() if name.split(".")[1] not in ("__main__", "core", "mail")}
    assert "civicrm_tools.mail.postfix" not in done.stderr


def calls(path: Path) -> set[str]:
    """The functions that a module calls, as it writes them."""
    return {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}


def test_every_command_has_the_one_frame_and_the_one_way_to_run_programs():
    """So errors are one line everywhere, and nothing hangs for ever."""
    modules = {str(path.relative_to(TOOLS / "civicrm_tools")): calls(path) for path in TOOLS.rglob("*.py")}
    commands = {f"{module.replace('.', '/')}.py" for module in COMMANDS.values()}
    assert {name for name in commands if "command.run" not in modules[name]} == set()
    parsing = {name for name, called in modules.items() if "argparse.ArgumentParser" in called}
    assert parsing == {"manuals.py"}, "it shows parsers; commands have core.command.Parser"
    running = {name for name, called in modules.items() if any(one.startswith("subprocess.") for one in called)}
    assert running == {"core/run.py"}


def test_a_folder_is_one_of_a_mailbox():
    """What lies in the file system is a directory: two words for two things."""
    outside = [path for path in TOOLS.rglob("*.py") if path.parent.name != "mail"]
    assert [path.name for path in outside if "folder" in path.read_text().lower()] == []


def test_no_command_leaves_bytecode_beside_its_source(tmp_path):
    """The set that owns the tree would call it a stranger's, and remove it at each run."""
    shutil.copytree(TOOLS.parent, tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    assert launch("postfix-trace", "--help", by=tmp_path / "tools" / "bin" / "civicrm-tools")[0] == 0
    assert list(tmp_path.rglob("*.pyc")) == []


def test_the_map_of_the_mail_package_names_each_module_once():
    """A newcomer opens the right file first."""
    import civicrm_tools.mail as package

    named = re.findall(r"^`(\w+)` ", package.__doc__ or "", re.MULTILINE)
    directory = Path(package.__file__).parent
    assert sorted(named) == sorted(path.stem for path in directory.glob("*.py") if path.stem != "__init__")
