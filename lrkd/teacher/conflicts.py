"""``rationales conflicts``: preference pairs from rationales of one pair that disagree (conflict mining)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lrkd.data.pairs import pairs_path, refuse_overwriting, table_file
from lrkd.data.preference_pairs import write_preferences
from lrkd.data.rationales import merge_rationales, rationale_files
from lrkd.data.types import PREFERENCES_FILE, LabelSet
from lrkd.errors import UserError
from lrkd.prompts.book import PromptBook
from lrkd.teacher.conflict_pairs import KINDS, Conflicts, Kind, Selection, select_conflicts
from lrkd.teacher.judged import Judged, judge, read_training
from lrkd.teacher.preference_audit import audit_preferences, describe_pairs, find_suspects, tally
from lrkd.teacher.preference_report import print_conflicts


def mine_conflicts(
    *,
    root: Path,
    out: Path,
    rationales: Path | list[Path] | None = None,
    more: Path | list[Path] | None = None,
    fold: int | None = None,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    kinds: Kind | list[Kind] | None = None,
    balanced: bool = True,
    max_per_pair: int = 4,
    prompts: str = "esci",
    label_set: str = "esci",
    seed: int = 0,
) -> dict[str, Any]:
    """Mine preference pairs: every rationale with a wrong verdict against the right ones of the same pair.

    Mine the rationales of the policy that DPO is to train, and those of pairs that its SFT did not train on: a teacher
    agrees with the labels that it has learnt by heart, so its own training pairs hold few conflicts, and other ones.
    `rationales crossfit` writes such rationales.

    Both sides answer one prompt: within one perspective that perspective's, across two the prompt book's neutral one.
    Only labelled pairs of training queries are used. The result is audited; the audit is printed, and written beside
    it as JSON.

    Args:
        root: The data root, for labels and splits.
        out: Where the preference pairs go: a .parquet file, or a folder that gets a preferences.parquet.
        rationales: Files of rationales (or folders with rationales.parquet), one or several behind one --rationales; by
            default the data root's. Where a file's keys are taken by an earlier one's, its samples are counted on.
        more: Files of further samples: for pairs on which none of the rationales is right, they supply the right ones
            (pass@k). Their wrong ones are not used.
        fold: Train outside this fold and outside the part of the other queries that validates, as with the student's
            data; by default the split column says what trains.
        val_fraction: With fold: the share of the other queries that validates.
        split_seed: With fold: which queries these are.
        kinds: Only pairs within one perspective (within), or only those of two (across); both by default.
        balanced: Keep as many preference pairs a to b as b to a (chosen's perspective to rejected's) within every gold
            class and for every two perspectives, so that style does not tell which side is right. Those within one
            perspective are all kept.
        max_per_pair: Preference pairs a pair at most, of as many ordered perspective pairs as there are.
        prompts: A shipped prompt book (esci) or a YAML file, for the perspectives' names.
        label_set: esci, wands, or a YAML file; verdicts and labels must be its labels.
        seed: Of what the cap and the balance drop.

    Returns:
        The report, as written.

    Raises:
        UserError: A file is missing or has a broken row, nothing trains, a perspective is not in the prompt book, or an
            option is out of range.
    """
    from rich.console import Console

    labels, book, target = LabelSet.load(label_set), PromptBook.load(prompts), table_file(Path(out), PREFERENCES_FILE)
    book.check_labels(labels)
    how = Selection(_kinds(kinds), balanced, max_per_pair, seed)
    files, further = rationale_files(root, rationales), rationale_files(root, more) if more else []
    refuse_overwriting(target, [*files, *further, pairs_path(root)])
    with Console(stderr=True).status("reading") as status:
        training = read_training(root, labels, fold=fold, val_fraction=val_fraction, split_seed=split_seed)
        table, sources = merge_rationales([*files, *further], labels=labels)
        status.update("mining")
        is_more = np.arange(table.num_rows) >= sum(source.rows for source in sources[: len(files)])
        judged, left_out = judge(table, is_more, training, labels, book.neutral.name)
        _check_perspectives(judged, book)
        stages, dropped = select_conflicts(judged, how)
        status.update("writing")
        _write(target, stages["kept"])
        status.update("auditing")
        report = {
            "root": str(root),
            "sources": [source.to_dict() for source in sources],
            "out": str(target),
            "split": {"fold": fold, "val_fraction": val_fraction, "split_seed": split_seed},
            "selection": asdict(how),
            "prompts": book.version,
            "rationales": {"used": len(judged.pair), "left_out": left_out},
        } | _audit(judged, stages, dropped, training.held_out, labels)
    record = target.with_suffix(".json")
    record.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print_conflicts(report, record)
    return report


def _kinds(given: Kind | list[Kind] | None) -> tuple[Kind, ...]:
    if given is None:
        return KINDS
    return (given,) if isinstance(given, str) else tuple(given)


def _check_perspectives(judged: Judged, book: PromptBook) -> None:
    known = [perspective.name for perspective in book.every]
    if unknown := sorted(set(judged.perspectives) - set(known)):
        raise UserError(
            f"prompt book {book.name!r}: has no perspective {', '.join(unknown)}, from which rationales were written; "
            f"it has {', '.join(known)}. Give the book that they were written with as --prompts."
        )


def _audit(
    judged: Judged, stages: dict[str, Conflicts], dropped: dict[str, int], held_out: np.ndarray, labels: LabelSet
) -> dict[str, Any]:
    """What was found, what was kept of it, and what is suspicious about either."""
    return {
        "pairs": describe_pairs(judged, stages["kept"]),
        "stages": {name: tally(some, labels) for name, some in stages.items()},
        "dropped": dropped,
        "audit": {name: audit_preferences(stages[name], held_out) for name in ("found", "kept")},
        "suspects": find_suspects(judged, labels),
    }


def _write(target: Path, kept: Conflicts) -> None:
    names = pa.array(kept.judged.perspectives)
    write_preferences(target, kept.judged.table, kept.chosen, kept.rejected, names.take(pa.array(kept.prompt)))
