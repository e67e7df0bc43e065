"""Checkpoints: bitwise, whole or absent, and never a pickle."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from minillm.training import checkpoint as module
from minillm.training.checkpoint import (
    MANIFEST,
    MODEL,
    OPTIMIZER,
    STATE,
    checkpoints,
    load_weights,
    remove_old,
    save_checkpoint,
)

GPT = Callable[..., nn.Module]
Save = Callable[[Path, int, float], None]
Values = Callable[[Path], dict[int, float]]


@pytest.mark.parametrize("shape", [{}, {"tie_embeddings": False}, {"position": "rotary", "norm": "rmsnorm"}])
def test_what_is_saved_comes_back_bit_by_bit(make_gpt: GPT, tmp_path: Path, shape: dict[str, Any]):
    model, twin = make_gpt(**shape), make_gpt(**shape)
    for p in twin.parameters():
        nn.init.zeros_(p)
    optimizer = {"a/step": torch.tensor(3.0), "a/m": torch.randn(4, 2).T, "b/m": torch.tensor([float("nan"), -0.0])}
    saved = save_checkpoint(tmp_path, 7, model=model, optimizer=optimizer, state={"loss": 0.1 + 0.2})
    saved.verify()
    assert saved.path == tmp_path / "step-000007" and saved.state == {"loss": 0.1 + 0.2}
    saved.load_model(twin)
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q), name
    found = saved.load_optimizer()
    assert found.keys() == optimizer.keys()
    for name, t in optimizer.items():
        assert found[name].reshape(-1).view(torch.uint8).tolist() == t.reshape(-1).view(torch.uint8).tolist(), name


def test_tied_weights_are_stored_once_and_stay_tied(make_gpt: GPT, tmp_path: Path):
    model, twin = make_gpt(), make_gpt()
    nn.init.zeros_(twin.get_parameter("embed.tokens.weight"))
    saved = save_checkpoint(tmp_path, 1, model=model, optimizer={}, state={})
    names = set(module.load_file(saved.path / MODEL))
    assert "embed.tokens.weight" in names and "heads.lm.proj.weight" not in names
    saved.load_model(twin)
    head = twin.get_parameter("heads.lm.proj.weight")
    assert head is twin.get_parameter("embed.tokens.weight")
    assert torch.equal(head, model.get_parameter("heads.lm.proj.weight"))


def test_weights_that_are_not_contiguous_are_saved(tmp_path: Path):
    model = nn.Linear(4, 3)
    model.weight = nn.Parameter(torch.arange(12.0).reshape(4, 3).T)
    twin = nn.Linear(4, 3)
    save_checkpoint(tmp_path, 1, model=model, optimizer={}, state={}).load_model(twin)
    assert torch.equal(model.weight, twin.weight)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("embed.tokens.weight"), r"1 names differ, such as embed\.tokens\.weight"),
        (lambda tensors: tensors.update(stranger=torch.zeros(1)), "such as stranger"),
        (lambda tensors: tensors.update({"embed.tokens.weight": torch.zeros(5)}), r"tokens\.weight has shape \[5\]"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(make_gpt: GPT, tmp_path: Path, change: Any, words: str):
    model = make_gpt()
    tensors: dict[str, Tensor] = {k: t.clone() for k, t in module.weights(model).items()}
    change(tensors)
    with pytest.raises(ValueError, match=words):
        load_weights(model, tensors, where=tmp_path / MODEL)


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, STATE, MANIFEST])
@pytest.mark.parametrize("damage", ["missing", "cut", "longer", "flipped", "emptied"])
def test_a_damaged_file_is_refused_by_name_with_the_remedy(save: Save, tmp_path: Path, name: str, damage: str):
    save(tmp_path, 1, 1.0)
    file = tmp_path / "step-000001" / name
    content = file.read_bytes()
    flips = range(len(content)) if name == MANIFEST else [0, len(content) // 2, len(content) - 1]
    variants = {
        "cut": [content[:-1], content[: len(content) // 2]],
        "longer": [content + b"}"],
        "emptied": [b""],
        "flipped": [content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :] for i in flips],
    }
    for variant in variants.get(damage, [None]):
        file.unlink() if variant is None else file.write_bytes(variant)
        checkpoint = module.Checkpoint(tmp_path / "step-000001", 1)
        try:
            checkpoint.verify()
        except ValueError as error:
            assert "delete this checkpoint folder" in str(error) and "step-000001" in str(error)
            if name != MANIFEST:
                assert str(file) in str(error)
        else:  # a flip that left the manifest's meaning as it was, such as in white space
            assert name == MANIFEST and variant is not None
            assert json.loads(variant)["files"].items() >= json.loads(content)["files"].items()
    if damage == "missing" and name == MANIFEST:
        assert checkpoints(tmp_path) == []


def test_the_state_is_checked_before_it_is_believed(save: Save, tmp_path: Path):
    save(tmp_path, 1, 1.0)
    (tmp_path / "step-000001" / STATE).write_text('{"value": 2.0}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"state\.json"):
        checkpoints(tmp_path)[0].state  # noqa: B018


def test_the_newest_and_the_best_are_kept(save: Save, values: Values, tmp_path: Path):
    for step in (1, 2, 10, 9, 1_000_000):
        save(tmp_path, step, float(step))
        remove_old(tmp_path, keep=2, best_step=2)
    assert values(tmp_path) == {2: 2.0, 10: 10.0, 1_000_000: 1e6}
    remove_old(tmp_path, keep=1, best_step=None)
    assert values(tmp_path) == {1_000_000: 1e6}


def test_strangers_in_the_folder_are_left_alone(save: Save, values: Values, tmp_path: Path):
    save(tmp_path, 5, 5.0)
    (tmp_path / "step-best").mkdir()
    (tmp_path / "step-000007").mkdir()  # not whole
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    remove_old(tmp_path, keep=1, best_step=None)
    assert {p.name for p in tmp_path.iterdir()} == {"step-best", "step-000005", "step-000007", "notes.txt"}
    assert values(tmp_path) == {5: 5.0}


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.target,))


def test_a_planted_pickle_is_never_opened(save: Save, values: Values, tmp_path: Path):
    save(tmp_path, 1, 1.0)
    for name in ("model.pt", "optimizer.pt", "state.pkl", ".metadata", "pytorch_model.bin"):
        (tmp_path / "step-000001" / name).write_bytes(pickle.dumps(Bomb(tmp_path / "fired")))
    assert values(tmp_path) == {1: 1.0}
    for name in (MODEL, OPTIMIZER, STATE):
        (tmp_path / "step-000001" / name).write_bytes(pickle.dumps(Bomb(tmp_path / "fired")))
    for read in (lambda c: c.load_model(nn.Linear(3, 2)), lambda c: c.load_optimizer(), lambda c: c.state):
        with pytest.raises((ValueError, SafetensorError)):
            read(checkpoints(tmp_path)[0])
    assert not (tmp_path / "fired").exists()
