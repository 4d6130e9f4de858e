"""Check a release's archive and unpack it, complete or not at all."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from civicrm_tools.core.command import Failure
from civicrm_tools.site.layout import Site, remove

CHUNK = 1 << 20
# What PHP reads and no web server: never for others, wherever it lies.
SOURCE = {
    ".engine", ".inc", ".install", ".module", ".phar", ".php", ".profile", ".sh", ".sql", ".theme", ".tpl", ".twig",
    ".yaml", ".yml",
}  # fmt: skip


def check_sum(archive: Path, sha256: str) -> None:
    with archive.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    if digest != sha256.lower():
        raise Failure(f"{archive} has SHA-256 {digest}, not {sha256}: nothing was changed")


def members(archive: tarfile.TarFile, site: Site) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """Yield what to unpack and where; one directory around all of it is left out unless `web` lies beside."""
    found = []
    for member in archive:
        path = PurePosixPath(os.path.normpath(member.name))
        if path.is_absolute() or ".." in path.parts:
            raise Failure(f"the archive holds {member.name!r}, which lies outside of it: refused")
        if not (member.isdir() or member.isfile() or member.issym()):
            raise Failure(f"the archive holds {member.name!r}, which is no file, directory or symbolic link: refused")
        if member.issym():
            end = PurePosixPath(os.path.normpath(path.parent / member.linkname))
            if PurePosixPath(member.linkname).is_absolute() or end.parts[:1] == ("..",):
                raise Failure(f"the archive's link {member.name!r} leads out of it: refused")
        if path.parts:
            found.append((member, path))
    tops = {path.parts[0] for _, path in found}
    wrapped = len(tops) == 1 and all(len(path.parts) > 1 or member.isdir() for member, path in found)
    strip = wrapped and PurePosixPath(site.web).parts[:1] != tuple(tops)
    for member, path in found:
        inner = PurePosixPath(*path.parts[1:]) if strip else path
        if inner.parts:
            yield member, inner


def unpack(site: Site, archive: Path, release: str) -> None:
    """Make releases/<id> out of an archive, complete or not at all; all of it is root's and nobody may write to it."""
    site.releases.mkdir(mode=0o755, exist_ok=True)
    site.releases.chmod(0o755)  # whatever umask this runs with
    partial = site.releases / f".{release}.partial"
    remove(partial)
    partial.mkdir(mode=0o755)
    links: list[tuple[Path, str]] = []
    try:
        with tarfile.open(archive) as source:
            for member, path in members(source, site):
                target = partial / path
                target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                if member.isdir():
                    target.mkdir(mode=0o755, exist_ok=True)
                elif member.issym():
                    links.append((target, member.linkname))
                else:
                    content = source.extractfile(member)
                    assert content is not None
                    with content, target.open("xb") as sink:
                        shutil.copyfileobj(content, sink, CHUNK)
                    target.chmod(0o755 if member.mode & 0o100 else 0o644)
        give_rights(site, partial)
        # Last: nothing is ever written through a link of the archive.
        for target, name in links:
            target.symlink_to(name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Failure(f"{archive} cannot be unpacked: {error}") from error
    if not (partial / site.web).is_dir():
        raise Failure(f"the archive has no directory {site.web!r}, which the site serves: refused")
    link_shared(site, partial)
    partial.rename(site.releases / release)


def give_rights(site: Site, partial: Path) -> None:
    """Let the site read all of a release without links, and everybody else (the web server) what is served as it is."""
    gid = pwd.getpwnam(site.user).pw_gid if os.geteuid() == 0 else -1
    web = PurePosixPath(site.web)
    for path in [partial, *partial.rglob("*")]:
        inner = PurePosixPath(path.relative_to(partial))
        served = inner.is_relative_to(web)
        way = path.is_dir() and (served or web.is_relative_to(inner))
        public = way or (path.is_file() and served and path.suffix not in SOURCE)
        executable = path.is_dir() or path.stat().st_mode & 0o100
        os.chown(path, -1, gid)
        path.chmod((0o755 if executable else 0o644) if public else (0o750 if executable else 0o640))


def link_shared(site: Site, partial: Path) -> None:
    """Put links to the site's shared files into a release that is not served yet."""
    for entry in site.shared:
        link, target = partial / entry["path"], site.base / "shared" / entry["to"]
        if not link.parent.resolve().is_relative_to(partial.resolve()):
            raise Failure(f"the archive has a link in the way of {entry['path']}: refused")
        remove(link)
        link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        link.symlink_to(target)
