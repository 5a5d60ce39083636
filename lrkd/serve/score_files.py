"""``score``: a file of pairs of any size into a file of scores."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa

from lrkd.data.pairs import ParquetSink, refuse_overwriting
from lrkd.data.progress import file_progress
from lrkd.data.row_files import RowFile, open_rows
from lrkd.data.rows import OnError, RowErrors, check_rows
from lrkd.data.types import PAIRS_SCHEMA
from lrkd.errors import UserError
from lrkd.serve.scorer import TOKEN_BUDGET, Scored, Scorer

MEND = "Mend the row, or leave out `--on_error raise`: then such rows are set aside in a file."


def score(
    *,
    model: Path,
    input: Path,
    output: Path,
    columns: dict[str, str] | None = None,
    latents: bool = False,
    delimiter: str | None = None,
    quote: str = '"',
    on_error: OnError = "skip",
    threads: int | None = None,
    token_budget: int = TOKEN_BUDGET,
) -> None:
    """Score the pairs of a CSV, TSV, JSON-lines or Parquet file with an exported student.

    The output has one row a pair, in the input's order: row (its row, or line, in the input), pair_id where the input
    has one, p/<Label> (calibrated probabilities), label (the most probable one), gain (the expected gain, which ranks
    pairs) and tokens_cut. Memory stays the same however many rows there are.

    Args:
        model: A folder that `python -m lrkd export` wrote.
        input: The file; the suffix says its format. It has query and the fields of the item's text (title, ...).
        output: The Parquet file to write. Broken rows go to a file beside it that ends in .rejected.jsonl.
        columns: Our column and the file's, where they differ, such as '{"query": "search_term"}'.
        latents: Write the latents, too: a list of P times R numbers a pair.
        delimiter: The character between two fields; by default a comma in .csv, a tab in .tsv.
        quote: The mark around fields that hold a delimiter; '' if the file quotes nothing.
        on_error: At a broken row, skip sets it aside and goes on; raise stops and names it.
        threads: Threads of a matrix product; all cores by default.
        token_budget: Tokens of a batch at most, padding included.

    Raises:
        UserError: A missing file or column, no exported student, no good row, or a broken row with raise.
    """
    if output.suffix != ".parquet":
        raise UserError(f"--output {output}: the scores are written as Parquet; let the name end in .parquet")
    refuse_overwriting(output, [input])
    scorer = Scorer(model, threads=threads, token_budget=token_budget)
    if latents and not scorer.card.latents:
        raise UserError(f"--latents: {model} holds a student without extractor, which has none; leave the option out")
    file = open_rows(input, delimiter=delimiter, quote=quote)
    rejects = output.with_suffix(".rejected.jsonl")
    job = ScoreRun(scorer, file, columns or {}, latents)
    started = perf_counter()
    with RowErrors(on_error, rejects, mend=MEND) as errors, ParquetSink(output, job.schema) as sink:
        job.run(errors, sink)
    if not errors.total:
        rejects.unlink(missing_ok=True)
    _print(job, errors, sink.rows, perf_counter() - started, output)


class ScoreRun:
    """One file's way through the scorer, piece by piece.

    Args:
        scorer: The exported student.
        file: The rows.
        columns: Our column: the file's column, where they differ.
        latents: Whether latents are written.

    Raises:
        UserError: A column that the pair does not have, or that the file lacks.
    """

    def __init__(self, scorer: Scorer, file: RowFile, columns: dict[str, str], latents: bool) -> None:
        self.scorer, self.file, self.latents = scorer, file, latents
        self.counts: Counter[str] = Counter()
        self.cut = 0
        known = ["query", *scorer.card.item_text.fields, "pair_id"]
        if unknown := sorted(set(columns) - set(known)):
            raise UserError(f"columns: {', '.join(unknown)}: this student reads {', '.join(known)}")
        self._names = {name: columns.get(name, name) for name in known}
        self._needed = [name for name in ("query", "title") if name in known]
        file.need([self._names[name] for name in dict.fromkeys([*self._needed, *columns])])
        self._named = self._names["pair_id"] in file.columns
        if not self._named:
            del self._names["pair_id"]

    @property
    def schema(self) -> pa.Schema:
        """The output's columns."""
        labels = self.scorer.card.label_set.labels
        return pa.schema(
            [
                pa.field("row", pa.int64()),
                *([pa.field("pair_id", pa.string())] if self._named else []),
                *(pa.field(f"p/{label}", pa.float32()) for label in labels),
                pa.field("label", pa.string()),
                pa.field("gain", pa.float32()),
                pa.field("tokens_cut", pa.int32()),
                *([pa.field("latents", pa.list_(pa.float32()))] if self.latents else []),
            ]
        )

    def run(self, errors: RowErrors, sink: ParquetSink) -> None:
        """Score all rows.

        Args:
            errors: Takes the broken ones.
            sink: Takes the scores.

        Raises:
            UserError: A broken row, if ``errors`` raises; or no row is left.
        """
        fields = [PAIRS_SCHEMA.field(name).with_nullable(name not in self._needed) for name in self._names]
        needed = [self._names[name] for name in self._needed]
        optional = [name for name in self._names.values() if name not in needed]
        with file_progress() as progress:
            task = progress.add_task(f"scoring {self.file.path.name}", total=self.file.size or 1)
            for table, places in self.file.pieces(errors, needed, optional):
                good, positions = check_rows(
                    table, pa.schema(fields), self.file.path, errors, names=self._names, places=places,
                    unit=self.file.unit,
                )  # fmt: skip
                if good.num_rows:
                    sink.write(self._scored(good, places[positions]))
                progress.update(task, completed=self.file.position)
        if self.file.read != sink.rows + errors.total:
            raise RuntimeError(f"{self.file.path}: rows were lost: {self.file.read} read, {sink.rows} scored")
        if not sink.rows:
            raise UserError(f"{self.file.path}: no pair is left of {self.file.read} rows: {dict(errors.counts)}")

    def _scored(self, table: pa.Table, places: np.ndarray) -> pa.Table:
        items = self.scorer.card.item_text.render_table(table)
        scored = self.scorer.score_texts(table["query"].to_pylist(), items)
        self.counts.update(scored.labels)
        self.cut += int((scored.tokens_cut > 0).sum())
        pair_id = [table["pair_id"]] if self._named else []
        columns = [places, *pair_id, *scored.probabilities.T, scored.labels, scored.gains, scored.tokens_cut]
        return pa.table([*columns, *self._latents(scored)], names=self.schema.names)

    def _latents(self, scored: Scored) -> list[pa.Array]:
        if not self.latents or scored.latents is None:
            return []
        flat = scored.latents.reshape(len(scored), -1)
        offsets = np.arange(len(scored) + 1, dtype=np.int32) * flat.shape[1]
        return [pa.ListArray.from_arrays(offsets, flat.ravel())]


def _print(job: ScoreRun, errors: RowErrors, written: int, seconds: float, output: Path) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    read = job.file.read
    console.print(
        f"{read:,} rows read = {written:,} scored + {errors.total:,} set aside, in {seconds:.1f} s "
        f"({written / seconds:,.0f} pairs/s); {job.cut:,} pairs were cut to {job.scorer.card.max_length} tokens"
    )
    for name, count in job.counts.most_common():
        console.print(f"  {name}: {count:,} ({count / written:.1%})")
    for problem, count in errors.counts.most_common():
        console.print(f"  set aside because {problem}: {count:,}")
    console.print(f"wrote {output}" + (f" and {errors.rejects}" if errors.total else ""))
