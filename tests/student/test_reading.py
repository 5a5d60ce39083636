"""Texts at inference are read as the training data was."""

import numpy as np
import pytest
import torch

from lrkd.data.pairs import read_pairs
from lrkd.data.triples import TripleDataModule
from lrkd.data.types import LabelSet
from lrkd.evaluate.features import student_features
from lrkd.student import StudentLRKD
from lrkd.student.reading import PairReader, token_batch

TEXT = {"item_text": "{title} by {brand}", "max_length": 14, "query_cap": 4}
ROWS = np.array([3, 17, 0, 23, 8])


@pytest.fixture(params=["tiny_encoder", "tiny_roberta"])
def student(request):
    torch.manual_seed(0)
    labels = LabelSet.load("esci").to_dict()
    extractor = {"class_path": "lrkd.extractors.MLPExtractor"}
    encoder = request.getfixturevalue(request.param)
    model = StudentLRKD(encoder, label_set=labels, extractor=extractor, num_perspectives=2, target_size=8, text=TEXT)
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


def read(student, root):
    reader = PairReader(student)
    pairs = read_pairs(root)
    return reader.tokens(pairs["query"].to_pylist(), reader.item_text.render_table(pairs))


def test_tokens_are_those_of_the_data_module(student, tiny_root, tmp_path):
    data = TripleDataModule(str(tiny_root), student.hparams["encoder"], cache_dir=str(tmp_path), **TEXT)
    data.setup("predict")
    mine, theirs = read(student, tiny_root).batch(ROWS), data.tokens.batch(ROWS)
    assert mine.keys() == theirs.keys()
    for name in mine:
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)
    assert (mine["mask"].sum(1) == 14).any(), "something is cut"


def test_features_are_the_model_s_in_the_order_asked_for(student, tiny_root):
    student.temperature.fill_(2.0)
    tokens = read(student, tiny_root)
    found = student_features(student, tokens, ROWS, batch_size=2)
    with torch.no_grad():
        for place, row in enumerate(ROWS):
            output = student(token_batch(tokens, np.array([row]), torch.device("cpu")))
            np.testing.assert_allclose(found.state[place], output.tokens.states[0, 0], atol=1e-5)
            np.testing.assert_allclose(found.latents[place], output.latents[0], atol=1e-5)
            np.testing.assert_allclose(found.probabilities[place], (output.logits[0] / 2).softmax(-1), atol=1e-5)


def test_bfloat16_is_close_and_another_pooling_another_state(student, tiny_root):
    tokens = read(student, tiny_root)
    exact, rounded = (student_features(student, tokens, ROWS, precision=p) for p in ("float32", "bfloat16"))
    assert rounded.state.dtype == np.float32
    assert 0 < np.abs(exact.state - rounded.state).max() < 0.1
    student.hparams["pooling"] = "mean"
    assert np.abs(student_features(student, tokens, ROWS).state - exact.state).max() > 0.01


def test_a_student_without_an_extractor_has_no_latents(tiny_encoder, tiny_root):
    model = StudentLRKD(tiny_encoder, label_set=LabelSet.load("esci").to_dict()).eval()
    found = student_features(model, read(model, tiny_root), ROWS)
    assert found.latents is None
    assert found.state.shape == (5, 32)
