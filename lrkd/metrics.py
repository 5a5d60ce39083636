"""Metrics of a relevance model: pure functions over the predictions of a whole split, and the state that gathers them.

Nothing is averaged over batches. Every process collects its rows, they are gathered once an epoch, rows that a
distributed sampler repeated are dropped by row number, and each metric sees the split as it is (traps 15, 30, 31).
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_auroc,
    multiclass_calibration_error,
    multiclass_f1_score,
)
from torchmetrics.retrieval import RetrievalNormalizedDCG
from torchmetrics.utilities import dim_zero_cat

from lrkd.data.types import LabelSet

ECE_BINS = 15


class Predicted:
    """The predictions of a split: N rows, C labels, each row once, in the order of ``pairs.parquet``.

    Not a dataclass: torchmetrics would squeeze the tensors of one when there is a single row.

    Args:
        row: (N,) int64: the pair's row in ``pairs.parquet``.
        query: (N,) int64: its query group.
        label: (N,) int64: gold class index, -1 where unknown.
        logits: (N, C) float32, before temperature.
    """

    def __init__(self, row: Tensor, query: Tensor, label: Tensor, logits: Tensor) -> None:
        self.row, self.query, self.label, self.logits = row, query, label, logits

    def labelled(self) -> Predicted:
        """Only the rows whose gold label is known."""
        known = self.label >= 0
        return Predicted(self.row[known], self.query[known], self.label[known], self.logits[known])


class Predictions(Metric):
    """Collects predictions over batches and processes; ``compute`` gives every row once, whatever the sampler did."""

    full_state_update = False
    row: list[Tensor]
    query: list[Tensor]
    label: list[Tensor]
    logits: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("row", "query", "label", "logits"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, row: Tensor, query: Tensor, label: Tensor, logits: Tensor) -> None:
        """Add a batch: (B,), (B,), (B,) and (B, C)."""
        self.row.append(row)
        self.query.append(query)
        self.label.append(label)
        self.logits.append(logits.float())

    def compute(self) -> Predicted:
        """All rows so far, each once, in order.

        Of a row that a sampler gave to several processes, what the first of them said: a stand-in has no label.
        """
        row = dim_zero_cat(self.row)
        first = _first_of_each(row)
        query, label, logits = (dim_zero_cat(state)[first] for state in (self.query, self.label, self.logits))
        return Predicted(row[first], query, label, logits)


class WithinQueryR2(Metric):
    """How much of the targets' variance *within* queries the latents explain; see :func:`within_query_r2`."""

    full_state_update = False
    row: list[Tensor]
    query: list[Tensor]
    latents: list[Tensor]
    targets: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("row", "query", "latents", "targets"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, row: Tensor, query: Tensor, latents: Tensor, targets: Tensor, mask: Tensor) -> None:
        """Add a batch: (B,), (B,), (B, P, R), (B, P, R) and (B, P); only targets that exist are kept."""
        pair, perspective = mask.nonzero(as_tuple=True)
        num_perspectives = mask.shape[1]
        self.row.append(row[pair] * num_perspectives + perspective)
        # A query is centred one perspective at a time.
        self.query.append(query[pair] * num_perspectives + perspective)
        self.latents.append(latents[pair, perspective].float())
        self.targets.append(targets[pair, perspective].float())

    def compute(self) -> Tensor:
        """R² (scalar), NaN where no query has two targets."""
        row = dim_zero_cat(self.row)
        first = _first_of_each(row)
        query, latents, targets = (dim_zero_cat(state)[first] for state in (self.query, self.latents, self.targets))
        return within_query_r2(latents, targets, query)


def _first_of_each(row: Tensor) -> Tensor:
    """Where each different value of ``row`` (N,) stands first, in the order of the values."""
    unique, inverse = torch.unique(row, return_inverse=True)
    place = torch.arange(len(row), device=row.device)
    return torch.full_like(unique, len(row)).scatter_reduce(0, inverse, place, "amin")


def within_query_r2(latents: Tensor, targets: Tensor, query: Tensor) -> Tensor:
    """The share of the targets' within-query variance that the latents explain. Higher is better; 1 is all of it.

    With ``r̃, ẽ`` the latents and targets less their query's mean, it is ``max_a≥0  1 - Σ‖ẽ - a r̃‖² / Σ‖ẽ‖²
    = max(0, Σ r̃·ẽ)² / (Σ‖r̃‖² Σ‖ẽ‖²)``: the best common scale a is fitted, since cosine and InfoNCE guidance leave the
    latents' length free. On real data most of a target's variance is between queries (topic), which this leaves out.

    Args:
        latents: (N, R).
        targets: (N, R).
        query: (N,) int: the group of each.

    Returns:
        A scalar between 0 and 1; NaN where no query has two different targets.
    """
    _, group = torch.unique(query, return_inverse=True)
    residual, error = _centred(latents, group), _centred(targets, group)
    product = (residual * error).sum().clamp_min(0)
    variance, total = residual.square().sum(), error.square().sum()
    if total < 1e-12:
        return torch.full((), torch.nan, device=targets.device)
    return product.square() / (variance.clamp_min(1e-12) * total)


def _centred(vectors: Tensor, group: Tensor) -> Tensor:
    if not len(group):
        return vectors
    size = torch.bincount(group).unsqueeze(1)
    total = torch.zeros(len(size), vectors.shape[1], device=vectors.device, dtype=vectors.dtype)
    return vectors - (total.index_add(0, group, vectors) / size)[group]


def classification_metrics(probabilities: Tensor, labels: Tensor, label_set: LabelSet) -> dict[str, Tensor]:
    """Accuracy, macro-F1, F1 of each label, AUROC and ECE of N labelled pairs.

    Macro-F1 is the mean over *all* labels of the set, absent ones counting 0, as scikit-learn's with ``labels=`` given
    (torchmetrics' own macro average leaves absent labels out). AUROC is one against the rest, the mean over the labels
    that have positives and negatives (NaN if none has). Higher is better, except for ECE.

    Args:
        probabilities: (N, C).
        labels: (N,) int, all known.
        label_set: C labels.
    """
    classes = len(label_set)
    f1 = multiclass_f1_score(probabilities, labels, classes, average=None, zero_division=0)
    counts = torch.bincount(labels, minlength=classes)
    separable = (counts > 0) & (counts < len(labels))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No (positive|negative) samples")  # averaged out below
        auroc = multiclass_auroc(probabilities, labels, classes, average=None)
    return {
        "accuracy": multiclass_accuracy(probabilities, labels, classes, average="micro"),
        "macro_f1": f1.mean(),
        "auroc": auroc[separable].mean(),
        "ece": multiclass_calibration_error(probabilities, labels, classes, n_bins=ECE_BINS),
        **{f"f1/{name}": value for name, value in zip(label_set.labels, f1, strict=True)},
    }


def ndcg_at_10(scores: Tensor, labels: Tensor, query: Tensor, label_set: LabelSet) -> Tensor:
    """NDCG@10 with the label set's gains, the mean over queries that have pairs of at least two labels.

    Queries of one label say nothing about ranking and are left out; a query that is left in but has no gain at all
    (possible where two labels gain 0) counts 0. Tied scores share their gains. Higher is better.

    Args:
        scores: (N,): what the pairs are ranked by.
        labels: (N,) int, all known.
        query: (N,) int: the query group of each pair.
        label_set: Gives the gains.

    Returns:
        A scalar; NaN where no query has two labels.
    """
    _, group = torch.unique(query, return_inverse=True)
    seen = torch.zeros(int(group.max()) + 1 if len(group) else 0, len(label_set), device=labels.device)
    seen[group, labels] = 1
    ranked = (seen.sum(1) >= 2)[group]
    if not ranked.any():
        return torch.full((), torch.nan, device=scores.device)
    _, group = torch.unique(group[ranked], return_inverse=True)
    gains = torch.tensor(label_set.gains, device=scores.device)[labels[ranked]]
    # The whole split is here already, on every process: gathering it again would count each pair several times.
    metric = RetrievalNormalizedDCG(top_k=10, empty_target_action="neg", sync_on_compute=False)
    metric.update(scores[ranked], gains, group)
    return metric.compute()


def relevance_metrics(
    predicted: Predicted, label_set: LabelSet, temperature: float, majority: int
) -> dict[str, Tensor]:
    """All that a split's table shows.

    Classification metrics of the calibrated probabilities, ``ece_uncalibrated`` for the ECE before temperature scaling,
    ``ndcg@10`` of the expected gain Σ_c p_c · gain_c, and beside them ``majority/...``: the row that always says the
    most frequent training label, without which no figure on unbalanced labels means anything (trap 34).

    Args:
        predicted: N labelled predictions; unlabelled ones are left out.
        label_set: C labels.
        temperature: What the logits are divided by.
        majority: Class index of the most frequent training label.
    """
    known = predicted.labelled()
    probabilities = torch.softmax(known.logits / temperature, -1)
    gains = torch.tensor(label_set.gains, device=probabilities.device)
    metrics = classification_metrics(probabilities, known.label, label_set)
    metrics["ece_uncalibrated"] = multiclass_calibration_error(
        torch.softmax(known.logits, -1), known.label, len(label_set), n_bins=ECE_BINS
    )
    metrics["ndcg@10"] = ndcg_at_10(probabilities @ gains, known.label, known.query, label_set)
    constant = F.one_hot(torch.full_like(known.label, majority), len(label_set)).float()
    always = classification_metrics(constant, known.label, label_set)
    metrics |= {f"majority/{name}": always[name] for name in ("accuracy", "macro_f1")}
    metrics["majority/ndcg@10"] = ndcg_at_10(constant @ gains, known.label, known.query, label_set)
    return metrics


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T > 0 that minimises the cross-entropy of ``softmax(logits / T)`` (Guo et al. 2017, section 4.2).

    The cross-entropy is convex in 1/T, so one Newton-like search from T = 1 finds the minimum; T is kept within
    0.05 to 20, so that a handful of separable pairs cannot send it to 0.

    Args:
        logits: (N, C).
        labels: (N,) int, all known.

    Returns:
        T; 1.0 where N = 0.
    """
    if not len(labels):
        return 1.0
    # Tensors made under inference mode cannot take part in autograd: make, and copy, all of them outside of it.
    with torch.inference_mode(False), torch.enable_grad():
        logits, labels = logits.detach().double().clone(), labels.clone()
        log_scale = torch.zeros((), dtype=torch.double, device=logits.device, requires_grad=True)
        optimiser = torch.optim.LBFGS([log_scale], max_iter=100, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = F.cross_entropy(logits * log_scale.exp(), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimiser.step(closure)  # type: ignore[no-untyped-call]
    return float((-log_scale.detach()).exp().clamp(0.05, 20))
