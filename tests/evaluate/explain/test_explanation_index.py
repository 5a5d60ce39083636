"""The index: its search against scikit-learn's, its folder, and what it refuses."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from sklearn.neighbors import NearestNeighbors

from lrkd.data.targets import normalise
from lrkd.errors import UserError
from lrkd.evaluate.explain import index as index_module
from lrkd.evaluate.explain.index import RATIONALES_COLUMNS, VECTORS, ExplanationIndex

SIZES = {"intent": 23, "rule": 40, "structure": 7}


def make_index(latents=1, sizes=SIZES, width=6):
    """Random unit vectors; rationale n of a perspective says so."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "pair_id": f"p{n}", "query": f"query {n}", "title": f"title {n}", "label": "Exact",
            "perspective": name, "sample": 0, "rationale": f"{name} {n}", "verdict": "Exact",
        }
        for name, size in sizes.items()
        for n in range(size)
    ]  # fmt: skip
    vectors = normalise(rng.standard_normal((len(rows), width)).astype(np.float32))
    latent_of = {name: number if latents > 1 else 0 for number, name in enumerate(sizes)}
    about = {"run": "runs/größe", "seed": 0}
    return ExplanationIndex(vectors, pa.Table.from_pylist(rows, RATIONALES_COLUMNS), latent_of, latents, about)


@pytest.mark.parametrize("latents", [1, 3])
@pytest.mark.parametrize("piece", [64, 1 << 24], ids=["in pieces", "at once"])
def test_search_is_that_of_scikit_learn(latents, piece, monkeypatch):
    monkeypatch.setattr(index_module, "SIMILARITIES", piece)
    index = make_index(latents)
    asked = 5 * np.random.default_rng(1).standard_normal((19, latents, 6)).astype(np.float32)
    found = index.search(asked, 4)
    assert found.place.shape == found.similarity.shape == (19, 3, 4)
    start = 0
    for k, size in enumerate(SIZES.values()):
        peer = NearestNeighbors(n_neighbors=4, metric="cosine", algorithm="brute").fit(
            index.vectors[start : start + size]
        )
        distance, place = peer.kneighbors(asked[:, k if latents > 1 else 0])
        np.testing.assert_array_equal(found.place[:, k], start + place)
        np.testing.assert_allclose(found.similarity[:, k], 1 - distance, atol=1e-5)
        start += size


def test_a_perspective_s_rationales_alone_are_searched():
    # The latent is a vector of "rule" itself: that one is found at cosine 1 there, and not among the others.
    index = make_index()
    found = index.search(index.vectors[30][None, None])
    assert found.place[0, 1, 0] == 30
    assert found.similarity[0, 1, 0] == pytest.approx(1)
    names = index.rationales.take(pa.array(found.place.ravel()))["perspective"].to_pylist()
    assert names == list(SIZES)


def test_a_latent_of_no_length_is_like_nothing():
    assert make_index().search(np.zeros((1, 1, 6), np.float32)).similarity.tolist() == [[[0]] * 3]


def test_a_saved_index_opens_as_it_was(tmp_path):
    index = make_index(3)
    index.save(tmp_path / "new" / "index")
    again = ExplanationIndex.open(tmp_path / "new" / "index")
    assert isinstance(again.vectors, np.memmap)
    np.testing.assert_array_equal(again.vectors, index.vectors)
    assert again.rationales.equals(index.rationales)
    assert (again.perspectives, again.latents, again.about) == (index.perspectives, 3, index.about)
    asked = np.random.default_rng(2).standard_normal((4, 3, 6))
    np.testing.assert_array_equal(again.search(asked).place, index.search(asked).place)
    assert [path.name for path in tmp_path.glob("new/*")] == ["index"], "nothing half-made is left"


def test_folders_that_are_taken_missing_or_broken_are_refused(tmp_path):
    index = make_index()
    index.save(tmp_path / "index")
    with pytest.raises(UserError, match="is there already"):
        index.save(tmp_path / "index")
    with pytest.raises(UserError, match="no index of explanations; make one with"):
        ExplanationIndex.open(tmp_path)
    np.save(tmp_path / "index" / VECTORS, index.vectors[:-1])
    with pytest.raises(UserError, match=r"a broken index \(69 vectors and 70 rationales"):
        ExplanationIndex.open(tmp_path / "index")


def test_rationales_must_stand_by_perspective():
    index = make_index()
    for perspectives in ({"rule": 0, "intent": 0, "structure": 0}, {"intent": 0, "rule": 0}, {"intent": 1, "rule": 0}):
        with pytest.raises(ValueError, match="to be sorted by the perspectives"):
            ExplanationIndex(index.vectors, index.rationales, perspectives, 1)


def test_what_cannot_be_searched_is_refused():
    index = make_index()
    for neighbours in (0, 8):
        with pytest.raises(UserError, match=rf"neighbours {neighbours}: 1 to .*'structure': 7"):
            index.search(np.ones((1, 1, 6)), neighbours)
    for shape in ((1, 3, 6), (1, 1, 5), (1, 6)):
        with pytest.raises(ValueError, match=r"latents \(N, 1, 6\) are wanted"):
            index.search(np.ones(shape))


def test_a_server_that_opens_an_index_needs_no_torch():
    code = "import sys, lrkd.evaluate.explain.index; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "lightning", "transformers", "sklearn"} & set(modules)
