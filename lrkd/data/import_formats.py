"""The formats that ``data import`` reads: which file holds which columns, and how its values become ours."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.data.row_files import RowFile
from lrkd.data.types import LABEL_SETS, PAIRS_SCHEMA, SPLITS, LabelSet, normalise_query
from lrkd.errors import UserError

ESCI_EXAMPLES = "shopping_queries_dataset_examples.parquet"
ESCI_PRODUCTS = "shopping_queries_dataset_products.parquet"
ESCI_LABELS = {"E": "Exact", "S": "Substitute", "C": "Complement", "I": "Irrelevant"}

Step = Callable[[pa.Table], pa.Table]


def _unchanged(table: pa.Table) -> pa.Table:
    return table


@dataclass(frozen=True)
class Source:
    """One kind of file.

    Args:
        names: Our column: the file's column.
        needed: Our columns that must be filled.
        choices: Our columns whose values are from a list.
        types: Columns that are read as another type than the one they end in.
        select: Leaves rows out by option, before they are checked; sees the file's column names.
        convert: Turns checked rows into ours; sees our column names.
        key: Our columns by which the rows of the main file find their row in this one.
        absent: What to say of a row that finds none.
    """

    names: Mapping[str, str]
    needed: tuple[str, ...]
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    types: Mapping[str, pa.DataType] = field(default_factory=dict)
    select: Step = _unchanged
    convert: Step = _unchanged
    key: tuple[str, ...] = ()
    absent: str = ""

    @property
    def schema(self) -> pa.Schema:
        """What the file's rows are checked against."""
        kinds = {entry.name: entry.type for entry in PAIRS_SCHEMA} | dict(self.types)
        return pa.schema([pa.field(n, kinds.get(n, pa.string()), nullable=n not in self.needed) for n in self.names])


def esci_sources(locales: Sequence[str], version: str) -> tuple[Source, Source]:
    """Examples and products of the Shopping Queries Dataset (Reddy et al. 2022, arXiv 2206.06588).

    Args:
        locales: Which locales to take; all if empty.
        version: ``small`` (the ranking task's harder queries) or ``large`` (all queries).
    """
    flag = f"{version}_version"

    def in_locale(table: pa.Table) -> pa.Table:
        # A missing value counts as wanted here, so that the check may name it.
        column = table["product_locale"]
        return table.filter(pc.or_(pc.is_null(column), _is_one_of(column, locales))) if locales else table

    def in_version(table: pa.Table) -> pa.Table:
        table = in_locale(table)
        return table.filter(pc.invert(_is_one_of(table[flag], ("0", "false"))))

    def convert(table: pa.Table) -> pa.Table:
        table = _set(table, "label", _renamed(table["label"], ESCI_LABELS))
        table = _set(table, "source", pa.repeat("esci", table.num_rows))
        return _with_pair_id(table)

    examples = Source(
        names={
            "query_id": "query_id",
            "query": "query",
            "item_id": "product_id",
            "locale": "product_locale",
            "label": "esci_label",
            "split": "split",
            "version": flag,
        },
        needed=("query_id", "query", "item_id", "locale", "label", "split", "version"),
        choices={
            "label": (*LABEL_SETS["esci"].labels, *ESCI_LABELS),
            "split": SPLITS,
            "version": ("0", "1", "false", "true"),
        },
        select=in_version,
        convert=convert,
    )
    products = Source(
        names={
            "item_id": "product_id",
            "locale": "product_locale",
            "title": "product_title",
            "description": "product_description",
            "bullets": "product_bullet_point",
            "brand": "product_brand",
            "color": "product_color",
        },
        needed=("item_id", "locale", "title"),
        select=in_locale,
        key=("item_id", "locale"),
        absent=f"no such product in {ESCI_PRODUCTS}, or it was set aside",
    )
    return examples, products


def wands_sources() -> tuple[Source, Source, Source]:
    """Labels, queries and products of WANDS (Chen et al. 2022, https://github.com/wayfair/WANDS)."""

    def label(table: pa.Table) -> pa.Table:
        return _with_pair_id(_set(table, "source", pa.repeat("wands", table.num_rows)))

    def product(table: pa.Table) -> pa.Table:
        paths = pc.split_pattern(table["category"], " / ")
        return _set(
            _set(table, "category", paths),
            "bullets",
            pc.replace_substring(table["bullets"], pattern="|", replacement="\n"),
        )

    labels = Source(
        names={"query_id": "query_id", "item_id": "product_id", "label": "label"},
        needed=("query_id", "item_id", "label"),
        choices={"label": LABEL_SETS["wands"].labels},
        convert=label,
    )
    queries = Source(
        names={"query_id": "query_id", "query": "query"},
        needed=("query_id", "query"),
        key=("query_id",),
        absent="no such query in query.csv, or it was set aside",
    )
    products = Source(
        names={
            "item_id": "product_id",
            "title": "product_name",
            "category": "category hierarchy",
            "description": "product_description",
            "bullets": "product_features",
        },
        needed=("item_id", "title"),
        types={"category": pa.string()},
        convert=product,
        key=("item_id",),
        absent="no such product in product.csv, or it was set aside",
    )
    return labels, queries, products


def table_source(
    file: RowFile,
    columns: Mapping[str, str],
    labels: LabelSet,
    label_names: Mapping[str, str],
    grade_bins: Mapping[str, float],
) -> Source:
    """A table of the user's own.

    Args:
        file: The table.
        columns: Our column: the table's column; columns that bear our names need no entry.
        labels: The label set.
        label_names: The table's label: the label set's.
        grade_bins: If given, labels are numbers, and this is the lowest that counts as each label but the last.

    Raises:
        UserError: A column that neither we nor the table have, or label options that do not fit the label set.
    """
    if unknown := sorted(set(columns) - set(PAIRS_SCHEMA.names)):
        raise UserError(f"columns: no column {', '.join(unknown)}; the columns are {', '.join(PAIRS_SCHEMA.names)}")
    names = {name: columns.get(name, name) for name in PAIRS_SCHEMA.names}
    names = {name: theirs for name, theirs in names.items() if name in columns or theirs in file.columns}
    file.need([names.get(name, name) for name in dict.fromkeys(["query", "title", *columns])])
    if wrong := sorted(set(label_names.values()) - set(labels.labels)):
        raise UserError(f"label_names: {', '.join(wrong)} not in label set {labels.name!r}: {', '.join(labels.labels)}")
    thresholds = _thresholds(grade_bins, labels)
    choices = {"split": SPLITS, "label": tuple(dict.fromkeys([*labels.labels, *label_names]))}

    def convert(table: pa.Table) -> pa.Table:
        if "label" in names and grade_bins:
            table = _set(table, "label", _binned(table["label"], thresholds, labels))
        elif "label" in names:
            table = _set(table, "label", _renamed(table["label"], label_names))
        if "query_id" not in names:
            table = _set(table, "query_id", _derived(table["query"], lambda query: _digest(normalise_query(query))))
        if "item_id" not in names:
            table = _set(table, "item_id", _derived(table["title"], lambda title: _digest(" ".join(title.split()))))
        return table if "pair_id" in names else _with_pair_id(table)

    return Source(
        names=names,
        needed=tuple(name for name in ("pair_id", "query_id", "query", "item_id", "title") if name in names),
        choices=choices if not grade_bins else {"split": SPLITS},
        types={"label": pa.float64()} if grade_bins else {},
        convert=convert,
    )


def _thresholds(bins: Mapping[str, float], labels: LabelSet) -> np.ndarray:
    """The lowest grades (C - 1,) of all labels but the last."""
    if not bins:
        return np.array([])
    wanted = labels.labels[:-1]
    grades = [bins.get(label, float("nan")) for label in wanted]
    if set(bins) != set(wanted) or not np.isfinite(grades).all() or not (np.diff(grades) < 0).all():
        raise UserError(
            f"grade_bins: give the lowest grade of {', '.join(wanted)}, falling in this order (what is lower is "
            f"{labels.labels[-1]}), got {dict(bins)}"
        )
    return np.array(grades)


def _binned(grades: pa.ChunkedArray, thresholds: np.ndarray, labels: LabelSet) -> pa.Array:
    """The best label whose lowest grade each grade (N,) reaches; null for null."""
    values = grades.to_numpy()
    place = (values[:, None] < thresholds[None, :]).sum(axis=1)
    return pa.array(np.array(labels.labels, object)[place], pa.string(), mask=np.isnan(values))


def _is_one_of(column: pa.ChunkedArray, values: Sequence[str]) -> pa.ChunkedArray:
    """Which values (N,) are, as text, among these; nothing is where the column can't be text."""
    try:
        return pc.is_in(column.cast(pa.string()), value_set=pa.array(values, pa.string()))
    except pa.ArrowException:
        return pa.repeat(False, len(column))


def _renamed(column: pa.ChunkedArray, names: Mapping[str, str]) -> pa.ChunkedArray:
    """The column with these values replaced."""
    place = pc.index_in(column, value_set=pa.array(names.keys(), pa.string()))
    return pc.coalesce(pa.array(names.values(), pa.string()).take(place.combine_chunks()), column)


def _derived(column: pa.ChunkedArray, function: Callable[[str], str]) -> pa.Array:
    """A function of a text column, computed once a distinct value."""
    distinct = column.combine_chunks().dictionary_encode()
    return pa.array([function(value) for value in distinct.dictionary.to_pylist()], pa.string()).take(distinct.indices)


def _digest(text: str) -> str:
    """16 hex digits: among 10 million texts two agree with probability 3e-6."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _with_pair_id(table: pa.Table) -> pa.Table:
    return _set(table, "pair_id", pc.binary_join_element_wise(table["query_id"], table["item_id"], "-"))


def _set(table: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)
