"""The pages in a real browser: they draw, answer to the address, and ask for nothing from anywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minillm.cli import main

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = "--headless=new --no-sandbox --disable-gpu --hide-scrollbars --disable-background-networking --no-first-run"
ATTENTION = ["7 and 7 make 14; so it is.", "--out"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]


def visit(address: str, folder: Path, *options: str) -> tuple[str, set[str]]:
    """Open a page: its document after all scripts, and the hosts that were asked for anything."""
    log = folder / "net.json"
    command = [
        CHROMIUM or "",
        *QUIET.split(),
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={log}",
        *options,
    ]
    done = subprocess.run(
        [*command, "--virtual-time-budget=4000", "--dump-dom", address], capture_output=True, text=True, timeout=100
    )
    hosts = re.findall(r'"url":"\w+://([^/"]*)', log.read_text(encoding="utf-8", errors="replace"))
    return done.stdout, set(hosts)


@pytest.fixture(scope="module")
def own_hosts(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What Chromium itself asks for when it opens an empty page."""
    return visit("about:blank", tmp_path_factory.mktemp("blank"))[1]


@pytest.fixture(scope="module")
def pages(run_of: Callable, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {name: folder / f"{name}.html" for name in ("gpt2", "bert", "t5", "report")}
    for name in ("gpt2", "bert", "t5"):
        assert main(["attention", str(run_of(name)), *ATTENTION, str(found[name])]) == 0
    assert main(["report", str(run_of("gpt2")), str(run_of("bert")), str(finished), "--out", str(found["report"])]) == 0
    return found


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5", "report"])
def test_a_page_draws_and_asks_for_nothing(name: str, pages: dict[str, Path], own_hosts: set[str], tmp_path: Path):
    document, hosts = visit(pages[name].as_uri(), tmp_path)
    assert 'data-ready="yes"' in document, "its script ran to the end"
    assert document.count("<svg") >= 5 if name == "report" else document.count("<canvas") >= 6
    assert {host for host in hosts - own_hosts if host and "google" not in host and "gvt1" not in host} == set()


def test_a_request_would_have_been_seen(own_hosts: set[str], tmp_path: Path):
    (tmp_path / "asks.html").write_text('<img src="http://asked.invalid/a.png">', encoding="utf-8")
    assert "asked.invalid" in visit((tmp_path / "asks.html").as_uri(), tmp_path)[1] - own_hosts


def test_the_address_chooses_token_and_head(pages: dict[str, Path], tmp_path: Path):
    document, _ = visit(f"{pages['gpt2'].as_uri()}#token=2&layer=1&head=0", tmp_path)
    assert "Layer 1, head 0" in document
    chosen = re.findall(r'<span[^>]*class="chosen"[^>]*>([^<]*)', document)
    assert len(chosen) == 1
    other, _ = visit(f"{pages['gpt2'].as_uri()}#token=5", tmp_path)
    assert re.findall(r'<span[^>]*class="chosen"[^>]*>([^<]*)', other) != chosen


def test_a_screenshot_shows_the_weights(pages: dict[str, Path], tmp_path: Path):
    from PIL import Image

    shot = tmp_path / "shot.png"
    visit(f"{pages['gpt2'].as_uri()}#layer=1&head=0", tmp_path, f"--screenshot={shot}", "--window-size=1100,1500")
    pixels = np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 60, "shades of many weights"
