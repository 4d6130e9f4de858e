"""An operator sees what waits for its payment, and can forget it in one go (S13)."""

from __future__ import annotations

import json
import os
import time

import pytest

from civicrm_tools.donations import pending


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """donation-pending on a site with three donations, of which one is odd."""
    monkeypatch.setattr(pending, "DIRECTORY", tmp_path / "etc")
    monkeypatch.setattr(pending, "STATE", tmp_path / "state")
    monkeypatch.setattr(pending, "become", lambda site: None)
    folder = tmp_path / "state/donate-api/pending/ab"
    folder.mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/donate-api.json").write_text('{"proof": "notice"}')
    for number, ending in enumerate(("json", "odd", "json")):
        donation = {"amount": "25.00", "currency": "EUR", "payment_reference": f"ch_{number}"}
        donation["contact"] = {"last_name": "Love\u202elace"}
        since = int((time.time() - 3600 * (3 - number)) * 1e6)
        path = folder / f"{'ab' * 16}-{since:016d}-{number:032x}.{ending}"
        path.write_text(json.dumps({"donation": donation}, ensure_ascii=False))
    return pending.main


def test_the_list_has_ages_and_references_and_no_names(tool, capsys):
    assert tool(["list", "donate-api"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in lines] == [["3.0", "h"], ["2.0", "h"], ["1.0", "h"]]
    assert [line.endswith("  odd") for line in lines] == [False, True, False]
    assert "25.00 EUR ch_0" in lines[0]
    assert "Love" not in "".join(lines)
    assert tool(["list", "donate-api", "--json"]) == 0
    shown = capsys.readouterr().out
    assert "\u202e" not in shown
    assert len(json.loads(shown)) == 3


def test_a_flood_is_forgotten_in_one_go(tool, capsys):
    assert tool(["drop", "donate-api", "all", "--older-than", "1.5"]) == 0
    assert capsys.readouterr().out == "2 dropped\n"
    assert tool(["drop", "donate-api", f"{2:032x}"]) == 0
    assert tool(["drop", "donate-api", "all"]) == 3


def test_a_link_or_a_pipe_in_the_sites_folder_is_not_followed_nor_waited_for(tool, tmp_path, capsys):
    folder = tmp_path / "state/donate-api/pending/ab"
    (tmp_path / "secret").write_text('{"donation": {"amount": "secret"}}')
    (folder / f"x-{1:016d}-link.json").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / f"x-{2:016d}-pipe.json")
    assert tool(["list", "donate-api"]) == 0
    assert "secret" not in capsys.readouterr().out


def test_an_unknown_site_is_one_clear_line(tool, capsys):
    assert tool(["list", "../x"]) == 1
    assert "no site '../x'" in capsys.readouterr().err
