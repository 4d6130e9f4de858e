"""The repository keeps its own rules: a newcomer finds the same silhouette in every role."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from loading import ROOT, load

ROLES = sorted([*(ROOT / "roles").iterdir(), *(ROOT / "lab" / "roles").iterdir()])
INVENTORIES = ["lab", "torproject"]
inventory_filters = load("plugins/filter/inventory.py")


def tracked(pattern: str) -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", pattern], cwd=ROOT, capture_output=True, text=True
    )
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


def options_of(role: Path) -> dict:
    """Options of all entry points of a role."""
    entries = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
    return {name: option for entry in entries.values() for name, option in entry.get("options", {}).items()}


def defaults(role: Path) -> dict:
    path = role / "defaults/main.yml"
    return (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}


@pytest.mark.parametrize("role", ROLES, ids=lambda r: r.name)
def test_defaults_and_required_options_are_the_specification(role):
    """Every variable has a type, and every typed variable a default or the word required."""
    options = options_of(role)
    required = {name for name, option in options.items() if option.get("required")}
    assert set(defaults(role)) | required == set(options)
    assert not set(defaults(role)) & required


@pytest.mark.parametrize("role", ROLES, ids=lambda r: r.name)
def test_specifications_are_complete(role):
    """Validation does not apply `default:`, so it would only mislead; and every option says what it does."""

    def walk(options):
        for name, option in options.items():
            assert "default" not in option, name
            assert option.get("description"), name
            assert option.get("type"), name
            walk(option.get("options", {}))

    walk(options_of(role))
    assert all(name.startswith(f"{role.name}_") for name in options_of(role))


@pytest.mark.parametrize("role", ROLES, ids=lambda r: r.name)
def test_every_role_has_a_readme_that_promises(role):
    text = (role / "README.md").read_text()
    for part in ("**Promise.**", "**Owns**", "**Check.**", "**Undo.**", "ansible-doc -t role -r"):
        assert part in text, part


@pytest.mark.parametrize("role", [r for r in ROLES if (r / "tasks/validate.yml").is_file()], ids=lambda r: r.name)
def test_validation_comes_first_and_always(role):
    """A mistake is found before the role changes anything, whatever tags were asked for."""
    first = yaml.safe_load((role / "tasks/main.yml").read_text())[0]
    assert first["ansible.builtin.import_tasks"] == "validate.yml"
    assert first["tags"] == ["always"]
    for task in yaml.safe_load((role / "tasks/validate.yml").read_text()):
        assert "fail_msg" in task.get("ansible.builtin.assert", {"fail_msg": ""}), task["name"]
        assert all("fail_msg" in check for check in task.get("assert_all", {"checks": []})["checks"]), task["name"]


@pytest.mark.parametrize("role", ROLES, ids=lambda r: r.name)
def test_a_role_reads_only_its_own_variables(role):
    """Components are strangers: only profiles know two roles."""
    if role.name in ("civicrm_int", "civicrm_ext"):
        return
    others = [r.name for r in ROLES if r.name != role.name and not role.name.startswith(r.name)]
    for path in [p for p in role.rglob("*") if p.suffix in (".yml", ".j2") and "meta" not in p.parts]:
        for expression in re.findall(r"{{.*?}}|{%.*?%}|^\s*(?:when|loop|that):.*$", path.read_text(), re.M):
            foreign = [o for o in others if re.search(rf"(?<![\w/.-])_*{o}_[a-z]", expression)]
            assert not foreign, f"{path.relative_to(ROOT)}: {expression}"


@pytest.mark.parametrize("template", tracked("*/templates/*.j2"), ids=lambda p: str(p.relative_to(ROOT)))
def test_templates_say_who_manages_them_and_what_they_decide(template):
    """Line 1 says that Ansible owns the file; the next says what it decides and which variable to edit."""
    head = template.read_text().splitlines()[:4]
    if {"cms", "parts"} & set(template.parts) or template.name.endswith(".json.j2"):
        return  # included in a file that has the header; JSON has no comments
    managed = next(number for number, line in enumerate(head) if "ansible_managed" in line)
    assert re.search(r"[a-z]{3,} ", head[managed + 1]), head


@pytest.mark.parametrize("tasks", tracked("*/tasks/*.yml"), ids=lambda p: str(p.relative_to(ROOT)))
def test_task_files_are_short(tasks):
    assert len(tasks.read_text().splitlines()) <= 100


def test_a_back_reference_has_one_backslash_when_yaml_was_read():
    """Jinja takes it as it stands: two, as between double quotes, are none in a block scalar."""
    wrong = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for directory in ("roles", "playbooks", "lab")
        for path in sorted((ROOT / directory).rglob("*.yml"))
        for event in yaml.parse(path.read_text())
        for line in getattr(event, "value", "").splitlines()
        if re.search(r"\\\\\d", line)
    ]
    assert wrong == []


@pytest.mark.parametrize("role", ROLES, ids=lambda r: r.name)
def test_what_a_role_registers_is_private(role):
    """A registered result is a host variable: the preflight would take a public one for a misspelt option."""
    for path in role.rglob("tasks/*.yml"):
        for name in re.findall(r"register: (\w+)", path.read_text()):
            assert name.startswith(f"__{role.name}_"), f"{path.relative_to(ROOT)}: {name}"


@pytest.mark.parametrize("name", INVENTORIES)
def test_inventory_variables_are_known(name):
    """A misspelt variable in the shipped inventories would silently do nothing."""
    options = inventory_filters.role_options(str(ROOT / "roles")) | inventory_filters.role_options(
        str(ROOT / "lab/roles")
    )
    names = set()
    for path in (ROOT / "inventories" / name).rglob("*.yml"):
        if path.name not in ("hosts.yml", "vault.yml"):
            names |= set(yaml.safe_load(path.read_text()) or {})
    assert names
    assert inventory_filters.misspelt_variables(sorted(names), options) == []


def test_both_inventories_have_the_same_groups_and_files():
    """The lab is the worked example in small: what holds there holds in production."""

    def shape(name):
        base = ROOT / "inventories" / name / "group_vars"
        files = {str(p.relative_to(base)) for p in base.rglob("*.yml") if p.name != "vault.yml"}
        return {f for f in files if not re.search(r"(^|/)lab_|/lab\.yml", f)} - {"all/example.yml"}

    assert shape("lab") == shape("torproject")


def test_every_playbook_for_hosts_fails_fast():
    """No host is touched before the inventory was found good."""
    for playbook in ("site.yml", "civicrm_int.yml", "civicrm_ext.yml"):
        plays = yaml.safe_load((ROOT / "playbooks" / playbook).read_text())
        assert plays[0]["ansible.builtin.import_playbook"] == "preflight.yml"
    (preflight,) = yaml.safe_load((ROOT / "playbooks/preflight.yml").read_text())
    assert preflight["any_errors_fatal"] is True
    assert preflight["gather_facts"] is False


def test_no_hosts_name_in_a_role_or_a_playbook():
    """More hosts of each kind come later: roles and playbooks speak of groups."""
    for path in [*tracked("roles/*"), *tracked("playbooks/*")]:
        if path.suffix in (".yml", ".j2") and path.name not in ("argument_specs.yml",) and "defaults" not in path.parts:
            assert not re.search(r"crm-(int|ext)-0\d|torproject", path.read_text()), path


def test_nothing_hides_a_failure():
    """Green must mean ran."""
    for path in [*tracked("*.yml"), *tracked("*.py"), *tracked("lab/bin/*"), *tracked("Makefile"), *tracked(".ci/run")]:
        text = path.read_text()
        if path == Path(__file__):
            continue
        assert "|| true" not in text, path
        assert not re.search(r"ignore_errors: *(true|yes)|pytest\.skip\(|mark\.skip", text), path


def test_no_password_is_kept_beside_the_files():
    """A cache of logins (mod_authn_socache) let in for minutes whom the file no longer named, and was no faster."""
    for path in [*tracked("roles/*"), *tracked("lab/roles/*"), *tracked("inventories/*")]:
        if path.suffix in (".yml", ".j2", ".conf"):
            assert not re.search(r"authn_socache|AuthnCache", path.read_text()), path


def test_every_test_says_something():
    """A test that asserts nothing proves nothing."""
    for path in tracked("tests/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                body = ast.unparse(node)
                assert re.search(r"\bassert|eventually\(|pytest\.raises|check_output\(", body), f"{path}: {node.name}"


UNITS = sorted(
    path
    for path in ROOT.glob("roles/*/templates/etc/systemd/system/*.j2")
    if path.name.endswith((".timer.j2", ".service.j2"))
)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_what_runs_runs_again_after_a_boot(unit):
    """systemctl enable passes over a unit without [Install] in silence. What a timer or a job starts needs none."""
    started_by_another = unit.name.endswith(".service.j2") and "\nRestart=" not in unit.read_text()
    assert started_by_another or "\n[Install]\nWantedBy=" in unit.read_text()


def test_pins_cover_what_is_required():
    """One file of pins serves every Python; nothing is installed that it does not name."""
    pinned = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    required = {
        line.strip().lower() for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"
    }
    assert required <= pinned


@pytest.mark.parametrize("scenario", sorted(ROOT.glob("molecule/*/molecule.yml")), ids=lambda path: path.parent.name)
def test_every_test_file_that_a_scenario_names_is_there(scenario):
    """Molecule passes over one that is not there, and is content with no test at all."""
    verifier = yaml.safe_load(scenario.read_text()).get("verifier", {})
    own = scenario.parent / "tests"
    assert "directory" not in verifier or list(own.glob("test_*.py"))
    for name in verifier.get("additional_files_or_dirs", []):
        assert (own / name).is_file(), name


@pytest.mark.parametrize("profile", ["civicrm_int", "civicrm_ext"])
def test_a_profile_leaves_checking_to_the_preflight(profile):
    """A specification that each role checks again costs a converge a quarter of its time."""
    imports = [
        (path, task["ansible.builtin.import_role"])
        for path in sorted((ROOT / "roles" / profile / "tasks").glob("*.yml"))
        for task in yaml.safe_load(path.read_text())
        if "ansible.builtin.import_role" in task
    ]
    assert len(imports) > 10
    assert [(path.name, role["name"]) for path, role in imports if role.get("rolespec_validate") is not False] == []
    assert {role["name"] for _, role in imports} <= {path.name for path in ROLES}
