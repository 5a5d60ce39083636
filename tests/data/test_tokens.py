"""The token cache against the tokenizers' own encoding of pairs; truncation; when it is made anew."""

from __future__ import annotations

import functools
import json

import numpy as np
import pyarrow as pa
import pytest
from transformers import AutoTokenizer

from lrkd.data import pair_tokens, tokens
from lrkd.data.pair_tokens import FlatTokens, PairLayout, TokenCache
from lrkd.data.pairs import iter_pairs, write_table
from lrkd.data.tokens import build_token_cache, load_flat, token_fingerprint
from lrkd.data.types import PAIRS_SCHEMA, ItemText
from lrkd.errors import UserError

PAIRS = [
    ("red running shoes", "Red road running shoes for women, size 8, with a red sole and red laces"),
    ("phone", "Clear phone case"),
    ("caf\u00e9 ☕", "Ceramic mug — 350\u00a0ml 🧦🏽 naïve"),
    ("水瓶", "ステンレス 水瓶 750 ml bottle"),
    ("phone", "Phone case"),
    ("\u200b", "desk lamp"),  # a query of which some tokenizers leave nothing
]


def write_root(folder, pairs=PAIRS):
    rows = [
        {
            "pair_id": str(i),
            "query_id": q,
            "query": q,
            "item_id": str(i),
            "title": t,
            "brand": "acme" if i % 2 else None,
        }
        for i, (q, t) in enumerate(pairs)
    ]
    folder.mkdir(exist_ok=True)
    write_table(pa.Table.from_pylist(rows, PAIRS_SCHEMA), folder / "pairs.parquet", PAIRS_SCHEMA)
    return folder


@pytest.fixture(params=["tiny_encoder", "tiny_roberta"])
def tokenizer(request):
    return AutoTokenizer.from_pretrained(request.getfixturevalue(request.param))


def open_cache(folder, tokenizer, max_length, query_cap):
    layout = PairLayout.of(tokenizer)
    return TokenCache(load_flat(folder, "query"), load_flat(folder, "item"), layout, max_length, query_cap)


@pytest.mark.parametrize("max_length", [24, 64])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [5], [3, 0]], ids=str)
def test_a_batch_is_the_tokenizers_own_encoding_of_the_pairs(max_length, rows, tokenizer, tmp_path):
    own = tokenizer(
        [PAIRS[row][0] for row in rows], [" ".join(PAIRS[row][1].split()) for row in rows],
        truncation="only_second", max_length=max_length, padding="longest", return_token_type_ids=True,
    )  # fmt: skip
    segments = [[-1 if s is None else s for s in own.sequence_ids(i)] for i in range(len(rows))]
    folder = build_token_cache(write_root(tmp_path / "root"), tokenizer, ItemText(), tmp_path / "cache")
    cache = open_cache(folder, tokenizer, max_length, query_cap=18)
    batch = cache.batch(np.array(rows))
    assert batch["ids"].tolist() == own["input_ids"]
    assert batch["mask"].tolist() == np.array(own["attention_mask"], bool).tolist()
    assert batch["type_ids"].tolist() == own["token_type_ids"]
    assert batch["segments"].tolist() == segments
    assert cache.lengths[rows].tolist() == batch["mask"].sum(1).tolist()
    longer = cache.batch(np.array(rows), length=70)
    for name, array in batch.items():
        assert np.array_equal(longer[name][:, : array.shape[1]], array)
    assert longer["mask"].shape == (len(rows), 70)
    assert not longer["mask"][:, batch["mask"].shape[1] :].any()
    if 0 in rows:
        assert cache.cut[1][0] > 0 if max_length == 24 else cache.cut[1][0] == 0


def test_an_item_without_text_leaves_its_place_empty(tokenizer, tmp_path):
    root = write_root(tmp_path / "root")
    folder = build_token_cache(root, tokenizer, ItemText("{brand}"), tmp_path / "cache")
    batch = open_cache(folder, tokenizer, 64, 18).batch(np.array([0, 1]))
    own = tokenizer([PAIRS[0][0], PAIRS[1][0]], ["", "acme"], padding="longest")
    assert batch["ids"].tolist() == own["input_ids"]


# Truncation, by hand: special tokens 100 q.. 101 i.. 102; queries hold 1, 2, 3, ..., items 11, 12, 13, ...


def by_hand(query_lengths, item_lengths, max_length, query_cap):
    def flat(lengths, first):
        values = np.concatenate([first + np.arange(length) for length in lengths]).astype(np.int32)
        return FlatTokens(values, np.concatenate([[0], np.cumsum(lengths)]))

    layout = PairLayout(np.array([100]), np.array([101]), np.array([102]), (0, 0, 0, 1, 1), pad=0)
    return TokenCache(flat(query_lengths, 1), flat(item_lengths, 11), layout, max_length, query_cap)


def test_the_item_is_cut_first_and_the_query_at_its_cap():  # trap 26
    # Of 10 places 3 are special. Pair 0 fits (2 + 3). Pair 1: the query's 5 become 4, the item's 10 become 10 - 3 - 4.
    # Pair 2: the query's 6 become 4, and there is no item.
    cache = by_hand([2, 5, 6], [3, 10, 0], max_length=10, query_cap=4)
    batch = cache.batch(np.arange(3))
    assert batch["ids"].tolist() == [
        [100, 1, 2, 101, 11, 12, 13, 102, 0, 0],
        [100, 1, 2, 3, 4, 101, 11, 12, 13, 102],
        [100, 1, 2, 3, 4, 101, 102, 0, 0, 0],
    ]
    assert batch["segments"].tolist() == [
        [-1, 0, 0, -1, 1, 1, 1, -1, -1, -1],
        [-1, 0, 0, 0, 0, -1, 1, 1, 1, -1],
        [-1, 0, 0, 0, 0, -1, -1, -1, -1, -1],
    ]
    assert batch["type_ids"].tolist() == [
        [0, 0, 0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
    ]
    assert batch["mask"].sum(1).tolist() == cache.lengths.tolist() == [8, 10, 7]
    assert [cut.tolist() for cut in cache.cut] == [[0, 1, 2], [0, 7, 0]]


@pytest.mark.parametrize("max_length", [9, 10, 12, 30])
def test_no_length_cuts_a_query_below_its_cap(max_length):  # trap 26
    lengths = np.arange(1, 9)
    cache = by_hand(lengths, [20] * 8, max_length, query_cap=5)
    assert ((cache.batch(np.arange(8))["segments"] == 0).sum(1) == np.minimum(lengths, 5)).all()
    assert (cache.lengths <= max_length).all()


@pytest.mark.parametrize(("max_length", "query_cap"), [(10, 0), (10, 7), (10, -1), (3, 1)])
def test_a_query_cap_that_leaves_no_room_for_the_item_is_refused(max_length, query_cap):  # trap 26
    with pytest.raises(UserError, match=f"query_cap {query_cap} and max_length {max_length} leave no room"):
        by_hand([2], [3], max_length, query_cap)
    by_hand([2], [3], 10, 6)  # one token of the item


# The cache on disk


def test_a_cache_is_made_once(tiny_encoder, tmp_path, monkeypatch):
    root, tokenizer = write_root(tmp_path / "root"), AutoTokenizer.from_pretrained(tiny_encoder)
    folder = build_token_cache(root, tokenizer, ItemText(), tmp_path / "cache")
    assert json.loads((folder / "fingerprint.json").read_text()) == token_fingerprint(root, tokenizer, ItemText())
    monkeypatch.setattr(tokens, "encode", lambda *_: pytest.fail("tokenised again"))
    again = AutoTokenizer.from_pretrained(tiny_encoder)
    again("a", "b", truncation=True, max_length=8, padding="max_length")  # which a tokenizer remembers
    assert build_token_cache(root, again, ItemText(), tmp_path / "cache") == folder


def test_other_pairs_tokenizer_or_template_make_another_cache(tiny_encoder, tiny_roberta, tmp_path):
    def build(root, encoder=tiny_encoder, template="{title}"):
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        return build_token_cache(root, tokenizer, ItemText(template), tmp_path / "cache")

    root, other = write_root(tmp_path / "root"), write_root(tmp_path / "other", [*PAIRS[1:], PAIRS[0]])
    folders = [build(root), build(other), build(root, tiny_roberta), build(root, template="{title} {brand}")]
    assert len(set(folders)) == 4
    assert load_flat(folders[0], "item").lengths.tolist() != load_flat(folders[1], "item").lengths.tolist()
    assert build(write_root(tmp_path / "copy")) == folders[0]  # the same bytes elsewhere


def test_a_cache_that_was_left_unfinished_is_made_anew(tiny_encoder, tmp_path, monkeypatch):
    root, tokenizer = write_root(tmp_path / "root"), AutoTokenizer.from_pretrained(tiny_encoder)
    whole = build_token_cache(root, tokenizer, ItemText(), tmp_path / "whole")
    encode = tokens.encode

    def killed(backend, texts):
        if "Phone case" in texts:
            raise KeyboardInterrupt
        return encode(backend, texts)

    monkeypatch.setattr(tokens, "encode", killed)
    with pytest.raises(KeyboardInterrupt):
        build_token_cache(root, tokenizer, ItemText(), tmp_path / "cache")
    monkeypatch.undo()
    folder = build_token_cache(root, tokenizer, ItemText(), tmp_path / "cache")
    assert folder.name == whole.name
    for name in ("query.ids", "query.lengths", "item.ids", "item.lengths"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(("batch_rows", "encode_texts"), [(2, 100), (100, 2)])
def test_a_file_read_in_pieces_gives_the_same_cache(batch_rows, encode_texts, tiny_encoder, tmp_path, monkeypatch):
    root, tokenizer = write_root(tmp_path / "root"), AutoTokenizer.from_pretrained(tiny_encoder)
    whole = build_token_cache(root, tokenizer, ItemText(), tmp_path / "whole")
    monkeypatch.setattr(tokens, "iter_pairs", functools.partial(iter_pairs, batch_rows=batch_rows))
    monkeypatch.setattr(pair_tokens, "ENCODE_TEXTS", encode_texts)
    pieces = build_token_cache(root, tokenizer, ItemText(), tmp_path / "pieces")
    for name in ("query.ids", "query.lengths", "item.ids", "item.lengths"):
        assert (pieces / name).read_bytes() == (whole / name).read_bytes()


# Tokenizers that will not do


def test_a_tokenizer_without_pad_token_is_refused(tiny_encoder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    tokenizer.pad_token = None
    with pytest.raises(UserError, match="has no pad token"):
        PairLayout.of(tokenizer)


def test_a_slow_tokenizer_is_refused():
    class Slow:
        name_or_path = "slow"

    with pytest.raises(UserError, match=r"tokenizer 'slow' has no fast \(Rust\) version"):
        PairLayout.of(Slow())


def test_a_tokenizer_that_puts_the_item_first_is_refused(tiny_encoder):  # trap 26
    from tokenizers.processors import TemplateProcessing

    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A", pair="[CLS] $B [SEP] $A", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    with pytest.raises(UserError, match="does not encode the two texts of a pair separately"):
        PairLayout.of(tokenizer)
