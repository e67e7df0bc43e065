"""Rollouts are functions of (seed, step, weights): for any batch, after any stop."""

from __future__ import annotations

import copy
import json
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from minillm.data.prefetch import SourceError
from minillm.distributed.runtime import Runtime
from minillm.generation.generate import prefill
from minillm.objectives.base import IGNORE_INDEX, Batch
from minillm.rl.frozen import FOLDER
from minillm.rl.rollouts import rows_from_tensors, rows_to_tensors
from minillm.training.checkpoint import checkpoints
from minillm.training.metrics import read_metrics
from minillm.training.trainer import Trainer

Make = Callable[..., Trainer]


def rows(batches: list[Batch]) -> list[tuple[list[int], list[int], dict[str, list[float]]]]:
    """The rows without padding, sorted: inputs, completion, and what the loss is given for each of its tokens."""
    found = []
    for batch in batches:
        real = batch.labels["ids"] != IGNORE_INDEX
        for i, mask in enumerate(real):
            at = batch.labels["at"][i][mask]
            tokens = batch.inputs["tokens"][i, : int(at[-1]) + 1].tolist()
            numbers = {
                name: values[i][mask].tolist() if values.dim() > 1 else [values[i].item()]
                for name, values in batch.labels.items()
                if name not in ("ids", "at")
            }
            found.append((tokens, batch.labels["ids"][i][mask].tolist(), numbers))
    return sorted(found, key=lambda row: (row[0], row[1], row[2]["figure reward"]))


def require_same(first: list[Any], second: list[Any]) -> None:
    assert [row[:2] for row in first] == [row[:2] for row in second]
    for (*_, a), (*_, b) in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        assert all(a[name] == pytest.approx(b[name], abs=2e-6) for name in a)


def served(trainer: Trainer, steps: int) -> list[list[Any]]:
    """The rows of the first steps at the initial weights."""
    return [rows(trainer.source.batches(step)) for step in range(steps)]


@pytest.mark.parametrize("ppo", [False, True])
def test_a_rollout_does_not_depend_on_the_micro_batch(make_policy: Make, tmp_path: Path, ppo: bool):
    whole = served(make_policy(tmp_path / "a", ppo=ppo, train={"micro_batch": 24}), 4)
    for size in (1, 7, 12):
        other = served(make_policy(tmp_path / str(size), ppo=ppo, train={"micro_batch": size}), 4)
        for first, second in zip(whole, other, strict=True):
            require_same(first, second)


class Rank(Runtime):
    """One of two ranks in threads."""

    def gather(self, items: list[Any]) -> list[Any]:
        BOXES[self.rank] = items
        MEET.wait(60)
        both = [item for rank in sorted(BOXES) for item in BOXES[rank]]
        MEET.wait(60)
        return both

    def barrier(self) -> None:
        MEET.wait(60)


BOXES: dict[int, list[Any]] = {}
MEET = threading.Barrier(2)


def on_two_ranks(do: Callable[[Rank], Any]) -> list[Any]:
    """What each of two ranks returns."""
    with ThreadPoolExecutor(2) as pool:
        return [job.result(60) for job in [pool.submit(do, Rank(rank=rank, world_size=2)) for rank in (0, 1)]]


@pytest.mark.parametrize("ppo", [False, True])
def test_two_ranks_sample_and_serve_what_one_does(make_policy: Make, make_parts: Any, tmp_path: Path, ppo: bool):
    alone = served(make_policy(tmp_path / "alone", ppo=ppo), 2)

    def serve(runtime: Rank) -> list[list[Batch]]:
        source = make_parts(tmp_path / f"{runtime.rank}", ppo=ppo, runtime=runtime)["source"]
        return [source.batches(step) for step in range(2)]

    first, second = on_two_ranks(serve)
    for step in range(2):
        assert len(rows(first[step])) == len(rows(second[step])) == 12
        require_same(alone[step], rows([*first[step], *second[step]]))


def test_a_reward_that_fails_on_one_rank_stops_both(make_parts: Any, tmp_path: Path):
    def serve(runtime: Rank) -> str:
        rewards = (f"{__name__}:dislikes_line_three",)
        source = make_parts(tmp_path / f"{runtime.rank}", objective={"rewards": rewards}, runtime=runtime)["source"]
        with pytest.raises(SourceError) as caught:
            for step in range(0, 12, 3):
                source.batches(step)
        return str(caught.value)

    first, second = on_two_ranks(serve)
    assert first == second and "completion" in first


def dislikes_line_three(prompts: list[str], **_: Any) -> list[float]:
    return [math.nan if prompt == "1+10=" else 0.0 for prompt in prompts]


def test_a_completion_ends_at_any_id_that_ends_a_text_and_keeps_it(make_policy: Make, tmp_path: Path):
    settings = {"objective": {"kl": 0.0}, "train": {"global_batch": 80}}
    plain, trainer = (make_policy(tmp_path / f"run{more}", also_end=more, **settings) for more in ("", "+="))
    first, source = (cast(Any, made.source) for made in (plain, trainer))
    ends, found = set(source.parts.tokenizer.eos_ids), source._roll_out(0)
    assert len(ends) == 3
    last = {int(row.completion[-1]) for row in found if not row.truncated}
    assert last == ends, "each of them ends some completion, and is the last of its ids"
    assert not any(ends & set(row.completion[:-1].tolist()) for row in found)
    assert all(row.truncated == (row.completion[-1] not in ends) for row in found)
    assert all(len(row.tokens["old"]) == len(row.completion) for row in found), "each id has a log-probability"
    starts = [sorted((*row.prompt, row.completion[0]) for row in rows) for rows in (found, first._roll_out(0))]
    assert starts[0] == starts[1], "the random numbers are the same as with one id"


def test_the_evaluator_ends_a_text_there_too_and_does_not_show_the_id(make_policy: Make, tmp_path: Path):
    judged, figures = make_policy(tmp_path, also_end="+=").evaluator._completions(8, 1.0)  # type: ignore[attr-defined]
    assert not any(set("+=") & set(row.completion) for row in judged)
    assert {line["truncated"] for line in figures} == {0.0, 1.0}
    assert all(line["truncated"] == (line["length"] == 4) for line in figures)


def test_each_rollout_and_each_seed_has_its_own_random_numbers(make_policy: Make, tmp_path: Path):
    settings = {"objective": {"num_updates": 1}, "train": {"global_batch": 80}}  # all prompts in each rollout
    first, second = served(make_policy(tmp_path / "a", **settings), 2)
    other = served(make_policy(tmp_path / "b", **(settings | {"train": {"global_batch": 80, "seed": 2}})), 1)[0]
    texts = [sorted((row[0], row[1]) for row in part) for part in (first, second, other)]
    assert texts[0] != texts[1] and texts[0] != texts[2]
    assert len({(tuple(row[1])) for row in first}) > 40, "the prompts do not share random numbers either"


def test_a_group_has_one_prompt_and_its_own_advantage(make_policy: Make, tmp_path: Path):
    trainer = make_policy(tmp_path, objective={"scale_by_std": False, "kl": 0.0, "rewards": ("length:2", "exact")})
    found = trainer.source._roll_out(0)  # type: ignore[attr-defined]
    for group in range(6):
        own = [row for row in found if row.group == group]
        assert len(own) == 4 and len({row.prompt.tobytes() for row in own}) == 1
        mean = np.mean([row.reward for row in own])
        for row in own:
            assert row.tokens["advantage"] == pytest.approx(np.full(len(row.completion), row.reward - mean))
    assert len({row.prompt.tobytes() for row in found}) > 1


def test_the_ratio_is_one_at_the_first_update_and_not_at_the_next(make_policy: Make, tmp_path: Path):
    trainer = make_policy(tmp_path, objective={"clip": 1e-5, "rewards": ("length:2",)})
    trainer.fit()
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "loss" in line]
    assert [line["clipped"] > 0 for line in lines][:6] == [False, True, True] * 2
    assert [line["kl"] == pytest.approx(0, abs=1e-9) for line in lines[:2]] == [True, False]


@pytest.mark.parametrize("micro_batch", [1, 5, 24])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_rollout_log_probabilities_are_those_of_the_same_weights(
    make_policy: Make, tmp_path: Path, micro_batch: int, temperature: float
):
    """What the second update calls old is what the first one computes, whatever its batches."""
    settings: dict[str, Any] = {"objective": {"temperature": temperature}, "train": {"micro_batch": micro_batch}}
    trainer = make_policy(tmp_path, **settings)
    trainer.source.batches(0)
    for batch in trainer.source.batches(1):
        with torch.no_grad():
            read = trainer.take_step.objective.read(trainer.model(**batch.inputs), batch.labels)  # type: ignore[attr-defined]
        real = batch.labels["ids"] != IGNORE_INDEX
        ratio = (read["log_prob"] - batch.labels["old"]).exp()[real]
        torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=2e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_log_probability_is_that_of_the_distribution_that_was_sampled_from(
    make_policy: Make, tmp_path: Path, temperature: float
):
    trainer = make_policy(tmp_path, objective={"temperature": temperature})
    source: Any = trainer.source
    policy, model = source.parts.objective, source.model
    source.batches(0)
    row = max(source._rows[1], key=lambda row: len(row.completion))
    texts = [row.prompt.tolist() + row.completion[:t].tolist() for t in range(len(row.completion))]
    for t, token in enumerate(row.completion.tolist()):
        _, logits = prefill(model, [texts[t]], 1, prefix=False)
        weights = (logits[0].double() / temperature).exp()
        weights[list(policy.forbidden)] = 0
        assert row.tokens["old"][t] == pytest.approx(math.log(weights[token] / weights.sum()), abs=1e-5)


def test_samples_follow_that_distribution(make_policy: Make, tmp_path: Path):
    """First tokens of 2,400 completions of one prompt against their probabilities: a chi-squared test."""
    settings = {"num_generations": 2400, "max_new_tokens": 1, "kl": 0.0}
    trainer = make_policy(tmp_path, objective=settings, train={"global_batch": 2400})
    source: Any = trainer.source
    with torch.no_grad():
        logits = trainer.model(torch.from_numpy(source.parts.examples.row(0).ids)[None]).logits["lm"][0, -1]
        logits[list(source.parts.objective.forbidden)] = -math.inf
        expected = 2400 * logits.softmax(-1).numpy()
    found = np.bincount(
        [row.completion[0] for row in source._sample([source.parts.examples.row(0)] * 1, 0)], minlength=len(expected)
    )
    seen = expected > 0
    assert not found[~seen].any() and found.sum() == 2400
    chi = ((found - expected)[seen] ** 2 / expected[seen]).sum()
    assert chi < seen.sum() - 1 + 4 * math.sqrt(2 * (seen.sum() - 1))


def everything(trainer: Trainer) -> dict[str, Any]:
    tensors = {**dict(trainer.model.named_parameters()), **trainer.optimizer.state_dict()}
    lines = [{k: v for k, v in x.items() if k != "seconds"} for x in read_metrics(trainer.folder / "metrics.jsonl")]
    samples = (trainer.folder / "samples.jsonl").read_text(encoding="utf-8")
    return {"tensors": {n: t.detach().numpy().tobytes() for n, t in tensors.items()}, "lines": lines, "said": samples}


@pytest.mark.parametrize("ppo", [False, True])
@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_run_that_was_killed_in_the_middle_of_a_rollout_ends_with_the_same_weights(
    make_policy: Make, tmp_path: Path, ppo: bool, step: int
):
    settings: dict[str, Any] = {"ppo": ppo, "save": {"every": 1}}
    whole = make_policy(tmp_path / "whole", **settings)
    whole.fit()
    (tmp_path / "whole").rename(tmp_path / "moved")
    whole.folder = tmp_path / "moved"
    killed = make_policy(tmp_path / "killed", **settings)
    killed.fit()
    last = next(c for c in checkpoints(tmp_path / "killed") if c.step == step)
    again = make_policy(tmp_path / "killed", **settings)
    again.restore(last)
    again.fit()
    assert everything(again) == everything(whole)


def test_a_checkpoint_without_its_rollout_or_reference_is_refused(make_policy: Make, tmp_path: Path):
    make_policy(tmp_path, train={"steps": 4}).fit()
    last = checkpoints(tmp_path)[-1]
    (last.path / "source.safetensors").rename(tmp_path / "elsewhere")
    trainer = make_policy(tmp_path)
    trainer.restore(last)
    with pytest.raises(ValueError, match="the checkpoint of step 4 lacks its rollout"):
        trainer.fit()
    (tmp_path / "elsewhere").rename(last.path / "source.safetensors")
    (tmp_path / FOLDER).rename(tmp_path / "elsewhere")
    trainer = make_policy(tmp_path)
    trainer.restore(last)
    with pytest.raises(ValueError, match=rf"{FOLDER} is missing, and the run cannot continue without it"):
        trainer.fit()


def test_a_damaged_rollout_is_damage_of_its_checkpoint(make_policy: Make, tmp_path: Path):
    make_policy(tmp_path, train={"steps": 4}).fit()
    last = checkpoints(tmp_path)[-1]
    content = bytearray((last.path / "source.safetensors").read_bytes())
    content[-1] ^= 1
    (last.path / "source.safetensors").write_bytes(content)
    assert "source.safetensors is damaged" in (last.damage() or "")


def test_a_rollout_survives_being_written_as_tensors(make_policy: Make, tmp_path: Path):
    source: Any = make_policy(tmp_path, ppo=True, objective={"rewards": ("exact", "length:2")}).source
    source.batches(0)
    number, found = rows_from_tensors(rows_to_tensors(5, source._rows[1]))
    assert number == 5 and len(found) == 24
    for row, before in zip(found, source._rows[1], strict=True):
        assert (row.prompt.tolist(), row.completion.tolist()) == (before.prompt.tolist(), before.completion.tolist())
        assert (row.group, row.truncated, row.reward) == (before.group, before.truncated, before.reward)
        assert row.figures == before.figures and row.tokens.keys() == before.tokens.keys()
        assert all((row.tokens[name] == before.tokens[name]).all() for name in row.tokens)


def test_the_reference_stays_bit_by_bit_the_same(make_policy: Make, tmp_path: Path):
    trainer = make_policy(tmp_path)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.fit()
    source: Any = trainer.source
    after = source.reference.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not all(torch.equal(before[name], tensor) for name, tensor in trainer.model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in source.reference.model.parameters())
    again: Any = make_policy(tmp_path).source
    again.reference.freeze(started=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in again.reference.model.state_dict().items())


def test_training_raises_the_reward(make_policy: Make, tmp_path: Path):
    """Any policy learns to be short."""
    for ppo in (False, True):
        settings: dict[str, Any] = {"rewards": ("length:1",), "kl": 0.0, "temperature": 1.0}
        trainer = make_policy(tmp_path / str(ppo), ppo=ppo, objective=settings, train={"steps": 60})
        trainer.fit()
        lines = [line for line in read_metrics(trainer.folder / "metrics.jsonl") if "loss" in line]
        first, last = (np.mean([line["reward"] for line in part]) for part in (lines[:6], lines[-6:]))
        assert last > first + 0.3


def fails_late(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    CALLED.append(len(completions))
    if len(CALLED) > 2:
        raise RuntimeError("the judge is asleep")
    return [0.0 for _ in completions]


CALLED: list[int] = []


def test_a_reward_that_fails_stops_the_run_with_everything_saved(make_policy: Make, tmp_path: Path):
    CALLED.clear()
    trainer = make_policy(tmp_path, objective={"rewards": (f"{__name__}:fails_late",)}, eval={"every": 0})
    with pytest.raises(SourceError, match=r"rollout 2: reward .*:fails_late for sums line \d+, completion .*asleep"):
        trainer.fit()
    assert checkpoints(tmp_path)[-1].step == 6
    CALLED.clear()
    trainer = make_policy(tmp_path, objective={"rewards": (f"{__name__}:fails_late",)}, eval={"every": 0})
    trainer.restore(checkpoints(tmp_path)[-1])
    trainer.fit()
    assert trainer.state.step == 8


def test_a_reward_that_fails_in_an_evaluation_loses_nothing_either(make_policy: Make, tmp_path: Path):
    CALLED.clear()
    trainer = make_policy(tmp_path, objective={"rewards": (f"{__name__}:fails_late",)}, eval={"every": 5})
    with pytest.raises(SourceError, match=r"reward .*:fails_late for sums line \d+, completion .*asleep"):
        trainer.fit()
    assert checkpoints(tmp_path)[-1].step == 5


def test_metrics_and_samples_are_written(make_policy: Make, tmp_path: Path):
    make_policy(tmp_path, objective={"rewards": ("exact", "0.5*length:3")}, eval={"at_start": True}).fit()
    lines = list(read_metrics(tmp_path / "metrics.jsonl"))
    step = next(line for line in lines if "loss" in line)
    expected = {"reward", "exact", "length:3", "length", "truncated", "entropy", "kl", "clipped"}
    assert expected | {"groups_without_difference"} <= step.keys()
    assert step["reward"] == pytest.approx(step["exact"] + 0.5 * step["length:3"]) and 1 <= step["length"] <= 4
    evaluation = next(line for line in lines if "val_loss" in line)
    assert evaluation["reward"] == pytest.approx(-evaluation["val_loss"])
    samples = [json.loads(x) for x in (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [sample["step"] for sample in samples] == [0] * 4 + [4] * 4 + [8] * 4
    assert samples[0].keys() == {"step", "prompt", "completion", "reward"}


def test_the_best_checkpoint_has_the_highest_reward(make_policy: Make, tmp_path: Path):
    trainer = make_policy(tmp_path, objective={"rewards": ("length:1",)}, train={"steps": 24})
    trainer.fit()
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "val_loss" in line]
    best = max(lines, key=lambda line: line["reward"])
    assert trainer.state.best_step == best["step"] and trainer.state.best_value == best["reward"]


def test_an_evaluation_does_not_depend_on_batch_and_ranks(make_policy: Make, make_parts: Any, tmp_path: Path):
    trainer = make_policy(tmp_path, objective={"eval_temperature": 0.9})
    whole = trainer.evaluator(trainer.model).figures()
    small = make_policy(tmp_path, objective={"eval_temperature": 0.9}, eval={"batch": 2})
    assert small.evaluator(small.model).figures() == pytest.approx(whole)

    def evaluate(runtime: Rank) -> dict[str, float]:
        parts = make_parts(tmp_path, objective={"eval_temperature": 0.9}, runtime=runtime)
        return parts["evaluator"](parts["model"]).figures()

    assert on_two_ranks(evaluate) == [pytest.approx(whole)] * 2


def test_a_prompt_without_room_for_its_completion_raises(make_policy: Make, tmp_path: Path):
    with pytest.raises(ValueError, match=r"sums line 1 has 4 tokens, 13 with objective\.max_new_tokens, but the model"):
        make_policy(tmp_path, objective={"max_new_tokens": 9})


def test_a_batch_that_does_not_hold_whole_groups_raises(make_policy: Make, tmp_path: Path):
    with pytest.raises(ValueError, match=r"train\.global_batch is 22 completions; it must be a multiple of 4"):
        make_policy(tmp_path, train={"global_batch": 22})
