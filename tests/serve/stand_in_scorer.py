"""A scorer with the interface of ``lrkd.serve.scorer.Scorer`` whose answers, delays and failures tests decide.

As a program it serves itself: ``python stand_in_scorer.py SECONDS_A_BATCH [LIMIT=NUMBER ...]``.
"""

from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from lrkd.data.types import LABEL_SETS, ItemText
from lrkd.errors import UserError
from lrkd.serve.limits import Limits
from lrkd.serve.model import prepare
from lrkd.serve.server import run
from lrkd.serve.service import Service

ESCI = LABEL_SETS["esci"]
POISON, NOT_A_NUMBER = "poison", "not a number"
EXAMPLES = ({"query": "red mug", "items": [{"title": "Mug, red"}, {"title": "Mug, blue"}, {"title": "Tea towel"}]},)


def common_words(query, item):
    """The share of the query's words that the item has, which decides the label."""
    words = query.lower().split()
    return sum(word in item.lower() for word in words) / len(words)


class StandInScorer:
    """All of the query's words: Exact; more than half: Substitute; some: Complement; none: Irrelevant."""

    def __init__(self, item_text="{title}", latents=None):
        self.card = SimpleNamespace(
            method="stand_in",
            label_set=ESCI,
            item_text=ItemText(item_text),
            max_length=16,
            source={"seed": 0, "fold": 1},
        )
        self.latents = latents
        self.batches = []
        self.delay = 0.0
        self.go_on = threading.Event()
        self.go_on.set()

    def check(self, pair):
        for name in ("query", "title"):
            if pair.get(name) is None:
                raise UserError(f"{name}: expected text, got nothing")
            if not pair[name].strip():
                raise UserError(f"{name}: empty")

    def score(self, pairs):
        self.batches.append(len(pairs))
        self.go_on.wait()
        time.sleep(self.delay)
        items = [self.card.item_text.render(dict(pair)) for pair in pairs]
        if any(POISON in item for item in items):
            raise RuntimeError("the model choked")
        shares = np.array([common_words(pair["query"], item) for pair, item in zip(pairs, items, strict=True)])
        place = np.select([shares == 1, shares > 0.5, shares > 0], [0, 1, 2], 3)
        probabilities = np.full((len(pairs), 4), 0.1, np.float32)
        probabilities[np.arange(len(pairs)), place] = 0.7
        probabilities[[NOT_A_NUMBER in item for item in items]] = np.nan
        lengths = np.array([len(f"{p['query']} {item}".split()) for p, item in zip(pairs, items, strict=True)])
        cut = np.maximum(0, lengths - self.card.max_length)
        latents = None if self.latents is None else np.stack([self.latents[n] for n in place])
        return SimpleNamespace(
            labels=[ESCI.labels[n] for n in probabilities.argmax(1)],
            gains=probabilities @ np.array(ESCI.gains, np.float32),
            probabilities=probabilities,
            latents=latents,
            tokens_cut=cut,
        )


KETTLES = (
    ("Kettle, green, 1.7 l", "A green kettle is asked for and sold.", "The shopper gets the kettle that they want."),
    ("Kettle, white, 1.7 l", "White is not the colour that is asked for.", "It boils water all the same."),
    ("Descaler for kettles", "It serves a kettle and is none.", "They want to boil water; this cleans what boils it."),
)
"""Items for "green kettle", one for each of the first three labels, with what two perspectives say."""


class StandInIndex:
    """Three rationales a perspective, one for each of the first three labels; a latent is a label's row of the unit
    matrix, so what is nearest is known."""

    latents = 1
    about = {"method": "stand_in", "seed": 0, "fold": 1, "consistent": True}  # noqa: RUF012
    perspectives = {"business_rule": 0, "user_intent": 0}  # noqa: RUF012
    bounds = np.array([0, 3, 6])
    vectors = np.concatenate([np.eye(4, dtype=np.float32)[:3]] * 2)

    def __init__(self):
        rows = [
            {
                "pair_id": f"p{n}",
                "query": "green kettle",
                "title": KETTLES[n % 3][0],
                "label": ESCI.labels[n % 3],
                "perspective": ("business_rule", "user_intent")[n // 3],
                "sample": 0,
                "rationale": KETTLES[n % 3][1 + n // 3],
                "verdict": ESCI.labels[n % 3],
            }
            for n in range(6)
        ]
        self.rationales = pa.Table.from_pylist(rows)

    def search(self, latents, neighbours):
        cosine = latents[:, 0] @ self.vectors.T
        order = [np.argsort(-cosine[:, start : start + 3], axis=1, kind="stable") + start for start in (0, 3)]
        place = np.stack(order, axis=1)[..., :neighbours]
        return SimpleNamespace(
            place=place, similarity=np.take_along_axis(np.repeat(cosine[:, None], 2, axis=1), place, axis=2)
        )


UNIT_LATENTS = np.eye(4, dtype=np.float32)[:, None]
"""(4, 1, 4): the latent of each label."""


def service_over(scorer, tmp_path, *, index=None, limits=None, **options):
    """A service over a scorer of this kind."""
    return Service(prepare(scorer, index, EXAMPLES, tmp_path), limits or Limits(), **options)


if __name__ == "__main__":
    scorer = StandInScorer()
    given = dict(argument.split("=") for argument in sys.argv[2:])
    service = service_over(scorer, None, limits=Limits(**{k: int(v) for k, v in given.items() if k != "drain"}))
    scorer.delay = float(sys.argv[1])
    run(service, port=0, drain_seconds=float(given.get("drain", 30)))
