"""The report of ``data audit`` on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def print_report(report: dict[str, Any]) -> None:
    """Print what :func:`lrkd.data.audit.audit_data` found."""
    from rich.console import Console

    console = Console()
    _print_splits(console, report["splits"])
    _print_leaks(console, report)
    _print_lengths(console, report["lengths"])
    if report["rationales"]:
        _print_rationales(console, report["rationales"])
    else:
        console.print("no rationales")


def _print_splits(console: Console, splits: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("split", *splits, title="labels")
    for key in ("pairs", "queries"):
        table.add_row(key, *(f"{split[key]:,}" for split in splits.values()))
    for label in splits["all"]["labels"]:
        table.add_row(label, *(f"{split['labels'][label]:,}" for split in splits.values()))
    table.add_row("unlabelled", *(f"{split['unlabelled']:,}" for split in splits.values()))
    # What a model that always gives the most frequent label scores.
    table.add_row("majority", *(split["majority_label"] or "-" for split in splits.values()))
    table.add_row("its accuracy", *(_number(split["majority_share"]) for split in splits.values()))
    console.print(table)


def _print_leaks(console: Console, report: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("leaks and duplicates", "count", "such as")
    leaks, twice = report["leaks"], report["duplicates"]
    rows = [
        ("queries in two splits", leaks["queries"]["count"], leaks["queries"]["examples"]),
        ("queries in two folds", leaks["queries_between_folds"]["count"], leaks["queries_between_folds"]["examples"]),
        ("items in two splits", leaks["items"]["count"], leaks["items"]["examples"]),
        ("pairs that repeat another's query and item", twice["repeated_pairs"], [ids[1] for ids in twice["examples"]]),
        (
            "... with contradictory labels",
            twice["contradictory_groups"],
            [ids[1] for ids in twice["contradictory_examples"]],
        ),
    ]
    for name, count, examples in rows:
        table.add_row(name, f"{count:,}", ", ".join(examples[:3]))
    console.print(table)


def _print_lengths(console: Console, lengths: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(f"length in {lengths['unit']}", "mean", "median", "95 %", "maximum")
    for name in ("query", "item", "pair"):
        table.add_row(name, *(f"{value:,.4g}" for value in lengths[name].values()))
    console.print(table)
    if lengths["tokenizer"]:
        console.print(f"{lengths['over_max_length'] or 0:.1%} of the pairs are over {lengths['max_length']} tokens")
    else:
        console.print("give --tokenizer to measure against --max_length")


def _print_rationales(console: Console, report: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("perspective", "rationales", "accuracy", "macro-F1", title="verdicts against labels")
    for name, row in report["perspectives"].items():
        table.add_row(name, f"{row['rationales']:,}", _number(row["accuracy"]), "")
    vote = report["majority_vote"]
    table.add_row("majority vote", f"{report['rationales']:,}", _number(vote["accuracy"]), _number(vote["macro_f1"]))
    console.print(table)
    shares = report["agreement"]
    console.print(
        f"{report['pairs_with_rationales']:,} pairs have rationales ({report['coverage'] or 0:.1%}). Verdicts agree on "
        f"{_number(shares['all_agree'])} of them; all are right on {_number(shares['all_right'])}, some (conflicts) on "
        f"{_number(shares['some_right'])}, none on {_number(shares['none_right'])}."
    )
    unknown = report["unknown_pairs"]
    if unknown["rationales"]:
        console.print(f"{unknown['rationales']:,} rationales of unknown pairs: {', '.join(unknown['examples'][:3])}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
