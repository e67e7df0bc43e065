import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from minillm.data import cache
from minillm.data.cache import cache_folder, entry
from minillm.storage import MANIFEST


def make(folder: Path) -> dict[str, int]:
    (folder / "data.bin").write_bytes(b"12345678")
    return {"count": 8}


def refuse(folder: Path) -> dict[str, int]:
    raise AssertionError("a sound entry was made again")


def test_an_entry_is_made_once_and_found_later(tmp_path):
    assert entry(tmp_path / "a", make) == {"count": 8}
    assert entry(tmp_path / "a", refuse) == {"count": 8}
    assert (tmp_path / "a" / "data.bin").read_bytes() == b"12345678"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("damage", [b"1234567", b"12345679", None])
def test_a_damaged_entry_is_made_again(tmp_path, damage):
    entry(tmp_path / "a", make)
    if damage is None:
        (tmp_path / "a" / MANIFEST).write_text("{", encoding="utf-8")
    else:
        (tmp_path / "a" / "data.bin").write_bytes(damage)
    entry(tmp_path / "a", make)
    assert (tmp_path / "a" / "data.bin").read_bytes() == b"12345678"
    assert entry(tmp_path / "a", refuse) == {"count": 8}
    assert os.listdir(tmp_path) == ["a"]


def test_an_entry_whose_making_fails_leaves_nothing_behind(tmp_path):
    def fail(folder: Path) -> dict[str, int]:
        make(folder)
        raise ValueError("no such field")

    with pytest.raises(ValueError, match="no such field"):
        entry(tmp_path / "a", fail)
    assert os.listdir(tmp_path) == []


def test_of_several_that_make_an_entry_at_once_the_first_wins_and_all_have_it(tmp_path):
    together = threading.Barrier(4, timeout=30)

    def make_together(folder: Path) -> dict[str, int]:
        together.wait()
        return make(folder)

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(entry, tmp_path / "a", make_together) for _ in range(4)]
        assert [future.result() for future in futures] == [{"count": 8}] * 4
    assert entry(tmp_path / "a", refuse) == {"count": 8}
    assert os.listdir(tmp_path) == ["a"]


def test_an_entry_that_appears_meanwhile_stays(tmp_path):
    def make_late(folder: Path) -> dict[str, int]:
        entry(tmp_path / "a", make)
        (folder / "late.bin").write_bytes(b"late")
        return {"count": 8}

    entry(tmp_path / "a", make_late)
    assert sorted(os.listdir(tmp_path / "a")) == ["data.bin", MANIFEST]


def test_what_a_killed_process_left_is_removed_after_a_week_and_nothing_else_is(tmp_path):
    stale, fresh = (tmp_path / f".text-{'0' * 32}-{end * 8}" for end in "ab")
    others = tmp_path / ".config-folder"
    for folder in (stale, fresh, others):
        folder.mkdir()
    for folder in (stale, others):
        os.utime(folder, (0, 0))
    entry(tmp_path / "a", make)
    assert sorted(os.listdir(tmp_path)) == sorted([others.name, fresh.name, "a"])


def test_a_cache_that_cannot_be_written_names_the_setting_that_moves_it(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OSError, match=r"cannot write the cache .*file.*; choose a folder with --data.cache"):
        entry(tmp_path / "file" / "a", make)


def test_the_cache_folder_is_the_configured_one_else_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder(str(tmp_path)) == tmp_path
    monkeypatch.setattr(cache.sys, "platform", "linux")
    assert cache_folder(None) == tmp_path / "xdg" / "minillm"
    monkeypatch.setattr(cache.sys, "platform", "win32")
    assert cache_folder(None) == tmp_path / "local" / "minillm"
