"""What `export` writes, and what its two gates refuse."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported_students import make_run, make_student, root_that_agrees
from torch import nn

import lrkd
from lrkd.__main__ import main
from lrkd.data.pair_tokens import PairLayout
from lrkd.errors import UserError
from lrkd.extractors import Extractor
from lrkd.runs import read_run
from lrkd.serve import Scorer, exporting
from lrkd.serve.export import export_student
from lrkd.serve.exporting import load_student
from lrkd.serve.int8 import Int8Linear, input_ranges, to_int8
from lrkd.serve.parity import BATCHES, random_batch, sweep
from lrkd.serve.split_gate import labelled_rows


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
    seen = exporting.input_ranges  # the graph agrees with torch's integers, but calibration saw too little

    def too_small(*given):
        return {name: (low / 50, high / 50) for name, (low, high) in seen(*given).items()}

    monkeypatch.setattr(exporting, "input_ranges", too_small)
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
        linear.weight.copy_(torch.tensor([[127.0, -0.7], [0.5, 0.125]]))
        linear.bias.copy_(torch.tensor([10.0, 20.0]))
    # Inputs from -51 to 204 have steps of 1, and 0 is 51. Scales of the outputs: 1 and 0.5 / 127; the integers: 127, -1
    # and 127, 32 (31.75).
    layer = Int8Linear(linear, torch.tensor([-51.0, 0.0]), torch.tensor([204.0, 100.0]))
    assert (layer.step, layer.zero, layer.inverse) == (1, 51, None)
    assert layer.matrix.T.tolist() == [[127, -1], [127, 32]]
    # Row (100, 2.5): integers 100, 2 (to even). Zeros: zeros. What is beyond calibration is held at 204, -51.
    found = layer(torch.tensor([[[100.0, 2.5]], [[0.0, 0.0]], [[1000.0, -1000.0]]]))
    expected = [
        [127 * 100 - 2 + 10, 0.5 / 127 * (127 * 100 + 32 * 2) + 20],
        [10, 20],
        [127 * 204 + 51 + 10, 0.5 / 127 * (127 * 204 - 32 * 51) + 20],
    ]
    torch.testing.assert_close(found, torch.tensor(expected).unsqueeze(1))


def test_int8_inputs_get_a_scale_each_where_one_is_extreme_by_hand():
    linear = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0.5, 0.01]]))
    high = torch.tensor([1.0, 2.0, 100.0])  # 100 is 50 times the median
    layer = Int8Linear(linear, -high, high)
    # Divided by 1, 2 and 100 all are between -1 and 1, in steps of 2 / 255; the weights become 1, 1, 1, or 127 each.
    assert layer.matrix.T.tolist() == [[127, 127, 127]]
    found = layer(torch.tensor([[0.5, -1.0, 50.0], [1.0, 2.0, 0.0]]))  # integers 64, -64, 64 (63.75) and 127, 127, 0
    torch.testing.assert_close(found, torch.tensor([[64.0], [254.0]]) * 2 / 255)
    assert Int8Linear(linear, -high.clamp_max(20), high.clamp_max(20)).inverse is None, "10 times is not yet extreme"


@pytest.mark.parametrize("loudest", [0.5, 3.0])  # powers of ten, to the most quiet input
def test_int8_is_exact_to_the_rounding_of_inputs_with_very_different_ranges(loudest):
    torch.manual_seed(0)
    linear = nn.Linear(64, 16)
    x = torch.randn(500, 64) * torch.logspace(0, loudest, 64)
    layer = Int8Linear(linear, *x.aminmax(dim=0))
    assert (layer(x) - linear(x)).std() / linear(x).std() < 0.02


def test_int8_scales_of_their_own_keep_quiet_inputs_beside_extreme_ones(monkeypatch):
    torch.manual_seed(0)
    linear = nn.Linear(64, 16)
    quiet = torch.randn(500, 64) * (torch.arange(64) < 60)
    seen = quiet + 50 * torch.randn(500, 64) * (torch.arange(64) >= 60)
    own = Int8Linear(linear, *seen.aminmax(dim=0))
    monkeypatch.setattr("lrkd.serve.int8.EXTREME", float("inf"))
    common = Int8Linear(linear, *seen.aminmax(dim=0))
    errors = [float((layer(quiet) - linear(quiet)).std()) for layer in (own, common)]
    assert errors[0] < errors[1] / 2


def test_int8_of_inputs_of_one_sign_uses_all_levels():
    torch.manual_seed(0)
    linear = nn.Linear(8, 8)
    x = torch.rand(200, 8)
    layer = Int8Linear(linear, *x.aminmax(dim=0))
    assert (layer.zero, layer.step) == (0, pytest.approx(float(x.max()) / 255))


def test_an_input_that_calibration_never_saw_active_keeps_a_hundredth_of_the_largest_range():
    linear = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(2))
    layer = Int8Linear(linear, torch.tensor([-100.0, 0.0]), torch.tensor([100.0, 0.0]))
    found = layer(torch.tensor([[0.0, 0.5], [0.0, 5.0]]))
    torch.testing.assert_close(found[:, 1], torch.tensor([0.5, 1.0]), rtol=0.02, atol=0)


def test_calibration_sees_the_range_of_every_input_over_all_batches():
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.ModuleDict({"idle": nn.Linear(2, 2)}))
    batches = [torch.tensor([[[1.0, -5.0]]]), torch.tensor([[[-2.0, 3.0]], [[0.5, 0.0]]])]
    found = input_ranges(module, lambda: [module[0](batch) for batch in batches])
    ranges = {name: [values.tolist() for values in pair] for name, pair in found.items()}
    assert ranges == {"0": [[-2.0, -5.0], [1.0, 3.0]]}
    to_int8(module, found)
    assert [type(module[0]), type(module[2]["idle"])] == [Int8Linear, nn.Linear], "what was not called stays"
    module[0](100 * batches[0])
    assert found["0"][1].tolist() == [1.0, 3.0], "nothing watches any more"


def test_int8_is_calibrated_on_training_pairs_alone(run, tmp_path, monkeypatch):
    student, data = load_student(read_run(run))
    labelled_rows(student, data, "val", 1000)
    seen = []
    monkeypatch.setattr(exporting, "CALIBRATION_PAIRS", 10)
    monkeypatch.setattr(exporting, "student_logits", lambda s, t, rows: seen.append(rows))
    exporting.int8_student(student, data)
    assert len(seen[0]) == len(set(seen[0])) == 10
    assert set(seen[0]) <= set(data.rows("train"))
    monkeypatch.setattr(data, "rows", lambda split: np.array([], int))
    with pytest.raises(UserError, match="calibrated on training pairs, and has none here"):
        exporting.int8_student(student, data)


def test_int8_replaces_all_linear_layers_of_the_encoder_and_only_these(run):
    student, data = load_student(read_run(run))
    labelled_rows(student, data, "val", 1000)
    integers = exporting.int8_student(student, data)
    kinds = [type(m) for m in integers.encoder.modules() if isinstance(m, nn.Linear | Int8Linear)]
    assert kinds == [Int8Linear] * 2 * 6
    assert [type(m) for m in (integers.head, integers.extractor.outer)] == [nn.Linear, nn.Linear]
    assert not [m for m in student.modules() if isinstance(m, Int8Linear)], "a copy"


def test_int8_graph_has_integers_where_float_has_none(exported):
    sizes = {p: (exported("mlp", p)[1] / "model.onnx").read_bytes() for p in ("float32", "int8")}
    assert b"MatMulIntegerToFloat" in sizes["int8"]
    assert b"MatMulIntegerToFloat" not in sizes["float32"]
    assert str(Path(lrkd.__file__).parent).encode() not in sizes["float32"], "nothing of this machine"
    assert len(sizes["int8"]) < len(sizes["float32"])


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_no_transposes_are_around_the_encoders_attention(exported, precision):
    kinds = [node.op_type for node in onnx.load(exported("mlp", precision)[1] / "model.onnx").graph.node]
    assert kinds.count("Attention") == 2
    assert "Transpose" not in kinds
