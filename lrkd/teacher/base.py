"""What TeacherSFT and TeacherDPO share: the policy, judging, writing rationales, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch
from peft import PeftModel
from torch import Tensor

from lrkd.causal_lm import DType, load_causal_lm
from lrkd.data.teacher_data import PromptBatch, TeacherDataModule
from lrkd.data.types import LabelSet
from lrkd.distributed import gather_objects
from lrkd.errors import UserError
from lrkd.generation.in_process import complete
from lrkd.generation.process_store import ProcessStore
from lrkd.generation.store import Made, Stored
from lrkd.hparams import refuse_different_hyperparameters
from lrkd.pretrained import load_tokenizer
from lrkd.prompts.book import PromptBook
from lrkd.prompts.encoding import PromptEncoder
from lrkd.teacher.judgements import Judgement
from lrkd.teacher.judging import Judging
from lrkd.teacher.policy import add_lora, trainable, weights_digest
from lrkd.teacher.sharding import in_step, is_sharded, shard
from lrkd.teacher.stepping import SteppingModule


class Teacher(SteppingModule):
    """A causal language model that learns to judge pairs from several perspectives.

    An optimiser step sees ``batch_size`` pairs a process (:class:`~lrkd.teacher.stepping.SteppingModule`).

    Args:
        model: The language model: a hub name, a path, ``pkg:package/folder``, or a folder of adapters.
        label_set: The labels in order with gains, in plain types; the command line takes it from the data.
        prompts: The prompt book's ``to_json()``; the command line takes it from the data.
        text: How pairs become text; the command line takes it from the data.
        lora_rank: LoRA's r (16 in the paper); None: train all weights. A folder of adapters brings its own.
        lora_alpha: The adapters' output is scaled by this over r.
        lora_dropout: Of the adapters' input.
        lora_targets: ``all-linear``, or the ends of names of linear layers.
        dtype: Of frozen weights, or of all where there is no LoRA; adapters are always float32.
        gradient_checkpointing: Compute each layer anew in the backward pass: less memory, a third more time.
        token_budget: Places of a micro-batch, padding among them.
        generation_budget: The same in generation: tokens of prompts and answers in memory at a time.
        lr: Peak learning rate (AdamW).
        weight_decay: AdamW's, on matrices only.
        warmup: Share of the steps in which the learning rate climbs.
        schedule: How it falls to 0 then: ``linear`` or ``cosine``.
        max_grad_norm: Longer gradients are scaled down to this norm.

    Raises:
        UserError: An argument is out of range or they do not go together.
    """

    label_counts: Tensor

    def __init__(
        self,
        model: str,
        *,
        label_set: dict[str, Any] | None = None,
        prompts: str | None = None,
        text: dict[str, Any] | None = None,
        lora_rank: int | None = 16,
        lora_alpha: int = 32,
        lora_dropout: float = 0.0,
        lora_targets: str | list[str] = "all-linear",
        dtype: DType = "float32",
        gradient_checkpointing: bool = False,
        token_budget: int = 8192,
        generation_budget: int = 16384,
        lr: float = 5e-5,
        weight_decay: float = 0.0,
        warmup: float = 0.05,
        schedule: Literal["linear", "cosine"] = "linear",
        max_grad_norm: float = 1.0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # a checkpoint with adapters alone; on_load_checkpoint checks what it lacks
        self.save_hyperparameters(logger=False)  # of the subclass, too
        for name in ("_instantiator", "_class_path"):  # the command line's; checkpoints hold the arguments alone
            self.hparams.pop(name, None)
        if label_set is None or prompts is None:
            raise UserError(
                "label_set and prompts: give LabelSet.load('esci').to_dict() and PromptBook.load('esci').to_json()"
            )
        for name in ("token_budget", "generation_budget"):
            if self.hparams[name] < 1:
                raise UserError(f"{name} is at least 1, got {self.hparams[name]}")
        if not 0 <= warmup < 1:
            raise UserError(f"warmup must be at least 0 and below 1, got {warmup}")
        self.label_set = LabelSet.from_dict(label_set)
        self.book = PromptBook.from_json(prompts)
        self.book.check_labels(self.label_set)
        self.tokenizer = load_tokenizer(model)
        self.encoder = PromptEncoder(self.tokenizer)
        self.llm = load_causal_lm(model, dtype, trainable=True)
        if lora_rank is not None and not isinstance(self.llm, PeftModel):
            self.llm = add_lora(self.llm, rank=lora_rank, alpha=lora_alpha, dropout=lora_dropout, targets=lora_targets)
        if gradient_checkpointing:
            self.llm.gradient_checkpointing_enable({"use_reentrant": False})
        self.register_buffer("label_counts", torch.zeros(len(self.label_set), dtype=torch.long))
        self.judging = Judging(self.book, self.label_set)
        self._sums: dict[str, Tensor] = {}
        self.llm.train()  # transformers loads in eval mode, and the trainer leaves modules in theirs (trap 23)

    @property
    def adapted(self) -> bool:
        """Whether adapters are trained, and not all weights."""
        return isinstance(self.llm, PeftModel)

    @property
    def judgements(self) -> list[Judgement]:
        """Of the last validation or test, on every process: those of all."""
        return self.judging.judgements

    def configure_model(self) -> None:
        """Share out the weights among the processes, where the strategy is Lightning's ``ModelParallelStrategy``.

        Raises:
            UserError: It is to split layers, too (tensor parallelism), or validation would leave weights behind that
                training can't use (inference mode).
        """
        mesh = self.device_mesh
        if mesh is None or is_sharded(self.llm):
            return
        if mesh["tensor_parallel"].size() > 1:
            raise UserError("trainer.strategy: teachers know no tensor parallelism; give tensor_parallel_size: 1")
        if self.trainer.validate_loop.inference_mode:
            raise UserError(
                "trainer.inference_mode: give false where weights are shared out, as configs/trainer/fsdp.yaml"
            )
        shard(self.llm, mesh["data_parallel"])

    def on_fit_start(self) -> None:
        """Keep the training labels' counts, for the majority row.

        Raises:
            UserError: ``fit`` was called without a data module.
        """
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, TeacherDataModule):
            raise UserError(f"{type(self).__name__} trains with a data module: call trainer.fit(model, datamodule=...)")
        self.label_counts.copy_(torch.as_tensor(data.label_counts))

    # Judging

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Judge pairs; or add what a subclass measures on a batch that it could learn from."""
        if isinstance(batch, PromptBatch):
            self._judge(batch)
        else:
            self._measure(batch)

    def test_step(self, batch: PromptBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Judge pairs."""
        self._judge(batch)

    def _measure(self, batch: Any) -> None:
        """Add a batch to the validation's sums and totals."""
        for places, counts in self.micro_batches(batch):
            if counts or is_sharded(self.llm):
                for name, value in self.micro_sums(batch, places).items():
                    self._sums[name] = self._sums.get(name, 0) + value.double().cpu() * counts
        if not batch.repeated:
            self._sums["totals"] = self._sums.get("totals", 0) + self.totals(batch).double().cpu()

    def _judge(self, batch: PromptBatch) -> None:
        # Before training, one pair shows whether judging works at all.
        jobs = batch.jobs[: len(self.book.every)] if self.trainer.sanity_checking else batch.jobs
        with in_step(self.llm):
            for done in complete(self.llm, self.encoder, jobs, batch.sampling, self.hparams["generation_budget"]):
                self.judging.add(batch, done)

    def on_validation_epoch_end(self) -> None:
        """Log the means, and what the judgements are worth."""
        measured = [sums for sums in gather_objects(self._sums) if sums]
        self._sums = {}
        if measured:
            sums = {name: torch.stack([part[name] for part in measured]).sum(0).float() for name in measured[0]}
            means = self.means(sums, sums.pop("totals"))
            self.log_dict({f"val/{name}": value for name, value in means.items()})
            self.log("val/loss", self.objective(means))
        self._report()

    def on_test_epoch_end(self) -> None:
        """Log what the judgements are worth."""
        self._report()

    def _report(self) -> None:
        data: TeacherDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        self.log_dict(self.judging.end(data, int(self.label_counts.argmax())))

    # Writing rationales

    @property
    def name(self) -> str:
        """What the rationales that it writes name as their teacher: the checkpoint's run, or the model."""
        checkpoint = self.trainer.ckpt_path
        return Path(checkpoint).resolve().parents[1].name if checkpoint else str(self.hparams["model"])

    def on_predict_start(self) -> None:
        """Open this process's store; what any process wrote before is not written again."""
        data: TeacherDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        folder = Path(data.predict_out or Path(self.trainer.default_root_dir) / "rationales")
        digest = weights_digest((name, p) for name, p in self.named_parameters() if p.requires_grad)
        precision, version = str(self.trainer.precision), self.book.version
        made = Made(self.name, digest, precision, version, self.label_set.labels, **data.text, sampling=data.sampling)
        self._store = ProcessStore(folder, self.global_rank, made)

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Write rationales into the store."""
        jobs = [job for job in batch.jobs if job.key not in self._store.present]
        with in_step(self.llm):
            for done in complete(self.llm, self.encoder, jobs, batch.sampling, self.hparams["generation_budget"]):
                self._store.add(Stored.of(done, self.book, self.name))

    def on_predict_end(self) -> None:
        """Merge the processes' stores by key into ``rationales.parquet``."""
        self._store.close()
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            self._store.merge()

    def predictions_table(self, data: TeacherDataModule) -> pa.Table | None:
        """One row a judged pair: see :meth:`lrkd.teacher.judging.Judging.table`; None where rationales were written."""
        return None if self.trainer.state.fn == "predict" else self.judging.table(data)

    def parameter_counts(self) -> dict[str, int]:
        """How many parameters are trained, and how many there are."""
        return {
            "trained": sum(p.numel() for p in self.llm.parameters() if p.requires_grad),
            "total": sum(p.numel() for p in self.llm.parameters()),
        }

    # What the checkpoint owns

    def check_data(self, data: TeacherDataModule, stage: str) -> None:
        """Refuse data that this model was not made for.

        Raises:
            UserError: The label set (by name and order), the prompts or the text differ.
        """
        for name in ("label_set", "prompts", "text"):
            mine, theirs = self.hparams[name], getattr(data, name)
            if mine is not None and mine != theirs:
                raise UserError(f"{name}: the model has {mine}, the data {theirs}; give the data module the model's")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is trained: with LoRA, the adapters alone."""
        checkpoint["state_dict"] = trainable(checkpoint["state_dict"], self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that is not this model's: neither would win in silence (trap 39).

        Raises:
            UserError: Hyperparameters differ, or it lacks weights that are trained here.
        """
        saved = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        refuse_different_hyperparameters(dict(self.hparams), dict(saved))
        loaded = checkpoint.get("state_dict")  # None: shards are loaded before this
        missing = trainable(self.state_dict(), self).keys() - loaded.keys() if loaded is not None else set()
        if missing:
            raise UserError(f"the checkpoint lacks {len(missing)} of the model's trained weights, e.g. {min(missing)}")
