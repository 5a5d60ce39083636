"""Plots of the predictions: reliability and confusion of a few contenders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrkd.evaluate.compare.contenders import Contender
from lrkd.evaluate.compare.plot_style import DARK, LIGHT, TEXT, new_figure, note, plain, save, tidy, wrapped
from lrkd.evaluate.compare.query_statistics import ECE_BINS, confidence_bin, predicted_labels
from lrkd.evaluate.compare.scored import Fold, FoldPairs

FEW = 30


def draw_reliability(path: Path, contenders: Sequence[Contender], folds: Mapping[Fold, FoldPairs]) -> None:
    """How often the most probable label is right, by how probable it is said to be; below it, how many pairs that are.

    Args:
        path: The PNG file.
        contenders: A panel each.
        folds: The pairs of each fold.
    """
    figure = new_figure(1.2 + 3.4 * len(contenders), 4.6)
    axes = figure.subplots(2, len(contenders), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1])
    for (upper, lower), contender in zip(axes.T, contenders, strict=True):
        probabilities, label = _pooled(contender, folds)
        confidence, right = probabilities.max(1), probabilities.argmax(1) == label
        _draw_bins(upper, lower, confidence, right)
        upper.set_title(wrapped(f"{contender.name} ({_runs(contender)})"), fontsize=9)
        lower.set_xlabel("probability of the\nmost probable label")
    axes[0, 0].set_ylabel("share that is right")
    axes[1, 0].set_ylabel("predictions")
    note(
        figure,
        "15 equal bins, all runs together; on the dashed line what is said is what is so, below it the model is too "
        f"sure; hollow: fewer than {FEW} predictions",
    )
    save(figure, path)


def _draw_bins(upper: Any, lower: Any, confidence: np.ndarray, right: np.ndarray) -> None:
    place = confidence_bin(confidence)
    count = np.bincount(place, minlength=ECE_BINS)
    some = count > 0
    mean, share = (np.bincount(place, v, minlength=ECE_BINS)[some] / count[some] for v in (confidence, right))
    upper.plot([0, 1], [0, 1], linestyle="--", color="#444444", linewidth=1)
    upper.plot(mean, share, color=DARK, linewidth=1.5)
    few = count[some] < FEW
    upper.scatter(mean[~few], share[~few], s=30, color=DARK, zorder=3)
    upper.scatter(mean[few], share[few], s=30, facecolors="white", edgecolors=DARK, zorder=3)
    lower.bar((np.arange(ECE_BINS) + 0.5) / ECE_BINS, count, width=0.9 / ECE_BINS, color=LIGHT)
    upper.set(xlim=(0, 1), ylim=(0, 1.02))
    for axis in (upper, lower):
        tidy(axis)


def draw_confusion(
    path: Path, contenders: Sequence[Contender], folds: Mapping[Fold, FoldPairs], labels: Sequence[str]
) -> None:
    """What each gold label is taken for: a row sums to 100 %, with the number of pairs below.

    Args:
        path: The PNG file.
        contenders: A panel each.
        folds: The pairs of each fold.
        labels: The label set's names.
    """
    side = 1.4 + 0.75 * len(labels)
    figure = new_figure((side + 0.6) * len(contenders) + 1.2, side + 0.9)
    axes = figure.subplots(1, len(contenders), sharey=True, squeeze=False)[0]
    for axis, contender in zip(axes, contenders, strict=True):
        probabilities, gold = _pooled(contender, folds)
        said = predicted_labels(probabilities)
        names = [*labels, *(["none"] if (said < 0).any() else [])]  # -1, no label, becomes the last column
        counts = np.zeros((len(labels), len(names)), np.int64)
        np.add.at(counts, (gold, said), 1)
        mesh = _draw_matrix(axis, counts)
        axis.set_title(wrapped(f"{contender.name} ({_runs(contender)})"), fontsize=9)
        axis.set_xticks(range(len(names)), [plain(name) for name in names], rotation=35, ha="right", fontsize=8)
        axis.set_xlabel("predicted")
    axes[0].set_yticks(range(len(labels)), [plain(label) for label in labels], fontsize=8)
    axes[0].set_ylabel("gold")
    bar = figure.colorbar(mesh, ax=list(axes), shrink=0.8, pad=0.02)
    bar.set_label("share of the gold label's pairs")
    bar.outline.set_visible(False)
    note(figure, "a row sums to 100 %; below each share the number of predictions, all runs together")
    save(figure, path)


def _draw_matrix(axis: Any, counts: np.ndarray) -> Any:
    total = counts.sum(1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    mesh = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(share):
        text = f"{100 * value:.0f} %\n{counts[row, column]:,}" if total[row] else "no pair"
        colour = "white" if value > 0.55 else TEXT
        axis.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    return mesh


def _pooled(contender: Contender, folds: Mapping[Fold, FoldPairs]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and gold labels of all runs together."""
    runs = contender.runs.items()
    return (
        np.concatenate([scored.probabilities for _, scored in runs]),
        np.concatenate([folds[fold].label for (fold, _), _ in runs]),
    )


def _runs(contender: Contender) -> str:
    return f"{len(contender.runs)} run{'s' * (len(contender.runs) != 1)}"
