"""StudentLRKD without the command line."""

import functools
import inspect

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from lrkd.data.triples import TripleDataModule
from lrkd.data.types import LabelSet, StepTotals, TripleBatch
from lrkd.errors import UserError
from lrkd.extractors import MLPExtractor
from lrkd.losses import MSEGuidance, info_nce, soft_label_divergence
from lrkd.student import StudentLRKD

MLP = {"class_path": "lrkd.extractors.MLPExtractor"}
MSE = {"class_path": "lrkd.losses.MSEGuidance"}
NCE = {"class_path": "lrkd.losses.InfoNCEGuidance"}
ESCI = LabelSet.load("esci").to_dict()
R = 8


@pytest.fixture
def student(tiny_encoder):
    def make(**arguments):
        torch.manual_seed(0)
        defaults = {"label_set": ESCI, "target_size": R, "extractor": MLP, "guidance": MSE}
        return StudentLRKD(tiny_encoder, **(defaults | arguments))

    return make


@pytest.fixture
def data(tiny_encoder, tiny_root, tiny_targets, tmp_path):
    def make(**arguments):
        defaults = {
            "targets": str(tiny_targets),
            "cache_dir": str(tmp_path / "cache"),
            "batch_size": 4,
            "max_length": 32,
            "query_cap": 12,
        }
        return TripleDataModule(str(tiny_root), tiny_encoder, **(defaults | arguments))

    return make


def trainer(tmp_path, **arguments):
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    defaults = quiet | {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1}
    return L.Trainer(default_root_dir=tmp_path, **(defaults | arguments))


def fit(model, data, tmp_path, **arguments):
    L.seed_everything(0)
    run = trainer(tmp_path, **arguments)
    run.fit(model, datamodule=data)
    return run


def a_batch(targets=None, mask=None, rows=3, length=9):
    generator = torch.Generator().manual_seed(0)
    attention = torch.arange(length).expand(rows, length) < torch.tensor([length, length - 2, length - 4])[:rows, None]
    return TripleBatch(
        row=torch.arange(rows),
        query=torch.zeros(rows, dtype=torch.long),
        ids=torch.randint(5, 100, (rows, length), generator=generator).masked_fill(~attention, 0),
        mask=attention,
        segments=torch.where(attention, 1, -1),
        type_ids=torch.zeros(rows, length, dtype=torch.long),
        label=torch.tensor([0, 1, 3])[:rows],
        targets=targets,
        target_mask=mask,
    )


def losses(model, batch, **hparams):
    """The training loss and logged values of one batch, without a trainer's loop."""
    model.trainer = L.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu", enable_checkpointing=False)
    logged = {}
    model.log_dict = lambda values, **_: logged.update(values)
    model.log = lambda *_, **__: None
    return model.training_step(batch, 0), logged


def test_loss_is_ce_plus_weighted_mean_guidance_over_the_targets_there_are(student):  # traps 19 and 25
    targets = F.normalize(torch.randn(3, 1, R), dim=-1)
    mask = torch.tensor([[True], [False], [True]])
    model = student(guidance_weight=0.5).eval()
    batch = a_batch(targets, mask)
    output = model(batch)
    loss, logged = losses(model, batch)
    ce = F.cross_entropy(output.logits, batch.label)
    guidance = (output.latents - targets).square().sum(-1)[mask].mean()
    torch.testing.assert_close(loss, ce + 0.5 * guidance)
    torch.testing.assert_close(logged["train/guidance"], guidance.detach())


def test_mean_reduction_is_r_times_smaller(student):  # trap 19
    targets, mask = F.normalize(torch.randn(3, 1, R), dim=-1), torch.ones(3, 1, dtype=torch.bool)
    sums = losses(student().eval(), a_batch(targets, mask))[1]["train/guidance"]
    means = losses(
        student(guidance={"class_path": "lrkd.losses.MSEGuidance", "init_args": {"reduction": "mean"}}).eval(),
        a_batch(targets, mask),
    )[1]["train/guidance"]
    torch.testing.assert_close(sums, means * R)


def test_gradient_ratio_is_that_of_the_two_losses_at_the_last_states(student):  # trap 19
    targets, mask = F.normalize(torch.randn(3, 1, R), dim=-1), torch.ones(3, 1, dtype=torch.bool)
    model = student(guidance_weight=0.5).eval()
    batch = a_batch(targets, mask)
    output = model(batch)
    guidance = 0.5 * (output.latents - targets).square().sum(-1).mean()
    ce = F.cross_entropy(output.logits, batch.label)
    (g,) = torch.autograd.grad(guidance, output.tokens.states, retain_graph=True)
    (c,) = torch.autograd.grad(ce, output.tokens.states)
    torch.testing.assert_close(losses(model, batch)[1]["train/grad_ratio"], g.norm() / c.norm())


def test_batch_without_any_target_is_finite_and_trains_on_labels(student):  # trap 25
    loss, logged = losses(student().eval(), a_batch(torch.zeros(3, 1, R), torch.zeros(3, 1, dtype=torch.bool)))
    assert torch.isfinite(loss)
    assert logged["train/guidance"] == 0
    torch.testing.assert_close(loss.detach(), logged["train/ce"])


def part(batch, rows, **changes):
    """Some rows of a batch."""
    taken = {k: v[rows] for k, v in vars(batch).items() if isinstance(v, torch.Tensor)}
    return TripleBatch(**(taken | changes))


def test_accumulated_parts_have_the_gradient_of_one_batch(student):  # traps 1, 2 and 25
    # Two accumulated batches of 1 and 2 pairs with 1 and 1 targets, and class weights 1, 2, 3, 4 for labels 0, 1, 3:
    # CE divides by 1 + 2 + 4 = 7 in both, guidance by 2; Lightning then divides each loss by the 2 batches.
    targets, mask = F.normalize(torch.randn(3, 1, R), dim=-1), torch.tensor([[True], [False], [True]])
    model = student(guidance_weight=0.5, class_weights=[1.0, 2.0, 3.0, 4.0]).eval()
    whole = a_batch(targets, mask)
    step = StepTotals(torch.tensor([1, 1, 0, 1]), torch.tensor(2.0), torch.tensor(2))
    parts = [part(whole, slice(0, 1), step=step), part(whole, slice(1, 3), step=step)]
    output = model(whole)
    each = F.cross_entropy(output.logits, whole.label, reduction="none") * torch.tensor([1.0, 2.0, 4.0])
    guidance = (output.latents - targets).square().sum((1, 2))
    expected = each.sum() / 7 + 0.5 * (guidance[0] + guidance[2]) / 2
    wanted = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    loss = sum(losses(model, one)[0] for one in parts) / 2
    torch.testing.assert_close(loss, expected)
    for got, want in zip(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True), wanted, strict=True):
        torch.testing.assert_close(got, want)


class Merged(TripleDataModule):
    """Batches of a whole optimiser step, as one."""

    def train_dataloader(self):
        loader = super().train_dataloader()
        loader.sampler.accumulate = self.every
        requests = list(loader.sampler)
        first = [r._replace(rows=r.step_rows, step_batches=1) for r in requests[:: self.every]]
        return DataLoader([loader.dataset[request] for request in first], batch_size=None)


class Gradients(L.Callback):
    def __init__(self):
        self.steps = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.steps.append({name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None})


def test_steps_of_accumulated_batches_are_steps_of_larger_batches(student, data, tmp_path):  # traps 2 and 25
    # 12 pairs in batches of 2, four a step: steps of 8 and of 4 pairs (the last, shorter one). The weights stand still.
    still = {"model_type": "bert", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = student(
        encoder_config=student().encoder.config.to_diff_dict() | still, extractor=MLP | {"init_args": {"dropout": 0.0}},
        dropout=0.0, class_weights="balanced", encoder_lr=0.0, head_lr=0.0,
    )  # fmt: skip
    accumulated, merged = Gradients(), Gradients()
    quick = {"max_epochs": 1, "limit_val_batches": 0}
    fit(model, data(batch_size=2), tmp_path, accumulate_grad_batches=4, callbacks=[accumulated], **quick)
    whole = data(batch_size=2)
    whole.__class__, whole.every = Merged, 4
    fit(model, whole, tmp_path, callbacks=[merged], **quick)
    assert len(accumulated.steps) == len(merged.steps) == 2
    for one, other in zip(accumulated.steps, merged.steps, strict=True):
        assert one.keys() == other.keys()
        for name, gradient in one.items():
            torch.testing.assert_close(gradient, other[name], rtol=1e-4, atol=1e-6)


def test_targets_count_by_their_weight(student):
    targets, mask = F.normalize(torch.randn(3, 1, R), dim=-1), torch.tensor([[True], [False], [True]])
    batch = a_batch(targets, mask)
    batch.target_weight = torch.tensor([[3.0], [0.0], [1.0]])
    model = student(guidance_weight=0.5).eval()
    each = (model(batch).latents - targets).square().sum(-1)
    _, logged = losses(model, batch)
    torch.testing.assert_close(logged["train/guidance"], ((3 * each[0] + each[2]) / 4).squeeze().detach())


def test_guidance_sees_negatives(student):
    targets, mask = F.normalize(torch.randn(3, 1, R), dim=-1), torch.ones(3, 1, dtype=torch.bool)
    batch = a_batch(targets, mask)
    model = student(guidance=NCE).eval()
    latents = model(batch).latents
    without = losses(model, batch)[1]["train/guidance"]
    batch.negatives, batch.negative_mask = torch.randn(3, 1, 2, R), torch.ones(3, 1, 2, dtype=torch.bool)
    with_them = losses(model, batch)[1]["train/guidance"]
    expected = info_nce(latents, targets, mask, negatives=batch.negatives, negative_mask=batch.negative_mask).mean()
    torch.testing.assert_close(with_them, expected.detach())
    assert with_them > without


@pytest.mark.parametrize("guidance", [None, MSE])
def test_negatives_that_no_guidance_takes_are_refused(guidance, student, data, tmp_path):
    with pytest.raises(UserError, match="takes no negatives"):
        fit(student(guidance=guidance), data(neighbour_negatives=2), tmp_path)


def test_soft_labels_add_their_weighted_mean_over_the_pairs_that_have_some(student):  # trap 27
    batch = a_batch()
    batch.soft_label = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.0] * 4, [0.0, 0.5, 0.5, 0.0]])
    batch.soft_mask = torch.tensor([True, False, True])
    model = student(guidance=None, soft_label_weight=0.3, soft_label_temperature=2.0).eval()
    logits = model(batch).logits
    loss, logged = losses(model, batch)
    each = soft_label_divergence(logits, batch.soft_label, 2.0)
    torch.testing.assert_close(logged["train/soft_labels"], ((each[0] + each[2]) / 2).detach())
    torch.testing.assert_close(loss, F.cross_entropy(logits, batch.label) + 0.3 * (each[0] + each[2]) / 2)


def test_a_batch_without_any_soft_or_gold_label_is_finite(student):  # trap 25
    batch = a_batch()
    batch.soft_label, batch.soft_mask = torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool)
    model = student(guidance=None).eval()
    loss, logged = losses(model, batch)
    assert logged["train/soft_labels"] == 0
    torch.testing.assert_close(loss.detach(), logged["train/ce"])
    batch.label = torch.full((3,), -1)
    loss, _ = losses(model, batch)
    assert loss == 0
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_accumulated_soft_labels_have_the_gradient_of_one_batch(student):  # traps 1 and 25
    # Two accumulated batches of 1 and 2 pairs, of which 1 and 0 have soft labels.
    whole = a_batch()
    whole.soft_label = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.0] * 4, [0.0] * 4])
    whole.soft_mask = torch.tensor([True, False, False])
    model = student(guidance=None).eval()
    step = StepTotals(torch.tensor([1, 1, 0, 1]), torch.tensor(0.0), torch.tensor(2), torch.tensor(1))
    parts = [part(whole, slice(0, 1), step=step), part(whole, slice(1, 3), step=step)]
    expected, _ = losses(model, whole)
    loss = sum(losses(model, one)[0] for one in parts) / 2
    torch.testing.assert_close(loss, expected)
    wanted = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    for got, want in zip(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_soft_labels_of_weight_zero_change_nothing(student, data, tmp_path):
    with_votes, without = student(soft_label_weight=0.0), student()
    fit(with_votes, data(soft_labels="votes"), tmp_path)
    fit(without, data(), tmp_path)
    for (name, one), other in zip(with_votes.state_dict().items(), without.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_an_auxiliary_latent_is_learned_and_gone_at_inference(student, data, tmp_path):
    model = student(fusion=False)
    before = model.extractor.outer.weight.clone()
    fit(model, data(), tmp_path)
    assert not torch.equal(model.extractor.outer.weight, before)
    assert model.head.in_features == 32
    logits = model.eval()(a_batch()).logits
    for parameter in model.extractor.parameters():
        torch.nn.init.normal_(parameter)
    assert torch.equal(model(a_batch()).logits, logits), "predictions do not depend on the extractor"


def test_unguided_is_lambda_zero_to_the_bit(student, data, tmp_path):  # trap 28
    zero = student(guidance_weight=0.0)
    fit(zero, data(), tmp_path)
    none = student(guidance=None)
    fit(none, data(), tmp_path)
    for (name, one), other in zip(zero.state_dict().items(), none.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_baseline_has_encoder_and_head_only(student):  # trap 28
    model = student(extractor=None, guidance=None)
    owners = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert owners == {"encoder", "head"}
    assert model.head.in_features == 32


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_and_neighbours_change_nothing(student, pooling):  # trap 21
    model = student(pooling=pooling).eval()
    batch = a_batch()
    logits, latents, _ = model(batch)
    padded = a_batch()
    for name, value in (("ids", 0), ("mask", False), ("segments", -1), ("type_ids", 0)):
        setattr(padded, name, F.pad(getattr(batch, name), (0, 50), value=value))
    alone = a_batch()
    for name in ("row", "query", "ids", "mask", "segments", "type_ids", "label"):
        setattr(alone, name, getattr(batch, name)[1:2])
    for other, rows in ((model(padded), slice(None)), (model(alone), slice(1, 2))):
        torch.testing.assert_close(other.logits, logits[rows], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(other.latents, latents[rows], atol=1e-5, rtol=1e-5)


def test_logits_use_the_latent_and_not_the_target(student):  # trap 24
    model = student().eval()
    torch.nn.init.normal_(model.head.weight)  # the latents' columns start at 0
    logits = model(a_batch()).logits
    with_target = a_batch(torch.randn(3, 1, R), torch.ones(3, 1, dtype=torch.bool))
    assert torch.equal(model(with_target).logits, logits)
    with torch.no_grad():
        model.extractor.outer.weight.zero_()
        model.extractor.outer.bias.zero_()
    assert not torch.allclose(model(a_batch()).logits, logits, atol=1e-4)


def test_latents_join_in_from_nothing(student):
    model = student().eval()
    baseline = student(extractor=None, guidance=None).eval()
    baseline.head.weight.data.copy_(model.head.weight[:, :32])
    baseline.head.bias.data.copy_(model.head.bias)
    assert torch.equal(model(a_batch()).logits, baseline(a_batch()).logits)


def test_every_module_trains_in_the_first_step(student, data, tmp_path):  # trap 23
    modes = {}

    class Look(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            modes.setdefault("training", {name: m.training for name, m in pl_module.named_modules()})

    fit(student(), data(), tmp_path, max_steps=1, callbacks=[Look()])
    assert modes["training"]
    assert all(modes["training"].values())


def test_reloads_from_its_checkpoint_without_the_pretrained_weights(student, data, tmp_path):  # traps 24 and 37
    model = student(class_weights="balanced")
    run = fit(model, data(), tmp_path)
    run.save_checkpoint(tmp_path / "student.ckpt")
    run.test(model, datamodule=data(targets=None), verbose=False)
    hparams = torch.load(tmp_path / "student.ckpt", weights_only=True)["hyper_parameters"]
    assert hparams["label_set"] == ESCI
    assert (hparams["target_size"], hparams["num_perspectives"]) == (R, 1)
    twin = StudentLRKD.load_from_checkpoint(tmp_path / "student.ckpt", encoder="/no/such/folder").eval()
    assert twin.temperature == model.temperature
    assert torch.equal(twin.class_weight, model.class_weight)
    with torch.no_grad():
        assert torch.equal(twin(a_batch()).logits, model.eval()(a_batch()).logits)


def make_mlp(**sizes):
    return MLPExtractor(**sizes)


def test_factories_that_would_not_reload_are_refused(student):
    with pytest.raises(UserError, match=r"class_path.*lrkd.extractors.mlp.MLPExtractor"):
        student(extractor=MLPExtractor)
    with pytest.raises(UserError, match=r"guidance.*class_path.*lrkd.losses.MSEGuidance"):
        student(guidance=MSEGuidance())
    with pytest.raises(UserError, match="cannot keep"):
        student(extractor=make_mlp)


def test_partial_of_an_extractor_is_kept_as_its_class_path(student):
    model = student(extractor=functools.partial(MLPExtractor, intermediate_size=5))
    assert model.hparams["extractor"] == {
        "class_path": "lrkd.extractors.mlp.MLPExtractor",
        "init_args": {"intermediate_size": 5},
    }
    assert model.extractor.inner[1].out_features == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_set": None}, "label_set: give the labels"),
        ({"extractor": None}, "guidance needs an extractor"),
        ({"guidance": None, "fusion": False}, "would do nothing"),
        ({"target_size": None}, "guidance needs targets"),
        ({"guidance_weight": -1.0}, "guidance_weight must be at least 0"),
        ({"soft_label_weight": -1.0}, "soft_label_weight must be at least 0"),
        ({"soft_label_temperature": 0.0}, "soft_label_temperature must be above 0"),
        ({"warmup": 1.0}, "warmup must be"),
        ({"class_weights": [1.0, 2.0]}, "class_weights: one"),
        ({"extractor": {"class_path": "lrkd.no.Such"}}, "cannot import"),
        ({"extractor": MSE}, "not a subclass"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(student, arguments, message):
    with pytest.raises(UserError, match=message):
        student(**arguments)


def test_data_with_other_labels_text_or_targets_is_refused(student, data, tmp_path):  # trap 24
    swapped = ESCI | {"labels": ["Substitute", "Exact", "Complement", "Irrelevant"]}
    with pytest.raises(UserError, match="label_set: the model has"):
        fit(student(label_set=swapped), data(), tmp_path)
    with pytest.raises(UserError, match="text: the model has"):
        fit(student(text={"item_text": "{title}", "max_length": 16, "query_cap": 12}), data(), tmp_path)
    with pytest.raises(UserError, match="target_size: the model has 9, the data 8"):
        fit(student(target_size=9), data(), tmp_path)
    with pytest.raises(UserError, match="num_perspectives: the model has 1, the data 3"):
        fit(student(), data(target_mode="per_perspective"), tmp_path)


def test_resuming_with_another_setting_is_refused(student, data, tmp_path):  # trap 39
    run = fit(student(), data(), tmp_path)
    run.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"encoder_lr is 0.5 here and 5e-05 there"):
        trainer(tmp_path, max_epochs=3).fit(
            student(encoder_lr=0.5), datamodule=data(), ckpt_path=tmp_path / "last.ckpt"
        )


def test_resuming_on_other_rationales_is_refused(student, data, tmp_path):  # trap 45
    run = fit(student(guidance=None, target_size=None), data(targets=None), tmp_path)
    run.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"cannot resume: .* other .*rationales"):
        trainer(tmp_path, max_epochs=3).fit(
            student(guidance=None, target_size=None), datamodule=data(), ckpt_path=tmp_path / "last.ckpt"
        )


def test_temperature_lowers_the_validation_loss_and_stays_with_the_checkpoint(student, data, tmp_path):
    model = student()
    run = fit(model, data(), tmp_path)
    predicted = model.predicted
    scaled = F.cross_entropy(predicted.logits / model.temperature, predicted.label)
    assert scaled <= F.cross_entropy(predicted.logits, predicted.label)
    assert {"val/ece", "val/ece_uncalibrated", "val/majority/macro_f1", "val/guidance_r2"} <= set(run.callback_metrics)
    before = float(model.temperature)
    run.validate(model, datamodule=data(), verbose=False)
    assert float(model.temperature) == before, "validate measures, it does not fit"


def test_guidance_weight_runs_in_a_line(student):
    model = student(guidance_weight=1.0, guidance_weight_end=0.0)

    class At:
        estimated_stepping_batches, global_step = 11, 5

    model._trainer = At()
    assert model.guidance_weight() == pytest.approx(0.5)


def weights_after_a_step(model, data, tmp_path):
    fit(model, data, tmp_path, max_epochs=1, num_sanity_val_steps=0, limit_train_batches=2, limit_val_batches=1)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


CASES = {  # argument: what to change it to, and what else that needs
    "label_set": ({"label_set": ESCI | {"gains": [1.0, 0.5, 0.2, 0.0]}}, {}),
    "target_size": ({"target_size": 16}, {"guidance": None}),
    "num_perspectives": ({"num_perspectives": 2}, {"guidance": None}),
    "pooling": ({"pooling": "mean"}, {}),
    "extractor": ({"extractor": MLP | {"init_args": {"dropout": 0.0}}}, {}),
    "fusion": ({"fusion": False}, {}),
    "guidance": ({"guidance": {"class_path": "lrkd.losses.CosineGuidance"}}, {}),
    "guidance_weight": ({"guidance_weight": 5.0}, {}),
    "guidance_weight_end": ({"guidance_weight_end": 5.0}, {}),
    "soft_label_weight": ({"soft_label_weight": 3.0}, {}),
    "soft_label_temperature": ({"soft_label_temperature": 2.0}, {}),
    "class_weights": ({"class_weights": "balanced"}, {}),
    "label_smoothing": ({"label_smoothing": 0.5}, {}),
    "logit_adjustment": ({"logit_adjustment": 1.0}, {}),
    "dropout": ({"dropout": 0.9}, {}),
    "encoder_lr": ({"encoder_lr": 1e-2}, {}),
    "head_lr": ({"head_lr": 1e-1}, {}),
    "weight_decay": ({"weight_decay": 0.9}, {"encoder_lr": 1e-2}),
    "warmup": ({"warmup": 0.9}, {}),
}
ELSEWHERE = {"encoder", "encoder_config", "text"}  # reload and refusal tests above, label_set's gains below


def test_no_argument_is_without_a_case():  # trap 29
    arguments = set(inspect.signature(StudentLRKD.__init__).parameters) - {"self"}
    assert arguments == set(CASES) | ELSEWHERE


@pytest.mark.parametrize("argument", sorted(set(CASES) - {"label_set"}))
def test_every_argument_changes_training(argument, student, data, tmp_path):  # trap 29
    change, base = CASES[argument]
    pairs = data(targets=None) if "guidance" in base else data(soft_labels="votes")
    before = weights_after_a_step(student(**base), pairs, tmp_path)
    after = weights_after_a_step(student(**(base | change)), pairs, tmp_path)
    assert before.shape != after.shape or not torch.equal(before, after)


def test_adjusted_logits_are_trained_as_if_the_prior_were_added(student, data, tmp_path):
    # A head of zeros says z = 0, so that over all training pairs CE = -Σ_c π_c log softmax(τ log π)_c.
    pairs = data(targets=None, batch_size=1000)
    model = student(guidance=None, logit_adjustment=0.7)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    run = fit(model, pairs, tmp_path, max_epochs=1, num_sanity_val_steps=0, limit_val_batches=0)
    share = torch.as_tensor(pairs.label_counts / pairs.label_counts.sum())
    assert len(share.unique()) > 1
    expected = -(share * torch.log_softmax(0.7 * share.log(), -1)).sum()
    assert float(run.callback_metrics["train/ce"]) == pytest.approx(float(expected), rel=1e-5)


def test_gains_change_ndcg_only(student, data, tmp_path):  # traps 29 and 35
    flat = tmp_path / "flat.yaml"
    flat.write_text("name: esci\nlabels: [Exact, Substitute, Complement, Irrelevant]\ngains: [1, 1, 1, 0]\n")
    results = []
    for label_set in ("esci", str(flat)):
        model = student(label_set=LabelSet.load(label_set).to_dict())
        run = fit(model, data(label_set=label_set), tmp_path)
        results.append(run.callback_metrics)
    assert results[0]["val/ndcg@10"] != results[1]["val/ndcg@10"]
    assert results[0]["val/macro_f1"] == results[1]["val/macro_f1"]


def test_learns_what_can_be_learned(student, data, tmp_path):
    # 12 training pairs: a student that trains at all can learn them by heart.
    model = student(encoder_lr=3e-3, head_lr=3e-3, dropout=0.0, guidance_weight=0.1)
    run = fit(model, data(), tmp_path, max_epochs=40)
    batches = run.datamodule.train_dataloader()
    model.eval()
    with torch.no_grad():
        hits = [model(batch).logits.argmax(-1) == batch.label for batch in batches]
    assert torch.cat(hits).float().mean() > 0.9
