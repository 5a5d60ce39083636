"""``export``: a trained student as a folder that :class:`lrkd.serve.Scorer` loads without torch."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import yaml
from rich.console import Console

from lrkd.errors import UserError
from lrkd.hparams import component_factory
from lrkd.runs import RunRecord, read_run

if TYPE_CHECKING:
    import numpy as np

    from lrkd.data.triples import TripleDataModule
    from lrkd.serve.card import StudentCard
    from lrkd.serve.parity import Parity
    from lrkd.student import StudentLRKD

Precision = Literal["float32", "int8"]

TOLERANCE: dict[Precision, float] = {"float32": 1e-3, "int8": 0.1}
"""How far logits and latents of the graph may be from torch's. Rounding makes about 1e-5 in float32; of integers, a
value halfway between two may go either way."""
PACKAGES = ("lrkd", "torch", "transformers", "tokenizers", "onnx", "onnxruntime")


def export_student(
    *,
    run: Path,
    out: Path,
    precision: Precision = "float32",
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
    from lrkd.serve.split_gate import labelled_rows

    record = read_run(run)
    student, data = load_student(record, root)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"read {record.checkpoint}")
    rows = labelled_rows(student, data, split, max_pairs)
    with _work_folder(out) as folder:
        parity = _write_graph(student, data, folder, precision)
        console.print(
            f"  {parity.shapes} shapes up to {parity.longest} tokens: {precision} agrees with torch within "
            f"{parity.logits:.1g} in logits, {parity.latents:.1g} in latents"
        )
        card = _card(record, student, data, precision, parity).write(folder)
        card = _gate(student, data, card, folder, split, rows, max_drop)
        found = card.checks["split"]
        console.print(
            f"  {found['pairs']:,} pairs of {split}: macro-F1 {found['macro_f1']:.4f}, in torch "
            f"{found['macro_f1_torch']:.4f}; {found['labels_changed']:,} labels changed"
        )
        _write_companions(student, card, folder, cross_encoder)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    console.print(
        f"wrote {out} ({size / 1e6:,.0f} MB); next:\n"
        f"  python -m lrkd score --model {out} --input pairs.csv --output scored.parquet"
    )


def load_student(record: RunRecord, root: str | None = None) -> tuple[StudentLRKD, TripleDataModule]:
    """A run's best student, in eval mode on the CPU, and its data.

    Args:
        record: The run.
        root: Another data root than the run's.

    Raises:
        UserError: The run is none of a student.
    """
    from lrkd.data.triples import TripleDataModule
    from lrkd.student import StudentLRKD

    file = record.path / "config.yaml"
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    spec = {"class_path": config["model"]["class_path"]}
    kind = cast("type[StudentLRKD]", component_factory(spec, StudentLRKD, f"{file}: model").func)
    student = kind.load_from_checkpoint(record.checkpoint, map_location="cpu", weights_only=True).eval()
    arguments = config["data"]["init_args"] | {"encoder": student.hparams["encoder"], "fold": record.fold}
    arguments["root"] = root or record.data_root
    made = {"class_path": config["data"]["class_path"], "init_args": arguments}
    return student, component_factory(made, TripleDataModule, f"{file}: data")()


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


def _write_graph(student: StudentLRKD, data: TripleDataModule, folder: Path, precision: Precision) -> Parity:
    """Write tokenizer and graph; the graph passes the first gate."""
    from lrkd.data.pair_tokens import PairLayout, backend_of
    from lrkd.pretrained import load_tokenizer
    from lrkd.serve.card import MODEL_FILE, TOKENIZER_FILE
    from lrkd.serve.int8 import to_int8
    from lrkd.serve.onnx_model import TensorStudent, write_onnx
    from lrkd.serve.parity import sweep
    from lrkd.serve.scorer import cores, session

    tokenizer = load_tokenizer(str(student.hparams["encoder"]))
    backend_of(tokenizer).save(str(folder / TOKENIZER_FILE))
    network = TensorStudent(student)
    if precision == "int8":
        network = copy.deepcopy(network)
        to_int8(network.student.encoder)
    write_onnx(network, folder / MODEL_FILE)
    graph = session(folder / MODEL_FILE, cores())
    names = [node.name for node in graph.get_inputs()]
    return sweep(
        network.eval(),
        lambda batch: graph.run(None, {name: batch[name] for name in names}),
        PairLayout.of(tokenizer),
        longest=data.max_length,
        vocabulary=int(student.encoder.config.vocab_size),  # type: ignore[union-attr, arg-type]
        tolerance=TOLERANCE[precision],
    )


def _card(
    record: RunRecord, student: StudentLRKD, data: TripleDataModule, precision: Precision, parity: Parity
) -> StudentCard:
    from torch import nn

    from lrkd.data.pairs import file_fingerprint
    from lrkd.evaluate.attention import latent_names
    from lrkd.pretrained import load_tokenizer
    from lrkd.serve.card import StudentCard

    number = int(student.hparams["num_perspectives"])
    facts = {"run": str(record.path), "seed": record.seed, "fold": record.fold, "best": record.best}
    linear = [module for module in student.encoder.modules() if isinstance(module, nn.Linear)]
    source = facts | {
        "checkpoint": file_fingerprint(record.checkpoint),
        "encoder": student.hparams["encoder"],
        "multiplications_a_token": sum(layer.weight.numel() for layer in linear),
        "parameters": record.parameters,
        "data": {"root": record.data_root, "fingerprint": record.fingerprint, "pairs": record.pairs},
    }
    return StudentCard(
        method=record.method,
        label_set=student.label_set,
        temperature=float(student.temperature),
        item_text=data.item_text,
        max_length=data.max_length,
        query_cap=data.query_cap,
        pad_id=load_tokenizer(str(student.hparams["encoder"])).pad_token_id,
        latents=latent_names(record.checkpoint, number) if student.extractor is not None else (),
        latent_size=student.target_size if student.extractor is not None else 0,
        precision=precision,
        metrics=_metrics(record),
        checks={"parity": parity.to_dict()},
        source=source,
        versions={name: version(name) for name in PACKAGES},
    )


def _metrics(record: RunRecord) -> dict[str, dict[str, float | None]]:
    """The metrics of the splits that the run was scored on."""
    splits: tuple[Literal["val", "test"], ...] = ("val", "test")
    scored = [split for split in splits if (record.path / f"{split}_metrics.json").is_file()]
    return {
        split: {name: value if value == value else None for name, value in record.metrics(split).items()}
        for split in scored
    }


def _gate(
    student: StudentLRKD,
    data: TripleDataModule,
    card: StudentCard,
    folder: Path,
    split: Literal["val", "test"],
    rows: np.ndarray,
    max_drop: float,
) -> StudentCard:
    """The second gate; the card with what it found."""
    from lrkd.serve.scorer import Scorer
    from lrkd.serve.split_gate import compare_on_split

    found = compare_on_split(student, Scorer(folder), data, split, rows)
    found.require(max_drop)
    return replace(card, checks=card.checks | {"split": found.to_dict()}).write(folder)


def _write_companions(student: StudentLRKD, card: StudentCard, folder: Path, cross_encoder: bool) -> None:
    """The model card, and the folder for sentence-transformers."""
    from tokenizers import Tokenizer

    from lrkd.serve.card import TOKENIZER_FILE
    from lrkd.serve.model_card import write_model_card

    if cross_encoder:
        from lrkd.serve.cross_encoder import write_cross_encoder

        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        write_cross_encoder(student, tokenizer, card, folder / "cross_encoder")
    write_model_card(card, folder)
