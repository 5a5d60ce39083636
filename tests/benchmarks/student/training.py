"""Training speed of ``fit`` against sentence-transformers' CrossEncoderTrainer, interleaved.

    python tests/benchmarks/student/training.py --root path/to/esci_mini [--targets runs/esci_mini/targets]

Pairs per second, peak memory, and the time to a validation macro-F1 that all reach, for the same backbone
(all-MiniLM-L6-v2), pairs (train split of fold 0), batch (32), epochs and learning rate. The peer runs in its default
setting (float32, random batches) and in its best one (bfloat16 autocast, batches of like length). On titles all pairs
are trained on; on the full item text, which takes six times as long, ``--batches`` batches. With ``--targets`` the
extractors (with their guidance) are measured against the encoder alone, on titles. Each training is a process of its
own; rounds are interleaved; figures are medians over the rounds. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from measured import machine

PACKAGES = ("torch", "lightning", "transformers", "sentence-transformers")

CONTENDERS = {
    "CrossEncoderTrainer, default": ["--which", "cross_encoder"],
    "CrossEncoderTrainer, best": ["--which", "cross_encoder", "--bf16", "--grouped"],
    "lrkd fit, float32": ["--which", "fit"],
    "lrkd fit, bfloat16": ["--which", "fit", "--bf16"],
}
EXTRACTORS = ("encoder", "lrkd_mlp", "lrkd_poly", "lrkd_gat", "lrkd_mlp_perspectives", "lrkd_gat_perspectives")
TITLES = ["--item_text", "{title}", "--max_length", "128"]
FULL = ["--item_text", "{title} {brand} {color} {bullets} {description}", "--max_length", "256"]


def measure(options: list[str]) -> dict:
    """One training in a process of its own."""
    script = Path(__file__).with_name("contenders.py")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, script, *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def seconds_to(curve: list[tuple[float, float]], goal: float) -> float:
    """Wall-clock seconds of training and evaluation until the validation macro-F1 is reached."""
    return next((seconds for seconds, score in curve if score >= goal), float("inf"))


def compare(contenders: dict[str, list[str]], shared: list[str], rounds: int) -> dict[str, list[dict]]:
    """Measurements of every contender, round by round."""
    found: dict[str, list[dict]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, options in contenders.items():
            found[name].append(measure([*options, *shared]))
            last = found[name][-1]
            print(f"# round {number + 1}, {name}: {last['pairs'] / last['seconds']:.1f} pairs/s", file=sys.stderr)
    return found


def table(found: dict[str, list[dict]], base: str) -> str:
    """Medians as Markdown; ratios are medians of the rounds' ratios to ``base``."""
    goal = min(max(score for _, score in run["curve"]) for runs in found.values() for run in runs)
    lines = [
        f"| | pairs/s | ratio to {base} | peak memory (GB) | s to macro-F1 {goal:.3f} | best macro-F1 |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, runs in found.items():
        speed = [run["pairs"] / run["seconds"] for run in runs]
        ratio = [s * b["seconds"] / b["pairs"] for s, b in zip(speed, found[base], strict=True)]
        lines.append(
            f"| {name} | {statistics.median(speed):.1f} ({min(speed):.1f} to {max(speed):.1f}) "
            f"| {statistics.median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f}) "
            f"| {statistics.median(run['peak'] for run in runs) / 1e9:.2f} "
            f"| {statistics.median(seconds_to(run['curve'], goal) for run in runs):.0f} "
            f"| {statistics.median(max(score for _, score in run['curve']) for run in runs):.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--targets")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--parts", nargs="+", default=["titles", "full", "extractors"])
    args = parser.parse_args()
    print(f"{machine(*PACKAGES)}\n{args.epochs} epochs, {args.rounds} rounds\n")
    with tempfile.TemporaryDirectory() as cache:
        common = ["--root", args.root, "--cache", cache, "--epochs", str(args.epochs)]
        extractors = {name: ["--which", "fit", "--bf16", "--config", name] for name in EXTRACTORS}
        best = "CrossEncoderTrainer, best"
        parts = {
            "titles": (CONTENDERS, [*common, *TITLES], best),
            "full": (CONTENDERS, [*common, *FULL, "--batches", str(args.batches)], best),
            "extractors": (extractors, [*common, *TITLES, "--targets", args.targets], "encoder"),
        }
        for title in args.parts if args.targets else [part for part in args.parts if part != "extractors"]:
            contenders, shared, base = parts[title]
            print(f"### {title}\n\n{table(compare(contenders, shared, args.rounds), base)}\n", flush=True)


if __name__ == "__main__":
    main()
