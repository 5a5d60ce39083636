"""``export``: a trained student as a folder that :class:`lrkd.serve.Scorer` loads without torch."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from rich.console import Console

from lrkd.errors import UserError
from lrkd.runs import read_run


def export_student(
    *,
    run: Path,
    out: Path,
    precision: Literal["float32", "int8"] = "float32",
    split: Literal["val", "test"] = "val",
    root: str | None = None,
    max_drop: float = 0.005,
    max_pairs: int = 10_000,
    cross_encoder: bool = True,
) -> None:
    """Write a run's best checkpoint as ONNX, with all that serving needs: tokenizer, label set, text, temperature.

    Two gates decide whether the folder appears: at every length, in batches of 1 to 8, the graph gives torch's numbers;
    and on a split's real pairs, scored from their texts on, macro-F1 drops by no more than is allowed.

    Args:
        run: The folder of a finished fit of a student, with any extractor or none.
        out: The folder to make.
        precision: int8 makes the encoder's products with weights of 8-bit integers: smaller and, on most CPUs, faster.
        split: The split whose labelled pairs are scored for the second gate.
        root: The data root with that split; the run's own by default.
        max_drop: How much macro-F1 may drop; 0.005 is half a point.
        max_pairs: Score so many pairs of the split at most, drawn by a fixed seed.
        cross_encoder: Also write a folder in it that sentence-transformers' CrossEncoder loads: the weights once more.

    Raises:
        UserError: The run is none of a student, the folder is there already, the student cannot be traced, or a gate
            refuses it, by how much it says.
    """
    if out.exists():
        raise UserError(f"{out}: is there already; give another --out, or delete it")
    from lrkd.serve import exporting
    from lrkd.serve.split_gate import labelled_rows

    record = read_run(run)
    student, data = exporting.load_student(record, root)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"read {record.checkpoint}")
    rows = labelled_rows(student, data, split, max_pairs)
    with _work_folder(out) as folder:
        parity = exporting.write_graph(student, data, folder, precision)
        console.print(
            f"  {parity.shapes} shapes up to {parity.longest} tokens: {precision} agrees with torch within "
            f"{parity.logits:.1g} in logits, {parity.latents:.1g} in latents"
        )
        card = exporting.card_of(record, student, data, precision, parity).write(folder)
        card = exporting.pass_split_gate(student, data, card, folder, split, rows, max_drop)
        found = card.checks["split"]
        console.print(
            f"  {found['pairs']:,} pairs of {split}: macro-F1 {found['macro_f1']:.4f}, in torch "
            f"{found['macro_f1_torch']:.4f}; {found['labels_changed']:,} labels changed"
        )
        exporting.write_companions(student, card, folder, cross_encoder)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    console.print(
        f"wrote {out} ({size / 1e6:,.0f} MB); next:\n"
        f"  python -m lrkd score --model {out} --input pairs.csv --output scored.parquet"
    )


@contextlib.contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its name only when all went well."""
    folder = out.with_name(f".{out.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
