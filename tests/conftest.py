"""Fixtures that several test modules share."""

from __future__ import annotations

import contextlib
import io
import os
import traceback

# Before anything imports the libraries that read them: a test never reaches the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lrkd.__main__ import main
from lrkd.data.pairs import write_table
from lrkd.data.rationales import read_rationales
from lrkd.data.targets import INDEX, KEY, VECTORS, Fingerprint, rationales_digest, write_fingerprint
from lrkd.data.types import LABEL_SETS, PAIRS_SCHEMA, RATIONALES_SCHEMA
from lrkd.experiments import jobs


@pytest.fixture(scope="session")
def esci_mini() -> Path:
    """The data root ESCI-mini, which is not part of the repository."""
    path = os.environ.get("LRKD_ESCI_MINI") or Path(__file__).parents[1].parent / "shared" / "data" / "esci_mini"
    if not (Path(path) / "pairs.parquet").is_file():
        pytest.skip(f"ESCI-mini is not at {path}; set LRKD_ESCI_MINI to its folder")
    return Path(path)


# Tiny stand-ins for what a run needs. They are made once a session: a test that changes one works on a copy.

QUERIES = (
    "red running shoes",
    "coffee mug without handle",
    "usb-c charger 65w",
    "wool socks men",
    "garden hose 50 ft",
    "phone case",
    "stainless steel water bottle",
    "desk lamp",
)
ITEMS = (
    ("Red road running shoes for women, size 8", "Exact"),
    ("Blue trail running shoes", "Substitute"),
    ("Shoe laces, red, 2 pairs", "Complement"),
    ("Handle-less ceramic coffee mug", "Exact"),
    ("Coffee mug with handle, 350 ml", "Substitute"),
    ("Cast iron pan", "Irrelevant"),
    ("65W USB-C charger with 2 m cable", "Exact"),
    ("USB-C cable 1 m", "Complement"),
    ("20W USB-A charger", "Irrelevant"),
    ("Men's merino wool socks, 3 pack", "Exact"),
    ("Men's cotton socks", "Substitute"),
    ("Wool wash, 1 l", "Complement"),
    ("Garden hose, 50 ft, kink-free", "Exact"),
    ("Garden hose, 25 ft", "Substitute"),
    ("Hose reel for a 50 ft garden hose", "Complement"),
    ("Clear phone case", "Exact"),
    ("Phone screen protector", "Complement"),
    ("Laptop sleeve", "Irrelevant"),
    ("Stainless steel water bottle, 750 ml", "Exact"),
    ("Plastic water bottle", "Substitute"),
    ("Bottle brush set", "Complement"),
    ("LED desk lamp, dimmable", "Exact"),
    ("Floor lamp", "Substitute"),
    ("Desk organiser", "Irrelevant"),
)
PERSPECTIVES = ("business_rule", "structured_analysis", "user_intent")
SPLIT_OF_QUERY = ("train",) * 4 + ("val",) * 2 + ("test",) * 2
TARGET_WIDTH = 8


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory) -> Path:
    """A data root of 24 labelled pairs, 3 a query, in a mixed order; 4 queries train, 2 val, 2 test; folds 0 to 3.

    Every third pair has no rationale. The others have one a perspective; where the pair's number is odd, user_intent's
    verdict is not gold; where it is a multiple of four, user_intent has a second sample.
    """
    root = tmp_path_factory.mktemp("root")
    numbers = np.random.default_rng(0).permutation(len(ITEMS)).tolist()
    pairs = [
        {
            "pair_id": f"q{n // 3}-i{n}",
            "query_id": f"q{n // 3}",
            "query": QUERIES[n // 3],
            "item_id": f"i{n}",
            "title": ITEMS[n][0],
            "label": ITEMS[n][1],
            "brand": f"brand {n % 5}",
            "split": SPLIT_OF_QUERY[n // 3],
            "fold": n // 3 % 4,
        }
        for n in numbers
    ]
    write_table(pa.Table.from_pylist(pairs, PAIRS_SCHEMA), root / "pairs.parquet", PAIRS_SCHEMA)
    rationales = [
        {
            "pair_id": f"q{n // 3}-i{n}",
            "perspective": perspective,
            "sample": sample,
            "rationale": f"{perspective}: is '{ITEMS[n][0]}' what '{QUERIES[n // 3]}' asks for? Answer {sample}.",
            "verdict": "Irrelevant" if n % 2 and perspective == "user_intent" else ITEMS[n][1],
        }
        for n in reversed(range(len(ITEMS)))
        if n % 3
        for perspective in PERSPECTIVES
        for sample in range(2 if n % 4 == 0 and perspective == "user_intent" else 1)
    ]
    write_table(pa.Table.from_pylist(rationales, RATIONALES_SCHEMA), root / "rationales.parquet", RATIONALES_SCHEMA)
    return root


@pytest.fixture(scope="session")
def tiny_targets(tmp_path_factory, tiny_root) -> Path:
    """The target store of ``tiny_root``: a random, but always the same, unit vector of width 8 a rationale."""
    folder = tmp_path_factory.mktemp("targets")
    _write_random_targets(folder, read_rationales(tiny_root, labels=LABEL_SETS["esci"]))
    return folder


def _write_random_targets(folder: Path, rationales: pa.Table) -> None:
    """A target store of random, but always the same, unit vectors."""
    folder.mkdir(exist_ok=True)
    vectors = np.random.default_rng(0).standard_normal((rationales.num_rows, TARGET_WIDTH)).astype(np.float32)
    np.save(folder / VECTORS, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    pq.write_table(rationales.select([*KEY, "verdict"]), folder / INDEX)
    write_fingerprint(
        folder,
        Fingerprint(
            encoder="made up",
            weights="none",
            pooling="none",
            normalised=True,
            max_length=64,
            dtype="float32",
            text="{rationale}",
            rationales=rationales_digest(rationales),
        ),
    )


def _save_encoder(folder: Path, tokenizer, kind: str, **config) -> str:
    """A tokenizer and a random two-layer encoder of width 32, as AutoTokenizer and AutoModel load them."""
    import torch
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    bert, roberta = ("[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]"), ("<s>", "</s>", "<unk>", "<pad>", "<mask>")
    start, end, unknown, pad, mask = bert if kind == "bert" else roberta
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token=start, bos_token=start, sep_token=end, eos_token=end,
        unk_token=unknown, pad_token=pad, mask_token=mask,
        model_max_length=64,
    ).save_pretrained(folder)  # fmt: skip
    settings = AutoConfig.for_model(
        kind,
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        pad_token_id=tokenizer.token_to_id(pad),
        **config,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(settings).save_pretrained(folder)
    return str(folder)


def _texts() -> list[str]:
    return [*QUERIES, *(title for title, _ in ITEMS)]


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory) -> str:
    """The folder of a BERT of two layers and width 32 with a small WordPiece tokenizer."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        _texts(), trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return _save_encoder(tmp_path_factory.mktemp("bert"), tokenizer, "bert", max_position_embeddings=64)


@pytest.fixture(scope="session")
def tiny_roberta(tmp_path_factory) -> str:
    """The folder of a RoBERTa of two layers and width 32: byte-level BPE, ``<s> q </s></s> item </s>``, no types."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    start, end = (tokenizer.token_to_id(token) for token in ("<s>", "</s>"))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", end), ("<s>", start), add_prefix_space=False)
    return _save_encoder(
        tmp_path_factory.mktemp("roberta"), tokenizer, "roberta", max_position_embeddings=66, type_vocab_size=1
    )


@pytest.fixture(scope="session")
def tiny_sentence_encoder(tmp_path_factory, tiny_encoder) -> str:
    """The folder of a sentence-transformers model: ``tiny_encoder`` with mean pooling and no normalisation."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = tmp_path_factory.mktemp("sentence_encoder")
    transformer = Transformer(tiny_encoder, max_seq_length=64)
    model = SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode="mean")], device="cpu")
    model.save_pretrained(str(folder), create_model_card=False)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory, tiny_root) -> str:
    """The folder of an untrained Llama of two layers and width 32 with a byte-level BPE tokenizer, without template."""
    from lrkd.teacher.create import create_teacher

    folder = tmp_path_factory.mktemp("teacher") / "llama"
    create_teacher(root=tiny_root, out=folder, vocabulary=600, hidden_size=32, layers=2, heads=4)
    return str(folder)


@pytest.fixture(scope="session")
def small_catalogue(tmp_path_factory) -> SimpleNamespace:
    """A data root (``root``) of 30 queries of 4 items, and its target store (``targets``): enough for folds of queries.

    10 queries train, 5 val, 15 test. Every third query negates, every second names the brand of its items 0 and 2;
    items 0 and 1 are of the kind that it names. Labels go round. All items but the last have a rationale a perspective,
    of which user_intent's is wrong on every third pair.
    """
    folder = tmp_path_factory.mktemp("catalogue")
    kinds = ("coffee mug", "running shoes", "water bottle", "desk lamp", "phone case")
    labels = LABEL_SETS["esci"].labels
    pairs, rationales = [], []
    for query in range(30):
        colour, kind = ("red", "blue", "clear", "steel", "wool", "ceramic")[query // 5], kinds[query % 5]
        words = f"{'acme ' if query % 2 == 0 else ''}{colour} {kind}{' without handle' if query % 3 == 0 else ''}"
        for item in range(4):
            label = labels[(query + item) % 4]
            pair_id = f"q{query}-i{item}"
            pairs.append(
                {
                    "pair_id": pair_id, "query_id": f"q{query}", "query": words, "item_id": f"i{query}-{item}",
                    "title": f"{colour} {kind if item < 2 else 'brush set'}, {item + 1} pack", "label": label,
                    "brand": ("Acme", "Bolt")[item % 2],
                    "category": ["Home", kind.title() if item < 2 else "Spare Parts"],
                    "split": "train" if query < 10 else "val" if query < 15 else "test", "fold": query % 3,
                }
            )  # fmt: skip
            for perspective in PERSPECTIVES if item < 3 else ():
                wrong = perspective == "user_intent" and (query + item) % 3 == 0
                verdict = labels[(query + item + 1) % 4] if wrong else label
                text = f"{perspective} on {pair_id}: {verdict}."
                row = {"pair_id": pair_id, "perspective": perspective, "sample": 0}
                rationales.append(row | {"rationale": text, "verdict": verdict})
    write_table(pa.Table.from_pylist(pairs, PAIRS_SCHEMA), folder / "root/pairs.parquet", PAIRS_SCHEMA)
    table = pa.Table.from_pylist(rationales, RATIONALES_SCHEMA)
    write_table(table, folder / "root/rationales.parquet", RATIONALES_SCHEMA)
    _write_random_targets(folder / "targets", read_rationales(folder / "root"))
    return SimpleNamespace(root=folder / "root", targets=folder / "targets")


@pytest.fixture(scope="session")
def small_run(tmp_path_factory, tiny_encoder, small_catalogue) -> Path:
    """The folder of a finished run of lrkd_mlp on ``small_catalogue``, tested."""
    from lrkd.__main__ import main

    folder = tmp_path_factory.mktemp("small_runs")
    config = Path(__file__).parents[1] / "configs/student/lrkd_mlp.yaml"
    main(
        [
            "fit", "--config", str(config),
            "--model.init_args.encoder", tiny_encoder,
            "--data.init_args.root", str(small_catalogue.root),
            "--data.init_args.targets", str(small_catalogue.targets),
            "--data.init_args.cache_dir", str(folder / "cache"),
            "--data.init_args.max_length", "32", "--data.init_args.query_cap", "12", "--data.init_args.batch_size", "8",
            "--trainer.accelerator", "cpu", "--trainer.max_epochs", "2", "--trainer.default_root_dir", str(folder),
        ]
    )  # fmt: skip
    run = folder / "lrkd_mlp-seed0"
    main(["test", "--ckpt_path", str(run / "checkpoints/best.ckpt")])
    return run


@pytest.fixture
def in_process(monkeypatch):
    """Lets commands run in this process, which saves the imports; a list of those that ran."""
    ran = []

    def start(command, environment, log):
        ran.append(command)
        shown, status = io.StringIO(), 0
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            try:
                main(list(command))
            except (SystemExit, RuntimeError) as error:
                status = error.code if isinstance(error, SystemExit) else 1
                traceback.print_exc()
        log.write(shown.getvalue().encode())
        return SimpleNamespace(poll=lambda: status)

    monkeypatch.setattr(jobs, "start", start)
    monkeypatch.setattr(jobs, "LOOK_EVERY", 0)
    return ran


@pytest.fixture(scope="session")
def exported(tmp_path_factory, tiny_encoder, tiny_roberta, tiny_root):
    """Gives a student in torch and the folder of its export, by name and precision; exported when first asked for."""
    from exported_students import make_run, make_student, root_that_agrees

    from lrkd.serve.export import export_student

    made = {}

    def get(name, precision="float32", **arguments):
        key = repr((name, precision, arguments))
        if key not in made:
            place = tmp_path_factory.mktemp(name)
            student = make_student(tiny_roberta if name == "roberta" else tiny_encoder, name, **arguments)
            root = root_that_agrees(place / "root", tiny_root, student, place / "cache")
            run = make_run(place / name, student, root, place / "cache")
            drop = 0.005 if precision == "float32" else 0.5  # of 24 pairs a label or two are ten points or more
            export_student(run=run, out=place / "out", precision=precision, max_drop=drop)
            made[key] = student, place / "out"
        return made[key]

    return get
