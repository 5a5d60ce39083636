"""TeacherDPO: the reference, the first step, and TRL's numbers."""

import math

import lightning as L
import pyarrow as pa
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lrkd.causal_lm import load_causal_lm
from lrkd.data.pairs import read_pairs, write_table
from lrkd.data.preferences import PreferenceDataModule
from lrkd.data.types import LABEL_SETS, PREFERENCES_FILE, PREFERENCES_SCHEMA
from lrkd.errors import UserError
from lrkd.pretrained import load_tokenizer
from lrkd.prompts import PromptBook
from lrkd.teacher import TeacherDPO
from lrkd.teacher.likelihood import completion_logps, token_logps
from lrkd.teacher.policy import add_lora, export, frozen_reference

LABELS = LABEL_SETS["esci"]
BOOK = PromptBook.load("esci")


@pytest.fixture(scope="module")
def policy(tiny_teacher, tmp_path_factory):
    """The folder of an SFT policy's adapters: their B is not 0, so that the policy is not the base model."""
    torch.manual_seed(0)  # of the adapters' A
    model = add_lora(load_causal_lm(tiny_teacher), rank=4, alpha=8, dropout=0.3, targets="all-linear")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    folder = tmp_path_factory.mktemp("policy") / "adapters"
    export(model, load_tokenizer(tiny_teacher), folder, merge=False)
    return str(folder)


@pytest.fixture(scope="module")
def preferences(tiny_root, tmp_path_factory):
    """A preference pair on each of the 12 training pairs, of different lengths; every other one is neutral."""
    pairs = [pair for pair in read_pairs(tiny_root).to_pylist() if pair["split"] == "train"]
    rows = [
        {
            "pair_id": pair["pair_id"],
            "prompt": "neutral" if n % 2 else "user_intent",
            "chosen": f"It is {pair['title']}" + ", as asked" * (n % 3),
            "rejected": f"It is no {pair['query']}" + ", not at all" * (n % 4),
            "chosen_perspective": "user_intent",
            "chosen_sample": 0,
            "rejected_perspective": "structured_analysis" if n % 2 else "user_intent",
            "rejected_sample": 1,
            "chosen_verdict": pair["label"],
            "rejected_verdict": next(label for label in LABELS.labels if label != pair["label"]),
        }
        for n, pair in enumerate(pairs)
    ]
    folder = tmp_path_factory.mktemp("preferences")
    write_table(pa.Table.from_pylist(rows), folder / PREFERENCES_FILE, PREFERENCES_SCHEMA)
    return folder


def make_data(root, model, preferences, **settings):
    settings = {"batch_size": 4, "judged_pairs": 1, "judged_tokens": 2} | settings
    return PreferenceDataModule(str(root), model, preferences=str(preferences), **settings)


def make_model(policy, **settings):
    settings = {"lr": 1e-2, "warmup": 0.0} | settings
    text = {"item_text": "{title}", "item_chars": 1000}
    torch.manual_seed(0)  # of the adapters' A
    return TeacherDPO(policy, label_set=LABELS.to_dict(), prompts=BOOK.to_json(), text=text, **settings)


class Record(Callback):
    def __init__(self):
        self.steps, self.gradients, self.numbers = [], [], []

    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        self.numbers.append(batch.numbers)

    def on_before_optimizer_step(self, trainer, model, optimizer):
        self.gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        self.steps.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")})


def fit(model, data, *, steps=-1, epochs=1, callbacks=()):
    torch.manual_seed(0)
    record = Record()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, max_steps=steps, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, callbacks=[record, *callbacks],
        num_sanity_val_steps=0, limit_val_batches=0, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return record


def logps_of(model, data, number):
    """Log-probabilities of chosen and rejected, from transformers' own logits, one sequence at a time."""
    found = []
    for prompt, completion in data.preferences.sides(number):
        ids = torch.tensor([prompt + completion])
        logits = model(ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
        found.append(logits.gather(1, torch.tensor(completion).unsqueeze(1)).sum())
    return torch.stack(found)


@pytest.mark.parametrize("reference", ["adapter", "precomputed"])
@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_the_first_step_has_no_margin_and_a_gradient(tiny_root, policy, preferences, reference, loss_type):  # trap 7
    # Dropout is off: with it the policy differs from its reference from the start.
    model = make_model(policy, reference=reference, loss_type=loss_type, beta=0.2)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    first, gradient = (r := fit(model, make_data(tiny_root, policy, preferences), steps=1)).steps[0], r.gradients[0]
    expected = math.log(2) if loss_type == "sigmoid" else (1 / 0.4) ** 2
    assert first["train/dpo"] == pytest.approx(expected, abs=1e-6)
    for name in ("chosen", "rejected", "margins"):
        assert first[f"train/rewards/{name}"] == pytest.approx(0, abs=1e-5)
    assert sum(float(g.abs().sum()) for g in gradient.values()) > 0


def test_the_reference_is_the_sft_policy_and_stays_so(tiny_root, tiny_teacher, policy, preferences):  # traps 8, 9
    data, model = make_data(tiny_root, policy, preferences), make_model(policy)
    seen = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            trees = module.tree_batch([data.preferences.tree(n) for n in range(3)])
            with frozen_reference(module.llm):
                seen.append([completion_logps(token_logps(module.llm, trees), trees)[0] for _ in range(2)])
            assert any(m.training for m in module.llm.modules())
            assert any(p.requires_grad for p in module.llm.parameters())

    fit(model, data, epochs=2, callbacks=[Look()])
    sft, base = load_causal_lm(policy), load_causal_lm(tiny_teacher)
    with torch.no_grad():
        expected = torch.cat([logps_of(sft, data, n) for n in range(3)])
        unlearned = torch.cat([logps_of(base, data, n) for n in range(3)])
    assert len(seen) == 6
    for once, again in seen:
        assert torch.equal(once, again)
        torch.testing.assert_close(once, expected, rtol=1e-5, atol=1e-4)
    assert (expected - unlearned).abs().max() > 0.1  # what disabling the adapters would give
    with torch.no_grad():
        trained = torch.cat([logps_of(model.llm.eval(), data, n) for n in range(3)])
    assert (trained - expected).abs().max() > 0.1


def test_precomputed_and_live_reference_agree(tiny_root, policy, preferences):  # trap 12
    live = fit(make_model(policy, reference="adapter"), make_data(tiny_root, policy, preferences))
    before = fit(make_model(policy, reference="precomputed"), make_data(tiny_root, policy, preferences))
    for one, other in zip(live.steps, before.steps, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-4)


def test_what_precomputed_logps_depend_on(tiny_root, tiny_teacher, policy, preferences):  # trap 12
    def fingerprint(model, **settings):
        data = make_data(tiny_root, policy, preferences, **settings)
        data.setup("fit")
        return model.reference_fingerprint(data)

    model = make_model(policy, reference="precomputed")
    known = fingerprint(model)
    assert fingerprint(make_model(policy, reference="precomputed")) == known
    assert fingerprint(model, max_length=512) != known
    assert fingerprint(model, item_chars=3) != known
    model.tokenizer.add_tokens(["<|new|>"])
    assert fingerprint(model) != known
    changed = make_model(policy, reference="precomputed")
    with torch.no_grad():
        next(p for p in changed.parameters() if p.requires_grad).view(-1)[0] += 1e-3
    assert fingerprint(changed) != known


def test_resumed_on_another_reference_is_refused(tiny_root, policy, preferences, tmp_path):  # trap 12
    data, model = make_data(tiny_root, policy, preferences), make_model(policy, reference="precomputed")
    fit(model, data, steps=1)
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(checkpoint)
    assert checkpoint["reference"]["logps"].shape == (12, 2)
    again = make_model(policy, reference="precomputed")
    again._trainer = model.trainer
    again.on_load_checkpoint(checkpoint)
    with torch.no_grad():
        next(p for p in again.parameters() if p.requires_grad).view(-1)[0] += 1e-3
    with pytest.raises(UserError, match="cannot resume"):
        again.on_load_checkpoint(checkpoint)


def test_without_lora_the_reference_is_precomputed(tiny_root, tiny_teacher, preferences):
    with pytest.raises(UserError, match="precomputed"):
        make_model(tiny_teacher, lora_rank=None)
    record = fit(
        make_model(tiny_teacher, lora_rank=None, reference="precomputed", lr=1e-3),
        make_data(tiny_root, tiny_teacher, preferences),
        epochs=4,
    )
    assert record.steps[0]["train/dpo"] == pytest.approx(math.log(2), abs=1e-5)
    assert record.steps[-1]["train/rewards/margins"] > record.steps[0]["train/rewards/margins"]


@pytest.mark.parametrize("budget", [1, 600])
def test_micro_batches_change_nothing(tiny_root, policy, preferences, budget):  # trap 1
    settings = {"reference": "precomputed", "sft_weight": 0.5}
    data = make_data(tiny_root, policy, preferences, batch_size=5)
    whole = fit(without_dropout(make_model(policy, **settings)), data)
    parts = fit(without_dropout(make_model(policy, token_budget=budget, **settings)), data)
    for one, other in zip(whole.gradients, parts.gradients, strict=True):
        for name, gradient in one.items():
            torch.testing.assert_close(gradient, other[name], rtol=1e-3, atol=1e-5)


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_losses_rewards_and_gradients_are_trls(  # trap 11
    tiny_root, tiny_teacher, policy, preferences, tmp_path, loss_type
):
    """Without label smoothing, which TRL 1.16 leaves out of the sigmoid loss; tests/test_dpo_loss.py derives it."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    data = make_data(tiny_root, policy, preferences, batch_size=12)
    settings = {"beta": 0.2, "loss_type": loss_type, "reference": "precomputed"}
    model = without_dropout(make_model(policy, max_grad_norm=1e9, lr=1e-2, **settings))
    record = fit(model, data, epochs=3)  # the same 12 pairs three times: in the third step the margins are not 0

    data.setup("fit")
    rows = [
        dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), (p, c, r), strict=True))
        for (p, c), (_, r) in (data.preferences.sides(n) for n in range(12))
    ]
    trained = without_dropout(make_model(policy, **settings)).llm
    reference = load_causal_lm(policy).merge_and_unload()
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path), beta=0.2, loss_type=[loss_type], max_length=None,
        per_device_train_batch_size=12, report_to="none", use_cpu=True, gradient_checkpointing=False, bf16=False,
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        model=trained, ref_model=reference, args=arguments, processing_class=load_tokenizer(tiny_teacher),
        train_dataset=datasets.Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),  # not used
    )  # fmt: skip
    assert len(record.steps) == 3
    batch = trainer.data_collator(rows)
    trained.train()
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    rates = [1e-2, 1e-2 * 2 / 3, 1e-2 / 3]
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = trainer.compute_loss(trained, batch)
        loss.backward()
        assert record.steps[step]["train/dpo"] == pytest.approx(float(loss), rel=1e-4, abs=1e-6)
        mine = record.gradients[step]
        for name, parameter in trained.named_parameters():
            if parameter.requires_grad:
                gradient = mine[f"llm.{name}"]
                torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))
        optimizer.step()
    logged = trainer._metrics["train"]
    for name in ("chosen", "rejected", "margins", "accuracies"):
        mine = [step[f"train/rewards/{name}"] for step in record.steps[1:]]  # in the first, margins are rounding
        assert mine == pytest.approx(logged[f"rewards/{name}"][1:], rel=1e-3, abs=1e-4)


def test_the_sft_term_is_the_chosen_tokens_mean(tiny_root, policy, preferences):
    data = make_data(tiny_root, policy, preferences, batch_size=12)
    record = fit(without_dropout(make_model(policy, sft_weight=0.5)), data, steps=1)
    sft = load_causal_lm(policy)
    with torch.no_grad():
        total = sum(float(-logps_of(sft, data, n)[0]) for n in range(12))
    tokens = sum(len(data.preferences.sides(n)[0][1]) for n in range(12))
    first = record.steps[0]
    assert first["train/nll"] == pytest.approx(total / tokens, rel=1e-4)
    assert first["train/loss"] == pytest.approx(first["train/dpo"] + 0.5 * first["train/nll"], rel=1e-5)


def test_mistakes_are_named(tiny_root, policy, preferences, tmp_path):
    for wrong in ({"beta": 0.0}, {"label_smoothing": 0.5}, {"sft_weight": -1.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            make_model(policy, **wrong)
    with pytest.raises(UserError, match="rationales conflicts"):
        make_data(tiny_root, policy, tmp_path).setup("fit")
    long = make_data(tiny_root, policy, preferences, max_length=30)
    with pytest.raises(UserError, match="no preference pair"):
        long.setup("fit")
