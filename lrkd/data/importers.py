"""``data import``: ESCI, WANDS or a table of the user's own into a data root."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lrkd.data.import_formats import (
    ESCI_EXAMPLES,
    ESCI_PRODUCTS,
    Source,
    esci_sources,
    table_source,
    wands_sources,
)
from lrkd.data.import_run import ImportCounts, ImportRun
from lrkd.data.pairs import ParquetSink
from lrkd.data.progress import file_progress
from lrkd.data.row_files import RowFile, open_rows
from lrkd.data.rows import OnError, RowErrors
from lrkd.data.types import PAIRS_FILE, PAIRS_SCHEMA, LabelSet
from lrkd.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

REJECTS_FILE = "rejected.jsonl"


def import_data(
    *,
    format: Literal["esci", "wands", "table"],
    input: Path,
    out: Path,
    locales: list[Literal["us", "es", "jp"]] | None = None,
    version: Literal["small", "large"] = "large",
    columns: dict[str, str] | None = None,
    label_set: str = "esci",
    label_names: dict[str, str] | None = None,
    grade_bins: dict[str, float] | None = None,
    delimiter: str | None = None,
    quote: str = '"',
    on_error: OnError = "raise",
) -> ImportCounts:
    """Make a data root from ESCI, WANDS or a table of your own.

    Rows keep the order they have in the source. The same input always gives the same file. Memory stays the same
    however many rows there are; meanwhile the rows lie in a temporary folder inside the data root.

    Args:
        format: esci and wands are the official files as published; table is any CSV, TSV, JSON-lines or Parquet file.
        input: The folder with the official files, or the table's file.
        out: The data root to write: a folder, made if need be. Its pairs.parquet is replaced once all is read.
        locales: ESCI: take only these locales; all by default.
        version: ESCI: small is the reduced set of harder queries, large is everything.
        columns: Table: our column and the table's, such as '{"title": "product_name"}'. Columns that bear our names
            need no entry. query and title must be there; ids that are not are derived from them.
        label_set: Table: the name of a shipped label set (esci, wands), or a YAML file with name, labels and gains.
        label_names: Table: its label and ours, such as '{"4": "Exact", "3": "Substitute"}', where they differ.
        grade_bins: Table: where labels are numbers, the lowest number that counts as each label but the last, such as
            '{"Exact": 2.5, "Partial": 1.0}'.
        delimiter: Table: the character between two fields; by default a comma in .csv, a tab in .tsv.
        quote: Table: the mark around fields that hold a delimiter; '' if the file quotes nothing.
        on_error: At a broken row, raise stops and names it; skip sets all of them aside in rejected.jsonl.

    Returns:
        How many rows were read, written and set aside.

    Raises:
        UserError: A missing file or column, options that do not fit the format, or a broken row.
    """
    _refuse(
        format != "table",
        {"columns": columns, "label_names": label_names, "grade_bins": grade_bins, "delimiter": delimiter},
        "table",
    )
    _refuse(format != "esci", {"locales": locales, "version": version != "large"}, "esci")
    if label_names and grade_bins:
        raise UserError("label_names renames labels and grade_bins makes labels of numbers: give one of them")
    files = _open(format, Path(input), delimiter, quote)
    if format == "table":
        labels = LabelSet.load(label_set)
        sources: Sequence[Source] = [table_source(files[0], columns or {}, labels, label_names or {}, grade_bins or {})]
    else:
        sources = esci_sources(locales or (), version) if format == "esci" else wands_sources()
    root = Path(out)
    with _work_folder(root) as folder:
        rejects = folder / REJECTS_FILE
        try:
            with RowErrors(on_error, rejects) as errors, file_progress() as progress:
                job = ImportRun(folder, files, sources, errors, progress)
                with ParquetSink(root / PAIRS_FILE, PAIRS_SCHEMA) as sink:
                    job.run(sink)
        finally:
            if rejects.is_file():
                rejects.replace(root / REJECTS_FILE)
        if not errors.total:
            (root / REJECTS_FILE).unlink(missing_ok=True)
    _print(job, root)
    return job.counts


def _refuse(wrong_format: bool, options: Mapping[str, object], right_format: str) -> None:
    given = [name for name, value in options.items() if value]
    if wrong_format and given:
        raise UserError(f"{', '.join(given)}: only for --format {right_format}; leave it out or change the format")


def _open(format: str, path: Path, delimiter: str | None, quote: str) -> list[RowFile]:
    """The main file first."""
    if format == "table":
        return [open_rows(path, delimiter=delimiter, quote=quote)]
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; --input names the folder with the official {format} files")
    if format == "esci":
        return [open_rows(path / name) for name in (ESCI_EXAMPLES, ESCI_PRODUCTS)]
    return [open_rows(path / name, delimiter="\t") for name in ("label.csv", "query.csv", "product.csv")]


@contextmanager
def _work_folder(root: Path) -> Iterator[Path]:
    """A temporary folder inside the data root, on the disk that must hold the result anyway."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=root, prefix=".import-")
    except OSError as error:
        raise UserError(f"{root}: can't be written to: {error}; give another folder as --out") from error
    with folder as name:
        yield Path(name)


def _print(job: ImportRun, root: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("file", "rows read", "left out", "set aside", "kept", title="data import")
    for file in job.files:
        left, aside = job.left_out[file.path], job.errors.by_file[str(file.path)]
        numbers = (file.read, left, aside, file.read - left - aside)
        table.add_row(file.path.name, *(f"{number:,}" for number in numbers))
    console.print(table)
    _print_counts(console, "set aside because", job.errors.counts)
    _print_counts(console, "label", job.counts.labels)
    counts = job.counts
    console.print(
        f"{counts.read:,} rows read = {counts.written:,} written + {counts.set_aside:,} set aside"
        + (f" + {counts.left_out:,} left out by --locales or --version" if counts.left_out else ""),
        f"wrote {root / PAIRS_FILE}" + (f" and {root / REJECTS_FILE}" if job.errors.total else ""),
        sep="\n",
        highlight=False,
        soft_wrap=True,
    )


def _print_counts(console: Console, title: str, counts: Mapping[str, int]) -> None:
    from rich.table import Table

    if counts:
        table = Table(title, "rows")
        for name, count in sorted(counts.items(), key=lambda entry: -entry[1]):
            table.add_row(name, f"{count:,}")
        console.print(table)
