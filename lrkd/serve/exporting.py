"""The steps of an export: a run's student, its graph, its card, its gates, and what goes with it."""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal, cast

import numpy as np
import yaml
from tokenizers import Tokenizer
from torch import nn

from lrkd.data.pair_tokens import PairLayout, backend_of
from lrkd.data.pairs import file_fingerprint
from lrkd.data.triples import TripleDataModule
from lrkd.errors import UserError
from lrkd.evaluate.attention import latent_names
from lrkd.hparams import component_factory
from lrkd.pretrained import load_tokenizer
from lrkd.runs import RunRecord
from lrkd.serve.card import MODEL_FILE, TOKENIZER_FILE, StudentCard
from lrkd.serve.int8 import input_ranges, to_int8
from lrkd.serve.model_card import write_model_card
from lrkd.serve.onnx_model import TensorStudent, write_onnx
from lrkd.serve.parity import Parity, sweep
from lrkd.serve.scorer import Scorer, cores, session
from lrkd.serve.split_gate import GateSplit, compare_on_split, student_logits
from lrkd.student import StudentLRKD

Precision = Literal["float32", "int8"]

TOLERANCE: dict[Precision, float] = {"float32": 1e-3, "int8": 0.1}
"""How far logits and latents of the graph may be from torch's. Rounding makes about 1e-5 in float32; of integers, a
value halfway between two may go either way."""
CALIBRATION_PAIRS = 1024
PACKAGES = ("lrkd", "torch", "transformers", "tokenizers", "onnx", "onnxruntime")


def load_student(record: RunRecord, root: str | None = None) -> tuple[StudentLRKD, TripleDataModule]:
    """A run's best student, in eval mode on the CPU, and its data.

    Args:
        record: The run.
        root: Another data root than the run's.

    Raises:
        UserError: The run is none of a student.
    """
    file = record.path / "config.yaml"
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    spec = {"class_path": config["model"]["class_path"]}
    kind = cast("type[StudentLRKD]", component_factory(spec, StudentLRKD, f"{file}: model").func)
    student = kind.load_from_checkpoint(record.checkpoint, map_location="cpu", weights_only=True).eval()
    arguments = config["data"]["init_args"] | {"encoder": student.hparams["encoder"], "fold": record.fold}
    arguments["root"] = root or record.data_root
    made = {"class_path": config["data"]["class_path"], "init_args": arguments}
    return student, component_factory(made, TripleDataModule, f"{file}: data")()


def int8_student(student: StudentLRKD, data: TripleDataModule) -> StudentLRKD:
    """A copy whose encoder computes with integers, calibrated on training pairs drawn by a fixed seed.

    Raises:
        UserError: The data have no training pair.
    """
    rows = data.rows("train")
    if not len(rows):
        raise UserError(f"{data.root}: int8 is calibrated on training pairs, and has none here; give another --root")
    if len(rows) > CALIBRATION_PAIRS:
        rows = np.random.default_rng(0).choice(rows, CALIBRATION_PAIRS, replace=False)
    student = copy.deepcopy(student)
    to_int8(student.encoder, input_ranges(student.encoder, lambda: student_logits(student, data.tokens, rows)))
    return student


def write_graph(student: StudentLRKD, data: TripleDataModule, folder: Path, precision: Precision) -> Parity:
    """Write tokenizer and graph; the graph passes the first gate."""
    tokenizer = load_tokenizer(str(student.hparams["encoder"]))
    backend_of(tokenizer).save(str(folder / TOKENIZER_FILE))
    network = TensorStudent(student)
    if precision == "int8":
        network = TensorStudent(int8_student(student, data))
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


def card_of(
    record: RunRecord, student: StudentLRKD, data: TripleDataModule, precision: Precision, parity: Parity
) -> StudentCard:
    """What an export is, before its second gate."""
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
    splits: tuple[GateSplit, ...] = ("val", "test")
    scored = [split for split in splits if (record.path / f"{split}_metrics.json").is_file()]
    return {
        split: {name: value if value == value else None for name, value in record.metrics(split).items()}
        for split in scored
    }


def pass_split_gate(
    student: StudentLRKD,
    data: TripleDataModule,
    card: StudentCard,
    folder: Path,
    split: GateSplit,
    rows: np.ndarray,
    max_drop: float,
) -> StudentCard:
    """The second gate; the card with what it found."""
    found = compare_on_split(student, Scorer(folder), data, split, rows)
    found.require(max_drop)
    return replace(card, checks=card.checks | {"split": found.to_dict()}).write(folder)


def write_companions(student: StudentLRKD, card: StudentCard, folder: Path, cross_encoder: bool) -> None:
    """The model card, and the folder for sentence-transformers."""
    if cross_encoder:
        from lrkd.serve.cross_encoder import write_cross_encoder

        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        write_cross_encoder(student, tokenizer, card, folder / "cross_encoder")
    write_model_card(card, folder)
