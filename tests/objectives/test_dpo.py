"""Direct preference optimization against references written from the papers, and in whole runs."""

from __future__ import annotations

import json
import math
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from minillm import evaluate, load_config, load_run
from minillm.cli import main
from minillm.data.datasets.preferences import PreferenceIds
from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.nn.output import Output
from minillm.objectives.answers import AnswerLayout
from minillm.objectives.base import IGNORE_INDEX
from minillm.objectives.dpo import DPO, answer_log_probs, reference_log_probs
from minillm.training.metrics import read_metrics

VOCAB, EOS, PAD, START = 23, 20, 20, 21  # pad is EOS, as in many published tokenizers
LAYOUT = AnswerLayout(before=(), after=(EOS,), max_len=13, blank=START)


def pair(prompt: int, chosen: int, rejected: int, seed: int = 0, reference: tuple[float, float] = (-9.0, -8.0)):
    rng = np.random.default_rng(seed)
    ids = (rng.integers(0, 20, n) for n in (prompt, chosen, rejected))
    return PreferenceIds(*ids, margin=0.0, framed=False, where="here", reference=reference)


PAIRS = [pair(3, 2, 5, 1), pair(1, 4, 1, 2, (-20.0, -3.5)), pair(0, 1, 3, 3, (-3.0, -11.0))]


def rng(row: int) -> np.random.Generator:
    return np.random.default_rng(row)


def by_hand(logits: Tensor, examples: list[PreferenceIds], kind: str, beta: float, smoothing: float) -> Tensor:
    """The mean loss in fp64, pair by pair and token by token; logits (2B, T, V) for whole rows."""
    losses = []
    for number, example in enumerate(examples):
        sums = []
        for side, ids in enumerate((example.chosen, example.rejected)):
            prompt = list(example.prompt) or [START]
            row = [*prompt, *ids, EOS]
            of_tokens = [
                logits[2 * number + side, at - 1].double().log_softmax(-1)[row[at]]
                for at in range(len(prompt), len(row))
            ]
            sums.append((sum(of_tokens) - example.reference[side]) / (len(of_tokens) if kind == "ipo" else 1))
        ahead = sums[0] - sums[1]
        if kind == "ipo":
            losses.append((ahead - 1 / (2 * beta)) ** 2)
        else:
            good, bad = 1 / (1 + torch.exp(-beta * ahead)), 1 / (1 + torch.exp(beta * ahead))
            losses.append(-(1 - smoothing) * good.log() - smoothing * bad.log())
    return torch.stack(losses).mean()


def of_rows(logits: Tensor, inputs: dict[str, Tensor]) -> Output:
    """What a model with these logits (2B, T, V) returns."""
    return Output(logits, {"lm": logits.take_along_dim(inputs["predict_at"][..., None], 1)})


@pytest.mark.parametrize(("kind", "smoothing"), [("sigmoid", 0.0), ("sigmoid", 0.2), ("ipo", 0.0)])
def test_loss_and_gradient_equal_an_fp64_reference(kind: str, smoothing: float):
    objective = DPO(PAD, layout=LAYOUT, beta=0.3, kind=kind, smoothing=smoothing)
    batch = objective.collate(PAIRS, rng)
    logits = torch.randn(*batch.inputs["tokens"].shape, VOCAB, generator=torch.Generator().manual_seed(0))
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    found = objective.loss(of_rows(ours, batch.inputs), batch.labels, training=True)["pair"].loss / batch.counts["pair"]
    expected = by_hand(theirs, PAIRS, kind, 0.3, smoothing)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    found.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    assert ours.grad is not None and (ours.grad[0, :2] == 0).all(), "nothing is learned from the prompt"


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_padding_to_multiples_of_8_changes_neither_loss_nor_gradients(kind: str):
    config = ModelConfig(vocab_size=VOCAB, max_seq_len=40, d_model=16, num_layers=1, num_heads=2)
    model = build_model(config)
    model.init_weights(torch.Generator().manual_seed(0))
    found = []
    for max_len, columns in ((10, (9, 8)), (41, (16, 8))):
        objective = DPO(PAD, layout=replace(LAYOUT, max_len=max_len), beta=0.3, kind=kind)
        batch = objective.collate([pair(4, 3, 5, 1), pair(1, 4, 1, 2)], rng)
        assert (batch.inputs["tokens"].size(1), batch.inputs["predict_at"].size(1)) == columns
        score = objective.loss(model(**batch.inputs), batch.labels, training=True)["pair"]
        gradients = torch.autograd.grad(score.loss, list(model.parameters()))
        found.append([score.loss, *score.figures.values(), *gradients, torch.tensor(batch.num_tokens)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_the_loss_equals_that_of_trl(kind: str):
    trl = pytest.importorskip("trl")
    objective = DPO(PAD, layout=LAYOUT, beta=0.3, kind=kind)
    batch = objective.collate(PAIRS, rng)
    logits = torch.randn(*batch.inputs["tokens"].shape, VOCAB)
    order = [0, 2, 4, 1, 3, 5]  # trl's batches have all preferred answers first
    rows = [row.ids for example in PAIRS for row in LAYOUT.rows(example)]
    ids = torch.full((6, max(map(len, rows))), PAD)
    mask = torch.zeros_like(ids)
    for i, example in enumerate(PAIRS):
        for side, row in enumerate(LAYOUT.rows(example)):
            ids[2 * i + side, : len(row.ids)] = torch.from_numpy(row.ids)
            mask[2 * i + side, row.start : len(row.ids)] = 1
    log_probs = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0] * mask[:, 1:]

    per_token = dict.fromkeys(("entropy", "mean_logits", "is_top1"), torch.zeros(6, mask.size(1) - 1))
    outputs = SimpleNamespace(**per_token | {"log_probs": log_probs[order], "is_top1": mask[:, 1:].bool()})
    same = SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x, gather=lambda x: x)
    settings = dict(beta=0.3, label_smoothing=0.0, loss_types=[kind], loss_weights=[1.0], ld_alpha=None)
    settings |= dict(precompute_ref_logps=True, f_divergence_type="reverse_kl", use_weighting=False)
    settings |= dict(aux_loss_enabled=False, _metrics={"eval": defaultdict(list)}, _total_train_tokens=0)
    trainer = SimpleNamespace(model=SimpleNamespace(training=False), accelerator=same, **settings)
    references = torch.tensor([example.reference for example in PAIRS])
    inputs = {"input_ids": ids[order], "completion_mask": mask[order]}
    inputs |= {"ref_chosen_logps": references[:, 0], "ref_rejected_logps": references[:, 1]}
    expected = trl.DPOTrainer._compute_loss(trainer, lambda **arguments: outputs, inputs, False)
    found = objective.loss(of_rows(logits, batch.inputs), batch.labels, training=True)["pair"].loss / 3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_end_of_an_answer_counts_on_both_sides_though_it_is_also_the_padding():
    batch = DPO(PAD, layout=LAYOUT).collate(PAIRS, rng)
    for row, length in zip(batch.labels["pair"], (3, 6, 5, 2, 2, 4), strict=True):
        assert row[length - 1] == EOS and (row[length:] == IGNORE_INDEX).all() and (row[:length] >= 0).all()
    assert batch.inputs["tokens"][4, 0] == START, "an answer without a prompt follows the token that begins a text"


def test_a_batch_scores_like_its_pairs_alone():
    model = build_model(ModelConfig(vocab_size=VOCAB, max_seq_len=16, d_model=16, num_layers=2, num_heads=2))
    model.init_weights(torch.Generator().manual_seed(1))
    objective = DPO(PAD, layout=LAYOUT)
    with torch.no_grad():
        together = reference_log_probs(objective, PAIRS, lambda inputs: model(**inputs))
        alone = [reference_log_probs(objective, [one], lambda inputs: model(**inputs)) for one in PAIRS]
        np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5)
        row = torch.from_numpy(LAYOUT.rows(PAIRS[0])[1].ids)[None]
        log_probs = model(row).logits["lm"].log_softmax(-1)
        expected = sum(log_probs[0, at - 1, row[0, at]].item() for at in range(3, row.size(1)))
    assert together[0, 1] == pytest.approx(expected, rel=1e-5)


def test_a_long_prompt_loses_its_beginning_the_same_for_both_answers():
    long = pair(12, 2, 5)
    chosen, rejected = LAYOUT.rows(long)
    assert len(rejected.ids) == 13 and chosen.start == rejected.start == 7
    np.testing.assert_array_equal(chosen.ids[:7], long.prompt[-7:])
    np.testing.assert_array_equal(chosen.ids[:7], rejected.ids[:7])
    whole = [pair(3, 2, 20), pair(12, 2, 5), pair(1, 1, 1)]
    assert [len(row.ids) for row in LAYOUT.rows(whole[0])] == [4, 13]
    (note,) = LAYOUT.describe_cuts(Rows(whole))  # type: ignore[arg-type]
    assert note.startswith("2 of 3 pairs are longer than 13 tokens: their prompts lose the beginning, and 1 of them")


class Rows(list):
    """Pairs as `describe_cuts` takes them."""

    @property
    def rows(self) -> list[PreferenceIds]:
        return self


def test_log_probabilities_are_sums_of_the_answers_tokens():
    logits = torch.randn(2, 4, VOCAB)
    ids = torch.tensor([[1, 2, EOS, IGNORE_INDEX], [3, EOS, IGNORE_INDEX, IGNORE_INDEX]])
    found = answer_log_probs(Output(logits, {"lm": logits}), ids)
    log_probs = logits.log_softmax(-1)
    first = log_probs[0, 0, 1] + log_probs[0, 1, 2] + log_probs[0, 2, EOS]
    torch.testing.assert_close(found, torch.stack([first, log_probs[1, 0, 3] + log_probs[1, 1, EOS]])[None])


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Pairs of which the answer that says `good` is preferred."""
    path = tmp_path / "pairs.jsonl"
    records = [
        {"prompt": f"{n} and {n} make", "chosen": f" good {2 * n}", "rejected": f" bad {3 * n}, so it is"}
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


KEYS = [
    "--train.precision",
    "fp32",
    "--train.device",
    "cpu",
    "--train.global_batch",
    "8",
    "--train.log_every",
    "1",
    "--save.keep",
    "9",
]
LORA = ["--adapter.name", "lora"]


@pytest.fixture
def dpo(run_of: Callable[[str], Path], pairs: Path, tmp_path: Path) -> Callable[..., int]:
    """Trains on `pairs`, starting from a copy of a run."""
    base = Path(shutil.copytree(run_of("gpt2"), tmp_path / "base"))
    cache = ["--data.cache", str(tmp_path / "cache"), "--optim.lr", "3e-3", "--objective.name", "dpo"]

    def train(out: str, *more: str, steps: int = 6) -> int:
        start = ["train", "--init-from", str(base), "--data", str(pairs), "--out", str(tmp_path / out), *KEYS, *cache]
        return main([*start, "--train.steps", str(steps), "--eval.every", "3", "--save.every", "3", *more])

    return train


def curve(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(run / "metrics.jsonl")]


@pytest.mark.parametrize("adapter", [["--optim.average", "0.2"], LORA], ids=["all, averaged", "lora"])
def test_a_run_starts_at_ln_2_learns_and_resumes_with_the_same_bits(dpo, tmp_path: Path, adapter: list[str], capsys):
    base = {path: path.read_bytes() for path in (tmp_path / "base").rglob("*.safetensors")}
    assert dpo("run", *adapter) == 0
    lines = curve(tmp_path / "run")
    assert lines[0]["val_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert lines[1]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert lines[0]["reward_margin"] == pytest.approx(0.0, abs=1e-5)
    last = [line for line in lines if "val_loss" in line][-1]
    assert last["val_loss"] < 0.6 and last["pair_accuracy"] == 1.0 and last["reward_margin"] > 0.1
    steps = [line for line in lines if "loss" in line]
    assert steps[0]["reward_margin"] == pytest.approx(0.0, abs=1e-5) and steps[-1]["reward_margin"] > 0.1
    assert steps[-1]["pair_accuracy"] == 1.0 and steps[-1]["chosen_log_prob"] > steps[-1]["rejected_log_prob"]
    assert lines[0]["rejected_log_prob"] < lines[0]["chosen_log_prob"] < last["chosen_log_prob"] < 0

    for later in (tmp_path / "run").glob("step-000006"):
        shutil.rmtree(later)
    shutil.rmtree(tmp_path / "cache")  # so that the reference is asked again
    assert main(["train", "--resume", "--out", str(tmp_path / "run")]) == 0
    assert curve(tmp_path / "run") == lines
    assert base == {path: path.read_bytes() for path in (tmp_path / "base").rglob("*.safetensors")}
    assert evaluate(load_run(tmp_path / "run" / "step-000006")).loss == pytest.approx(last["val_loss"], rel=1e-5)


def test_another_file_is_measured_with_the_reference_which_must_be_there(dpo, pairs: Path, tmp_path: Path, capsys):
    assert dpo("run", *LORA, steps=3) == 0
    other = tmp_path / "other.jsonl"
    other.write_text(pairs.read_text(encoding="utf-8").replace(" make", " give"), encoding="utf-8")
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "run"), "--data", str(other), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["targets"] == 40 and found["pair_accuracy"] > 0.9 and found["reward_margin"] > 0

    assert main(["merge", str(tmp_path / "run"), str(tmp_path / "merged")]) == 0
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "merged"), "--data", str(other), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(found["loss"], rel=1e-5)
    shutil.rmtree(tmp_path / "base")
    shutil.rmtree(tmp_path / "cache")
    assert main(["eval", str(tmp_path / "merged"), "--data", str(other)]) == 2
    assert "does not exist; restore it, or set objective.reference in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model.dropout", "0.1"], "objective.name dpo compares the model with its reference without dropout"),
        ([*LORA, "--adapter.dropout", "0.1"], "without dropout: set adapter.dropout to 0"),
        (["--objective.loss", "ipo", "--objective.label_smoothing", "0.1"], "has no effect with objective.loss ipo"),
    ],
)
def test_settings_that_contradict_it_are_refused(dpo, tmp_path: Path, capsys, more: list[str], message: str):
    assert dpo("run", *more) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run" / "config.toml").exists()


def test_it_needs_a_parent(config_file: Path, pairs: Path, tmp_path: Path, capsys):
    start = ["train", str(config_file), "--objective.name", "dpo", "--data", str(pairs), "--out", str(tmp_path / "x")]
    assert main([*start, "--model.dropout", "0"]) == 2
    assert "objective.name dpo needs the weights of another run; give it with --init-from" in (capsys.readouterr().err)


def test_the_reference_is_named_in_the_config(dpo, tmp_path: Path):
    assert dpo("run", "--objective.loss", "ipo", steps=1) == 0
    section = load_config(tmp_path / "run" / "config.toml").objective
    assert section.reference.startswith(str(tmp_path / "base" / "step-")) and len(section.reference_hash) == 64
    assert curve(tmp_path / "run")[0]["val_loss"] == pytest.approx((1 / (2 * 0.1)) ** 2, rel=1e-5)


def test_conversations_are_learned_and_then_answered(
    run_of: Callable[[str], Path], pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    chat, keys = tmp_path / "chat.jsonl", [*KEYS, "--data.cache", str(tmp_path / "cache"), "--train.steps", "2"]
    records = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    for record in records:
        record["prompt"] = [{"role": "user", "content": record["prompt"]}]
        answer = {"role": "assistant", "content": record["chosen"]}
        record["messages"] = [*record["prompt"], answer]
    chat.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    start = ["train", "--data", str(chat), *keys, "--init-from"]
    assert main([*start, str(run_of("gpt2")), "--objective.name", "chat", "--out", str(tmp_path / "sft")]) == 0
    capsys.readouterr()
    assert main([*start, str(tmp_path / "sft"), "--objective.name", "dpo", "--out", str(tmp_path / "dpo")]) == 0
    assert " make -> " in capsys.readouterr().err, "the preview answers a prompt of the data"
    loaded = load_run(tmp_path / "dpo")
    assert loaded.config.objective.prompts == "conversations" and (loaded.config.sample.prompt or "").endswith(" make")
    ids = loaded.objective.encode_prompt("7 and 7 make")
    assert loaded.tokenizer.decode(ids, keep_special=True) == "<|eos|><|user|>7 and 7 make<|assistant|>"
    records[3]["prompt"] = "3 and 3 make"
    chat.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    assert main([*start, str(tmp_path / "sft"), "--objective.name", "dpo", "--out", str(tmp_path / "mixed")]) == 2
    assert "does not fit: the prompts of this run are" in capsys.readouterr().err
