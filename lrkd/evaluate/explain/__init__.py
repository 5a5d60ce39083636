"""Explanations at a student's speed: the teacher's rationales that lie nearest to its latents."""

from lrkd.evaluate.explain.command import explain

__all__ = ["explain"]
