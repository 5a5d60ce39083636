"""``rationales filter``: keep the rationales whose verdict is the gold label (the consistency filter)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.data.pairs import pairs_path, read_pairs, refuse_overwriting, table_file
from lrkd.data.rationales import key_order, merge_rationales, rationale_files, write_rationales
from lrkd.data.types import RATIONALES_FILE, LabelSet
from lrkd.data.verdicts import EXAMPLES, distinct, share


def filter_rationales(
    *,
    root: Path,
    out: Path,
    rationales: Path | list[Path] | None = None,
    label_set: str = "esci",
) -> dict[str, Any]:
    """Keep the rationales whose verdict is their pair's gold label.

    What is kept favours the classes that the teacher judges well: the report says how much of each is left. The report
    is printed and written as JSON beside the rationales.

    Args:
        root: The data root, for the labels.
        out: Where the kept rationales go: a .parquet file, or a folder that gets a rationales.parquet.
        rationales: Files of rationales (or folders with rationales.parquet), one or several behind one --rationales; by
            default the data root's. Where a file's keys are taken by an earlier one's, as with two teachers, its
            samples are counted on.
        label_set: esci, wands, or a YAML file; verdicts and labels must be its labels.

    Returns:
        The report, as written.

    Raises:
        UserError: A file is missing or has a broken row, or ``out`` is one that is read.
    """
    from rich.console import Console

    labels, target = LabelSet.load(label_set), table_file(Path(out), RATIONALES_FILE)
    files = rationale_files(root, rationales)
    refuse_overwriting(target, [*files, pairs_path(root)])
    with Console(stderr=True).status("reading") as status:
        pairs = read_pairs(root, columns=["pair_id", "label"], labels=labels)
        table, sources = merge_rationales(files, labels=labels)
        status.update("filtering")
        kept, report = consistent_rows(table, pairs, labels)
        status.update("writing")
        write_rationales(table, kept, target)
    report = {"root": str(root), "sources": [source.to_dict() for source in sources], "out": str(target)} | report
    record = target.with_suffix(".json")
    record.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _print(report, record)
    return report


def consistent_rows(rationales: pa.Table, pairs: pa.Table, labels: LabelSet) -> tuple[np.ndarray, dict[str, Any]]:
    """Which rationales are consistent with the labels.

    Args:
        rationales: M rationales.
        pairs: N pairs with pair_id and label.
        labels: The label set.

    Returns:
        The consistent ones' rows (K,) in the order of their keys; and the yield: overall, by reason dropped, by
        perspective, by class (the gold label), and in pairs.
    """
    pair = pc.index_in(rationales["pair_id"], value_set=pairs["pair_id"].combine_chunks()).fill_null(-1).to_numpy()
    gold = pc.index_in(pairs["label"], value_set=pa.array(labels.labels)).fill_null(-1).to_numpy()
    verdict = pc.index_in(rationales["verdict"], value_set=pa.array(labels.labels)).to_numpy()
    of_pair = np.append(gold, -1)[pair]  # the last entry is for unknown pairs
    unknown, judged = pair < 0, of_pair >= 0
    right = judged & (verdict == of_pair)
    order = key_order(rationales)
    perspectives = sorted(pc.unique(rationales["perspective"]).to_pylist())
    code = pc.index_in(rationales["perspective"], value_set=pa.array(perspectives, pa.string())).to_numpy()
    lost = list(dict.fromkeys(rationales["pair_id"].take(pa.array(order[unknown[order]])).to_pylist()))
    report = {
        "read": len(pair),
        "kept": int(right.sum()),
        "dropped": {
            "verdict is not gold": int((judged & ~right).sum()),
            "pair without label": int((~unknown & ~judged).sum()),
            "pair unknown": int(unknown.sum()),
        },
        "unknown_pairs": lost[:EXAMPLES],
        "perspectives": {name: _yield(judged & (code == i), right) for i, name in enumerate(perspectives)},
        "classes": {
            name: _yield(of_pair == i, right) | {"pairs": _pair_yield(pair, of_pair == i, right)}
            for i, name in enumerate(labels.labels)
        },
        "pairs": _pair_yield(pair, judged, right) | {"labelled": int((gold >= 0).sum())},
    }
    return order[right[order]], report


def _yield(judged: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """How many of the rationales under a mask (M,) are right."""
    kept = int((judged & right).sum())
    return {"judged": int(judged.sum()), "kept": kept, "share": share(kept, int(judged.sum()))}


def _pair_yield(pair: np.ndarray, judged: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """How many of the pairs of the rationales under a mask (M,) keep at least one."""
    whole, kept = distinct(pair[judged]), distinct(pair[judged & right])
    return {"judged": whole, "with_at_least_one": kept, "share": share(kept, whole)}


def _print(report: dict[str, Any], record: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    for source in report["sources"]:
        shift = source["samples_shifted_by"]
        note = f" (their samples count from {shift}: the keys were taken)" if shift else ""
        console.print(f"Read {source['rationales']:,} rationales from {source['path']}{note}")
    table = Table("", "judged", "kept", "share", title="rationales whose verdict is the gold label")
    for name, row in (*report["perspectives"].items(), *report["classes"].items()):
        table.add_row(name, f"{row['judged']:,}", f"{row['kept']:,}", _number(row["share"]))
    console.print(table)
    pairs = report["pairs"]
    console.print(
        f"{pairs['with_at_least_one']:,} of {pairs['judged']:,} labelled pairs with rationales keep at least one "
        f"({_number(pairs['share'])}); {pairs['labelled']:,} pairs have a label"
    )
    dropped = ", ".join(f"{count:,} ({reason})" for reason, count in report["dropped"].items())
    console.print(f"Dropped {report['read'] - report['kept']:,} of {report['read']:,}: {dropped}")
    console.print(f"Wrote {report['kept']:,} rationales to {report['out']}, the report to {record}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
