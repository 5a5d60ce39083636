"""The folder for sentence-transformers' CrossEncoder against the scorer."""

import numpy as np
import pytest
from conftest import ITEMS, QUERIES
from sentence_transformers import CrossEncoder

from lrkd.serve import Scorer

PAIRS = [(QUERIES[n // 3], title) for n, (title, _) in enumerate(ITEMS)]
PAIRS += [("usb " * 20, "65w  charger\n" * 20), ("red mug", "x")]


def scored(folder):
    return Scorer(folder).score([{"query": query, "title": title} for query, title in PAIRS])


@pytest.mark.parametrize("name", ["encoder", "poly", "gat"])
def test_predict_gives_the_expected_gain(name, exported):
    _, folder = exported(name)
    model = CrossEncoder(str(folder / "cross_encoder"), trust_remote_code=True, device="cpu")
    expected = scored(folder)
    assert len(set(expected.labels)) > 1
    np.testing.assert_allclose(model.predict(PAIRS, batch_size=5), expected.gains, atol=2e-5)
    features = model(model.preprocess(PAIRS))
    np.testing.assert_allclose(features["probabilities"].detach(), expected.probabilities, atol=2e-5)
    if name != "encoder":
        np.testing.assert_allclose(features["latents"].detach(), expected.latents, atol=1e-4)


def test_rank_orders_as_the_scorer_does_and_the_folder_can_be_saved_again(exported, tmp_path):
    _, folder = exported("poly")
    items = [title for title, _ in ITEMS[:8]]
    order = Scorer(folder).rank("red running shoes", [{"title": title} for title in items]).order
    model = CrossEncoder(str(folder / "cross_encoder"), trust_remote_code=True, device="cpu")
    assert [found["corpus_id"] for found in model.rank("red running shoes", items)] == order
    model.save_pretrained(str(tmp_path / "again"))
    again = CrossEncoder(str(tmp_path / "again"), trust_remote_code=True, device="cpu")
    np.testing.assert_array_equal(again.predict(PAIRS), model.predict(PAIRS))


def test_code_that_does_not_trust_it_is_told_how(exported):
    _, folder = exported("poly")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        CrossEncoder(str(folder / "cross_encoder"), device="cpu")


def test_what_are_no_pairs_of_texts_is_refused(exported):
    _, folder = exported("poly")
    model = CrossEncoder(str(folder / "cross_encoder"), trust_remote_code=True, device="cpu")
    with pytest.raises(ValueError, match=r"a pair is \(query, item's text\)"):
        model.preprocess([("one", "two", "three")])
