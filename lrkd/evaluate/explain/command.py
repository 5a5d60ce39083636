"""``explain``: for pairs, a student's probabilities and the teacher's rationales nearest to its latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrkd.data.rows import OnError, RowErrors
from lrkd.errors import UserError
from lrkd.runs import ScoredSplit
from lrkd.sentence_encoder import Precision

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

    from lrkd.evaluate.explain.build import BuiltIndex
    from lrkd.evaluate.trained import TrainedStudent

MEND = "Mend the row, or give --on_error skip, which sets such rows aside in a file beside --out."


def explain(
    *,
    run: Path,
    query: str | None = None,
    title: str | None = None,
    pairs: Path | None = None,
    split: ScoredSplit | None = None,
    neighbours: int = 1,
    consistent: bool = False,
    out: Path | None = None,
    save_index: Path | None = None,
    root: Path | None = None,
    targets: Path | None = None,
    rationales: Path | list[Path] | None = None,
    on_error: OnError = "raise",
    batch_size: int = 64,
    precision: Precision = "float32",
    device: str | None = None,
) -> None:
    """Explain a student's verdicts by the teacher's rationales that lie nearest to its latents.

    The rationales are those of the run's training pairs, so an explanation speaks of another pair than the one it is
    given for: what the teacher wrote of the pair that the latent is most like (docs/explaining.md). Examples:

        python -m lrkd explain --run runs/lrkd_mlp-seed0 --query "mug without handle" --title "Coffee mug, 350 ml"
        python -m lrkd explain --run runs/lrkd_mlp-seed0 --pairs my_pairs.csv --out runs/explained.parquet
        python -m lrkd explain --run runs/lrkd_mlp-seed0 --split test

    Args:
        run: The run's folder. Its targets and rationales must still be there, unchanged.
        query: One pair: the query.
        title: One pair: the item's title; its other fields are taken as empty.
        pairs: Many pairs: a CSV, TSV, JSON-lines or Parquet file with query, title, and what else the student's item
            text is made of; pair_id and label are taken along.
        split: Measure on this split of the run's data how far explanations fit: whether the nearest rationale's verdict
            is the student's and the gold label, and whether it is of the same topic.
        neighbours: Rationales a perspective.
        consistent: Use only rationales whose verdict is the gold label, where the student learned from others, too.
        out: With pairs (or query and title): a .parquet or .jsonl file to write. With split: the folder that takes
            <split>_explanations.md, .json and .parquet; the run's by default.
        save_index: A folder to save the index of rationales in, for a server to use.
        root: The data root, if it is not where it was when the run was trained.
        targets: The same for the target store.
        rationales: The same for the folders or files of rationales, where they were not the data root's.
        on_error: At a broken row of pairs, raise stops and names it; skip sets them aside in a file beside out.
        batch_size: Pairs a forward pass.
        precision: In which the student computes.
        device: Where to compute: cpu, cuda, cuda:1, ...; by default what is there.

    Raises:
        UserError: Options that do not go together, not the run of a guided student, other data than it was trained on,
            or a broken row.
    """
    from rich.console import Console

    _check_options(query, title, pairs, split, save_index, out)
    from lrkd.evaluate.explain.build import build_index
    from lrkd.evaluate.explain.measured import measure_split
    from lrkd.evaluate.trained import TrainedStudent

    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 200  # a pipe or a file has no edge to wrap at
    student = TrainedStudent.open(run, root=root, targets=targets, rationales=rationales, device=device)
    built = build_index(student, consistent=consistent)
    _say_what_is_read(console, student, built)
    if save_index is not None:
        built.index.save(save_index)
        console.print(f"Wrote the index to {save_index}")
    how: dict[str, Any] = {"batch_size": batch_size, "precision": precision}
    if split is not None:
        measure_split(student, built, split, neighbours, Path(out) if out else student.record.path, console, **how)
    elif pairs is not None or query is not None:
        given = _given_pairs(student, query, title, pairs, out, on_error, console)
        _explain_pairs(student, built, given, neighbours, out, console, **how)


def _check_options(
    query: str | None,
    title: str | None,
    pairs: Path | None,
    split: ScoredSplit | None,
    save_index: Path | None,
    out: Path | None,
) -> None:
    if (query is None) != (title is None):
        raise UserError("--query and --title make one pair: give both, or a file of pairs as --pairs")
    given = [name for name, value in (("query", query), ("pairs", pairs), ("split", split)) if value is not None]
    if len(given) > 1 or not (given or save_index):
        raise UserError(
            "give one of: --query and --title (one pair), --pairs (a file of them), --split (to measure)"
            + ("" if given else ", or --save_index")
        )
    for name, text in (("--query", query), ("--title", title)):
        if text is not None and not text.strip():
            raise UserError(f"{name} is empty; give the pair's text")
    if out is not None and split is None:
        from lrkd.evaluate.explain.explanations import check_suffix

        check_suffix(Path(out))


def _say_what_is_read(console: Console, student: TrainedStudent, built: BuiltIndex) -> None:
    index, record = built.index, student.record
    sizes = ", ".join(
        f"{name} {end - start:,}"
        for name, start, end in zip(index.perspectives, index.bounds, index.bounds[1:], strict=False)
    )
    left_out = ", ".join(f"{count:,} ({reason})" for reason, count in built.left_out.items() if count)
    console.print(f"Read {record.path} ({record.method}) and {student.data.targets}")
    console.print(f"Index: {len(index.vectors):,} rationales of training pairs ({sizes})")
    console.print(f"Left out of it: {left_out or 'none'}")
    weights = student.model.hparams["guidance_weight"], student.model.hparams["guidance_weight_end"]
    if not any(weights):
        console.print("Note: this student's guidance weighed 0, so nothing drew its latents to the rationales")


def _given_pairs(
    student: TrainedStudent,
    query: str | None,
    title: str | None,
    pairs: Path | None,
    out: Path | None,
    on_error: OnError,
    console: Console,
) -> pa.Table:
    """The pairs to explain, from the two options or the file."""
    import pyarrow as pa

    from lrkd.data.pair_files import read_pair_file

    if pairs is None:
        fields = {name: [None] for name in student.data.item_text.fields}
        return pa.table(fields | {"query": [query], "title": [title]})
    if on_error == "skip" and out is None:
        raise UserError("--on_error skip: give --out, too; rows that are set aside go to a file beside it")
    rejects = Path(out).with_suffix(".rejected.jsonl") if out is not None else None
    with RowErrors(on_error, rejects, mend=MEND) as errors:
        table = read_pair_file(Path(pairs), student.data.item_text, student.record.label_set, errors)
    console.print(f"Read {table.num_rows:,} pairs from {pairs}")
    if errors.total:
        console.print(f"Set aside {errors.total:,} broken rows in {rejects}: {dict(errors.counts)}")
    return table


def _explain_pairs(
    student: TrainedStudent,
    built: BuiltIndex,
    pairs: pa.Table,
    neighbours: int,
    out: Path | None,
    console: Console,
    **how: Any,
) -> None:
    import numpy as np

    from lrkd.evaluate.explain.explanations import explanation_table, show_explanations, write_explanations
    from lrkd.evaluate.features import student_features
    from lrkd.student.reading import PairReader

    labels = student.record.label_set.labels
    reader = PairReader(student.model)
    tokens = reader.tokens(pairs["query"].to_pylist(), reader.item_text.render_table(pairs))
    made = student_features(student.model, tokens, np.arange(pairs.num_rows), **how)
    assert made.latents is not None
    nearest = built.index.search(made.latents, neighbours)
    shown = pairs.select([name for name in ("row", "pair_id", "query", "title", "label") if name in pairs.column_names])
    table = explanation_table(shown, made.probabilities, labels, built.index, nearest)
    show_explanations(console, table, labels, nearest.place[0].size)
    if out is not None:
        write_explanations(table, Path(out))
        console.print(f"Wrote {table.num_rows:,} rows, one a pair, perspective and rank, to {out}")
