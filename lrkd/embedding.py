"""``rationales embed``: a frozen sentence encoder turns rationales into target vectors."""

from __future__ import annotations

from pathlib import Path
from string import Formatter
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import Progress

from lrkd.data.rationales import merge_rationales, rationale_files
from lrkd.data.targets import (
    FINGERPRINT,
    INDEX,
    KEY,
    VECTORS,
    Fingerprint,
    rationales_digest,
    read_fingerprint,
    write_fingerprint,
)
from lrkd.data.types import LabelSet
from lrkd.errors import UserError
from lrkd.sentence_encoder import Precision, SentenceEncoder

DONE = "done.npy"
CHUNK = 1024


def embed_rationales(
    *,
    root: Path,
    encoder: str,
    out: Path,
    rationales: Path | list[Path] | None = None,
    label_set: str = "esci",
    text: str = "{rationale}",
    max_length: int | None = None,
    dtype: Literal["float16", "float32"] = "float32",
    precision: Precision = "float32",
    batch_size: int = 64,
    device: str | None = None,
) -> None:
    """Embed rationales with a frozen sentence encoder, once.

    A killed run goes on where it stopped. A finished store made with the same settings from the same rationales is left
    as it is; any other one is refused, not overwritten.

    Args:
        root: The data root.
        encoder: The sentence encoder: what sentence-transformers takes, or pkg:package/folder.
        out: The target store to make: a folder.
        rationales: Files of rationales (or folders with rationales.parquet), one or several behind one --rationales; by
            default the data root's. Where a file's keys are taken by an earlier one's, as with two teachers, its
            samples are counted on. A student that is trained on the targets names the same files, in this order.
        label_set: esci, wands, or a YAML file; verdicts must be its labels.
        text: Template of the embedded text over rationale, verdict and perspective. With {verdict} in it, guidance is
            partly label regression, so it is left out by default; with {verdict} alone, it is nothing else: a control.
        max_length: Tokens of a rationale at most; the encoder's own limit by default.
        dtype: Of the stored vectors.
        precision: In which the encoder computes; bfloat16 is faster where the machine has it, and moves a vector a
            little (docs/training_speed.md).
        batch_size: Rationales a forward pass.
        device: Where to compute: cpu, cuda, cuda:1, ...; by default what is there.

    Raises:
        UserError: No rationales, a broken row, a bad template, or another store in the way.
    """
    console = Console(highlight=False, soft_wrap=True)
    fields = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
    if not fields or not fields <= {"rationale", "verdict", "perspective"}:
        raise UserError(f"text {text!r}: a template over rationale, verdict and perspective, at least one of them")
    files = rationale_files(root, rationales)
    table, _ = merge_rationales(files, labels=LabelSet.load(label_set))
    source = ", ".join(map(str, files))
    if not table.num_rows:
        raise UserError(f"{source}: no rationale to embed")
    console.print(f"Read {table.num_rows:,} rationales from {source}")
    model = SentenceEncoder(encoder, max_length, device, precision)
    fingerprint = Fingerprint(
        encoder=encoder,
        weights=model.weights,
        pooling=model.pooling,
        normalised=True,
        max_length=model.max_length,
        dtype=dtype,
        text=text,
        rationales=rationales_digest(table),
        precision=precision,
    )
    if (out / FINGERPRINT).is_file():
        refuse_other(out, fingerprint)
        console.print(f"{out} holds their targets already: nothing to do")
        return
    texts = _Texts(table.select(sorted(fields)), text)
    partial = out.with_name(out.name + ".partial")
    done_before = _embed_missing(model, texts, partial, fingerprint, batch_size)
    pq.write_table(table.select([*KEY, "verdict"]), partial / INDEX)
    partial.rename(out)
    (out / DONE).unlink()  # not before: killed in between, the partial store could not be gone on with
    width = np.load(out / VECTORS, mmap_mode="r").shape[1]
    console.print(
        f"Wrote {len(texts):,} vectors of width {width} ({dtype}) to {out}"
        + (f"; {done_before:,} of them were there from a run that was interrupted" if done_before else "")
    )


def refuse_other(folder: Path, fingerprint: Fingerprint) -> None:
    """Accept only a store (or the part of one) that has this fingerprint (trap 45).

    Raises:
        UserError: It has another; names what differs.
    """
    if different := read_fingerprint(folder).differences(fingerprint):
        raise UserError(
            f"{folder}: holds targets made otherwise ({'; '.join(different)}). Give another --out, or delete the "
            "folder to make them anew"
        )


class _Texts:
    """What is embedded, rendered a few rows at a time: all of it as Python strings would be a second copy."""

    def __init__(self, rationales: pa.Table, template: str) -> None:
        self.rationales = rationales
        self.template = template

    def __len__(self) -> int:
        return int(self.rationales.num_rows)

    def __getitem__(self, rows: np.ndarray) -> list[str]:
        return [self.template.format(**row) for row in self.rationales.take(pa.array(rows)).to_pylist()]


def _longest_first(model: SentenceEncoder, texts: _Texts) -> np.ndarray:
    """The rows (N,) by falling number of tokens: like lengths together need next to no padding.

    Sorted by characters, ESCI-mini's rationales would be a fifth padding at 64 a batch.
    """
    chunks = np.split(np.arange(len(texts)), range(CHUNK, len(texts), CHUNK))
    return np.argsort(-np.concatenate([model.token_counts(texts[rows]) for rows in chunks]), kind="stable")


def _embed_missing(
    model: SentenceEncoder, texts: _Texts, folder: Path, fingerprint: Fingerprint, batch_size: int
) -> int:
    """Fill ``folder`` with the vectors that it lacks; returns how many were there."""
    vectors, done = _open_partial(folder, fingerprint, len(texts), model.width)
    before = int(done.sum())
    order = _longest_first(model, texts)
    missing = order[~done[order]]
    with Progress(transient=True) as progress:
        task = progress.add_task("Embedding", total=len(texts), completed=before)
        for start in range(0, len(missing), CHUNK):
            rows = missing[start : start + CHUNK]
            vectors[rows] = model.encode(texts[rows], batch_size)
            vectors.flush()  # the vectors reach the file before the note that they are there
            done[rows] = True
            done.flush()
            progress.advance(task, len(rows))
    return before


def _open_partial(folder: Path, fingerprint: Fingerprint, rows: int, width: int) -> tuple[np.memmap, np.memmap]:
    """The unfinished store's vectors and the note of which are there, both memory-mapped; made if need be."""
    if (folder / FINGERPRINT).is_file():
        refuse_other(folder, fingerprint)
        return np.load(folder / VECTORS, mmap_mode="r+"), np.load(folder / DONE, mmap_mode="r+")
    folder.mkdir(parents=True, exist_ok=True)
    open_memmap = np.lib.format.open_memmap
    vectors = open_memmap(folder / VECTORS, "w+", fingerprint.dtype, (rows, width))
    done = open_memmap(folder / DONE, "w+", bool, (rows,))
    done.flush()
    write_fingerprint(folder, fingerprint)  # last: with it, the folder can be gone on with
    return vectors, done
