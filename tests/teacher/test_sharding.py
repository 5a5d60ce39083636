"""Two processes that share out a teacher's weights (FSDP2) learn, judge and save as one process does."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sharded_fits import fit

from lrkd.causal_lm import load_causal_lm
from lrkd.pretrained import load_tokenizer
from lrkd.teacher.conflicts import mine_conflicts
from lrkd.teacher.policy import add_lora, export

pytestmark = pytest.mark.slow

SCENARIOS = ("sft", "sft_full", "dpo_adapter", "dpo_precomputed")


@pytest.fixture(scope="module")
def scenarios(tiny_root, tiny_teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharding")
    torch.manual_seed(0)  # of the adapters
    policy = add_lora(load_causal_lm(tiny_teacher), rank=4, alpha=8, dropout=0.0, targets="all-linear")
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    export(policy, load_tokenizer(tiny_teacher), folder / "policy", merge=False)
    mine_conflicts(root=tiny_root, out=folder, balanced=False)
    sft = {"root": str(tiny_root), "model": tiny_teacher, "resumed": False}
    dpo = sft | {"model": str(folder / "policy"), "preferences": str(folder)}
    made = {
        "sft": sft | {"settings": {"lora_rank": 4}, "resumed": True},
        "sft_full": sft | {"settings": {"lora_rank": None, "gradient_checkpointing": True}},
        "sft_bfloat16": sft | {"settings": {"lora_rank": 4, "dtype": "bfloat16"}},
        "dpo_adapter": dpo | {"settings": {"sft_weight": 0.1}},
        "dpo_precomputed": dpo | {"settings": {"reference": "precomputed"}, "resumed": True},
    }
    (folder / "scenarios.json").write_text(json.dumps(made))
    return folder, made


@pytest.fixture(scope="module")
def two(scenarios):
    """What two processes found, and where their checkpoints are."""
    folder, _ = scenarios
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
    paths = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)])
    script = str(Path(__file__).with_name("sharded_fits.py"))
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(folder / "scenarios.json"), str(folder)],
            env=os.environ | group | {"LOCAL_RANK": rank, "PYTHONPATH": paths},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    try:
        shown = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(text[-4000:] for text in shown)
    return folder, json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def one(scenarios, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return folder, {name: fit(scenario, 1, folder / f"{name}.ckpt") for name, scenario in scenarios[1].items()}


def state(folder, name):
    return torch.load(folder / f"{name}.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_shared_out_weights_learn_and_judge_as_whole_ones(one, two, name):  # traps 1, 2, 15
    (_, whole), (_, sharded) = one, two
    assert len(sharded[name]["steps"]) == len(whole[name]["steps"]) > 2
    for mine, theirs in zip(sharded[name]["steps"], whole[name]["steps"], strict=True):
        assert mine == pytest.approx(theirs, rel=2e-3, abs=1e-4)
    assert sharded[name]["measured"].keys() == whole[name]["measured"].keys() >= {"val/macro_f1", "seen/accuracy"}
    for key, value in whole[name]["measured"].items():
        assert sharded[name]["measured"][key] == pytest.approx(value, rel=2e-3, abs=1e-4, nan_ok=True), key
    if name.startswith("dpo"):
        assert sharded[name]["steps"][0]["train/rewards/margins"] == pytest.approx(0, abs=1e-5)  # trap 7
    assert all(math.isfinite(step["train/grad_norm"]) for step in sharded[name]["steps"])


@pytest.mark.parametrize("name", SCENARIOS)
def test_their_checkpoint_is_that_of_one_process(one, two, name):  # trap 37
    whole, sharded = state(one[0], name), state(two[0], name)
    assert sharded.keys() == whole.keys()
    for key, value in whole.items():
        torch.testing.assert_close(sharded[key], value, rtol=1e-3, atol=2e-4)


def test_frozen_weights_and_adapters_may_differ_in_dtype(one, two):
    (_, whole), (_, sharded) = one, two
    for mine, theirs in zip(sharded["sft_bfloat16"]["steps"], whole["sft_bfloat16"]["steps"], strict=True):
        assert mine["train/loss"] == pytest.approx(theirs["train/loss"], rel=0.02)
    assert state(two[0], "sft_bfloat16").keys() == state(one[0], "sft_bfloat16").keys()


@pytest.mark.parametrize("name", ["sft", "dpo_precomputed"])
def test_resumed_is_uninterrupted(two, name):  # trap 38
    whole, resumed = state(two[0], name), state(two[0], f"{name}-resumed")
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())
