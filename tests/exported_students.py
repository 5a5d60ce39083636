"""Tiny students of every kind as finished runs, without a fit: random weights whose labels differ from pair to pair."""

from __future__ import annotations

import json

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from conftest import ITEMS, QUERIES

from lrkd.data.pair_tokens import FlatTokens, PairLayout, TokenCache, backend_of, encode
from lrkd.data.pairs import file_fingerprint, write_table
from lrkd.data.triples import TripleDataModule
from lrkd.data.types import LABEL_SETS, PAIRS_SCHEMA
from lrkd.pretrained import load_tokenizer
from lrkd.serve.split_gate import student_logits
from lrkd.student import StudentLRKD

ESCI = LABEL_SETS["esci"]
TEXT = {"item_text": "{title}", "max_length": 32, "query_cap": 12}
GAT = "lrkd.extractors.GATExtractor"


def _gat(graph):
    return {"class_path": GAT, "init_args": {"width": 16, "graph": {"class_path": f"lrkd.extractors.{graph}"}}}


STUDENTS = {
    "encoder": {},
    "mlp": {"extractor": {"class_path": "lrkd.extractors.MLPExtractor"}},
    "poly": {"extractor": {"class_path": "lrkd.extractors.PolyEncoderExtractor"}, "num_perspectives": 3},
    "gat": {"extractor": {"class_path": GAT, "init_args": {"width": 16}}, "num_perspectives": 2},
    "gat_similarity": {"extractor": _gat("SimilarityGraph")},
    "gat_full": {"extractor": _gat("FullGraph")},
}
"""The extractors that ship; ``gat`` has the union of a window and common words."""


def make_student(encoder, name="mlp", **arguments):
    torch.manual_seed(0)
    settings = {"label_set": ESCI.to_dict(), "target_size": 8, "text": TEXT, "pooling": "cls"}
    student = StudentLRKD(encoder, **(settings | STUDENTS.get(name, {}) | arguments)).eval()
    for layer in (m for m in student.encoder.modules() if type(m) is torch.nn.Linear):
        torch.nn.init.normal_(layer.weight, std=0.2)  # with BERT's 0.02 the first token hardly sees others
    torch.nn.init.normal_(student.head.weight)  # so that the latents count
    student.temperature.fill_(1.7)
    spread_logits(student)
    return student


@torch.no_grad()
def spread_logits(student):
    """Scale and shift the head until the logits of the tiny root's pairs have mean 0 and deviation 2."""
    tokenizer = load_tokenizer(student.hparams["encoder"])
    texts = [QUERIES[n // 3] for n in range(len(ITEMS))], [title for title, _ in ITEMS]
    flat = [FlatTokens.of([ids for piece in encode(backend_of(tokenizer), some) for ids in piece]) for some in texts]
    tokens = TokenCache(*flat, PairLayout.of(tokenizer), TEXT["max_length"], TEXT["query_cap"])
    logits = student_logits(student, tokens, np.arange(len(ITEMS)))
    scale = 2 / logits.std(0)
    student.head.weight.mul_(scale.unsqueeze(1))
    student.head.bias.sub_(logits.mean(0)).mul_(scale)


def make_run(folder, student, root, cache, **data):
    """A run's folder as ``fit`` leaves it, for a student that was never fitted."""
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(student)
    trainer.save_checkpoint(folder / "checkpoints" / "best.ckpt")
    arguments = {"root": str(root), "cache_dir": str(cache), **student.hparams["text"], **data}
    config = {
        "model": {"class_path": f"{type(student).__module__}.{type(student).__qualname__}", "init_args": {}},
        "data": {"class_path": "lrkd.data.triples.TripleDataModule", "init_args": arguments},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    record = {
        "method": folder.name,
        "seed": 0,
        "fold": None,
        "data": {"root": str(root), "fingerprint": file_fingerprint(root / "pairs.parquet"), "pairs": {"val": 6}},
        "label_set": ESCI.to_dict(),
        "majority_label": "Exact",
        "parameters": student.parameter_counts(),
        "seconds": 1.0,
        "epochs": 1,
        "best": {"metric": "val/macro_f1", "value": 0.5, "checkpoint": "checkpoints/best.ckpt"},
        "versions": {"lrkd": "0.1.0"},
    }
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def root_that_agrees(folder, root, student, cache, split="val"):
    """A copy of a data root in which the student is always right, so that every label that an export changes costs.

    Its pairs are of one split; the same items for other queries are for training, which int8 is calibrated on.
    """
    data = TripleDataModule(str(root), student.hparams["encoder"], cache_dir=str(cache), **student.hparams["text"])
    data.prepare_data()
    data.setup("validate")
    pairs = pq.read_table(root / "pairs.parquet")
    found = student_logits(student, data.tokens, np.arange(pairs.num_rows)).argmax(1).tolist()
    labels = pa.array([ESCI.labels[place] for place in found])
    pairs = pairs.set_column(pairs.column_names.index("label"), "label", labels)
    pairs = pairs.set_column(pairs.column_names.index("split"), "split", pa.array([split] * pairs.num_rows))
    other = pairs.to_pandas()
    other = other.assign(**{name: "new " + other[name] for name in ("pair_id", "query_id", "query")}, split="train")
    both = pa.concat_tables([pairs, pa.Table.from_pandas(other, pairs.schema, preserve_index=False)])
    write_table(both, folder / "pairs.parquet", PAIRS_SCHEMA)
    return folder
