"""Two processes do what one does: gradients, weights, metrics, evaluation, stopping."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).with_name("worker.py")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two ranks found, compared with one process by the first of them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    root = tmp_path_factory.mktemp("ranks")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(root)],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        outputs = [rank.communicate(timeout=150) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(error[-3000:] for _, error in outputs)
    assert outputs[1][0] == ""
    return json.loads(outputs[0][0])


@pytest.mark.parametrize("rule", ["adamw", "muon", "lora"])
def test_weights_after_five_steps_are_those_of_one_process(measured: dict[str, Any], rule: str):
    assert measured[rule]["weights"] <= 1e-6


@pytest.mark.parametrize("rule", ["adamw", "muon", "lora"])
def test_losses_norms_counts_and_evaluations_are_those_of_one_process(measured: dict[str, Any], rule: str):
    assert measured[rule]["metrics"] <= 1e-6


@pytest.mark.parametrize("objective", ["clm", "mlm", "span", "seq2seq", "prefix_lm", "dpo"])
def test_gradients_are_those_of_one_process_however_uneven_the_targets(measured: dict[str, Any], objective: str):
    assert measured["gradients"][objective]["gradient"] <= 2e-6  # the sum over both ranks
    assert measured["gradients"][objective]["loss"] <= 1e-6


@pytest.mark.parametrize("task", ["one label", "several labels", "a number", "entities", "answers"])
def test_figures_of_a_task_are_those_of_one_process(measured: dict[str, Any], task: str):
    together, alone = measured["evaluations"][task]
    assert together == pytest.approx(alone, rel=1e-6) and len(alone) > 3


def test_a_stop_request_on_one_rank_stops_all_at_the_same_step(measured: dict[str, Any]):
    assert measured["stop"]["steps"] == [6, 18, 2]
    assert measured["stop"]["saved"] == ["step-000003"]


def test_sums_are_exact_for_counts_of_tokens_and_the_first_rank_speaks_for_all(measured: dict[str, Any]):
    assert measured["sum"] == [2 * (2**53 - 2), 1.0, 1]
    assert measured["broadcast"] == {"from": 0}
