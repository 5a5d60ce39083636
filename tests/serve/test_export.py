"""What `export` writes, and what its two gates refuse."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_students import make_run, make_student, root_that_agrees
from torch import nn

import lrkd
from lrkd.__main__ import main
from lrkd.data.pair_tokens import PairLayout
from lrkd.errors import UserError
from lrkd.extractors import Extractor
from lrkd.serve import Scorer, int8
from lrkd.serve.export import export_student
from lrkd.serve.int8 import Int8Linear, to_int8
from lrkd.serve.parity import BATCHES, random_batch, sweep


@pytest.fixture(scope="module")
def run(tiny_encoder, tiny_root, tmp_path_factory):
    """The run of a student with an MLP, on data in which it is always right."""
    place = tmp_path_factory.mktemp("run")
    student = make_student(tiny_encoder, "mlp")
    root = root_that_agrees(place / "root", tiny_root, student, place / "cache")
    return make_run(place / "lrkd_mlp", student, root, place / "cache")


def test_a_folder_holds_what_serving_needs(exported, capsys):
    student, folder = exported("poly")
    assert {path.name for path in folder.iterdir()} == {
        "model.onnx", "tokenizer.json", "card.json", "README.md", "cross_encoder",
    }  # fmt: skip
    card = Scorer(folder).card
    assert (card.method, card.precision, card.latents) == ("poly", "float32", ("latent 1", "latent 2", "latent 3"))
    assert card.label_set == student.label_set
    assert card.temperature == pytest.approx(1.7)
    assert (card.item_text.template, card.max_length, card.query_cap) == ("{title}", 32, 12)
    assert card.versions.keys() >= {"lrkd", "torch", "onnxruntime"}
    assert card.checks["parity"]["shapes"] == 31
    assert card.checks["parity"]["longest"] == 32
    assert 0 < card.checks["parity"]["logits"] < 1e-4
    assert card.checks["split"]["pairs"] == 24
    assert card.checks["split"]["macro_f1"] == card.checks["split"]["macro_f1_torch"]
    assert card.source["data"]["fingerprint"]
    assert re.fullmatch("[0-9a-f]{64}", card.fingerprint)


def test_model_card_has_the_numbers(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "lrkd_mlp")
    label_set = json.loads((copy / "run.json").read_text())["label_set"]
    names = ["accuracy", "macro_f1", "auroc", "ece", "ece_uncalibrated", "ndcg@10", "temperature", "pairs"]
    names += [f"f1/{label}" for label in label_set["labels"]]
    names += ["majority/accuracy", "majority/macro_f1", "majority/ndcg@10"]
    metrics = {name: 0.1234 + number / 100 for number, name in enumerate(names)} | {"pairs": 24, "auroc": None}
    (copy / "test_metrics.json").write_text(json.dumps(metrics))
    main(["export", "--run", str(copy), "--out", str(tmp_path / "out"), "--cross_encoder", "false"])
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| Macro-F1 ↑ | 0.1334 | 0.2534 |" in text, "beside it the row that always says the majority label"
    assert "| test (24 pairs) | test, always the majority label |" in text
    assert "| AUROC ↑ |  |  |" in text
    assert "31 shapes up to 32 tokens" in text
    assert "on 24 pairs of val its macro-F1 is" in text
    assert "cross_encoder" not in text
    assert Scorer(tmp_path / "out").card.fingerprint in text
    assert "{" not in re.sub(r"`[^`]*`|```.*?```|^- .*$", "", text, flags=re.DOTALL | re.MULTILINE)


def test_a_folder_that_is_there_and_a_run_of_no_student_are_refused(run, tmp_path):
    with pytest.raises(UserError, match="is there already"):
        export_student(run=run, out=tmp_path)
    copy = shutil.copytree(run, tmp_path / "copy")
    config = (copy / "config.yaml").read_text().replace("lrkd.student.lrkd.StudentLRKD", "lrkd.teacher.TeacherSFT")
    (copy / "config.yaml").write_text(config)
    with pytest.raises(UserError, match=r"model: lrkd\.teacher\.TeacherSFT is not a subclass of .*StudentLRKD"):
        export_student(run=copy, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The first gate


def test_random_batches_are_laid_out_as_the_tokenizer_does():
    layout = PairLayout(np.array([100]), np.array([101]), np.array([102]), (0, 0, 0, 1, 1), pad=0)
    for rows, length in [(1, 2), (1, 3), (8, 4), (5, 31)]:
        batch = random_batch(layout, rows, length, 90, np.random.default_rng(0))
        assert {array.shape for array in batch.values()} == {(rows, length)}
        assert batch["mask"][0].all()
        assert (batch["ids"][:, 0] == 100).all()
        assert (batch["ids"][batch["segments"] >= 0] < 90).all()
    assert not batch["mask"].all(), "some rows are shorter"
    assert set(batch["segments"][0].tolist()) == {-1, 0, 1}
    queries, items = (set(batch["ids"][batch["segments"] == side].tolist()) for side in (0, 1))
    assert queries & items, "query and item have words in common, which graphs link"


class Doubles(nn.Module):
    """Stands in for a student: logits are twice the mean id, latents the ids' sum."""

    def forward(self, ids, mask, segments, type_ids):
        return ids.float().mean(1, keepdim=True) * 2, ids.sum(1).float().reshape(-1, 1, 1) / 1000


def gate(fault, tolerance=1e-3):
    layout = PairLayout(np.array([100]), np.array([101]), np.array([102]), (0, 0, 0, 1, 1), pad=0)
    shapes = []

    def run(batch):
        shapes.append(batch["ids"].shape)
        found = [array.numpy() for array in Doubles()(**{k: torch.from_numpy(v) for k, v in batch.items()})]
        return fault(found, len(shapes), *batch["ids"].shape)

    return sweep(Doubles(), run, layout, longest=20, vocabulary=90, tolerance=tolerance), shapes


def test_every_length_and_batch_size_is_compared():  # trap 43
    parity, shapes = gate(lambda found, *_: [found[0] + 2e-4, found[1] - 3e-4])
    assert [length for _, length in shapes] == list(range(2, 21))
    assert {rows for rows, _ in shapes} == set(BATCHES) >= {1, 3, 5}
    assert parity.shapes == 19
    assert parity.logits == pytest.approx(2e-4, rel=0.1)
    assert parity.latents == pytest.approx(3e-4, rel=0.1)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            lambda found, _, rows, length: [found[0] + 0.5 * (length == 7), found[1]],
            "length 7: by 0.5 in logits and 0 in",
        ),
        (
            lambda found, _, rows, length: [found[0], found[1] + 0.25 * (rows == 8)],
            "batch 8, length 6: .*0.25 in latents",
        ),
        (lambda found, *_: [found[0] * np.nan, found[1]], "batch 1, length 2: by inf in logits"),
    ],
)
def test_a_graph_that_differs_anywhere_is_refused_by_how_much(fault, message):
    with pytest.raises(UserError, match=message):
        gate(fault)


def test_a_tie_in_one_draw_of_tokens_is_no_fault():
    _, shapes = gate(lambda found, call, *_: [found[0] + (call == 5), found[1]])
    assert shapes[4] == shapes[5], "drawn again at the same shape"


class Branches(Extractor):
    """Cannot be traced: what it computes depends on a value."""

    def forward(self, tokens):
        mean = tokens.mean()
        if mean.sum().item() > 0:
            mean = -mean
        return mean[:, None, : self.target_size].repeat(1, self.num_perspectives, 1)


def test_an_extractor_that_cannot_be_traced_is_named(tiny_encoder, tiny_root, tmp_path):
    spec = {"class_path": f"{__name__}.Branches"}
    student = make_student(tiny_encoder, extractor=spec)
    run = make_run(tmp_path / "branches", student, tiny_root, tmp_path / "cache")
    with pytest.raises(UserError, match=r"the student with Branches cannot be exported: .*ExtractorContract"):
        export_student(run=run, out=tmp_path / "out", cross_encoder=False)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


# The second gate


def test_an_export_that_loses_is_refused_by_how_much(run, tmp_path, monkeypatch, capsys):  # trap 43
    monkeypatch.setattr(int8, "LEVELS", 1)  # the graph agrees with torch's integers, but they have three values
    arguments = ["export", "--run", str(run), "--out", str(tmp_path / "out"), "--precision", "int8"]
    with pytest.raises(SystemExit):
        main(arguments)
    assert list(tmp_path.iterdir()) == []
    found = re.search(
        r"macro-F1 on 24 pairs of val is (0\.\d+), the student's in torch (\d\.\d+): (\d+\.\d\d) points less, "
        r"where 0\.50 are allowed \(--max_drop\); (\d+) labels changed\. Nothing was written",
        capsys.readouterr().err,
    )
    exported, student, points = map(float, found.groups()[:3])
    assert points == pytest.approx(100 * (student - exported), abs=0.02)
    assert int(found[4]) > 0
    main([*arguments, "--max_drop", "1", "--cross_encoder", "false"])
    assert Scorer(tmp_path / "out").card.checks["split"]["macro_f1"] == pytest.approx(exported, abs=1e-4)


def test_the_gate_takes_the_split_and_root_that_are_given(run, tiny_root, tmp_path, exported):
    student, _ = exported("mlp")
    root = root_that_agrees(tmp_path / "other", tiny_root, student, tmp_path / "cache", split="test")
    out = tmp_path / "out"
    with pytest.raises(UserError, match="no labelled pair in split 'val'"):
        export_student(run=run, out=out, root=str(root))
    export_student(run=run, out=out, root=str(root), split="test", max_pairs=10, cross_encoder=False)
    found = Scorer(out).card.checks["split"]
    assert (found["split"], found["pairs"], found["labels_changed"]) == ("test", 10, 0)


# Integers


def test_int8_product_by_hand():
    linear = nn.Linear(2, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[127.0, -1.4], [0.5, 0.25]]))
        linear.bias.copy_(torch.tensor([10.0, 20.0]))
    # Scales of the outputs: 1 and 0.5 / 127; the integers: 127, -1 and 127, 64 (63.5 rounds to even).
    # Row (254, 3): scale 2; integers 127, 2 (1.5 rounds to even). Row of zeros: zeros.
    layer = Int8Linear(linear)
    assert layer.matrix.T.tolist() == [[127, -1], [127, 64]]
    found = layer(torch.tensor([[[254.0, 3.0]], [[0.0, 0.0]]]))
    expected = [
        [2 * 1 * (127 * 127 - 2) + 10, 2 * 0.5 / 127 * (127 * 127 + 2 * 64) + 20],
        [10, 20],
    ]
    torch.testing.assert_close(found, torch.tensor(expected).unsqueeze(1))


def test_int8_replaces_all_linear_layers_of_the_encoder_and_only_these(tiny_encoder):
    student = make_student(tiny_encoder, "mlp")
    assert to_int8(student.encoder) == 2 * 6
    assert not [m for m in student.encoder.modules() if type(m) is nn.Linear]
    assert [type(m) for m in (student.head, student.extractor.outer)] == [nn.Linear, nn.Linear]


def test_int8_graph_has_integers_where_float_has_none(exported):
    sizes = {p: (exported("mlp", p)[1] / "model.onnx").read_bytes() for p in ("float32", "int8")}
    assert b"MatMulIntegerToFloat" in sizes["int8"]
    assert b"MatMulIntegerToFloat" not in sizes["float32"]
    assert str(Path(lrkd.__file__).parent).encode() not in sizes["float32"], "nothing of this machine"
    assert len(sizes["int8"]) < len(sizes["float32"])
