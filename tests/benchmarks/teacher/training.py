"""Training speed of ``fit`` with TeacherSFT and TeacherDPO against TRL's SFTTrainer and DPOTrainer, interleaved.

    python tests/benchmarks/teacher/training.py --root path/to/esci_mini --model path/to/llm --preferences DIR

(DIR is made by ``python -m lrkd rationales conflicts --root path/to/esci_mini --out DIR --fold 0``.) Tokens per
second, prompts and completions of all sequences counted as if each were computed for itself, and peak memory of the
process. All train on the same token ids in the same steps (``--batch`` pairs with all their rationales and a neutral
one, or as many preference pairs), with LoRA of rank 16 on all linear layers begun alike, bfloat16 autocast, the same
learning rates and schedule. TRL's trainers run in their default setting, which has gradient checkpointing; in their
best one on CPU: without it, micro-batches of like length, the allocator settings that lrkd has; and patched so that
the head is applied at learned tokens only, as TRL does on GPUs alone. padding_free, which packing is built on, gives
the same losses with sdpa (contenders.py has the option); DPOTrainer ignores it. Where the reference's
log-probabilities are computed beforehand, that counts, a third for an epoch of three (as in configs/teacher/dpo.yaml).
Each training is a process of its own; rounds are interleaved; figures are medians over the rounds, the first steps
left out. Nothing else should run meanwhile; tokens per CPU second are what remains comparable where something does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from measured import Run, interleaved, machine, run

PACKAGES = ("torch", "lightning", "transformers", "peft", "trl")
WARM_UP = 2
"""Steps that are left out."""
EPOCHS = 3
"""Over which the reference's log-probabilities are used."""
BEST = ["trl", "--grouped", "--allocator"]
SMALL = ["--token_budget", "2560"]
"""Micro-batches as large as TRL's, where the default is what a GPU holds."""
CONTENDERS = {
    "sft": {
        "SFTTrainer, default": ["trl", "--checkpointing"],
        "SFTTrainer, best": BEST,
        "SFTTrainer, best, patched": [*BEST, "--compact"],
        "lrkd fit": ["fit"],
        "lrkd fit, small": ["fit", *SMALL],
    },
    "dpo": {
        "DPOTrainer, default": ["trl", "--checkpointing", "--parts", "1"],
        "DPOTrainer, best": [*BEST, "--parts", "2"],
        "DPOTrainer, best, precomputed": [*BEST, "--parts", "2", "--precompute"],
        "DPOTrainer, best, precomputed, patched": [*BEST, "--parts", "2", "--precompute", "--compact"],
        "lrkd fit": ["fit"],
        "lrkd fit, small": ["fit", *SMALL],
        "lrkd fit, small, precomputed": ["fit", *SMALL, "--precompute"],
    },
}


def seconds(found: Run, clock: int) -> float:
    """Seconds of the measured steps, wall-clock (0) or CPU (1), with their part of what came beforehand."""
    marks, steps = found.result["marks"], len(found.result["marks"]) - 1
    before = found.result["before"][clock] / EPOCHS * (steps - WARM_UP) / steps
    return float(marks[-1][clock] - marks[WARM_UP][clock] + before)


def table(runs: dict[str, list[Run]], tokens: list[int], base: str) -> str:
    """Medians as Markdown; ratios are medians of the rounds' ratios to ``base``."""
    count = sum(tokens[WARM_UP:])
    lines = [
        f"| | tokens/s | tokens/CPU s | ratio to {base} | of CPU seconds | peak memory (GB) | ratio |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]

    def ratio(own: list[Run], clock: int) -> float:
        both = zip(own, runs[base], strict=True)
        return statistics.median(seconds(theirs, clock) / seconds(mine, clock) for mine, theirs in both)

    for name, own in runs.items():
        wall, cpu = ([count / seconds(found, clock) for found in own] for clock in (0, 1))
        peak, theirs = (statistics.median(found.peak for found in some) for some in (own, runs[base]))
        lines.append(
            f"| {name} | {statistics.median(wall):,.0f} ({min(wall):,.0f} to {max(wall):,.0f}) "
            f"| {statistics.median(cpu):,.0f} | {ratio(own, 0):.2f} | {ratio(own, 1):.2f} "
            f"| {peak / 1e9:.2f} | {peak / theirs:.2f} |"
        )
    return "\n".join(lines)


def curves(runs: dict[str, list[Run]]) -> str:
    """The losses of every step, of each contender's first round."""
    names = list(runs)
    lines = ["| step | " + " | ".join(names) + " |", "| ---: |" + " ---: |" * len(names)]
    for step, losses in enumerate(zip(*(runs[name][0].result["losses"] for name in names), strict=True), 1):
        lines.append(f"| {step} | " + " | ".join(f"{loss:.4f}" for loss in losses) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a data root with rationales")
    parser.add_argument("--model", required=True, help="a folder with a causal language model")
    parser.add_argument("--preferences", help="a folder with preference pairs; without it, SFT only")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8, help="pairs, or preference pairs, a step")
    parser.add_argument("--steps", type=int, default=8, help=f"of which the first {WARM_UP} are not measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=list(CONTENDERS))
    args = parser.parse_args()
    if args.steps <= WARM_UP:
        parser.error(f"--steps is above {WARM_UP}")
    script = Path(__file__).with_name("contenders.py")
    env = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    print(machine(*PACKAGES))
    print(f"{Path(args.model).name}, {args.steps - WARM_UP} steps of {args.batch} pairs, {args.rounds} rounds\n")
    methods = [args.only] if args.only else ["sft", *(["dpo"] if args.preferences else [])]
    for method in methods:
        with tempfile.TemporaryDirectory() as folder:
            shared = ["--method", method, "--folder", folder, "--root", args.root, "--model", args.model]
            shared += ["--fold", args.fold, "--steps", args.steps, "--batch", args.batch]
            preferences = ["--preferences", args.preferences] if args.preferences else []
            given = run(script, "prepare", *shared, *preferences, env=env).result
            contenders = CONTENDERS[method]
            programs = {name: partial(run, script, *options, *shared, env=env) for name, options in contenders.items()}
            runs = interleaved(programs, args.rounds)
        base = [name for name in runs if name.endswith("best") or name.endswith("best, precomputed")][-1]
        share = sum(given["packed"]) / sum(given["tokens"])
        print(
            f"### {method}\n\n{sum(given['sequences'])} sequences, {sum(given['tokens']):,} tokens; "
            f"with shared prefixes {share:.0%} of them\n"
        )
        print(f"{table(runs, given['tokens'], base)}\n\n{curves(runs)}\n", flush=True)


if __name__ == "__main__":
    main()
