"""The model that a server serves: the scorer, what its verdicts mean, and the rationales that explain them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrkd import __version__
from lrkd.errors import UserError

if TYPE_CHECKING:
    from lrkd.data.types import LabelSet
    from lrkd.evaluate.explain.index import ExplanationIndex
    from lrkd.serve.batcher import Verdict
    from lrkd.serve.card import StudentCard
    from lrkd.serve.scorer import Scorer

EXPLANATIONS, EXAMPLES = "explanations", "examples.json"

_IDENTITY = ("method", "seed", "fold", "checkpoint", "latents")
_TRIAL = {"query": "red mug", "title": "Mug", **dict.fromkeys(("description", "brand", "color", "bullets"), "red")}


@dataclass(frozen=True)
class Model:
    """What :func:`open_model` opens.

    Args:
        scorer: Scores pairs.
        index: Teacher rationales to explain scores with, or None.
        examples: ``[{"query": ..., "items": [{"title": ...}, ...]}, ...]`` for the page.
    """

    scorer: Scorer
    index: ExplanationIndex | None
    examples: Sequence[dict[str, Any]]

    @property
    def label_set(self) -> LabelSet:
        """The C labels with their gains."""
        return self.scorer.card.label_set

    @property
    def fields(self) -> tuple[str, ...]:
        """The item's fields that the model reads."""
        return self.scorer.card.item_text.fields

    def names(self) -> dict[str, str]:
        """What tells this model from another, for metrics."""
        card = self.scorer.card
        return {"method": card.method, "label_set": card.label_set.name, "lrkd": __version__}

    def about(self) -> dict[str, Any]:
        """What a client may want to know of the model, in plain types."""
        labels = [{"name": n, "gain": g} for n, g in zip(self.label_set.labels, self.label_set.gains, strict=True)]
        explanations = None
        if self.index is not None:
            explanations = {"rationales": len(self.index.vectors), "perspectives": list(self.index.perspectives)}
        return {
            **self.names(),
            "labels": labels,
            "fields": list(self.fields),
            "item_text": self.scorer.card.item_text.template,
            "max_length": self.scorer.card.max_length,
            "explanations": explanations,
            "examples": list(self.examples),
        }

    def explain(self, verdicts: Sequence[Verdict], neighbours: int) -> list[list[dict[str, Any]]]:
        """For every verdict the nearest rationales: ``neighbours`` of every perspective, nearest first.

        Each is about another pair, which it names.
        """
        assert self.index is not None
        latents = np.array([verdict.latents for verdict in verdicts])
        sizes = np.diff(self.index.bounds)
        nearest = self.index.search(latents, min(neighbours, int(sizes.min())))
        rows = iter(self.index.rationales.take(nearest.place.ravel()).to_pylist())
        each = nearest.similarity[0].size
        return [
            [_explanation(next(rows), cosine) for cosine in similarity.ravel().tolist()]
            for similarity in nearest.similarity.reshape(len(verdicts), each)
        ]


def open_model(folder: Path, threads: int | None = None) -> Model:
    """Open an exported student, and what lies beside it: ``explanations/`` and ``examples.json``.

    Raises:
        UserError: There is no such model, or what lies beside it is broken or belongs to another.
    """
    from lrkd.serve.scorer import Scorer

    scorer = Scorer(folder, threads=threads)
    index = None
    if (folder / EXPLANATIONS).exists():
        from lrkd.evaluate.explain.index import ExplanationIndex

        index = ExplanationIndex.open(folder / EXPLANATIONS)
    return prepare(scorer, index, _examples(folder / EXAMPLES), folder)


def prepare(scorer: Scorer, index: ExplanationIndex | None, examples: Sequence[dict[str, Any]], folder: Path) -> Model:
    """A model that has scored and explained one pair, so that what does not fit shows at once.

    Raises:
        UserError: The rationales are not those of the model.
    """
    trial = scorer.score([_TRIAL])
    if index is not None:
        latents = None if trial.latents is None else trial.latents.shape[1:]
        _check_index(index, scorer.card, latents, folder / EXPLANATIONS)
    return Model(scorer, index, examples)


def _check_index(index: ExplanationIndex, card: StudentCard, latents: tuple[int, ...] | None, folder: Path) -> None:
    """Rationales lie where one run's latents do: another run's would explain nothing, and look as if they did."""
    served = {"method": card.method, **card.source, "latents": latents}
    made = {**index.about, "latents": (index.latents, index.vectors.shape[1])}
    differ = [name for name in _IDENTITY if name in made and name in served and made[name] != served[name]]
    if differ:
        told = ", ".join(f"{name} {made[name]} and not {served[name]}" for name in differ)
        raise UserError(
            f"{folder}: made for another student ({told}); make it again with `python -m lrkd explain --save_index`, "
            "from the run that was exported"
        )


def _examples(file: Path) -> list[dict[str, Any]]:
    """The examples of the model, or the few that ship with the page."""
    if not file.is_file():
        file = Path(__file__).with_name("page") / EXAMPLES
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return [{"query": str(e["query"]), "items": [dict(item) for item in e["items"]]} for e in found]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{file}: wants [{{"query": ..., "items": [{{"title": ...}}, ...]}}, ...]; mend or delete it ({error!r})'
        ) from error


def _explanation(row: dict[str, Any], similarity: float) -> dict[str, Any]:
    return {
        "perspective": row["perspective"],
        "similarity": round(similarity, 4),
        "rationale": row["rationale"],
        "verdict": row["verdict"],
        "about": {name: row[name] for name in ("query", "title", "label")},
    }
