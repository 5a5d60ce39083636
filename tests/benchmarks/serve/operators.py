"""Where an exported student's time goes, operator by operator, on requests of one shape.

python tests/benchmarks/serve/operators.py --model runs/quickstart/export
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime

from lrkd.serve.bench.command import WORDS
from lrkd.serve.bench.pairs import pairs_of_length
from lrkd.serve.card import MODEL_FILE
from lrkd.serve.scorer import SLOWER, Scorer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a folder that export wrote")
    parser.add_argument("--batch", type=int, default=32, help="pairs")
    parser.add_argument("--length", type=int, default=32, help="tokens a pair")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--fusions", action="store_true", help="with the fusions that Scorer leaves out")
    given = parser.parse_args()
    pairs = pairs_of_length(scorer := Scorer(given.model, threads=1), given.length, given.batch, WORDS)
    queries, items = map(list, zip(*pairs, strict=True))
    batch = scorer.tokens(queries, items).batch(np.arange(given.batch), given.length)
    times = profile(given.model, batch, given.runs, [] if given.fusions else SLOWER)
    total = sum(times.values())
    print(f"{given.model}: {given.batch} pairs of {given.length} tokens, one thread, mean of {given.runs} runs\n")
    print(f"| operator | ms | share |\n| --- | ---: | ---: |\n| all | {total:.1f} | 100 % |")
    for name, spent in times.most_common(10):
        print(f"| {name} | {spent:.1f} | {spent / total:.0%} |")


def profile(model: Path, batch: dict[str, np.ndarray], runs: int, disabled: list[str]) -> Counter[str]:
    """Milliseconds a run by operator."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    times: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        session = onnxruntime.InferenceSession(
            str(model / MODEL_FILE), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
        )
        for _ in range(runs):
            session.run(None, {node.name: batch[node.name] for node in session.get_inputs()})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"]] += event["dur"] / 1000 / runs
    return times


if __name__ == "__main__":
    main()
