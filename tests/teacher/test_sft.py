"""TeacherSFT: what its gradients are means over, what it keeps, and what its judgements are worth."""

import copy
import json
import subprocess
import sys

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from transformers import AutoModelForCausalLM

from lrkd.data.completions import CompletionDataModule
from lrkd.data.pairs import read_pairs
from lrkd.data.rationales import read_rationales
from lrkd.data.types import LABEL_SETS, RATIONALES_FILE
from lrkd.errors import UserError
from lrkd.prompts import PromptBook
from lrkd.prompts.card import TeacherCard, how_to_ask
from lrkd.teacher import TeacherSFT

LABELS = LABEL_SETS["esci"]
BOOK = PromptBook.load("esci")
PERSPECTIVES = [perspective.name for perspective in BOOK.perspectives]


def make_data(root, model, **settings):
    settings = {"batch_size": 4, "judged_pairs": 2, "judged_tokens": 4, "eval_batch_size": 4} | settings
    return CompletionDataModule(str(root), model, **settings)


def make_model(model, **settings):
    settings = {"lora_rank": 4, "lr": 1e-3, "warmup": 0.0, "token_budget": 100_000} | settings
    text = {"item_text": "{title}", "item_chars": 1000}
    torch.manual_seed(0)  # of the adapters' A
    return TeacherSFT(model, label_set=LABELS.to_dict(), prompts=BOOK.to_json(), text=text, **settings)


class Gradients(Callback):
    """The gradients of every optimiser step, before clipping changes them, and the losses."""

    def __init__(self):
        self.steps, self.losses = [], []

    def on_before_optimizer_step(self, trainer, model, optimizer):
        self.steps.append(torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.requires_grad]))

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


def fit(model, data, *, epochs=1, folder=None, callbacks=(), **settings):
    torch.manual_seed(0)
    record = Gradients()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[record, *callbacks], num_sanity_val_steps=0, log_every_n_steps=1,
        default_root_dir=folder, **settings,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return trainer, record


@pytest.fixture
def data(tiny_root, tiny_teacher):
    return make_data(tiny_root, tiny_teacher)


def sequences(data, rows, epoch=0):
    """What is learned of some rows, as sequences of their own."""
    found = []
    for row in rows:
        tree = data.completions.tree(row, epoch)
        found += [(tree.prefix + branch.ids, branch.completion) for branch in tree.branches]
    return found


# What is learned


def test_what_is_learned_decodes_to_rationale_verdict_and_one_end(data):  # trap 3
    data.setup("fit")
    rationales = read_rationales(data.root, labels=LABELS).to_pylist()
    gold = dict(zip(*(read_pairs(data.root)[name].to_pylist() for name in ("pair_id", "label")), strict=True))
    tokenizer, end = data.pairs.tokenizer, data.pairs.encoder.end
    seen = set()
    for row in data._dataset["train"].rows.tolist():
        pair_id = data.pairs.table["pair_id"][row].as_py()
        right = [r for r in rationales if r["pair_id"] == pair_id and r["verdict"] == gold[pair_id]]
        learned = sequences(data, [row])
        assert len(learned) == len(right) + 1  # one under the neutral prompt
        for ids, completion in learned:
            assert ids[-1] == end
            assert ids.count(end) == 1
            seen.add(tokenizer.decode(ids[-completion:-1]))
            prompt = tokenizer.decode(ids[:-completion])
            assert prompt.endswith("Answer:\n")
            assert gold[pair_id] not in prompt.partition("Query:")[2].partition("End with")[0]  # trap 16
        assert {f"{r['rationale']}\nVerdict: {r['verdict']}" for r in right} <= seen


def test_the_neutral_prompt_takes_the_rationales_in_turn(data):
    data.setup("fit")
    row = next(row for row in data._dataset["train"].rows.tolist() if len(data.completions.of(row)) > 1)
    of_pair = len(data.completions.of(row))
    turns = [tuple(sequences(data, [row], epoch)[-1][0]) for epoch in range(2 * of_pair)]
    assert len(set(turns)) == of_pair
    assert turns[:of_pair] == turns[of_pair:]


def test_too_long_rationales_are_dropped_and_counted(tiny_root, tiny_teacher):  # trap 6
    data = make_data(tiny_root, tiny_teacher)
    data.setup("fit")
    lengths = sorted(len(ids) for row in data._dataset["train"].rows.tolist() for ids, _ in sequences(data, [row])[:-1])
    most = lengths[len(lengths) // 2]
    short = make_data(tiny_root, tiny_teacher, max_length=most, neutral=False)
    short.setup("fit")
    kept = [ids for row in short._dataset["train"].rows.tolist() for ids, _ in sequences(short, [row])]
    assert len(kept) == sum(length <= most for length in lengths)
    counts = short.completions.counts
    assert counts["used"] + counts["too_long"] == data.completions.counts["used"]
    assert counts["too_long"] > 0
    with pytest.raises(UserError, match="no rationale to learn"):
        make_data(tiny_root, tiny_teacher, max_length=20).setup("fit")


def test_which_prompts_rationales_were_written_from_is_told(tiny_root, tiny_teacher, tmp_path):
    table = read_rationales(tiny_root)
    gold = dict(zip(*(read_pairs(tiny_root)[name].to_pylist() for name in ("pair_id", "label")), strict=True))
    right = [gold[row["pair_id"]] == row["verdict"] for row in table.to_pylist()]
    versions = [BOOK.version] * 30 + ["older@1"] * 15 + [None] * 7
    place = table.column_names.index("prompt_version")
    pq.write_table(
        table.set_column(place, "prompt_version", pa.array(versions, pa.string())), tmp_path / RATIONALES_FILE
    )
    data = make_data(tiny_root, tiny_teacher, rationales=str(tmp_path))
    data.setup("fit")
    own, older, unknown = (sum(right[start:end]) for start, end in ((0, 30), (30, 45), (45, 52)))
    assert data.describe()["written_from"] == {BOOK.version: own, "older@1": older, "unknown": unknown}
    told = f"{BOOK.version} ({own}, as learned), older@1 ({older}), unknown ({unknown})"
    assert data.summary()[-1] == f"they were written from the prompts {told}"


def test_only_the_asked_perspectives_and_right_verdicts(tiny_root, tiny_teacher):
    data = make_data(tiny_root, tiny_teacher, perspectives=["user_intent"], neutral=False)
    data.setup("fit")
    assert {perspective for row in range(24) for perspective, _ in data.completions.of(row)} == {"user_intent"}
    every = make_data(tiny_root, tiny_teacher, consistent=False)
    every.setup("fit")
    assert every.completions.counts["verdict_not_gold"] == 0
    assert sum(len(every.completions.of(row)) for row in range(24)) == every.completions.counts["rationales"]


# The step


def test_the_loss_is_the_mean_over_the_steps_tokens(tiny_root, tiny_teacher):  # traps 1, 2
    data = make_data(tiny_root, tiny_teacher, batch_size=3)
    model = make_model(tiny_teacher, lora_rank=None, lr=0.0, max_grad_norm=1e9)
    batches = []

    class Keep(Callback):
        def on_train_batch_start(self, trainer, model, batch, batch_idx):
            batches.append(batch.rows)

    _, record = fit(model, data, callbacks=[Keep()])
    reference = AutoModelForCausalLM.from_pretrained(tiny_teacher)
    assert len({len(rows) for rows in batches}) > 1  # a shorter step is among them
    for rows, loss, gradient in zip(batches, record.losses, record.steps, strict=True):
        reference.zero_grad()
        nll, tokens = 0.0, 0
        for ids, completion in sequences(data, rows):
            labels = torch.tensor([[-100] * (len(ids) - completion) + ids[-completion:]])
            one = reference(torch.tensor([ids]), labels=labels).loss * completion
            nll, tokens = nll + one, tokens + completion
        (nll / tokens).backward()
        assert loss == pytest.approx(float(nll / tokens), rel=1e-5)
        expected = torch.cat([p.grad.flatten() for p in reference.parameters()])
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("budget", [1, 700])
def test_micro_batches_change_nothing(data, tiny_teacher, budget):  # trap 1
    _, whole = fit(make_model(tiny_teacher), data)
    _, parts = fit(make_model(tiny_teacher, token_budget=budget), data)
    for one, other in zip(whole.steps, parts.steps, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
    assert whole.losses == pytest.approx(parts.losses, rel=1e-5)


def test_gradient_checkpointing_changes_nothing(data, tiny_teacher):
    _, plain = fit(make_model(tiny_teacher), data)
    _, again = fit(make_model(tiny_teacher, gradient_checkpointing=True), data)
    for one, other in zip(plain.steps, again.steps, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_dropout_and_clipping_have_an_effect(data, tiny_teacher):  # traps 23, 29
    _, plain = fit(make_model(tiny_teacher), data)
    _, dropped = fit(make_model(tiny_teacher, lora_dropout=0.5), data)
    assert plain.losses[0] == pytest.approx(dropped.losses[0])  # adapters begin at 0
    assert not torch.allclose(plain.steps[0], dropped.steps[0])
    short = make_model(tiny_teacher, max_grad_norm=1e-12, weight_decay=0.0)
    before = {name: p.detach().clone() for name, p in short.named_parameters() if p.requires_grad}
    fit(short, data)
    moved = sum(float((p - before[name]).abs().sum()) for name, p in short.named_parameters() if name in before)
    free = make_model(tiny_teacher)
    fit(free, data)
    assert moved < sum(float((p - before[n]).abs().sum()) for n, p in free.named_parameters() if n in before)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_learning_rate_climbs_and_falls(data, tiny_teacher, schedule):
    rates = []

    class Keep(Callback):
        def on_before_optimizer_step(self, trainer, model, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])

    fit(make_model(tiny_teacher, schedule=schedule, warmup=0.5), data, epochs=4, callbacks=[Keep()])
    peak = int(np.argmax(rates))
    assert rates[0] == 0
    assert rates[peak] == pytest.approx(1e-3)
    assert sorted(rates[peak:], reverse=True) == rates[peak:]
    assert rates[-1] < 1e-3


# Validation


def test_the_validation_loss_is_the_mean_over_the_splits_tokens(tiny_root, tiny_teacher):  # traps 15, 31
    def val_loss(**settings):
        data = make_data(tiny_root, tiny_teacher, **settings)
        trainer, _ = fit(make_model(tiny_teacher, lr=0.0), data, limit_train_batches=1)
        return float(trainer.callback_metrics["val/loss"]), data

    loss, data = val_loss()
    model = AutoModelForCausalLM.from_pretrained(tiny_teacher).eval()
    nll, tokens = 0.0, 0
    for ids, completion in sequences(data, data._dataset["val"].rows.tolist()):
        labels = torch.tensor([[-100] * (len(ids) - completion) + ids[-completion:]])
        with torch.no_grad():
            nll, tokens = nll + float(model(torch.tensor([ids]), labels=labels).loss) * completion, tokens + completion
    assert loss == pytest.approx(nll / tokens, rel=1e-5)
    assert val_loss(eval_batch_size=1)[0] == pytest.approx(loss, rel=1e-5)


def test_a_teacher_that_learns_by_heart_shows_it(tiny_root, tiny_teacher):
    """Rationales learned until every answer is theirs: seen pairs are judged right."""
    data = make_data(
        tiny_root, tiny_teacher, judged_tokens=80, batch_size=24, neutral=False, perspectives=["user_intent"]
    )
    model = make_model(tiny_teacher, lora_rank=None, lr=1e-2)
    trainer, record = fit(model, data, epochs=160, check_val_every_n_epoch=160)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert record.losses[-1] < 0.1
    assert metrics["seen/user_intent/accuracy"] == 1.0
    assert {f"val/{name}/accuracy" for name in [*PERSPECTIVES, "neutral"]} <= metrics.keys()
    assert sum(metrics[f"val/failed/{r}"] for r in ("no_verdict", "unknown_label", "empty_rationale", "cut_off")) <= 1
    table = model.predictions_table(data)
    assert table.num_rows == 2
    assert table["rationale/user_intent"][0].as_py()


# What is kept


@pytest.fixture(scope="module")
def run(tiny_root, tiny_teacher, tmp_path_factory):
    """A finished fit of the command line."""
    from lrkd.__main__ import main

    folder = tmp_path_factory.mktemp("runs")
    main(command(tiny_root, tiny_teacher, folder))
    return folder / "teacher_sft-seed0"


def command(root, model, folder, *more):
    return [
        "fit", "--config", "configs/teacher/sft.yaml", "--model.init_args.model", str(model),
        "--data.init_args.root", str(root), "--data.init_args.judged_pairs", "2", "--data.init_args.judged_tokens", "8",
        "--data.init_args.batch_size", "3", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "2",
        "--trainer.default_root_dir", str(folder), "--model.init_args.lora_dropout", "0.1", *more,
    ]  # fmt: skip


def test_checkpoints_hold_adapters_only(run):
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(".lora_" in name or name == "label_counts" for name in state)
    assert len(state) == 2 * 2 * 7 + 1  # A and B of two layers' seven linear maps, and the labels' counts
    record = json.loads((run / "run.json").read_text())
    assert record["parameters"]["trained"] < record["parameters"]["total"] / 2
    assert record["data"]["prompt_version"] == BOOK.version


def test_a_full_checkpoint_holds_every_weight(tiny_root, tiny_teacher):
    model = make_model(tiny_teacher, lora_rank=None)
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    assert checkpoint["state_dict"].keys() == model.state_dict().keys()


def test_a_checkpoint_without_a_trained_weight_is_refused(run, tiny_teacher):
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    model = TeacherSFT.load_from_checkpoint(run / "checkpoints" / "best.ckpt", weights_only=True)
    gone = next(name for name in checkpoint["state_dict"] if "lora_B" in name)
    del checkpoint["state_dict"][gone]
    with pytest.raises(UserError, match="lacks 1 of"):
        model.on_load_checkpoint(checkpoint)


def test_killed_and_resumed_is_uninterrupted(run, tiny_root, tiny_teacher, tmp_path, monkeypatch):  # trap 38
    from lrkd.__main__ import main
    from lrkd.training.recorder import RunRecorder

    def stop(self, trainer, *_):
        if trainer.fit_loop.total_batch_idx == 2:
            raise InterruptedError

    monkeypatch.setattr(RunRecorder, "on_train_batch_start", stop)
    with pytest.raises(InterruptedError):
        main(command(tiny_root, tiny_teacher, tmp_path, "--checkpoint_every_n_steps", "1"))
    monkeypatch.undo()
    last = tmp_path / "teacher_sft-seed0" / "checkpoints" / "last.ckpt"
    torch.manual_seed(2)
    main(command(tiny_root, tiny_teacher, tmp_path, "--ckpt_path", str(last)))
    one, other = (torch.load(path, weights_only=True) for path in (run / "checkpoints" / "last.ckpt", last))
    assert one["global_step"] == other["global_step"]
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name


def test_a_test_writes_what_compare_reads(run, capsys):
    from lrkd.__main__ import main
    from lrkd.runs import read_run

    main(["test", "--ckpt_path", str(run / "checkpoints" / "best.ckpt")])
    record = read_run(run)
    metrics, predictions = record.metrics("test"), record.predictions("test")
    assert predictions.num_rows == metrics["pairs"] == 6  # two queries of three pairs
    shares = np.stack([predictions[f"p/{label}"].to_numpy() for label in LABELS.labels], 1)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)


def test_a_setting_that_is_switched_off_stays_so(tiny_root, tiny_teacher, tmp_path):
    """No LoRA, in `test` too: config.yaml keeps nulls."""
    from lrkd.__main__ import main

    main(command(tiny_root, tiny_teacher, tmp_path, "--model.init_args.lora_rank", "null"))
    main(["test", "--ckpt_path", str(tmp_path / "teacher_sft-seed0" / "checkpoints" / "best.ckpt")])
    assert (tmp_path / "teacher_sft-seed0" / "test_metrics.json").is_file()


def test_exported_merged_and_as_adapters_say_the_same(run, tiny_teacher, tmp_path):  # trap 18
    from lrkd.__main__ import main

    main(["teacher", "export", "--run", str(run), "--out", str(tmp_path / "merged")])
    main(["teacher", "export", "--run", str(run), "--out", str(tmp_path / "adapters"), "--merge", "false"])
    trained = TeacherSFT.load_from_checkpoint(run / "checkpoints" / "best.ckpt", weights_only=True).eval()
    ids = torch.arange(50, 90).unsqueeze(0)
    code = (
        "import sys, torch; from transformers import AutoModelForCausalLM as M; "
        "torch.save(M.from_pretrained(sys.argv[1]).eval()(torch.arange(50, 90).unsqueeze(0)).logits, sys.argv[2])"
    )
    with torch.no_grad():
        expected = trained.llm(ids).logits
    assert not torch.allclose(expected, AutoModelForCausalLM.from_pretrained(tiny_teacher)(ids).logits, atol=1e-4)
    for kind in ("merged", "adapters"):
        folder = tmp_path / kind
        subprocess.run([sys.executable, "-c", code, str(folder), str(tmp_path / f"{kind}.pt")], check=True)
        torch.testing.assert_close(torch.load(tmp_path / f"{kind}.pt"), expected, atol=1e-4, rtol=1e-4)
        assert PromptBook.load(str(folder / "prompts.yaml")) == BOOK
        assert how_to_ask(str(folder), None, None, None) == (BOOK, *trained.hparams["text"].values())
        card = TeacherCard.read(folder)
        assert (card.method, card.run, card.prompt_version) == ("teacher_sft", str(run), BOOK.version)
    assert (tmp_path / "adapters" / "adapter_model.safetensors").stat().st_size < 200_000
    assert not (tmp_path / "adapters" / "model.safetensors").exists()


def test_other_prompts_than_the_checkpoints_are_refused(run, tmp_path):
    from lrkd.__main__ import main

    other = tmp_path / "other.yaml"
    main(["teacher", "export", "--run", str(run), "--out", str(tmp_path / "x")])
    other.write_text(
        (tmp_path / "x" / "prompts.yaml").read_text().replace("Judge as the shopper", "Judge as a shopper")
    )
    with pytest.raises(SystemExit):
        main(["test", "--ckpt_path", str(run / "checkpoints" / "best.ckpt"), "--data.init_args.prompts", str(other)])


def test_mistakes_are_named(tiny_root, tiny_teacher, tmp_path):
    with pytest.raises(UserError, match="lora_targets"):
        make_model(tiny_teacher, lora_targets=["no_such_layer"])
    with pytest.raises(UserError, match="warmup"):
        make_model(tiny_teacher, warmup=1.0)
    with pytest.raises(UserError, match="token_budget"):
        make_model(tiny_teacher, token_budget=0)
    with pytest.raises(UserError, match="its tokenizer cannot be loaded"):
        make_model(str(tmp_path))
    with pytest.raises(UserError, match="samples"):
        make_data(tiny_root, tiny_teacher, samples=3)
    with pytest.raises(UserError, match="perspective"):
        make_data(tiny_root, tiny_teacher, perspectives=["no_such"])
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(UserError, match="data module"):
        trainer.fit(make_model(tiny_teacher), train_dataloaders=[1])


def test_judgements_by_hand():
    from lrkd.teacher.judgements import Judgement, judgement_metrics, shares, verdicts, vote

    def said(row, perspective, verdict):
        return Judgement("val", row, perspective, "", verdict, None if verdict else "cut_off")

    answers = [
        said(7, "a", "Exact"), said(7, "b", "Substitute"), said(7, "c", "Substitute"), said(7, "n", "Exact"),
        said(3, "a", "Irrelevant"), said(3, "b", "Exact"), said(3, "c", None), said(3, "n", None),
        said(5, "a", None), said(5, "b", None), said(5, "c", None), said(5, "n", "Complement"),
    ]  # fmt: skip
    rows, found = verdicts(answers, ["a", "b", "c"], LABELS)
    assert rows.tolist() == [3, 5, 7]
    assert found.tolist() == [[3, 0, -1], [-1, -1, -1], [0, 1, 1]]
    assert vote(found, 4).tolist() == [3, -1, 1]  # a tie goes to the first perspective; no verdict is no vote
    np.testing.assert_allclose(shares(found, 4)[2], [1.25 / 4, 2.25 / 4, 0.25 / 4, 0.25 / 4], atol=1e-5)
    np.testing.assert_allclose(shares(found, 4)[1], [0.25] * 4)
    gold = np.array([-1] * 3 + [3, -1, 2, -1, 0])  # rows 3, 5 and 7: Irrelevant, Complement, Exact
    metrics = judgement_metrics(answers, gold, ["a", "b", "c"], "n", LABELS)
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert metrics["macro_f1"] == pytest.approx(1 / 4)  # Irrelevant 1, the others 0
    assert metrics["a/accuracy"] == pytest.approx(2 / 3)
    assert metrics["n/accuracy"] == pytest.approx(2 / 3)
    assert metrics["failed/cut_off"] == pytest.approx(5 / 12)
    assert pa.array([metrics["f1/Irrelevant"]]).to_pylist() == [1.0]


def test_loss_and_gradients_are_trls(tiny_root, tiny_teacher, tmp_path):  # trap 11
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    data = make_data(tiny_root, tiny_teacher, batch_size=24)
    model = make_model(tiny_teacher, max_grad_norm=1e9)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    theirs = copy.deepcopy(model.llm)
    _, record = fit(model, data)
    arguments = trl.SFTConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, max_length=None, bf16=False)
    trainer = trl.SFTTrainer(
        model=theirs, args=arguments, processing_class=data.pairs.tokenizer,
        train_dataset=datasets.Dataset.from_list([{"prompt": "a", "completion": "b"}]),  # not used
    )  # fmt: skip
    rows = [
        {"input_ids": ids, "labels": [-100] * (len(ids) - completion) + ids[-completion:]}
        for ids, completion in sequences(data, data._dataset["train"].rows.tolist())
    ]
    loss = trainer.compute_loss(theirs, trainer.data_collator(rows))
    loss.backward()
    assert record.losses[0] == pytest.approx(float(loss), rel=1e-5)
    expected = torch.cat([p.grad.flatten() for p in theirs.parameters() if p.requires_grad])
    torch.testing.assert_close(record.steps[0], expected, rtol=1e-4, atol=1e-6)
