"""OpenAI's published encodings: gpt2 (Radford et al. 2019), cl100k_base (GPT-4), o200k_base (GPT-4o).

tiktoken downloads their tables on first use and caches them. If a table is not cached and cannot be downloaded, the
error comes within two seconds and says which file to put where.
"""

import hashlib
import os
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

from tiktoken_ext.openai_public import ENCODING_CONSTRUCTORS

from minillm.tokenizers.bpe import BPETokenizer

CONNECT_SECONDS = 2.0
_HOST = "https://openaipublic.blob.core.windows.net"
_GPT2_FILES = f"{_HOST}/gpt-2/encodings/main"


class Table(NamedTuple):
    url: str
    sha256: str


class EncodingSource(NamedTuple):
    """tiktoken's name for an encoding, and the files that it reads."""

    constructor: str
    tables: tuple[Table, ...]


def _encoding_file(name: str, sha256: str) -> EncodingSource:
    return EncodingSource(name, (Table(f"{_HOST}/encodings/{name}.tiktoken", sha256),))


_R50K = _encoding_file("r50k_base", "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930")
_GPT2 = EncodingSource(
    "gpt2",
    (
        Table(f"{_GPT2_FILES}/vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
        Table(f"{_GPT2_FILES}/encoder.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
    ),
)
SOURCES: dict[str, tuple[EncodingSource, ...]] = {
    "gpt2": (_R50K, _GPT2),  # r50k_base is GPT-2's table in one file instead of two
    "cl100k_base": (_encoding_file("cl100k_base", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"),),
    "o200k_base": (_encoding_file("o200k_base", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"),),
}


def stock_tokenizer(kind: str) -> BPETokenizer:
    """The published encoding `kind`; our special tokens come after the published ones."""
    sources = SOURCES[kind]
    kept = next((source for source in sources if all(map(is_kept, source.tables))), None)
    if kept is None and not reachable(sources[0].tables[0].url):
        raise OSError(_remedy(kind, sources[0].tables[0], "its host does not answer"))
    try:
        published = ENCODING_CONSTRUCTORS[(kept or sources[0]).constructor]()
    except (OSError, ValueError) as error:
        raise OSError(_remedy(kind, sources[0].tables[0], f"fetching it failed ({error})")) from error
    ranks: dict[bytes, int] = published["mergeable_ranks"]
    return BPETokenizer(
        sorted(ranks, key=ranks.__getitem__),
        kind=kind,
        pattern=published["pat_str"],
        published_specials=published["special_tokens"],
    )


def kept_path(table: Table) -> Path:
    """tiktoken's cache file for `table`, named by the SHA-1 of its URL."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder == "":
        raise OSError("TIKTOKEN_CACHE_DIR is empty, which turns tiktoken's cache off; set it to a folder")
    root = Path(folder) if folder else Path(tempfile.gettempdir()) / "data-gym-cache"
    return root / hashlib.sha1(table.url.encode()).hexdigest()


def is_kept(table: Table) -> bool:
    path = kept_path(table)
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == table.sha256


def reachable(url: str) -> bool:
    """Whether the host of `url` answers within `CONNECT_SECONDS`, including the DNS lookup."""
    import requests  # tiktoken's client, with its certificates and proxies; slow to import

    answered = threading.Event()

    def ask() -> None:
        try:
            requests.head(url, timeout=CONNECT_SECONDS)
        except OSError:
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)  # a DNS lookup has no timeout
    thread.start()
    thread.join(CONNECT_SECONDS)
    return answered.is_set()


def _remedy(kind: str, table: Table, failure: str) -> str:
    path = kept_path(table)
    state = "is damaged" if path.is_file() else "is missing"
    return (
        f"tokenizer.kind {kind}: {path} {state} and {failure}; "
        f"download {table.url} on another machine and save it as that file, or use tokenizer.kind bpe"
    )
