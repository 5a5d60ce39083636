"""Serving: a trained student without torch, lightning or transformers."""

from lrkd.serve.scorer import Ranking, Scored, Scorer

__all__ = ["Ranking", "Scored", "Scorer"]
