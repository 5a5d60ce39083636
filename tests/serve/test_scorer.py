"""The scorer against the student in torch, and against itself: batches, threads, a clean interpreter."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import ITEMS, QUERIES
from exported_students import TEXT
from transformers import AutoTokenizer

from lrkd.data.pair_tokens import PairLayout, TokenCache
from lrkd.data.pairs import write_table
from lrkd.data.tokens import build_token_cache, load_flat
from lrkd.data.types import LABEL_SETS, PAIRS_SCHEMA, ItemText
from lrkd.errors import UserError
from lrkd.serve import Scored, Scorer
from lrkd.serve.onnx_model import TensorStudent
from lrkd.serve.scorer import token_batches

ESCI = LABEL_SETS["esci"]
WORDS = ("red", "shoes", "mug", "café", "水瓶", "\u200b", "naïve", "", "350\u00a0ml", "🧦🏽", "charger-65w", "Handle")


def pairs():
    """Pairs of all lengths: 0 to 20 words of query, 1 to 45 of title, with odd white space."""
    made = [(QUERIES[n // 3], title) for n, (title, _) in enumerate(ITEMS)]
    for n in range(40):
        words = [WORDS[(n + k) % len(WORDS)] for k in range(n + 5)]
        made.append((" ".join(words[: 1 + n // 2]), "  ".join(words[n // 4 :]) + "\n"))
    return [{"query": query, "title": title} for query, title in made]


def in_torch(student, pairs, tmp_path):
    """Probabilities and latents by the path that training takes: a data root, its token cache, torch."""
    rows = [
        {"pair_id": str(n), "query_id": "q", "query": pair["query"], "item_id": "i", "title": pair["title"]}
        for n, pair in enumerate(pairs)
    ]
    root = tmp_path / "root"
    write_table(pa.Table.from_pylist(rows, PAIRS_SCHEMA), root / "pairs.parquet", PAIRS_SCHEMA)
    tokenizer = AutoTokenizer.from_pretrained(student.hparams["encoder"])
    folder = build_token_cache(root, tokenizer, ItemText(TEXT["item_text"]), tmp_path / "cache")
    flat = load_flat(folder, "query"), load_flat(folder, "item")
    tokens = TokenCache(*flat, PairLayout.of(tokenizer), TEXT["max_length"], TEXT["query_cap"])
    batch = {name: torch.from_numpy(array) for name, array in tokens.batch(np.arange(len(pairs))).items()}
    with torch.no_grad():
        logits, *latents = TensorStudent(student)(**batch)
    return tokens, torch.softmax(logits / student.temperature, -1).numpy(), latents[0].numpy() if latents else None


GRAPHS = [pytest.param(name, marks=pytest.mark.slow) for name in ("gat_similarity", "gat_full")]


@pytest.mark.parametrize("name", ["encoder", "mlp", "poly", "gat", *GRAPHS, "roberta"])
def test_scores_are_those_of_the_student_in_torch(name, exported, tmp_path):  # traps 21, 22, 43
    student, folder = exported(name)
    tokens, probabilities, latents = in_torch(student, pairs(), tmp_path)
    scorer = Scorer(folder)
    scored = scorer.score(pairs())
    assert len(set(scored.labels)) > 1, "a student that says the same of all would prove nothing"
    np.testing.assert_allclose(scored.probabilities, probabilities, atol=2e-5)
    assert scored.tokens_cut.tolist() == np.sum(tokens.cut, axis=0).tolist()
    assert max(scored.tokens_cut) > 0
    if latents is None:
        assert scored.latents is None
    else:
        assert scored.latents.shape == (len(pairs()), student.hparams["num_perspectives"], 8)
        np.testing.assert_allclose(scored.latents, latents, atol=1e-4)


@pytest.mark.parametrize("name", ["encoder", "roberta"])
def test_token_ids_are_those_of_training(name, exported, tmp_path):  # trap 26
    student, folder = exported(name)
    tokens, _, _ = in_torch(student, pairs(), tmp_path)
    texts = [p["query"] for p in pairs()], [ItemText().render(p) for p in pairs()]
    mine = Scorer(folder).tokens(*texts).batch(np.arange(len(pairs())))
    theirs = tokens.batch(np.arange(len(pairs())))
    for name, array in theirs.items():
        assert np.array_equal(mine[name], array), name
    queries = (mine["segments"] == 0).sum(1)
    assert queries.max() == TEXT["query_cap"]
    assert mine["mask"].sum(1).max() == TEXT["max_length"]


@pytest.mark.parametrize(("name", "precision"), [("mlp", "float32"), ("mlp", "int8"), ("gat", "float32")])
def test_the_batch_changes_nothing(name, precision, exported):  # trap 21
    _, folder = exported(name, precision)
    together = Scorer(folder).score(pairs())
    for budget in (1, 100, 100_000):
        scored = Scorer(folder, token_budget=budget).score(pairs())
        np.testing.assert_allclose(scored.probabilities, together.probabilities, atol=1e-6)
        np.testing.assert_allclose(scored.latents, together.latents, atol=1e-5)
    backwards = Scorer(folder).score(pairs()[::-1])
    np.testing.assert_allclose(backwards.probabilities[::-1], together.probabilities, atol=1e-6)
    alone = np.concatenate([Scorer(folder).score([pair]).probabilities for pair in pairs()[:5]])
    np.testing.assert_allclose(alone, together.probabilities[:5], atol=1e-6)


def test_batches_hold_each_row_once_within_the_budget():
    lengths = np.array([5, 9, 3, 10, 30, 4, 12])
    batches = [(rows.tolist(), length) for rows, length in token_batches(lengths, 26, 30)]
    # Padded to multiples of 4 and to 30 at most: 8, 12, 4, 12, 30, 4, 12. 26 tokens are 2 rows of 12, or 6 of 4.
    assert batches == [([4], 30), ([1, 3], 12), ([6], 12), ([0], 8), ([2, 5], 4)]
    assert not list(token_batches(np.zeros(0, int), 26, 30))


def test_no_pair_is_scored_as_none(exported):
    scored = Scorer(exported("mlp")[1]).score([])
    assert (len(scored), scored.latents.shape, scored.labels, scored.gains.tolist()) == (0, (0, 1, 8), [], [])


def test_many_threads_get_what_one_gets(exported):
    scorer = Scorer(exported("mlp")[1], token_budget=64)
    alone = scorer.score(pairs()).probabilities
    parts = [slice(start, start + 9) for start in range(0, 60, 3)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda part: scorer.score(pairs()[part]).probabilities, parts * 3))
    for part, probabilities in zip(parts * 3, found, strict=True):
        np.testing.assert_allclose(probabilities, alone[part], atol=1e-5)


def test_gains_and_labels_are_those_of_the_label_set():
    probabilities = np.array([[0.7, 0.2, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4]], np.float32)
    scored = Scored(probabilities, None, np.zeros(2, int), ESCI)
    assert scored.labels == ["Exact", "Irrelevant"]
    # 0.7 · 1 + 0.2 · 0.1 + 0.1 · 0.01 and 0.1 · 1 + 0.2 · 0.1 + 0.3 · 0.01
    np.testing.assert_allclose(scored.gains, [0.721, 0.123], rtol=1e-6)


def test_ranking_is_by_expected_gain_and_stable(exported):
    scorer = Scorer(exported("mlp")[1])
    items = [{"title": title} for title, _ in ITEMS[:6]]
    ranking = scorer.rank("red running shoes", [items[0], *items])
    gains = ranking.scored.gains[ranking.order]
    assert (np.diff(gains) <= 0).all()
    assert len(set(gains.tolist())) > 3
    first, second = ranking.order.index(0), ranking.order.index(1)
    assert second == first + 1, "the same item twice: equal gains stay in the order given"
    assert np.array_equal(
        ranking.scored.gains, scorer.score([{"query": "red running shoes", **i} for i in [items[0], *items]]).gains
    )


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ({"title": "a"}, "query: expected text, got nothing"),
        ({"query": " ", "title": "a"}, "query: empty"),
        ({"query": "a"}, "title: expected text, got nothing"),
        ({"query": "a", "title": ""}, "title: empty"),
        ({"query": "a", "title": 3}, "title: expected text, got 3"),
        ({"query": "a", "title": "\ud83d"}, "title: holds half of a surrogate pair"),
        ({"query": "a", "title": "b", "category": ["c", 4]}, r"category: expected text, got \['c', 4\]"),
        ({"query": "a", "title": "b", "brand": b"c"}, "brand: expected text"),
        ("red mug", "a pair is a mapping of field to text, got str"),
    ],
)
def test_a_pair_that_cannot_be_scored_is_named_by_field(pair, message, exported):
    student_text = {"text": TEXT | {"item_text": "{title} {brand} {category}"}}
    scorer = Scorer(exported("encoder", **student_text)[1])
    with pytest.raises(UserError, match=f"^{message}"):
        scorer.check(pair)
    good = {"query": "a", "title": "b", "category": ["c", "d"], "unknown": object()}
    scorer.check(good)
    with pytest.raises(UserError, match=f"^pair 1: {message}"):
        scorer.score([good, pair])


def test_item_fields_are_those_of_the_template(exported):
    scorer = Scorer(exported("encoder", text=TEXT | {"item_text": "{title} {brand} {category}"})[1])
    whole = scorer.score([{"query": "mug", "title": "red  mug", "brand": "acme", "category": ["home", "mugs"]}])
    plain = scorer.score_texts(["mug"], ["red mug acme home > mugs"])
    assert np.array_equal(whole.probabilities, plain.probabilities)
    assert not np.array_equal(scorer.score([{"query": "mug", "title": "red mug"}]).probabilities, plain.probabilities)


CLEAN = """
import sys
from lrkd.serve import Scorer
Scorer({folder!r}).rank("red mug", [{{"title": "Mug"}}, {{"title": "Pan"}}])
files = {{name.partition(".")[0]: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}}
print([name for name, file in files.items() if "site-packages" in file])
"""


def test_a_clean_interpreter_needs_onnxruntime_numpy_and_tokenizers(exported):
    code = CLEAN.format(folder=str(exported("mlp")[1]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(eval(done.stdout))
    assert {"onnxruntime", "tokenizers", "numpy"} <= loaded
    assert not loaded & {"torch", "lightning", "transformers", "pyarrow", "pandas", "sklearn", "rich", "yaml"}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.onnx", lambda content: content[:-1]),
        ("tokenizer.json", lambda content: content.replace(b"red", b"der")),
        ("card.json", lambda content: content.replace(b'"temperature": 1.7', b'"temperature": 2.7')),
    ],
)
def test_files_that_do_not_belong_together_are_refused(name, change, exported, tmp_path):
    folder = shutil.copytree(exported("mlp")[1], tmp_path / "copy")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(change(content))
    assert (folder / name).read_bytes() != content
    with pytest.raises(UserError, match="do not belong together"):
        Scorer(folder)


def test_what_is_no_export_is_named(exported, tmp_path):
    with pytest.raises(UserError, match=r"no card\.json in it; give a folder that `python -m lrkd export` wrote"):
        Scorer(tmp_path)
    folder = shutil.copytree(exported("mlp")[1], tmp_path / "copy")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({k: v for k, v in card.items() if k != "temperature"}))
    with pytest.raises(UserError, match="not what `export` writes"):
        Scorer(folder)
    with pytest.raises(UserError, match="threads is at least 1, got 0"):
        Scorer(folder, threads=0)
    with pytest.raises(UserError, match="token_budget is at least 1, got 0"):
        Scorer(folder, token_budget=0)
