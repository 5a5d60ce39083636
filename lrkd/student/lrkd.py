"""StudentLRKD: a small encoder that learns an LLM's reasoning as a latent and keeps it at inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import lightning as L
import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import get_linear_schedule_with_warmup

from lrkd.data.types import LabelSet, TripleBatch
from lrkd.errors import UserError
from lrkd.extractors import Extractor, ExtractorFactory, TokenStates
from lrkd.hparams import component_factory, component_spec, refuse_different_hyperparameters
from lrkd.losses import Guidance, linear_weight
from lrkd.metrics import Predicted, Predictions, WithinQueryR2, fit_temperature, relevance_metrics
from lrkd.student.encoder import Pooling, encode, load_encoder, pool
from lrkd.student.objective import gradient_ratio, guidance_loss, label_loss, soft_label_loss

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler

    from lrkd.data.triples import TripleDataModule


class StudentOutput(NamedTuple):
    """What the student says of B pairs."""

    logits: Tensor
    """(B, C), before temperature."""
    latents: Tensor | None
    """(B, P, R); None without an extractor."""
    tokens: TokenStates
    """The encoder's states."""


class StudentLRKD(L.LightningModule):
    """Encoder, latent reasoning extractor and one linear head (arXiv 2601.21611, section on LRKD).

    ``H = encoder(query, item)``; ``r = extractor(H)``; ``logits = W [h ; r] + b``;
    ``loss = CE(logits, y) + λ · mean over existing targets of guidance(r, e)``, and, if the data has soft labels q,
    ``+ α · mean over existing ones of T² KL(q ‖ logits / T)``. Without an extractor it is the encoder baseline; with
    one and λ = 0, the extractor without guidance.

    Logged: ``train/loss``, ``train/ce``, ``train/guidance`` (before λ), ``train/grad_ratio`` (the norm of λ·guidance's
    gradient at the encoder's last states over that of CE's), ``train/lambda``, ``train/soft_labels`` (before α);
    ``val/...`` and ``test/...`` as in :func:`lrkd.metrics.relevance_metrics`, ``val/ce``, and ``val/guidance_r2``
    (:func:`lrkd.metrics.within_query_r2`).
    The temperature is fitted on the validation split after every epoch, so each checkpoint holds its own. The means
    are over all rows of an optimiser step (:class:`lrkd.data.types.StepTotals`), so that two processes, or two
    accumulated batches, train as one batch of both sizes (but InfoNCE's negatives are those of one accumulated batch).

    Args:
        encoder: The encoder: a hub name, a path, or ``pkg:package/folder``.
        label_set: The labels in order with gains, in plain types; the command line takes it from the data.
        target_size: R; the command line takes it from the data. None: the encoder's width, if nothing guides.
        num_perspectives: P, latents a pair; the command line takes it from the data.
        text: How pairs become text (item_text, max_length, query_cap); the command line takes it from the data.
        encoder_config: The encoder's configuration, which checkpoints keep; if given, no pretrained weights are loaded.
        pooling: What stands for the pair in the head: the first token's state or the mean over real tokens.
        extractor: A ``class_path`` with ``init_args``; None: the encoder baseline.
        fusion: Whether the head sees the latents; if not, the rationale is an auxiliary task only.
        guidance: A guidance loss by ``class_path``; None: no guidance.
        guidance_weight: λ, at the start; 0.1 in the paper.
        guidance_weight_end: λ at the last step, reached in a straight line; None: constant.
        soft_label_weight: α, of the divergence from the data's soft labels, where it has some.
        soft_label_temperature: T, above 0; higher ones spread teacher and student over more labels.
        class_weights: Weights of the labels in the CE, or ``balanced``: inverse training frequency, mean 1 a pair.
        label_smoothing: ε of the CE, 0 to 1.
        logit_adjustment: τ: the training losses see ``logits + τ log π`` with π the training labels' shares, so that
            the logits themselves favour rare labels the more (Menon et al. 2021, arXiv 2007.07314, eq. 10); 0: not.
        dropout: Probability of dropping an input of the head in training.
        encoder_lr: Peak learning rate of the encoder.
        head_lr: Peak learning rate of extractor and head.
        weight_decay: AdamW's, on matrices only.
        warmup: Share of the steps in which the learning rate climbs; then it falls in a straight line to 0.

    Raises:
        UserError: An argument is out of range or they do not go together.
    """

    temperature: Tensor
    class_weight: Tensor
    label_counts: Tensor
    log_prior: Tensor

    def __init__(
        self,
        encoder: str,
        *,
        label_set: dict[str, Any] | None = None,
        target_size: int | None = None,
        num_perspectives: int = 1,
        text: dict[str, Any] | None = None,
        encoder_config: dict[str, Any] | None = None,
        pooling: Pooling = "cls",
        extractor: ExtractorFactory | dict[str, Any] | None = None,
        fusion: bool = True,
        guidance: Guidance | dict[str, Any] | None = None,
        guidance_weight: float = 0.1,
        guidance_weight_end: float | None = None,
        soft_label_weight: float = 1.0,
        soft_label_temperature: float = 1.0,
        class_weights: list[float] | Literal["balanced"] | None = None,
        label_smoothing: float = 0.0,
        logit_adjustment: float = 0.0,
        dropout: float = 0.1,
        encoder_lr: float = 5e-5,
        head_lr: float = 5e-4,
        weight_decay: float = 0.01,
        warmup: float = 0.1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)  # the command line hands the whole config to the loggers
        if (
            "_instantiator" in self.hparams
        ):  # made by the command line, which keeps plain values; they reload without it
            del self.hparams["_instantiator"]
        else:
            self.hparams["extractor"] = component_spec(extractor, "extractor")
            self.hparams["guidance"] = component_spec(guidance, "guidance")
        if label_set is None:
            raise UserError("label_set: give the labels, e.g. LabelSet.load('esci').to_dict()")
        self.label_set = LabelSet.from_dict(label_set)
        self._check_arguments()
        self.encoder = load_encoder(encoder, encoder_config)
        self.hparams["encoder_config"] = self.encoder.config.to_diff_dict() | {  # type: ignore[union-attr, operator]
            "model_type": self.encoder.config.model_type  # type: ignore[union-attr]
        }
        hidden = int(self.encoder.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.target_size = target_size or hidden
        self.extractor = self._make_extractor(extractor, hidden)
        if isinstance(guidance, dict):
            guidance = component_factory(guidance, Guidance, "guidance")()  # type: ignore[type-abstract]
        self.guidance = guidance
        fused = num_perspectives * self.target_size if self.extractor is not None and fusion else 0
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden + fused, len(self.label_set))
        nn.init.zeros_(self.head.weight[:, hidden:])  # so that random latents do not disturb a pretrained encoder
        self.register_buffer("temperature", torch.ones(()))
        weights = class_weights if isinstance(class_weights, list) else [1.0] * len(self.label_set)
        self.register_buffer("class_weight", torch.tensor(weights))
        self.register_buffer("label_counts", torch.zeros(len(self.label_set), dtype=torch.long))
        self.register_buffer("log_prior", torch.zeros(len(self.label_set)), persistent=False)
        self.predictions = Predictions()
        self.guidance_r2 = WithinQueryR2()
        self.predicted: Predicted | None = None

    def _check_arguments(self) -> None:
        h = self.hparams
        if h["extractor"] is None and h["guidance"] is not None:
            raise UserError("guidance needs an extractor, whose latents it guides; give extractor or drop guidance")
        if h["extractor"] is not None and not h["fusion"] and h["guidance"] is None:
            raise UserError("fusion off and no guidance: the extractor would do nothing; give guidance or set fusion")
        if h["guidance"] is not None and h["target_size"] is None:
            raise UserError(
                "guidance needs targets: run `python -m lrkd rationales embed` and give data.init_args.targets "
                "(from Python: target_size)"
            )
        for name in ("guidance_weight", "guidance_weight_end", "soft_label_weight", "logit_adjustment"):
            if h[name] is not None and not 0 <= h[name] < float("inf"):
                raise UserError(f"{name} must be at least 0, got {h[name]}")
        if not 0 < h["soft_label_temperature"] < float("inf"):
            raise UserError(f"soft_label_temperature must be above 0, got {h['soft_label_temperature']}")
        for name in ("label_smoothing", "dropout", "warmup"):
            if not 0 <= h[name] < 1:
                raise UserError(f"{name} must be at least 0 and below 1, got {h[name]}")
        weights = h["class_weights"]
        if isinstance(weights, list) and (len(weights) != len(self.label_set) or min(weights) < 0):
            raise UserError(f"class_weights: one of at least 0 for each of {self.label_set.labels}, got {weights}")

    def _make_extractor(self, spec: ExtractorFactory | dict[str, Any] | None, hidden: int) -> Extractor | None:
        if spec is None:
            return None
        if isinstance(spec, dict):
            spec = component_factory(spec, Extractor, "extractor")  # type: ignore[type-abstract]
        return spec(hidden_size=hidden, target_size=self.target_size, num_perspectives=self.hparams["num_perspectives"])

    def forward(self, batch: TripleBatch) -> StudentOutput:
        """Logits and latents of a batch; targets are not looked at."""
        tokens = encode(self.encoder, batch)
        features = [pool(tokens, self.hparams["pooling"])]
        latents = self.extractor(tokens) if self.extractor is not None else None
        if latents is not None and self.hparams["fusion"]:
            features.append(latents.flatten(1))
        return StudentOutput(self.head(self.dropout(torch.cat(features, -1))), latents, tokens)

    # Training

    def guidance_weight(self) -> float:
        """λ at this step."""
        start, end = self.hparams["guidance_weight"], self.hparams["guidance_weight_end"]
        if end is None:
            return float(start)
        steps = self.trainer.estimated_stepping_batches
        return linear_weight(start, end, self.trainer.global_step / max(1, steps - 1))

    def on_fit_start(self) -> None:
        """Keep the training labels' counts: for the majority row, balanced class weights and the logits' adjustment.

        Raises:
            UserError: ``fit`` was called without a data module.
        """
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            raise UserError("StudentLRKD trains with a TripleDataModule: call trainer.fit(model, datamodule=...)")
        self.label_counts.copy_(torch.as_tensor(data.label_counts))
        self.log_prior.copy_((self.label_counts.clamp_min(1) / self.label_counts.sum().clamp_min(1)).log())
        if self.hparams["class_weights"] == "balanced":
            counts = self.label_counts
            self.class_weight.copy_(counts.sum() / (len(counts) * counts.clamp_min(1)))

    def training_step(self, batch: TripleBatch, batch_idx: int) -> Tensor:
        """CE, plus weighted divergence from soft labels, plus weighted guidance."""
        output = self(batch)
        logits = output.logits + self.hparams["logit_adjustment"] * self.log_prior
        ce = label_loss(logits, batch, self.class_weight, self.hparams["label_smoothing"])
        logs = {"train/ce": ce.detach()}
        loss = ce
        soft = soft_label_loss(logits, batch, self.hparams["soft_label_temperature"])
        if soft is not None:
            logs["train/soft_labels"] = soft.detach()
            if self.hparams["soft_label_weight"] > 0:
                loss = loss + self.hparams["soft_label_weight"] * soft
        guidance = guidance_loss(self.guidance, output.latents, batch)
        if guidance is not None:
            weight = self.guidance_weight()
            logs |= {"train/guidance": guidance.detach(), "train/lambda": torch.tensor(weight)}
            if weight > 0:  # λ = 0 is the extractor without guidance, to the bit (trap 28)
                loss = loss + weight * guidance
                if self._logs_this_step():
                    logs["train/grad_ratio"] = gradient_ratio(weight * guidance, ce, output.tokens.states)
        logs["train/loss"] = loss.detach()
        self.log_dict(logs, batch_size=len(batch.row), sync_dist=self.trainer.world_size > 1)
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        return loss

    def _logs_this_step(self) -> bool:
        return self.trainer.global_step == 0 or (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    # Evaluation

    def validation_step(self, batch: TripleBatch, batch_idx: int) -> None:
        """Collect predictions and, where there are targets, latents."""
        output = self._collect(batch)
        latents, targets, mask = output.latents, batch.targets, batch.target_mask
        if self.guidance is not None and latents is not None and targets is not None and mask is not None:
            self.guidance_r2.update(batch.row, batch.query, latents, targets, mask)

    def on_validation_epoch_end(self) -> None:
        """Fit the temperature (in ``fit``) and log the split's metrics."""
        predicted = self.predictions.compute()
        known = predicted.labelled()
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self.temperature.fill_(fit_temperature(known.logits, known.label))
        self._report("val", predicted)
        self.log("val/ce", F.cross_entropy(known.logits, known.label), sync_dist=True)
        if self.guidance_r2.update_called:
            self.log("val/guidance_r2", self.guidance_r2.compute(), sync_dist=True)
            self.guidance_r2.reset()

    def test_step(self, batch: TripleBatch, batch_idx: int) -> None:
        """Collect predictions."""
        self._collect(batch)

    def on_test_epoch_end(self) -> None:
        """Log the split's metrics."""
        self._report("test", self.predictions.compute())

    def predict_step(self, batch: TripleBatch, batch_idx: int) -> Tensor:
        """Calibrated probabilities (B, C)."""
        return torch.softmax(self._collect(batch).logits.float() / self.temperature, -1)

    def on_predict_epoch_end(self) -> None:
        """Gather the predictions of all processes."""
        self._keep(self.predictions.compute())

    def _collect(self, batch: TripleBatch) -> StudentOutput:
        output: StudentOutput = self(batch)
        self.predictions.update(batch.row, batch.query, batch.label, output.logits)
        return output

    def _keep(self, predicted: Predicted) -> None:
        """Hold a split's predictions for callbacks, and make room for the next."""
        self.predicted = predicted
        self.predictions.reset()

    def _report(self, split: str, predicted: Predicted) -> None:
        self._keep(predicted)
        majority = int(self.label_counts.argmax())
        metrics = relevance_metrics(predicted, self.label_set, float(self.temperature), majority)
        metrics["temperature"] = self.temperature.clone()
        self.log_dict({f"{split}/{name}": value.float() for name, value in metrics.items()}, sync_dist=True)

    def probabilities(self, predicted: Predicted) -> Tensor:
        """Calibrated probabilities (N, C)."""
        return torch.softmax(predicted.logits / self.temperature, -1)

    def predictions_table(self, data: TripleDataModule) -> pa.Table:
        """One row a pair: pair_id, query_id, query, label, a calibrated probability a label, and the tokens cut."""
        predicted = self.predicted
        assert predicted is not None
        rows = predicted.row.cpu().numpy()
        table = data.pairs.select(["pair_id", "query_id", "query", "label"]).take(pa.array(rows))
        probabilities = self.probabilities(predicted).cpu().numpy()
        for place, name in enumerate(self.label_set.labels):
            table = table.append_column(f"p/{name}", pa.array(probabilities[:, place]))
        return table.append_column("tokens_cut", pa.array(np.sum(data.tokens.cut, axis=0)[rows]))

    def parameter_counts(self) -> dict[str, int]:
        """How many parameters encoder, extractor and head have, and all together."""
        parts: dict[str, nn.Module | None] = {"encoder": self.encoder, "extractor": self.extractor, "head": self.head}
        counts = {k: sum(p.numel() for p in part.parameters()) if part is not None else 0 for k, part in parts.items()}
        return counts | {"total": sum(p.numel() for p in self.parameters())}

    # Optimisation

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with two learning rates, no decay on vectors, linear warm-up and decay."""
        groups = [
            {"params": [p for p in parameters if (p.ndim > 1) == decays], "lr": lr, "weight_decay": decay}
            for parameters, lr in self._parameters_by_lr()
            for decays, decay in ((True, self.hparams["weight_decay"]), (False, 0.0))
        ]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = round(self.hparams["warmup"] * steps)
        schedule = get_linear_schedule_with_warmup(optimizer, warmup, steps)  # type: ignore[no-untyped-call]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _parameters_by_lr(self) -> list[tuple[list[nn.Parameter], float]]:
        encoder = list(self.encoder.parameters())
        inside = {id(parameter) for parameter in encoder}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in inside]
        return [(encoder, self.hparams["encoder_lr"]), (rest, self.hparams["head_lr"])]

    # What the checkpoint owns

    def check_data(self, data: TripleDataModule, stage: str) -> None:
        """Refuse data that this model was not made for.

        Raises:
            UserError: The label set (by name and order), the text, or, in ``fit``, the targets differ; or the data has
                negatives that the guidance does not take.
        """
        if stage == "fit" and data.has_negatives and (self.guidance is None or not self.guidance.contrastive):
            kind = "none" if self.guidance is None else type(self.guidance).__name__
            raise UserError(
                f"guidance is {kind}, which takes no negatives; drop data.init_args.wrong_negatives and "
                "neighbour_negatives, or give lrkd.losses.InfoNCEGuidance"
            )
        pairs: list[tuple[str, Any, Any]] = [("label_set", self.hparams["label_set"], data.label_set)]
        if self.hparams["text"] is not None:
            pairs.append(("text", self.hparams["text"], data.text))
        if stage == "fit" and self.guidance is not None:
            pairs.append(("target_size", self.target_size, data.target_size))
            pairs.append(("num_perspectives", self.hparams["num_perspectives"], data.num_perspectives))
        for name, mine, theirs in pairs:
            if mine != theirs:
                raise UserError(f"{name}: the model has {mine}, the data {theirs}; give the data module the model's")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose hyperparameters are not this model's: neither would win in silence (trap 39).

        Raises:
            UserError: They differ; names each with both values.
        """
        saved = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        refuse_different_hyperparameters(dict(self.hparams), dict(saved))
