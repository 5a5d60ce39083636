"""How much of the gold label verdicts and rationales' embeddings tell, by logistic regression over folds.

python tests/benchmarks/teacher_knowledge.py --root path/to/esci_mini --targets runs/esci_mini/targets

Pairs that have a rationale from each perspective; the folds are the data's, by query. Embeddings are those of a target
store, made without the verdict in the text.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from lrkd.data.targets import TargetStore


def read(root: Path, targets: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Verdicts (N, P) and vectors (N, P, R), gold labels (N,) and folds (N,)."""
    store = TargetStore.open(targets)
    index = store.index.to_pandas().reset_index(names="row")
    first = index.sort_values("sample").drop_duplicates(["pair_id", "perspective"])
    pairs = pq.read_table(root / "pairs.parquet", columns=["pair_id", "label", "fold"]).to_pandas()
    verdicts = first.pivot(index="pair_id", columns="perspective", values="verdict").dropna()
    rows = first.pivot(index="pair_id", columns="perspective", values="row").loc[verdicts.index].astype(int)
    gold = pairs.set_index("pair_id").loc[verdicts.index]
    return verdicts.to_numpy(), np.asarray(store.vectors)[rows.to_numpy()], gold.label.to_numpy(), gold.fold.to_numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--targets", type=Path, required=True)
    options = parser.parse_args()
    verdicts, vectors, gold, fold = read(options.root, options.targets)
    labels = np.unique(gold)
    said = (verdicts[:, :, None] == labels).astype(float)
    flat = said.reshape(len(gold), -1)
    embedded = vectors.reshape(len(gold), -1)

    def report(name: str, features: np.ndarray, of: np.ndarray = gold, strength: float = 1.0) -> None:
        model = LogisticRegression(C=strength, max_iter=500)
        found = cross_val_predict(model, features, of, cv=PredefinedSplit(fold))
        print(f"| {name} | {accuracy_score(of, found):.3f} | {f1_score(of, found, average='macro'):.3f} |", flush=True)

    print(f"{len(gold):,} pairs\n| from | accuracy | macro-F1 |\n| --- | ---: | ---: |")
    majority = labels[said.sum(1).argmax(1)]  # of a tie the first label by name
    print(f"| majority | {accuracy_score(gold, majority):.3f} | {f1_score(gold, majority, average='macro'):.3f} |")
    report("verdicts", flat)
    report("embeddings", embedded, strength=0.3)
    report("both", np.hstack([embedded, flat]))
    for place in range(verdicts.shape[1]):
        report(f"the verdict of perspective {place + 1} from its embedding", vectors[:, place], verdicts[:, place], 3.0)


if __name__ == "__main__":
    main()
