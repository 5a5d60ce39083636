"""What stands in the index: training rationales alone, placed as training placed the targets."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lrkd.data.pairs import read_pairs, write_table
from lrkd.data.rationales import read_rationales
from lrkd.data.targets import FINGERPRINT, VECTORS, normalise
from lrkd.data.triples import TripleDataModule
from lrkd.data.types import PAIRS_SCHEMA, RATIONALES_FILE, LabelSet
from lrkd.errors import UserError
from lrkd.evaluate.explain.build import build_index
from lrkd.evaluate.explain.measured import nearest_by_own
from lrkd.evaluate.trained import TrainedStudent
from lrkd.student import StudentLRKD


@pytest.fixture(scope="module")
def opened(small_run):
    return TrainedStudent.open(small_run, device="cpu")


@pytest.fixture
def with_data(opened, small_catalogue, small_run):
    """The student as if it had been trained with other settings of its data."""

    def make(**settings):
        defaults = {
            "root": str(small_catalogue.root), "targets": str(small_catalogue.targets),
            "encoder": opened.model.hparams["encoder"], "cache_dir": str(small_run.parent / "cache"),
            "max_length": 32, "query_cap": 12, "centring": "global",
        }  # fmt: skip
        return replace(opened, data=TripleDataModule(**defaults | settings))

    return make


def number_of(pair_id):
    """The number of a pair's query."""
    return int(pair_id.split("-")[0][1:])


def test_only_rationales_of_training_pairs_are_in_it(opened):  # trap 36
    built = build_index(opened)
    assert {number_of(pair_id) for pair_id in built.index.rationales["pair_id"].to_pylist()} == set(range(10))
    # 10 queries × 3 items × 3 perspectives, of which user_intent's (query + item) % 3 == 0 are wrong: 10.
    assert len(built.rows) == 80
    assert built.left_out["pair does not train"] == 20 * 9
    assert built.left_out["verdict is not gold"] == 10


def test_a_fold_s_index_holds_that_fold_s_training_pairs(with_data):  # trap 36
    student = with_data(fold=1)
    queries = {number_of(pair_id) for pair_id in build_index(student).index.rationales["pair_id"].to_pylist()}
    pairs = student.data.pairs["pair_id"].to_pylist()
    assert queries == {number_of(pairs[row]) for row in student.data.rows("train")}
    assert not queries & {n for n in range(30) if n % 3 == 1}


def test_a_test_pair_s_rationale_is_never_found(with_data, small_catalogue, tmp_path):  # trap 36
    """Every held-out rationale gets the very vector that is looked up."""
    store = Path(shutil.copytree(small_catalogue.targets, tmp_path / "targets"))
    ids = read_rationales(small_catalogue.root)["pair_id"].to_pylist()
    vectors = np.load(store / VECTORS)
    asked = normalise(np.arange(1.0, 9.0, dtype=np.float32))
    vectors[[number_of(pair_id) >= 10 for pair_id in ids]] = asked
    np.save(store / VECTORS, vectors)
    index = build_index(with_data(targets=str(store), centring="none")).index
    found = index.search(asked[None, None])
    assert (found.similarity < 0.999).all()
    pair_ids = index.rationales.take(pa.array(found.place.ravel()))["pair_id"].to_pylist()
    assert all(number_of(pair_id) < 10 for pair_id in pair_ids)


def test_a_query_that_trains_and_tests_is_left_out(with_data, small_catalogue, tmp_path):  # trap 33
    root = Path(shutil.copytree(small_catalogue.root, tmp_path / "root"))
    rows = read_pairs(root).to_pylist()
    shared = next(row["query"] for row in rows if row["pair_id"] == "q3-i0")
    rows = [row | {"query": f"{shared.upper()}!"} if row["pair_id"] == "q20-i0" else row for row in rows]
    write_table(pa.Table.from_pylist(rows, PAIRS_SCHEMA), root / "pairs.parquet", PAIRS_SCHEMA)
    built = build_index(with_data(root=str(root)))
    assert {number_of(pair_id) for pair_id in built.index.rationales["pair_id"].to_pylist()} == set(range(10)) - {3}
    assert built.left_out["query also validates or tests"] == 9


@pytest.mark.parametrize(
    ("centring", "whitening"), [("none", 0.0), ("global", 0.0), ("query", 0.0), ("global", 1.0), ("query", 0.5)]
)
def test_vectors_stand_where_training_put_the_targets(centring, whitening, with_data):
    """A target of one latent a perspective that is made of a single rationale is that rationale's vector."""
    student = with_data(centring=centring, whitening=whitening, target_mode="per_perspective")
    built = build_index(student)
    assert built.index.latents == 3
    assert built.index.perspectives == {"business_rule": 0, "structured_analysis": 1, "user_intent": 2}
    targets, mask = student.data.training_targets.batch(built.rows)
    slot = np.array([built.index.perspectives[name] for name in built.index.rationales["perspective"].to_pylist()])
    assert mask[np.arange(len(slot)), slot].all()
    assert built.index.about["whitening"] == whitening
    np.testing.assert_allclose(built.index.vectors, targets[np.arange(len(slot)), slot], atol=1e-6)


def test_a_unified_latent_s_rationales_are_less_the_mean_of_the_pairs_targets(with_data, small_catalogue):
    built = build_index(with_data(centring="global"))
    rationales = read_rationales(small_catalogue.root).to_pylist()
    vectors = np.load(small_catalogue.targets / VECTORS)
    gold = {row["pair_id"]: row["label"] for row in read_pairs(small_catalogue.root).to_pylist()}
    by_pair = {}
    for row, vector in zip(rationales, vectors, strict=True):
        if number_of(row["pair_id"]) < 10 and row["verdict"] == gold[row["pair_id"]]:
            by_pair.setdefault(row["pair_id"], []).append(vector)
    mean = np.mean([normalise(np.sum(own, axis=0)) for own in by_pair.values()], axis=0)
    key = {(row["pair_id"], row["perspective"]): vector for row, vector in zip(rationales, vectors, strict=True)}
    found = built.index.rationales.to_pylist()
    expected = normalise(np.stack([key[row["pair_id"], row["perspective"]] for row in found]) - mean)
    np.testing.assert_allclose(built.index.vectors, expected, atol=1e-5)


def test_a_unified_latent_s_rationales_are_whitened_as_the_pairs_targets_were(with_data):
    student = with_data(whitening=1.0)
    built = build_index(student)
    matrix = student.data.training_targets.whitening[0]
    plain = build_index(with_data()).index.vectors
    np.testing.assert_allclose(built.index.vectors, normalise(plain @ matrix), atol=1e-5)
    assert np.abs(built.index.vectors - plain).max() > 0.05


def test_only_the_perspectives_that_the_student_learned_from_are_in_it(with_data):
    built = build_index(with_data(perspectives=["user_intent", "business_rule"], target_mode="per_perspective"))
    assert built.index.perspectives == {"business_rule": 0, "user_intent": 1}
    assert built.left_out["perspective not in use"] == 30 * 3


def test_shuffled_targets_leave_the_rationales_with_their_own_pairs(with_data):
    plain, shuffled = (build_index(with_data(shuffled=shuffled)).index for shuffled in (False, True))
    assert shuffled.rationales.equals(plain.rationales)
    np.testing.assert_array_equal(shuffled.vectors, plain.vectors)


@pytest.mark.parametrize("target_mode", ["unified", "per_perspective"])
def test_what_the_teacher_wrote_of_a_pair_finds_itself_if_it_is_there(target_mode, with_data):
    student = with_data(target_mode=target_mode, whitening=1.0)
    built = build_index(student)
    targets, pair_ids = student.data.training_targets, student.data.pairs["pair_id"].to_pylist()
    rows = np.flatnonzero(targets.present.any(1))[::-1]
    found = nearest_by_own(targets, built, rows)
    index = built.index.rationales.to_pylist()
    itself = {(row["pair_id"], row["perspective"]) for row in index}
    for row, places in zip(rows, found, strict=True):
        for perspective, place in zip(built.index.perspectives, places, strict=True):
            assert index[place]["perspective"] == perspective
            if (pair_ids[row], perspective) in itself:
                assert index[place]["pair_id"] == pair_ids[row]
            else:
                assert number_of(index[place]["pair_id"]) < 10
    assert (nearest_by_own(targets, built, np.flatnonzero(~targets.present.any(1))) == -1).all()


def test_rationales_beside_the_data_root_are_read_and_may_have_moved(small_run, small_catalogue, tmp_path):
    root = Path(shutil.copytree(small_catalogue.root, tmp_path / "root"))
    (root / RATIONALES_FILE).rename(tmp_path / "teacher.parquet")
    with pytest.raises(UserError, match=r"rationales.parquet: no such file"):
        build_index(TrainedStudent.open(small_run, root=root, device="cpu"))
    student = TrainedStudent.open(small_run, root=root, rationales=tmp_path / "teacher.parquet", device="cpu")
    assert len(build_index(student).rows) == 80


def test_every_vector_has_its_own_text_pair_and_gold_label(with_data, small_catalogue):
    built = build_index(with_data(centring="none"))
    pairs = {row["pair_id"]: row for row in read_pairs(small_catalogue.root).to_pylist()}
    vectors = np.load(small_catalogue.targets / VECTORS)
    rationales = read_rationales(small_catalogue.root).to_pylist()
    place = {(row["pair_id"], row["perspective"]): n for n, row in enumerate(rationales)}
    for number, row in enumerate(built.index.rationales.to_pylist()):
        mine = place[row["pair_id"], row["perspective"]]
        np.testing.assert_allclose(built.index.vectors[number], vectors[mine], atol=1e-6)
        assert row["rationale"] == rationales[mine]["rationale"]
        assert row["verdict"] == rationales[mine]["verdict"] == row["label"] == pairs[row["pair_id"]]["label"]
        assert (row["query"], row["title"]) == (pairs[row["pair_id"]]["query"], pairs[row["pair_id"]]["title"])


def test_wrong_rationales_are_in_it_where_the_student_learned_from_them(with_data):
    every = build_index(with_data(consistent=False))
    assert len(every.rows) == 90
    assert build_index(with_data(consistent=False), consistent=True).left_out["verdict is not gold"] == 10


def test_a_perspective_without_a_training_rationale_is_not_searched(with_data, small_catalogue, tmp_path):
    root = Path(shutil.copytree(small_catalogue.root, tmp_path / "root"))
    wrong = {f"q{n}-i{i}" for n in range(10) for i in range(4) if (n + i) % 3 == 0}
    rows = [row for row in read_pairs(root).to_pylist() if number_of(row["pair_id"]) >= 10 or row["pair_id"] in wrong]
    write_table(pa.Table.from_pylist(rows, PAIRS_SCHEMA), root / "pairs.parquet", PAIRS_SCHEMA)
    index = build_index(with_data(root=str(root), target_mode="per_perspective")).index
    assert index.perspectives == {"business_rule": 0, "structured_analysis": 1}
    assert index.latents == 3
    assert index.search(np.ones((1, 3, 8))).place.shape == (1, 2, 1)


def changed_settings(folder):
    made = json.loads((folder / FINGERPRINT).read_text())
    (folder / FINGERPRINT).write_text(json.dumps(made | {"pooling": "cls"}))


def changed_weights(folder):
    made = json.loads((folder / FINGERPRINT).read_text())
    (folder / FINGERPRINT).write_text(json.dumps(made | {"weights": "another"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed_settings, 'target_settings .*"pooling": "none".* when trained, .*"cls"'),
        (changed_weights, "target_weights none when"),
    ],
)
def test_targets_made_otherwise_are_refused(change, message, with_data, small_catalogue, tmp_path):  # trap 45
    store = Path(shutil.copytree(small_catalogue.targets, tmp_path / "targets"))
    change(store)
    with pytest.raises(UserError, match=f"other targets than .* was trained on .*{message}"):
        build_index(with_data(targets=str(store)))


def test_other_pairs_than_the_run_s_are_refused(small_run, small_catalogue, tmp_path):
    root = Path(shutil.copytree(small_catalogue.root, tmp_path / "root"))
    rows = [row | {"title": "mug"} for row in read_pairs(root).to_pylist()]
    write_table(pa.Table.from_pylist(rows, PAIRS_SCHEMA), root / "pairs.parquet", PAIRS_SCHEMA)
    with pytest.raises(UserError, match=r"not the pairs that .* was trained on \(other SHA-256\)"):
        TrainedStudent.open(small_run, root=root)


@pytest.mark.parametrize(
    "extractor", [None, {"class_path": "lrkd.extractors.MLPExtractor"}], ids=["encoder", "unguided"]
)
def test_a_student_without_guidance_is_refused(extractor, opened, tiny_encoder):
    model = StudentLRKD(tiny_encoder, label_set=LabelSet.load("esci").to_dict(), extractor=extractor)
    with pytest.raises(UserError, match="a student without guidance"):
        build_index(replace(opened, model=model))


def test_a_run_without_its_settings_or_of_a_teacher_is_refused(small_run, tmp_path):
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("lrkd.student.StudentLRKD", "lrkd.teacher.TeacherSFT"))
    with pytest.raises(UserError, match=r"config.yaml: model: lrkd.teacher.TeacherSFT is not a subclass of"):
        TrainedStudent.open(run)
    (run / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"config.yaml: no such file; `python -m lrkd fit` writes it"):
        TrainedStudent.open(run)
