"""What macro-F1 is set against: measured latencies where there are any, else parameters."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lrkd.errors import UserError
from lrkd.evaluate.compare.estimates import Row


class Cost(NamedTuple):
    """What macro-F1 is set against.

    Args:
        name: What was counted or measured.
        values: By contender; one that is missing is not drawn.
    """

    name: str
    values: Mapping[str, float]


def parameters(rows: Sequence[Row]) -> Cost:
    """Parameters, which run folders hold; they say little of speed."""
    found = {row.name: row.estimates["parameters"].mean for row in rows if "parameters" in row.estimates}
    return Cost("parameters", found)


def read_latency(path: Path, names: Sequence[str]) -> Cost:
    """Latencies from a CSV file: the first column names the method, the second holds its figure.

    The second column's header says what was measured, such as "milliseconds for 32 pairs on 2 cores"; the plot's axis
    bears it.

    Args:
        path: The file.
        names: The contenders.

    Raises:
        UserError: The file is not such a table, or names none of the contenders.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--latency {path}: not a readable text file: {error}") from error
    if len(rows) < 2 or any(len(row) != 2 for row in rows) or rows[0][0] != "method":
        raise UserError(f"--latency {path}: wanted two columns: method, and one whose name says what was measured")
    values: dict[str, float] = {}
    for number, (name, value) in enumerate(rows[1:], 2):
        values[name] = _positive(value, f"--latency {path}, line {number}")
    known = {name: value for name, value in values.items() if name in names}
    if not known:
        raise UserError(f"--latency {path}: names {', '.join(values)}, none of the methods {', '.join(names)}")
    return Cost(rows[0][1], known)


def _positive(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{where}: {text!r} is not a number above 0")
    return value
