"""Makes the index of a trained student from the rationales of its training pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrkd.data.pair_targets import Targets
from lrkd.data.pairs import file_fingerprint, read_pairs
from lrkd.data.rationales import merge_rationales
from lrkd.data.split_rows import training_mask
from lrkd.data.targets import normalise
from lrkd.data.triples import Split
from lrkd.errors import UserError
from lrkd.evaluate.explain.index import RATIONALES_COLUMNS, ExplanationIndex
from lrkd.evaluate.trained import TrainedStudent

HELD_APART: tuple[Split, ...] = ("train", "val", "test")
PIECE_ROWS = 8192


@dataclass(frozen=True)
class BuiltIndex:
    """An index, and where its rationales come from.

    Args:
        index: M rationales.
        rows: (M,) int64: the row in ``pairs.parquet`` of the pair that each was written about.
        left_out: How many of the store's rationales are not in it, by reason.
    """

    index: ExplanationIndex
    rows: np.ndarray
    left_out: dict[str, int]


def build_index(student: TrainedStudent, *, consistent: bool = False) -> BuiltIndex:
    """The rationales that a student learned from, where its latents were drawn to.

    Only rationales of training pairs are in it (trap 36): of the run's fold, and of no query that also validates or
    tests. Each is placed as training placed the targets: less the same centre, whitened alike, at unit length. So with
    ``centring: query`` a rationale stands for what sets it off from its own query's others, as does the latent of a
    pair whose query is new: nothing need be known of that query.

    Args:
        student: Its data is set up for ``fit`` here.
        consistent: Only rationales whose verdict is the gold label, where the student learned from others, too.

    Raises:
        UserError: The student was not trained to reach rationales, the targets or rationales are other ones than it
            was trained on (trap 45), or none is left.
    """
    _check_guided(student)
    student.refuse_other(("rationales", "target_weights", "target_settings"))
    data = student.data
    data.setup("fit")
    targets = data.training_targets
    assert targets is not None
    place, rows, left_out = _training_rationales(student, targets, consistent=consistent or data.consistent)
    vectors, there = placed_rationales(targets, place, rows)
    left_out["vector is its own mean"] = int((~there).sum())
    place, rows, vectors = place[there], rows[there], vectors[there]
    if not len(place):
        raise UserError(f"{data.targets}: none of its rationales can be in the index ({left_out})")
    texts, _ = merge_rationales(data.rationale_files)  # in the store's order, as setup has checked where they are
    texts = texts.take(pa.array(place))
    pairs = read_pairs(data.root, columns=["query", "title", "label"]).take(pa.array(rows))
    columns = {**{n: texts[n] for n in texts.column_names}, **{n: pairs[n] for n in pairs.column_names}}
    table = pa.table([columns[name] for name in RATIONALES_COLUMNS.names], schema=RATIONALES_COLUMNS).combine_chunks()
    own = targets.num_latents > 1
    there_are = set(pc.unique(table["perspective"]).to_pylist())
    latent_of = {name: n if own else 0 for n, name in enumerate(targets.perspectives) if name in there_are}
    about = _about(student, consistent=consistent or data.consistent)
    return BuiltIndex(ExplanationIndex(vectors, table, latent_of, targets.num_latents, about), rows, left_out)


def _check_guided(student: TrainedStudent) -> None:
    if student.model.extractor is None or student.model.guidance is None or student.data.targets is None:
        raise UserError(
            f"{student.record.path}: a student without guidance, whose latents (if it has any) do not live where the "
            "rationales do; explain a student that was trained with targets, such as configs/student/lrkd_mlp.yaml"
        )


def _training_rationales(
    student: TrainedStudent, targets: Targets, *, consistent: bool
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Places in the store and rows of their pairs (M,) of what is in the index, by perspective; and what is not."""
    data, joined = student.data, targets.rationales
    fits = np.zeros(data.pairs.num_rows, bool)
    fits[targets.fit_rows] = True
    alone = training_mask({split: data.rows(split) for split in HELD_APART}, targets.query)
    checks = {
        "pair does not train": fits[joined.pair],
        "query also validates or tests": alone[joined.pair],
        "verdict is not gold": joined.right if consistent else np.ones(len(joined.pair), bool),
    }
    kept = np.ones(len(joined.pair), bool)
    left_out = {"pair unknown": joined.unknown}
    left_out["perspective not in use"] = targets.store.index.num_rows - joined.unknown - len(kept)
    for reason, passed in checks.items():
        left_out[reason] = int((kept & ~passed).sum())
        kept &= passed
    chosen = np.flatnonzero(kept)
    chosen = chosen[np.argsort(joined.perspective[chosen], kind="stable")]
    return joined.vector[chosen], joined.pair[chosen], left_out


def placed_rationales(targets: Targets, place: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rationales' vectors where the latents are to meet them.

    Args:
        targets: What training drew the latents to.
        place: (M,) int64: the rationales' places in the store.
        rows: (M,) int64: the rows of their pairs.

    Returns:
        (M, R) float32, and whether each is one (M,) bool: the zero vector points nowhere.
    """
    number = {name: n for n, name in enumerate(targets.perspectives)}
    vectors = np.zeros((len(place), targets.store.width), np.float32)
    there = np.zeros(len(place), bool)
    for start in range(0, len(place), PIECE_ROWS):
        piece = slice(start, start + PIECE_ROWS)
        raw = normalise(np.asarray(targets.store.vectors[place[piece]], np.float32))[:, None]
        every, is_one = targets.place(np.repeat(raw, targets.num_latents, axis=1), rows[piece])
        names = targets.store.index["perspective"].take(pa.array(place[piece])).to_pylist()
        slot = np.array([number[name] if targets.num_latents > 1 else 0 for name in names])
        vectors[piece], there[piece] = every[np.arange(len(slot)), slot], is_one[np.arange(len(slot)), slot]
    return vectors, there


def _about(student: TrainedStudent, *, consistent: bool) -> dict[str, Any]:
    record, data = student.record, student.data
    return {
        "run": str(record.path),
        "method": record.method,
        "seed": record.seed,
        "fold": record.fold,
        "checkpoint": file_fingerprint(record.checkpoint),
        "label_set": record.label_set.to_dict(),
        "consistent": consistent,
        "target_mode": data.target_mode,
        "centring": data.centring,
        "whitening": data.whitening,
        "trained_on": student.trained_on,
    }
