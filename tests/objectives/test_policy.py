"""The policy loss against the papers' equations in float64, and its expected gradient by enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.nn.output import Output
from minillm.objectives.advantages import Trajectory, group_estimate, value_estimate
from minillm.objectives.base import IGNORE_INDEX
from minillm.objectives.policy import Policy
from minillm.objectives.policy_config import GRPOConfig, PPOConfig

VOCAB, FORBIDDEN = 7, (5, 6)
PAD = 6


def policy(**settings: Any) -> Policy:
    return Policy(GRPOConfig(**settings), PAD, (4,), FORBIDDEN, group_estimate)


def actor_critic(**settings: Any) -> Policy:
    return Policy(PPOConfig(**settings), PAD, (4,), FORBIDDEN, value_estimate, ("lm", "value"))


def sampled_rows(*names: str, lengths: tuple[int, ...] = (3, 1, 4, 2)) -> list[Trajectory]:
    """Completions of different lengths in two groups, with random numbers for their tokens."""
    rng = np.random.default_rng(0)
    return [
        Trajectory(
            rng.integers(0, 5, 2 + i),
            rng.integers(0, 5, length),
            group=i // 2,
            truncated=i == 1,
            reward=float(rng.normal()),
            tokens={name: rng.normal(scale=0.3, size=length).astype(np.float32) - 1.5 for name in names},
        )
        for i, length in enumerate(lengths)
    ]


def random_output(labels: dict[str, Tensor], width: int, *, value: bool = False) -> Output:
    rng = torch.Generator().manual_seed(3)
    logits = {"lm": torch.randn(*labels["ids"].shape, VOCAB, generator=rng).requires_grad_()}
    if value:
        logits["value"] = torch.randn(len(labels["ids"]), width, 1, generator=rng).requires_grad_()
    return Output(torch.empty(0), logits)


def log_prob64(logits: Tensor, temperature: float, token: int) -> Tensor:
    """The log-probability of a token among those that may be sampled."""
    kept = torch.stack([x / temperature for i, x in enumerate(logits.double()) if i not in FORBIDDEN])
    return kept[token] - torch.log(torch.exp(kept).sum())


def reference_loss(rows: list[Trajectory], config: GRPOConfig, logits: Tensor) -> Tensor:
    """Shao et al. 2024, equation 3 with its equation 4, and the other divisors; every sum written out."""
    total = torch.zeros((), dtype=torch.float64)
    kept = [(i, row) for i, row in enumerate(rows) if not (config.mask_truncated and row.truncated)]
    for i, row in kept:
        of_completion = torch.zeros((), dtype=torch.float64)
        for t, token in enumerate(row.completion.tolist()):
            log_prob = log_prob64(logits[i, t], config.temperature, token)
            ratio = torch.exp(log_prob - float(row.tokens["old"][t]))
            advantage = float(row.tokens["advantage"][t])
            kept_ratio = min(max(ratio.item(), 1 - config.clip), 1 + config.clip)
            surrogate = ratio * advantage
            if kept_ratio * advantage < surrogate.item():
                surrogate = torch.tensor(kept_ratio * advantage, dtype=torch.float64)
            log_ratio = float(row.tokens["reference"][t]) - log_prob
            divergence = {"k2": log_ratio**2 / 2, "k3": torch.exp(log_ratio) - log_ratio - 1}[config.kl_estimator]
            of_completion = of_completion + surrogate - config.kl * divergence
        divisor = {
            "completion": len(row.completion) * len(kept),
            "constant": config.max_new_tokens * len(kept),
            "tokens": sum(len(row.completion) for _, row in kept),
        }
        total = total - of_completion / divisor[config.length_divisor]
    return total


SETTINGS = [
    {},
    {"kl": 0.3},
    {"kl": 0.3, "kl_estimator": "k2", "length_divisor": "tokens"},
    {"length_divisor": "constant", "max_new_tokens": 9, "clip": 0.05, "temperature": 0.7},
    {"mask_truncated": True, "kl": 0.1},
    {"mask_truncated": True, "length_divisor": "tokens", "temperature": 1.3},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_loss_and_gradient_are_those_of_the_equation(settings: dict[str, Any]):
    objective, rows = policy(**settings), sampled_rows("old", "reference", "advantage")
    batch = objective.collate(rows, np.random.default_rng)
    output = random_output(batch.labels, batch.inputs["tokens"].size(1))
    score = objective.loss(output, batch.labels, training=True)["policy"]
    (score.loss / batch.counts["policy"]).backward()
    logits = output.logits["lm"].detach().double().requires_grad_()
    expected = reference_loss(rows, objective.config, logits)
    expected.backward()
    assert score.loss.item() / batch.counts["policy"] == pytest.approx(expected.item(), rel=1e-5)
    assert output.logits["lm"].grad is not None and logits.grad is not None
    torch.testing.assert_close(output.logits["lm"].grad.double(), logits.grad, rtol=1e-4, atol=1e-7)
    assert logits.grad.abs().max() > 1e-2 and not logits.grad[..., FORBIDDEN].any()


@pytest.mark.parametrize("make", [policy, actor_critic])
def test_padding_to_multiples_of_8_changes_neither_loss_nor_gradients(make: Callable[..., Policy]):
    config = ModelConfig(vocab_size=VOCAB, max_seq_len=40, d_model=16, num_layers=1, num_heads=2, heads=make().heads)
    model, found = build_model(config), []
    model.init_weights(torch.Generator().manual_seed(0))
    rows = sampled_rows("old", "reference", "advantage", "value", "return", lengths=(3, 1, 6, 5))
    for max_len, columns in ((0, (9, 6)), (10, (9, 8)), (40, (16, 8))):
        objective = replace(make(), max_len=max_len)
        batch = objective.collate(rows, np.random.default_rng)
        assert (batch.inputs["tokens"].size(1), batch.inputs["predict_at"].size(1)) == columns
        scores = objective.loss(model(**batch.inputs), batch.labels, training=True)
        total = torch.stack([score.loss for score in scores.values()]).sum()
        gradients = torch.autograd.grad(total, list(model.parameters()))
        figures = [figure for score in scores.values() for figure in score.figures.values()]
        found.append([*(score.loss for score in scores.values()), *figures, *gradients])
    for padded in found[1:]:
        torch.testing.assert_close(padded, found[0], rtol=1e-5, atol=1e-6)


def test_some_tokens_of_that_comparison_are_clipped():
    objective, rows = policy(clip=0.05), sampled_rows("old", "reference", "advantage")
    batch = objective.collate(rows, np.random.default_rng)
    output = random_output(batch.labels, batch.inputs["tokens"].size(1))
    total, number = objective.loss(output, batch.labels, training=True)["policy"].figures["clipped"].tolist()
    assert 0 < total < number == sum(len(row.completion) for row in rows)


def test_the_value_loss_is_the_larger_of_two_squared_errors():
    objective = actor_critic(value_coef=0.5, value_clip=0.1)
    rows = sampled_rows("old", "advantage", "value", "return")
    batch = objective.collate(rows, np.random.default_rng)
    output = random_output(batch.labels, batch.inputs["tokens"].size(1), value=True)
    score = objective.loss(output, batch.labels, training=True)["value"]
    (score.loss / batch.counts["value"]).backward()
    values, number = output.logits["value"].detach().double().requires_grad_(), sum(len(row.completion) for row in rows)
    expected = torch.zeros((), dtype=torch.float64)
    for i, row in enumerate(rows):
        for t in range(len(row.completion)):
            value = values[i, len(row.prompt) - 1 + t, 0]  # of the state before the token
            before, wanted = float(row.tokens["value"][t]), float(row.tokens["return"][t])
            near = torch.clamp(value, before - 0.1, before + 0.1)
            expected = expected + 0.5 * 0.5 * torch.maximum((value - wanted) ** 2, (near - wanted) ** 2) / number
    expected.backward()
    assert score.loss.item() / batch.counts["value"] == pytest.approx(expected.item(), rel=1e-5)
    assert output.logits["value"].grad is not None
    torch.testing.assert_close(output.logits["value"].grad.double(), values.grad, rtol=1e-4, atol=1e-7)


def test_entropy_and_divergence_are_those_of_the_sampled_states():
    objective, rows = policy(kl=0.3), sampled_rows("old", "reference", "advantage")
    batch = objective.collate(rows, np.random.default_rng)
    output = random_output(batch.labels, batch.inputs["tokens"].size(1))
    figures = objective.loss(output, batch.labels, training=True)["policy"].figures
    entropy = divergence = 0.0
    for i, row in enumerate(rows):
        for t, token in enumerate(row.completion.tolist()):
            logs = [log_prob64(output.logits["lm"][i, t], 1.0, v).item() for v in range(5)]
            entropy -= sum(math.exp(x) * x for x in logs)
            r = float(row.tokens["reference"][t]) - logs[token]
            divergence += math.exp(r) - r - 1
    assert figures["entropy"].tolist() == pytest.approx([entropy, 10])
    assert figures["kl"].tolist() == pytest.approx([divergence, 4], rel=1e-5)  # of a completion


# Enumeration: two tokens, two steps, one prompt. The policy is a table of logits for each state.

STATES = {(): 0, (0,): 1, (1,): 2}
COMPLETIONS: list[tuple[int, ...]] = list(itertools.product((0, 1), repeat=2))
REWARD: dict[tuple[int, ...], float] = {(0, 0): 0.1, (0, 1): 1.0, (1, 0): -0.4, (1, 1): 0.7}


def tables(steps: int) -> tuple[Tensor, Tensor]:
    """Logits (3, 2) of the policy and of the reference."""
    rng = torch.Generator().manual_seed(steps)
    theta, reference = torch.randn(2, 3, 2, generator=rng)
    return theta.requires_grad_(), reference


def log_probs(theta: Tensor, completion: tuple[int, ...]) -> Tensor:
    states = torch.tensor([STATES[completion[:t]] for t in range(len(completion))])
    return theta.log_softmax(-1)[states, torch.tensor(completion)]


def rows_of(group: tuple[tuple[int, ...], ...], theta: Tensor, reference: Tensor, values: Tensor) -> list[Trajectory]:
    """The completions as a rollout; `values` (3) of the states."""
    return [
        Trajectory(
            np.array([0]),
            np.array(completion),
            group=0,
            truncated=True,
            reward=REWARD[(*completion, 0)[:2]],
            tokens={
                "old": log_probs(theta, completion).detach().numpy(),
                "reference": log_probs(reference, completion).numpy(),
                "value": np.array([values[STATES[completion[:t]]] for t in range(len(completion))], np.float32),
            },
        )
        for completion in group
    ]


def expected_gradient(
    objective: Policy, theta: Tensor, reference: Tensor, size: int, completions: list[tuple[int, ...]], values: Tensor
) -> Tensor:
    """The gradient of the objective's loss, averaged over all groups of completions with their probabilities."""
    total = torch.zeros(())
    for group in itertools.product(completions, repeat=size):
        probability = math.exp(sum(log_probs(theta, completion).sum().item() for completion in group))
        rows = objective.finish(rows_of(group, theta, reference, values))
        batch = objective.collate(rows, np.random.default_rng)
        del batch.labels["old"]  # sampled from these weights
        states = torch.tensor([[STATES[c[:t]] for t in range(len(c))] for c in group])
        output = Output(torch.empty(0), {"lm": theta[states], "value": values[states][..., None]})
        score = objective.loss(output, batch.labels, training=True)["policy"]
        total = total + probability * score.loss / batch.counts["policy"]
    return torch.autograd.grad(total, theta)[0]


def exact_gradient(theta: Tensor, completions: list[tuple[int, ...]], kl: float, reference: Tensor) -> Tensor:
    """The gradient of -E[reward] + kl KL(policy || reference)."""
    total = torch.zeros(())
    for completion in completions:
        log_prob = log_probs(theta, completion).sum()
        divergence = log_prob - log_probs(reference, completion).sum()
        total = total + log_prob.exp() * (kl * divergence - REWARD[(*completion, 0)[:2]])
    return torch.autograd.grad(total, theta)[0]


def two_tokens(settings: dict[str, Any], *, value: bool = False) -> Policy:
    if value:
        return Policy(PPOConfig(**settings), 0, (0,), (), value_estimate, ("lm", "value"))
    return Policy(GRPOConfig(**settings), 0, (0,), (), group_estimate)


RLOO = {"advantage": "rloo", "scale_by_std": False, "length_divisor": "constant", "max_new_tokens": 1}
DR_GRPO = RLOO | {"advantage": "group"}
K1 = {"kl": 0.5, "kl_in": "reward", "kl_estimator": "k1"}
CASES = [
    ("rloo", RLOO, 2, 1.0),
    ("rloo", RLOO, 3, 1.0),
    ("rloo, k1 in the reward", RLOO | K1, 2, 1.0),
    ("dr. grpo is a multiple", DR_GRPO, 3, 2 / 3),
    ("dr. grpo is a multiple", DR_GRPO | K1, 2, 1 / 2),
]


@pytest.mark.parametrize(("name", "settings", "size", "factor"), CASES)
def test_the_expected_gradient_is_exact(name: str, settings: dict[str, Any], size: int, factor: float):
    theta, reference = tables(2)
    objective = two_tokens(settings)
    found = expected_gradient(objective, theta, reference, size, COMPLETIONS, torch.zeros(3))
    exact = exact_gradient(theta, COMPLETIONS, objective.config.kl, reference)
    torch.testing.assert_close(found, factor * exact, rtol=1e-4, atol=1e-6)


PPO: dict[str, Any] = {
    "whiten": False,
    "lam": 1.0,
    "length_divisor": "constant",
    "max_new_tokens": 1,
    "value_coef": 0.0,
}


@pytest.mark.parametrize("settings", [{"kl": 0.0}, {"kl": 0.5}])
def test_the_expected_gradient_of_ppo_with_lambda_one_is_exact_for_any_values(settings: dict[str, Any]):
    theta, reference = tables(2)
    found = expected_gradient(
        two_tokens(PPO | settings, value=True), theta, reference, 1, COMPLETIONS, torch.tensor([0.4, -0.3, 0.9])
    )
    exact = exact_gradient(theta, COMPLETIONS, settings["kl"], reference)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        (RLOO | {"scale_by_std": True}, False),  # divided by the standard deviation
        (PPO | {"lam": 0.5, "kl": 0.0}, True),  # values that are wrong
        (RLOO | K1 | {"kl_estimator": "k3"}, False),
    ],
)
def test_these_estimators_are_biased_in_direction(settings: dict[str, Any], value: bool):
    theta, reference = tables(2)
    objective = two_tokens(settings, value=value)
    found = expected_gradient(
        objective, theta, reference, 1 if value else 3, COMPLETIONS, torch.tensor([0.4, -0.3, 0.9])
    )
    exact = exact_gradient(theta, COMPLETIONS, objective.config.kl, reference)
    assert torch.nn.functional.cosine_similarity(found.flatten(), exact.flatten(), 0) < 0.999


def forward_divergence(theta: Tensor, reference: Tensor) -> Tensor:
    """KL(reference || policy) in the first state."""
    p, q = theta.log_softmax(-1)[0], reference.log_softmax(-1)[0]
    return (q.exp() * (q - p)).sum()


@pytest.mark.parametrize(("estimator", "exact"), [("k2", True), ("k3", False)])
def test_in_the_loss_of_a_token_k2_has_the_gradient_of_the_divergence_and_k3_that_of_the_other_direction(
    estimator: str, exact: bool
):
    theta, reference = tables(1)
    objective = two_tokens(RLOO | {"kl": 0.5, "kl_estimator": estimator, "kl_in": "loss"})
    single: list[tuple[int, ...]] = [(0,), (1,)]
    found = expected_gradient(objective, theta, reference, 2, single, torch.zeros(3))
    reverse = exact_gradient(theta, single, 0.5, reference)
    of_reward = exact_gradient(theta, single, 0.0, reference)
    forward = of_reward + torch.autograd.grad(0.5 * forward_divergence(theta, reference), theta)[0]
    torch.testing.assert_close(found, reverse if exact else forward, rtol=1e-4, atol=1e-6)
    assert (forward - reverse).abs().max() > 1e-2


# Models

SHAPE: dict[str, Any] = {"vocab_size": VOCAB, "max_seq_len": 16, "d_model": 16, "num_layers": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def model() -> Any:
    built = build_model(ModelConfig(**SHAPE, heads=("lm", "value"), position="rotary"))
    built.init_weights(torch.Generator().manual_seed(1))
    return built


Make = Callable[..., Policy]


@pytest.mark.parametrize("make", [policy, actor_critic])
@pytest.mark.parametrize("batches", [[4], [1, 3], [2, 2], [1, 1, 1, 1]])
def test_what_a_batch_reads_does_not_depend_on_its_shape_and_padding(make: Make, batches: list[int], model: Any):
    objective, rows, first = make(), sampled_rows(), 0
    for number in batches:
        part, first = rows[first : first + number], first + number
        batch = objective.collate(part, np.random.default_rng)
        with torch.no_grad():
            read = objective.read(model(**batch.inputs), batch.labels)
        for i, row in enumerate(part):
            tokens = torch.from_numpy(np.concatenate((row.prompt, row.completion)))[None]
            with torch.no_grad():
                alone = model(tokens[:, :-1])
            logs = objective.log_distribution(alone)[0, len(row.prompt) - 1 :]
            expected = logs.gather(1, tokens[0, len(row.prompt) :, None])[:, 0]
            torch.testing.assert_close(read["log_prob"][i, : len(expected)], expected, rtol=0, atol=2e-6)
            if "value" in objective.heads:
                values = alone.logits["value"][0, len(row.prompt) - 1 :, 0]
                torch.testing.assert_close(read["value"][i, : len(values)], values, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kl", [0.0, 0.1])
@pytest.mark.parametrize("names", [("advantage",), ("advantage", "old")])
def test_padding_has_no_effect_where_the_first_id_is_never_sampled(names: tuple[str, ...], kl: float):
    """Padding is read as id 0, whose log-probability is -inf in tokenizers that begin with a special token."""
    objective = replace(policy(kl=kl), forbidden=(0, 5, 6))
    rows = sampled_rows(*names, *(("reference",) if kl else ()))
    for row in rows:
        row.completion[row.completion == 0] = 1
    batch = objective.collate(rows, np.random.default_rng)
    output = random_output(batch.labels, batch.inputs["tokens"].size(1))
    found = objective.loss(output, batch.labels, training=True)["policy"]
    found.loss.backward()
    padding = batch.labels["ids"] == IGNORE_INDEX
    gradient = output.logits["lm"].grad
    assert gradient is not None and padding.any()
    assert torch.isfinite(found.loss) and torch.isfinite(gradient).all()
    assert all(torch.isfinite(figure).all() for figure in found.figures.values())
    assert (gradient[padding] == 0).all() and (gradient[~padding] != 0).any()


def test_dropout_is_refused():
    from minillm.data.config import DataConfig
    from minillm.objectives.base import Setup
    from minillm.objectives.policy import build
    from minillm.tokenizers.byte import ByteTokenizer

    tokenizer: Any = ByteTokenizer()
    for key in ("dropout", "attention_dropout", "ff_dropout"):
        shape: dict[str, Any] = SHAPE | {key: 0.1}
        with pytest.raises(ValueError, match="objective grpo needs a model without dropout"):
            build(GRPOConfig(), Setup(ModelConfig(**shape), tokenizer, 16, DataConfig()))
