"""The report of ``rationales conflicts`` on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def print_conflicts(report: dict[str, Any], record: Path) -> None:
    """Print what :func:`lrkd.teacher.conflicts.mine_conflicts` found.

    Args:
        report: Its report.
        record: Where that was written.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for source in report["sources"]:
        shift = source["samples_shifted_by"]
        note = f" (their samples count from {shift}: the keys were taken)" if shift else ""
        console.print(f"Read {source['rationales']:,} rationales from {source['path']}{note}")
    used = report["rationales"]
    dropped = ", ".join(f"{count:,} ({reason})" for reason, count in used["left_out"].items())
    console.print(f"Used {used['used']:,}; left out {dropped}")
    _print_pairs(console, report["pairs"])
    _print_stages(console, report["stages"])
    _print_audit(console, report)
    _print_suspects(console, report["suspects"])
    count = report["stages"]["kept"]["preference_pairs"]
    console.print(f"Wrote {count:,} preference pairs to {report['out']}, the report to {record}")


def _print_pairs(console: Console, pairs: dict[str, int]) -> None:
    supplied = pairs["none_right_but_a_further_sample"]
    console.print(
        f"{pairs['with_rationales']:,} training pairs have rationales: all are right on {pairs['all_right']:,}, some "
        f"on {pairs['some_right']:,}, none on {pairs['none_right']:,}, where further samples supply a right one for "
        f"{supplied:,}. {pairs['with_preference_pairs']:,} give preference pairs."
    )


def _print_stages(console: Console, stages: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("preference pairs", *stages, title="chosen's perspective → rejected's")
    table.add_row("all", *(f"{stage['preference_pairs']:,}" for stage in stages.values()))
    for part in ("kinds", "classes"):
        for key in stages["found"][part]:
            table.add_row(key, *(f"{stage[part][key]:,}" for stage in stages.values()))
    for key in stages["found"]["perspectives"]:
        counts = [sum(stage["perspectives"].get(key, {}).values()) for stage in stages.values()]
        table.add_row(key, *(f"{count:,}" for count in counts))
    console.print(table)
    kept = stages["kept"]
    table = Table("kept, by class", *kept["classes"])
    for key, classes in kept["perspectives"].items():
        table.add_row(key, *(f"{count:,}" for count in classes.values()))
    console.print(table)


def _print_audit(console: Console, report: dict[str, Any]) -> None:
    from rich.table import Table

    found, kept = report["audit"]["found"], report["audit"]["kept"]
    table = Table("who sees only ... finds the chosen side", "found", "kept", title="leaks: 0.5 is none")
    for key, value in kept["leaks"].items():
        table.add_row(key.replace("_", " "), _number(found["leaks"][key]), _number(value))
    console.print(table)
    chosen, rejected = kept["lengths"]["chosen"], kept["lengths"]["rejected"]
    if chosen["words"] is not None:
        console.print(
            f"Chosen sides have {chosen['words']:.1f} words ({chosen['characters']:.0f} characters), rejected ones "
            f"{rejected['words']:.1f} ({rejected['characters']:.0f})"
        )
    console.print(
        f"{kept['distinct']['pairs']:,} distinct pairs of {kept['distinct']['queries']:,} queries. Checked: "
        + ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in kept["checks"].items())
    )


def _print_suspects(console: Console, suspects: dict[str, Any]) -> None:
    if not suspects["pairs"]:
        return
    labels = ", ".join(f"{name} {count:,}" for name, count in suspects["labels"].items())
    console.print(
        f"Suspect labels: on {suspects['pairs']:,} pairs ({suspects['share']:.1%}) all rationales agree on a verdict "
        f"that is not gold ({labels}), such as {', '.join(e['pair_id'] for e in suspects['examples'][:3])}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
