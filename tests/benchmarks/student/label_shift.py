"""Accuracy against macro-F1 of finished runs, as the logits are shifted by the training labels' shares.

python tests/benchmarks/student/label_shift.py --root ROOT --runs runs/ablations/esci_mini --methods encoder lrkd_mlp
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from sklearn.metrics import accuracy_score, f1_score

from lrkd.runs import read_run

SHIFTS = (-0.6, -0.4, -0.2, 0.0, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the data root, with folds")
    parser.add_argument("--runs", type=Path, required=True, help="the folder of an ablation's runs")
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--folds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    given = parser.parse_args()
    pairs = pq.read_table(given.root / "pairs.parquet", columns=["label", "fold"]).to_pandas()
    read = {
        (method, fold): read_run(given.runs / f"{method}-fold{fold}-seed0").predictions("test").to_pandas()
        for method in given.methods
        for fold in given.folds
    }
    print(
        f"| accuracy / macro-F1 | {' | '.join(f't = {shift}' for shift in SHIFTS)} |\n| --- |{' ---: |' * len(SHIFTS)}"
    )
    for method in [*given.methods, "mean of all"]:
        members = given.methods if method == "mean of all" else [method]
        cells = []
        for shift in SHIFTS:
            scores = [scored([read[m, f] for m in members], pairs[pairs.fold != f].label, shift) for f in given.folds]
            cells.append(" / ".join(f"{value:.3f}" for value in np.mean(scores, 0)))
        print(f"| {method} | {' | '.join(cells)} |")


def scored(tables: list[pd.DataFrame], training_labels: pd.Series, shift: float) -> tuple[float, float]:
    """Accuracy and macro-F1 of the mean probabilities, with ``-shift · log π`` added to their logarithms."""
    columns = [name for name in tables[0].columns if name.startswith("p/")]
    names = np.array([name.removeprefix("p/") for name in columns])
    shares = training_labels.value_counts(normalize=True)[names].to_numpy()
    probabilities = np.mean([table[columns].to_numpy() for table in tables], 0)
    found = names[(np.log(probabilities) - shift * np.log(shares)).argmax(1)]
    return accuracy_score(tables[0].label, found), f1_score(tables[0].label, found, average="macro")


if __name__ == "__main__":
    main()
