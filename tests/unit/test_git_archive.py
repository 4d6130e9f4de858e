"""A repository's archive holds its submodules, as they are pinned, or there is none."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from loading import load

module = load("plugins/modules/git_archive.py")
WHO = {f"GIT_{role}_{what}": "x@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(command, env=os.environ | WHO, check=True, capture_output=True, text=True).stdout.strip()


def repository(directory: Path, files: dict[str, str], submodules: dict[str, tuple[str, str]] | None = None) -> str:
    """Make a repository, or one more commit in it, and return the commit; submodules: {path: (address, commit)}."""
    if not directory.is_dir():
        directory.mkdir()
        git(directory, "init", "--quiet")
    for path, (address, commit) in (submodules or {}).items():
        named = f'[submodule "the {path}"]\n\tpath = {path}\n' + (f"\turl = {address}\n" if address else "")
        files = files | {".gitmodules": files.get(".gitmodules", "") + named}
        git(directory, "update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
    for path, text in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text)
        git(directory, "add", path)
    git(directory, "commit", "--quiet", "-m", "x")
    return git(directory, "rev-parse", "HEAD")


def archived(tmp_path: Path, commit: str) -> dict[str, str]:
    """Return {path: text} of what is in the archive of the repository top."""
    top, cache, dest = tmp_path / "top", tmp_path / "cache", tmp_path / "top.tar"
    cache.mkdir(exist_ok=True)
    module.write(dest, str(top), commit, list(module.parts(cache, top, commit, str(top), True)))
    with tarfile.open(dest) as archive:
        return {member.name: archive.extractfile(member).read().decode() for member in archive if member.isfile()}


def test_submodules_and_theirs_are_in_the_archive_as_they_are_pinned(tmp_path):
    deep = repository(tmp_path / "deep", {"d.txt": "deep"})
    lib = repository(tmp_path / "lib", {"a.txt": "pinned"}, {"deep": ("../deep", deep)})
    repository(tmp_path / "lib", {"a.txt": "newer"})
    top = repository(tmp_path / "top", {"web/index.php": "top"}, {"web/lib": ("../lib", lib)})
    found = archived(tmp_path, top)
    found.pop(".gitmodules"), found.pop("web/lib/.gitmodules")
    assert found == {"web/index.php": "top", "web/lib/a.txt": "pinned", "web/lib/deep/d.txt": "deep"}
    # From the cache, without a fetch.
    (tmp_path / "lib").rename(tmp_path / "gone")
    assert archived(tmp_path, top)["web/lib/a.txt"] == "pinned"


def test_a_repository_without_submodules_is_as_git_writes_it(tmp_path):
    top = repository(tmp_path / "top", {"a": "1", "b/c": "2"})
    assert archived(tmp_path, top) == {"a": "1", "b/c": "2"}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == []


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("../lib", "submodule lib at "),
        ("", "submodule lib: .gitmodules has no url for it"),
        ("ext::sh -c touch% /tmp/x", "transport 'ext' not allowed"),
        ("http://127.0.0.1:1/lib", "transport 'http' not allowed"),
        ("--upload-pack=touch x", "submodule lib at "),
    ],
)
def test_a_submodule_that_cannot_be_had_is_named_and_nothing_is_written(tmp_path, address, reason):
    top = repository(tmp_path / "top", {"a": "1"}, {"lib": (address, "c0ffee" * 6 + "abcd")})
    (tmp_path / "top.tar").write_text("before")
    with pytest.raises(module.SubmoduleError, match=reason):
        archived(tmp_path, top)
    assert (tmp_path / "top.tar").read_text() == "before"
    assert not (tmp_path / "top" / "x").exists()


def test_a_commit_that_the_submodule_does_not_have_is_no_archive(tmp_path):
    repository(tmp_path / "lib", {"a": "1"})
    top = repository(tmp_path / "top", {"a": "1"}, {"lib": ("../lib", "c0ffee" * 6 + "abcd")})
    with pytest.raises(module.SubmoduleError, match="submodule lib at c0ffeec0ffee"):
        archived(tmp_path, top)


def test_a_remote_repository_reaches_no_file_of_this_machine(tmp_path):
    """Else whoever writes to it could have any repository here published."""
    lib = repository(tmp_path / "lib", {"a": "secret"})
    repository(tmp_path / "top", {"a": "1"}, {"lib": (str(tmp_path / "lib"), lib)})
    (tmp_path / "cache").mkdir()
    with pytest.raises(module.SubmoduleError, match="transport 'file' not allowed"):
        list(module.parts(tmp_path / "cache", tmp_path / "top", "HEAD", "https://example.org/top.git", False))


@pytest.mark.parametrize(
    ("base", "url", "address"),
    [
        ("https://x.example/a/top.git", "../lib.git", "https://x.example/a/lib.git"),
        ("https://x.example/a/top.git/", "../../b/lib.git", "https://x.example/b/lib.git"),
        ("https://x.example/a/top.git", "./lib.git", "https://x.example/a/top.git/lib.git"),
        ("git@x.example:a/top.git", "../lib.git", "git@x.example:a/lib.git"),
        ("git@x.example:top.git", "../lib.git", "git@x.example:lib.git"),
        ("/srv/top", "../lib", "/srv/lib"),
        ("/srv/top", "https://x.example/lib", "https://x.example/lib"),
    ],
)
def test_a_relative_address_begins_at_the_repository(base, url, address):
    assert module.resolved(base, url) == address
