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

from minillm.storage import MANIFEST, seal
from minillm.training import checkpoint as module
from minillm.training.checkpoint import (
    MODEL,
    OPTIMIZER,
    STATE,
    checkpoints,
    load_weights,
    newest_good,
    remove_old,
    save_checkpoint,
)
from minillm.training.state import CheckpointState, TrainState

GPT = Callable[..., nn.Module]
Save = Callable[[Path, int, float], None]
Values = Callable[[Path], dict[int, float]]


def state_of(loss: float) -> CheckpointState:
    return CheckpointState(TrainState(best_loss=loss), scaler={}, tokenizer="t", data="d")


@pytest.mark.parametrize("shape", [{}, {"tie_embeddings": False}, {"position": "rotary", "norm": "rmsnorm"}])
def test_saved_tensors_are_loaded_bit_for_bit(make_gpt: GPT, tmp_path: Path, shape: dict[str, Any]):
    model, twin = make_gpt(**shape), make_gpt(**shape)
    for p in twin.parameters():
        nn.init.zeros_(p)
    optimizer = {"a/step": torch.tensor(3.0), "a/m": torch.randn(4, 2).T, "b/m": torch.tensor([float("nan"), -0.0])}
    saved = save_checkpoint(tmp_path, 7, model=module.weights(model), optimizer=optimizer, state=state_of(0.1 + 0.2))
    saved.verify()
    assert saved.path == tmp_path / "step-000007" and saved.state == state_of(0.1 + 0.2)
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
    saved = save_checkpoint(tmp_path, 1, model=module.weights(model), optimizer={}, state=state_of(1.0))
    names = set(module.load_file(saved.path / MODEL))
    assert "embed.tokens.weight" in names and "heads.lm.proj.weight" not in names
    saved.load_model(twin)
    head = twin.get_parameter("heads.lm.proj.weight")
    assert head is twin.get_parameter("embed.tokens.weight")
    assert torch.equal(head, model.get_parameter("heads.lm.proj.weight"))


def test_noncontiguous_weights_are_saved(tmp_path: Path):
    model = nn.Linear(4, 3)
    model.weight = nn.Parameter(torch.arange(12.0).reshape(4, 3).T)
    twin = nn.Linear(4, 3)
    save_checkpoint(tmp_path, 1, model=module.weights(model), optimizer={}, state=state_of(1.0)).load_model(twin)
    assert torch.equal(model.weight, twin.weight)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("embed.tokens.weight"), r"1 names differ, such as embed\.tokens\.weight"),
        (lambda tensors: tensors.update(stranger=torch.zeros(1)), "such as stranger"),
        (lambda tensors: tensors.update({"embed.tokens.weight": torch.zeros(5)}), r"tokens\.weight has shape \[5\]"),
    ],
)
def test_weights_with_wrong_names_or_shapes_raise(make_gpt: GPT, tmp_path: Path, change: Any, words: str):
    model = make_gpt()
    tensors: dict[str, Tensor] = {k: t.clone() for k, t in module.weights(model).items()}
    change(tensors)
    with pytest.raises(ValueError, match=words):
        load_weights(model, tensors, where=tmp_path / MODEL)


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, STATE, MANIFEST])
@pytest.mark.parametrize("damage", ["missing", "cut", "longer", "flipped", "emptied"])
def test_a_damaged_file_raises_with_its_name_and_the_remedy(save: Save, tmp_path: Path, name: str, damage: str):
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
            assert f"name {tmp_path} to use its newest undamaged checkpoint" in str(error)
            assert "step-000001" in str(error)
            if name != MANIFEST:
                assert str(file) in str(error)
        else:  # a flip that left the manifest's meaning as it was, such as in white space
            assert name == MANIFEST and variant is not None
            assert json.loads(variant)["files"].items() >= json.loads(content)["files"].items()


def test_the_state_is_verified_before_it_is_used(save: Save, tmp_path: Path):
    save(tmp_path, 1, 1.0)
    (tmp_path / "step-000001" / STATE).write_text('{"value": 2.0}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"state\.json"):
        checkpoints(tmp_path)[0].state  # noqa: B018


def test_the_newest_and_the_best_are_kept(save: Save, values: Values, tmp_path: Path):
    for step in (1, 2, 10, 9, 1_000_000):
        save(tmp_path, step, float(step))
        remove_old(tmp_path, keep=2, best_step=2, step=step)
    assert values(tmp_path) == {2: 2.0, 10: 10.0, 1_000_000: 1e6}
    remove_old(tmp_path, keep=1, best_step=None, step=1_000_000)
    assert values(tmp_path) == {1_000_000: 1e6}


def test_unrelated_files_in_the_folder_are_kept(save: Save, values: Values, tmp_path: Path):
    save(tmp_path, 5, 5.0)
    (tmp_path / "step-best").mkdir()
    (tmp_path / "step-000004").mkdir()  # not whole
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    remove_old(tmp_path, keep=1, best_step=None, step=5)
    assert {p.name for p in tmp_path.iterdir()} == {"step-best", "step-000005", "step-000004", "notes.txt"}


def damaged(run: Path, step: int, how: str) -> Path:
    """Damages a checkpoint of a run in the way that `how` names, and returns the file."""
    folder = run / f"step-{step:06d}"
    file = folder / {"no manifest": MANIFEST, "state": STATE}.get(how, MODEL)
    content = file.read_bytes()
    if how == "no manifest":
        file.unlink()
    elif how == "flip":
        file.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    else:
        file.write_bytes(content[:-7])
    return file


@pytest.mark.parametrize("how", ["flip", "truncate", "no manifest", "state"])
def test_the_newest_undamaged_checkpoint_is_used_and_damaged_ones_are_kept(save: Save, tmp_path: Path, how: str):
    for step in (1, 2, 3):
        save(tmp_path, step, float(step))
    files = [damaged(tmp_path, 3, how), damaged(tmp_path, 2, "flip")]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    said: list[str] = []
    found = newest_good(tmp_path, said.append)
    assert found is not None and found.step == 1
    assert len(said) == 2 and all(str(file) in line for file, line in zip(files, said, strict=True))
    assert all(line.endswith("; left as it is, using step-000001 instead") for line in said)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_only_damaged_checkpoints_raise_and_no_checkpoints_give_none(save: Save, tmp_path: Path):
    assert newest_good(tmp_path, pytest.fail) is None
    save(tmp_path, 1, 1.0)
    file = damaged(tmp_path, 1, "flip")
    with pytest.raises(ValueError, match="has no undamaged checkpoint") as caught:
        newest_good(tmp_path, pytest.fail)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("how", ["flip", "truncate", "no manifest", "state"])
def test_a_damaged_checkpoint_does_not_replace_a_good_one(save: Save, tmp_path: Path, how: str):
    """A run that continued from step 4 because 6 is damaged keeps what it saves on its way to 6."""
    for step in (4, 6):
        save(tmp_path, step, float(step))
    damaged(tmp_path, 6, how)
    save(tmp_path, 5, 5.0)
    remove_old(tmp_path, keep=1, best_step=None, step=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000005", "step-000006"]
    assert newest_good(tmp_path, lambda line: None) == module.Checkpoint(tmp_path / "step-000005", 5)


def reseal(run: Path, change: Callable[[Any], Any] | None) -> Path:
    """Changes the state of checkpoint 1 as another program would write it."""
    folder = run / "step-000001"
    content = json.loads((folder / STATE).read_text(encoding="utf-8"))
    (folder / STATE).write_text(json.dumps(change(content)) if change else "{", encoding="utf-8")
    (folder / MANIFEST).unlink()
    seal(folder)
    return folder / STATE


def version_1(content: dict[str, Any]) -> dict[str, Any]:
    """As it was written before there was a version."""
    train = {key: value for key, value in content["train"].items() if key not in ("examples", "best_value")}
    return {"train": train, **{key: content[key] for key in ("scaler", "tokenizer", "data")}}


@pytest.mark.parametrize("data", ["d", None])
def test_a_state_without_a_version_is_read(save: Save, tmp_path: Path, data: str | None):
    save(tmp_path, 1, 1.5)
    reseal(tmp_path, lambda content: {**version_1(content), "data": data})
    state = checkpoints(tmp_path)[0].state
    assert state.train == TrainState(best_loss=1.5) and (state.data, state.imported) == (data, data is None)
    assert state.train.examples is None and state.train.best_value is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: {**content, "version": 99}, "was written by a newer minillm .*update minillm"),
        (lambda content: {**content, "version": "x"}, "was written by a newer minillm"),
        (lambda content: {**content, "mood": 1}, "has an unknown field 'mood'"),
        (lambda content: {**content, "train": {**content["train"], "mood": 1}}, "has an unknown field 'mood'"),
        (lambda content: {k: v for k, v in content.items() if k != "scaler"}, "lacks the field 'scaler'"),
        (lambda content: {k: v for k, v in content.items() if k != "train"}, "lacks the field 'train'"),
        (lambda content: {**content, "train": {"step": 1}}, "lacks the field 'best_loss'"),
        (lambda content: {**version_1(content), "train": {"step": 1}}, "lacks the field 'best_loss'"),
        (lambda content: {**content, "train": 3}, "expected a JSON object, got int"),
        (lambda content: [content], "expected a JSON object, got list"),
        (None, "is not JSON"),
    ],
)
def test_a_state_of_another_version_is_a_one_line_error_with_the_file(
    save: Save, tmp_path: Path, change: Callable | None, words: str
):
    save(tmp_path, 1, 1.0)
    file = reseal(tmp_path, change)
    with pytest.raises(ValueError, match=words) as caught:
        checkpoints(tmp_path)[0].state  # noqa: B018
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)


def test_a_manifest_of_a_newer_version_is_not_reported_as_damaged(save: Save, tmp_path: Path):
    save(tmp_path, 1, 1.0)
    file = tmp_path / "step-000001" / MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "version": 2}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"manifest\.json was written by a newer minillm"):
        checkpoints(tmp_path)[0].verify()


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
