"""What the data root says of the compared pairs, beyond what the runs' predictions hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from lrkd.data.pairs import file_fingerprint, pairs_path, read_pairs
from lrkd.data.rationales import rationales_path, read_rationales
from lrkd.data.types import PAIRS_FILE, LabelSet
from lrkd.errors import UserError
from lrkd.runs import RunRecord


@dataclass(frozen=True)
class PairFields:
    """Fields of pairs by pair_id; a pair that lacks a field is not in its mapping.

    Args:
        root: Where they are from.
        brand: The item's brand.
        locale: The pair's locale.
        source: The pair's source.
        verdicts: The verdicts of the pair's rationales.
        brands: All brands of the data root.
    """

    root: Path
    brand: Mapping[str, str]
    locale: Mapping[str, str]
    source: Mapping[str, str]
    verdicts: Mapping[str, Sequence[str]]
    brands: frozenset[str]


def find_fields(
    records: Sequence[RunRecord], root: Path | None, labels: LabelSet
) -> tuple[PairFields | None, str | None]:
    """The fields of the runs' pairs, from the data root given, or the one that the runs were fitted on.

    Args:
        records: The runs, all of one fingerprint.
        root: The data root; None takes the first that a run names and that is still there.
        labels: The label set that verdicts must be of.

    Returns:
        The fields; or None and why there are none.

    Raises:
        UserError: The root that was given is none, or not the one that the runs were fitted on; or it is broken.
    """
    named = [root] if root is not None else list(dict.fromkeys(Path(run.data_root) for run in records))
    if root is not None:
        pairs_path(root)  # raises where there is none
    there = [place for place in named if (place / PAIRS_FILE).is_file()]
    if not there:
        return None, f"the data root {', '.join(map(str, named))} is not there (give --root)"
    same = [place for place in there if file_fingerprint(pairs_path(place)) == records[0].fingerprint]
    if not same:
        if root is not None:
            raise UserError(
                f"--root {root}: its pairs are not those that the runs were fitted on; give their data root"
            )
        return None, f"the pairs in {there[0]} are no longer those that the runs were fitted on (give --root)"
    return _read(same[0], labels), None


def _read(root: Path, labels: LabelSet) -> PairFields:
    pairs = read_pairs(root, columns=["pair_id", "brand", "locale", "source"])
    verdicts: defaultdict[str, list[str]] = defaultdict(list)
    if rationales_path(root).is_file():
        found = read_rationales(root, labels=labels)
        for pair_id, verdict in zip(found["pair_id"].to_pylist(), found["verdict"].to_pylist(), strict=True):
            verdicts[pair_id].append(verdict)
    brand = _present(pairs, "brand")
    return PairFields(
        root, brand, _present(pairs, "locale"), _present(pairs, "source"), verdicts, frozenset(brand.values())
    )


def _present(pairs: pa.Table, column: str) -> dict[str, str]:
    """The column's values by pair_id, where there are any."""
    known = pairs.filter(pc.is_valid(pairs[column]))
    return dict(zip(known["pair_id"].to_pylist(), known[column].to_pylist(), strict=True))
