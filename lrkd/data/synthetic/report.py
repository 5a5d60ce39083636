"""What ``data synthesize`` prints: the label mix, how right the perspectives are, how far they agree."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrkd.data.types import LABEL_SETS

if TYPE_CHECKING:
    from lrkd.data.synthetic.command import SyntheticData


def accuracies(data: SyntheticData) -> dict[str, float]:
    """The share of verdicts that are the gold label, by perspective."""
    gold = {pair["pair_id"]: pair["label"] for pair in data.pairs}
    right: dict[str, list[bool]] = defaultdict(list)
    for row in data.rationales:
        right[row["perspective"]].append(row["verdict"] == gold[row["pair_id"]])
    return {name: sum(hits) / len(hits) for name, hits in right.items()}


def agreement(data: SyntheticData) -> dict[str, float]:
    """Of the pairs with rationales, by the first sample: how many find all perspectives in agreement, and so on.

    Returns:
        ``agree``: all verdicts are one; ``conflict``: some are right and some are wrong; ``none``: none is right.
    """
    gold = {pair["pair_id"]: pair["label"] for pair in data.pairs}
    verdicts: dict[str, list[str]] = defaultdict(list)
    for row in data.rationales:
        if row["sample"] == 0:
            verdicts[row["pair_id"]].append(row["verdict"])
    counts: Counter[str] = Counter()
    for pair_id, given in verdicts.items():
        right = sum(verdict == gold[pair_id] for verdict in given)
        counts["agree"] += len(set(given)) == 1
        counts["conflict"] += 0 < right < len(given)
        counts["none"] += right == 0
    return {name: counts[name] / max(1, len(verdicts)) for name in ("agree", "conflict", "none")}


def print_report(data: SyntheticData, out: Path, seed: int) -> None:
    """Print what was written to the data root ``out``."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    number = len(data.pairs)
    queries = len({pair["query_id"] for pair in data.pairs})
    with_rationale = len({row["pair_id"] for row in data.rationales})
    console.print(
        f"Synthetic data (seed {seed}) written to {out}: {number} pairs over {queries} queries.", soft_wrap=True
    )
    labels = Counter(pair["label"] for pair in data.pairs)
    table = Table("synthetic label", "pairs", "share")
    for label in LABEL_SETS["esci"].labels:
        table.add_row(label, str(labels[label]), f"{labels[label] / number:.3f}")
    console.print(table)
    if not data.rationales:
        console.print("No synthetic rationales.")
        return
    console.print(
        f"{len(data.rationales)} synthetic rationales for {with_rationale} pairs; "
        f"{number - with_rationale} pairs have none."
    )
    console.print(_verdict_table(data))
    shares = agreement(data)
    console.print(
        f"The perspectives agree on {shares['agree']:.3f} of the pairs; some are right and some wrong on "
        f"{shares['conflict']:.3f}; none is right on {shares['none']:.3f}.",
        soft_wrap=True,
    )


def _verdict_table(data: SyntheticData) -> Any:
    from rich.table import Table

    table = Table("perspective", "rationales", "verdict = gold")
    counts = Counter(row["perspective"] for row in data.rationales)
    for name, accuracy in accuracies(data).items():
        table.add_row(name, str(counts[name]), f"{accuracy:.3f}")
    return table
