#!/usr/bin/python
# GPL-3.0-or-later
"""Write a commit of a Git repository as a tar archive, with its submodules."""

from __future__ import annotations

DOCUMENTATION = r"""
module: git_archive
short_description: Write a commit as a tar archive, with all submodules as they are pinned in it
description:
  - C(git archive) leaves the place of a submodule empty and says nothing; here its files are in the archive, and those
    of its own submodules.
  - Submodules are fetched into the directory of caches by https or ssh, and by path where the repository itself is one.
  - Fails, and writes nothing, where one cannot be had.
  - Runs in check mode, too, as it changes nothing but the cache.
options:
  repository:
    description: Address of the repository, as it was cloned; relative addresses of submodules begin there.
    type: str
    required: true
  git_dir: {description: A bare clone of it that has the commit., type: path, required: true}
  commit: {description: The commit., type: str, required: true}
  cache: {description: Directory for clones of the submodules., type: path, required: true}
  dest: {description: The archive., type: path, required: true}
author: CiviCRM on two hosts
"""

EXAMPLES = r"""
- git_archive:
    repository: https://example.org/crm.git
    git_dir: /var/cache/x/crm.git
    commit: 0123456789012345678901234567890123456789
    cache: /var/cache/x
    dest: /var/cache/x/crm.tar
"""

RETURN = r"""
submodules: {description: "Path and commit of each submodule.", type: dict, returned: always}
"""

import hashlib
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule


class SubmoduleError(Exception):
    """Which submodule cannot be had, and why."""


def git(directory: str | Path, *arguments: str, local: bool = False) -> str:
    """Return what git prints. Raises SubmoduleError with git's first line."""
    # Git's own list of transports: a repository cannot name a program (ext::) or a file of this machine.
    known = {"GIT_ALLOW_PROTOCOL": "https:ssh:file" if local else "https:ssh", "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(
        ["git", "-C", str(directory), *arguments],
        env=os.environ | known,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise SubmoduleError((done.stderr.strip().splitlines() or ["git gave no reason"])[0])
    return done.stdout


def resolved(base: str, url: str) -> str:
    """Return a submodule's address as gitsubmodules(7) reads it: ./ and ../ begin at the repository's own address."""
    if not url.startswith(("./", "../")):
        return url
    base = base.rstrip("/")
    while url.startswith(("./", "../")):
        first, _, url = url.partition("/")
        if first == "..":
            cut = max(base.rfind("/"), base.rfind(":"))
            # Of host:path the colon stays.
            base = base[: cut + 1] if base[cut : cut + 1] == ":" else base[:cut]
    return base + url if base.endswith(":") else f"{base}/{url}"


def is_local(address: str) -> bool:
    return address.startswith(("/", ".", "~", "file://"))


def submodules(git_dir: str | Path, commit: str, address: str) -> Iterator[tuple[str, str, str]]:
    """Yield (path, commit, address) of what is pinned in a commit."""
    entries = [
        line.split("\t", 1) for line in git(git_dir, "ls-tree", "-rz", "--full-tree", commit).split("\0") if line
    ]
    pinned = {path: entry.split()[2] for entry, path in entries if entry.startswith("160000 ")}
    if not pinned:
        return
    try:
        lines = git(git_dir, "config", "--null", "--blob", f"{commit}:.gitmodules", "--list").split("\0")
    except SubmoduleError:
        lines = []
    found = dict(line.split("\n", 1) for line in lines if "\n" in line)
    urls = {
        path: found.get(name.removesuffix(".path") + ".url") for name, path in found.items() if name.endswith(".path")
    }
    for path, pin in pinned.items():
        if not (url := urls.get(path)):
            raise SubmoduleError(f"submodule {path}: .gitmodules has no url for it")
        yield path, pin, resolved(address, url)


def fetched(cache: Path, address: str, commit: str, local: bool) -> Path:
    """Return a bare clone that has the commit."""
    directory = cache / f"{hashlib.sha256(address.encode()).hexdigest()}.git"
    if not directory.is_dir():
        git(cache, "init", "--quiet", "--bare", str(directory))

    def has() -> bool:
        return not subprocess.run(
            ["git", "-C", directory, "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True
        ).returncode

    wanted = (["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"], [commit])  # some servers hand out any commit
    for refs in wanted:
        if not has():
            git(directory, "fetch", "--quiet", "--force", "--no-recurse-submodules", "--", address, *refs, local=local)
    return directory


def parts(cache: Path, git_dir: str | Path, commit: str, address: str, local: bool) -> Iterator[tuple[str, str, Path]]:
    """Yield (path, commit, clone) of all submodules, those of submodules after them."""
    for path, pin, url in submodules(git_dir, commit, address):
        try:
            clone = fetched(cache, url, pin, local)
        except SubmoduleError as error:
            raise SubmoduleError(f"submodule {path} at {pin[:12]} from {url}: {error}") from error
        yield path, pin, clone
        for inner, inner_pin, inner_clone in parts(cache, clone, pin, url, local and is_local(url)):
            yield f"{path}/{inner}", inner_pin, inner_clone


def write(dest: Path, git_dir: str, commit: str, pieces: list[tuple[str, str, Path]]) -> None:
    """Write the archive, complete or not at all."""
    new = dest.with_name(f".{dest.name}.new")
    git(git_dir, "archive", "--format=tar", f"--output={new.absolute()}", commit)
    with tempfile.TemporaryDirectory(dir=dest.parent) as scratch:
        for path, pin, clone in pieces:
            file = Path(scratch) / "part.tar"
            git(clone, "archive", "--format=tar", f"--prefix={path}/", f"--output={file.absolute()}", pin)
            with tarfile.open(file) as source, tarfile.open(new, "a") as sink:
                for member in source:
                    sink.addfile(member, source.extractfile(member) if member.isfile() else None)
    new.replace(dest)


def main() -> None:
    options = {name: {"type": "path", "required": True} for name in ("git_dir", "cache", "dest")}
    options |= {name: {"type": "str", "required": True} for name in ("repository", "commit")}
    module = AnsibleModule(argument_spec=options, supports_check_mode=True)
    given = module.params
    repository = given["repository"]
    try:
        pieces = list(parts(Path(given["cache"]), given["git_dir"], given["commit"], repository, is_local(repository)))
        write(Path(given["dest"]), given["git_dir"], given["commit"], pieces)
    except (SubmoduleError, OSError, tarfile.TarError) as error:
        # An address may hold a login.
        module.fail_json(msg=re.sub(r"//[^/@\s]*@", "//", str(error)))
    module.exit_json(changed=False, submodules={path: pin for path, pin, _ in pieces})


if __name__ == "__main__":
    main()
