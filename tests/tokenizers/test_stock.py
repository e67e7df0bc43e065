"""Published encodings: read where tiktoken keeps them, or one line that says which file to put where, at once."""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
import time
from pathlib import Path

import pytest
import requests
from tiktoken_ext import openai_public

from minillm.tokenizers import stock
from minillm.tokenizers.config import TokenizerConfig
from minillm.tokenizers.load import build_tokenizer, load_tokenizer

RANKS = {bytes([255 - i]): i for i in range(256)} | {b"ab": 256, b" ab": 257}
KINDS = ["gpt2", "cl100k_base", "o200k_base"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no host that answers."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(stock, "reachable", lambda url: False)
    return tmp_path / "cache"


def keep_small_table(monkeypatch: pytest.MonkeyPatch, kind: str) -> Path:
    """Puts a table of 258 ranks where tiktoken keeps the one of `kind`, under the hash that is now asked for."""
    content = b"\n".join(base64.b64encode(token) + b" %d" % rank for token, rank in RANKS.items())
    source = stock.SOURCES[kind][0]
    table = stock.Table(source.tables[0].url, hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(stock.SOURCES, kind, (stock.EncodingSource(source.constructor, (table,)),))
    load = openai_public.load_tiktoken_bpe
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda url, expected_hash: load(url, table.sha256))
    path = stock.kept_path(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_without_network_and_table_one_line_names_the_file_to_put_where(kind, cache):
    start = time.perf_counter()
    with pytest.raises(OSError) as caught:
        build_tokenizer(TokenizerConfig(kind=kind), [])
    assert time.perf_counter() - start < 2
    url = stock.SOURCES[kind][0].tables[0].url
    place = cache / hashlib.sha1(url.encode()).hexdigest()
    assert str(caught.value).startswith(f"tokenizer.kind {kind}: {place} is missing and its host does not answer; ")
    assert f"download {url} " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_table_serves_without_network_and_travels_with_the_run(kind, cache, monkeypatch, tmp_path):
    path = keep_small_table(monkeypatch, kind)
    tokenizer = build_tokenizer(TokenizerConfig(kind=kind), [])
    assert tokenizer.kind == kind
    assert tokenizer.encode("ab ab").tolist() == [256, 257]
    published = tokenizer.specials["<|endoftext|>"]
    assert published == {"gpt2": 50256, "cl100k_base": 100257, "o200k_base": 199999}[kind]
    assert published < tokenizer.bos_id == tokenizer.vocab_size - 106
    assert {258, published, tokenizer.eos_id} <= tokenizer.special_ids
    assert 257 not in tokenizer.special_ids
    text = "<|endoftext|> ab <|eos|>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.special_ids.isdisjoint(tokenizer.encode(text).tolist())

    tokenizer.save(tmp_path / "run")
    path.unlink()
    assert load_tokenizer(tmp_path / "run").encode("ab ab").tolist() == [256, 257]
    assert load_tokenizer(tmp_path / "run").hash == tokenizer.hash


def test_a_damaged_table_is_called_damaged_and_left_in_place(cache, monkeypatch):
    path = keep_small_table(monkeypatch, "cl100k_base")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(OSError, match="is damaged and its host does not answer"):
        stock.stock_tokenizer("cl100k_base")
    assert path.is_file()


def test_gpt2_is_also_read_from_the_two_files_that_tiktoken_keeps_for_it(cache, monkeypatch):
    read = []
    monkeypatch.setattr(stock, "is_kept", lambda table: "gpt-2" in table.url)
    monkeypatch.setattr(openai_public, "data_gym_to_mergeable_bpe_ranks", lambda **files: read.append(files) or RANKS)
    assert stock.stock_tokenizer("gpt2").encode("ab").tolist() == [256]
    assert len(read) == 1


def test_a_download_that_fails_ends_in_the_same_line(cache, monkeypatch):
    def refuse(*_, **__):
        raise requests.ConnectionError("connection lost")

    monkeypatch.setattr(stock, "reachable", lambda url: True)
    monkeypatch.setattr(requests, "get", refuse)
    with pytest.raises(OSError, match=r"is missing and fetching it failed \(connection lost\); download https://"):
        stock.stock_tokenizer("o200k_base")


def test_an_unset_cache_is_the_temporary_folder_and_an_empty_one_is_refused(monkeypatch):
    table = stock.SOURCES["o200k_base"][0].tables[0]
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", "elsewhere")
    assert stock.kept_path(table) == Path("elsewhere/fb374d419588a4632f3f557e76b4b70aebbca790")
    monkeypatch.delenv("DATA_GYM_CACHE_DIR")
    assert stock.kept_path(table).parent.name == "data-gym-cache"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    with pytest.raises(OSError, match="TIKTOKEN_CACHE_DIR is empty"):
        stock.kept_path(table)


def test_a_host_that_hangs_counts_as_unreachable_in_time(monkeypatch):
    monkeypatch.setattr(stock, "CONNECT_SECONDS", 0.2)
    release = threading.Event()

    def hang(*_, **__):
        release.wait(20)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    start = time.perf_counter()
    assert not stock.reachable("https://minillm.invalid/table")
    assert time.perf_counter() - start < 2
    release.set()


def test_a_host_that_answers_is_reachable(monkeypatch):
    monkeypatch.setattr(requests, "head", lambda url, timeout: None)
    assert stock.reachable("https://minillm.invalid/table")
