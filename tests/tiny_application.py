"""An application of a few lines, as a release archive: it says which release answers and keeps a schema in MariaDB."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

# Two files of the release are read at two moments of a request: a request that saw two releases would show it.
FILES = {
    "web/index.php": """<?php
header('Content-Type: application/json');
require __DIR__ . '/early.php';
usleep(20000);
require __DIR__ . '/late.php';
echo json_encode(['release' => '@RELEASE@', 'early' => EARLY, 'late' => LATE, 'file' => __FILE__,
    'environment' => getenv('CIVICRM_ENVIRONMENT'), 'site' => getenv('CIVICRM_SITE')]), "\\n";
""",
    "web/early.php": "<?php const EARLY = '@RELEASE@';\n",
    "web/late.php": "<?php const LATE = '@RELEASE@';\n",
    "bin/database": """#!/usr/bin/php
<?php
$login = json_decode(file_get_contents(getenv('HOME') . '/shared/private/database.json'), true);
$db = new mysqli('localhost', $login['user'], $login['password'], $login['user'], 0, '/run/mysqld/mysqld.sock');
$db->query('CREATE TABLE IF NOT EXISTS tiny_schema (version INT)');
if ($argv[1] === 'upgrade') {
    $db->query('DELETE FROM tiny_schema');
    $db->query('INSERT INTO tiny_schema VALUES (@SCHEMA@)');
} else {
    echo $db->query('SELECT COALESCE(MAX(version), 0) FROM tiny_schema')->fetch_row()[0], "\\n";
}
""",
}


def archive(directory: Path, release: str, schema: int) -> dict[str, str]:
    """Write the archive of a release and return {url, sha256} as the inventory wants it."""
    path = directory / f"tiny-{release}.tar"
    with tarfile.open(path, "w") as sink:
        for name, text in FILES.items():
            content = text.replace("@RELEASE@", release).replace("@SCHEMA@", str(schema)).encode()
            member = tarfile.TarInfo(f"tiny-{release}/{name}")
            member.size, member.mode = len(content), 0o755 if name.startswith("bin/") else 0o644
            sink.addfile(member, io.BytesIO(content))
    return {"url": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
