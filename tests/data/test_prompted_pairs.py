"""Pairs as a teacher sees them."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from lrkd.data.prompted_pairs import PairText, PromptedPairs
from lrkd.data.types import LABEL_SETS, ItemText
from lrkd.errors import UserError
from lrkd.prompts import PromptBook


@pytest.fixture
def make(tiny_root, tiny_teacher):
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher)

    def made(chars=1000, **settings):
        settings = {"fold": None, "val_fraction": 0.1, "split_seed": 0} | settings
        text = PairText(ItemText("{title} {brand}"), chars)
        return PromptedPairs(str(tiny_root), text, PromptBook.load("esci"), tokenizer, LABEL_SETS["esci"], **settings)

    return made


def test_the_items_text_is_cut_and_the_query_is_not(make):
    whole, cut = make(), make(10)
    rows = np.arange(24)
    for (query, item), (same, short) in zip(whole.texts(rows), cut.texts(rows), strict=True):
        assert query == same
        assert short == item[:10].rstrip()
    assert not whole.tokens_cut(rows).any()
    tokens = [len(cut.tokenizer(item[10:]).input_ids) for _, item in whole.texts(rows)]
    assert cut.tokens_cut(rows).tolist() == tokens
    with pytest.raises(UserError, match="item_chars"):
        make(0)


def test_cross_fitted_parts_share_no_query_and_make_up_the_training_pairs(make):
    train = make().rows["train"]
    parts = [make(crossfit=(part, 3)) for part in range(3)]
    held_out = [part.rows["held_out"] for part in parts]
    assert sorted(np.concatenate(held_out)) == sorted(train)
    for part in parts:
        queries = part.query
        assert not set(queries[part.rows["train"]]) & set(queries[part.rows["held_out"]])
        assert len(part.rows["train"]) + len(part.rows["held_out"]) == len(train)
        assert part.rows["val"].tolist() == make().rows["val"].tolist()


def test_prompts_do_not_depend_on_the_label(make):  # trap 16
    pairs = make()
    label = pairs.table["label"][0].as_py()
    (prompt,) = pairs.prompts(0, ["user_intent"])
    before = prompt.shared.partition("Query:")[2] + prompt.own.partition("End with")[0]
    assert label not in before
