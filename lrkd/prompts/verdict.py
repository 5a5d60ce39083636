"""Reading a teacher's answer, strictly."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Failure = Literal["no_verdict", "unknown_label", "empty_rationale", "cut_off"]
"""Why an answer is of no use: no verdict's line at its end; a label that the set lacks; a verdict without a rationale;
the token limit came before the end."""

THINKING = re.compile(r"^\s*<think>.*?</think>\s*", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """A rationale and its verdict, or what is wrong with the text."""

    rationale: str
    verdict: str | None
    failure: Failure | None


def parse_answer(
    text: str, labels: Iterable[str], answer: str = "Verdict: {verdict}", *, finished: bool = True
) -> Answer:
    """Split an answer into rationale and verdict.

    The verdict is the last line, as the prompt asks for it: the template's words, then a label, by its exact name, and
    nothing else but white space and one full stop. Nothing is guessed from labels inside the rationale. The block
    that a thinking model writes before its answer is dropped.

    Args:
        text: What the teacher wrote.
        labels: The label names.
        answer: The prompt book's template of the last line.
        finished: Whether the text ended by itself, and not at the token limit.

    Returns:
        Rationale and verdict; on a failure the verdict is None and the rationale is the whole text.
    """
    text = THINKING.sub("", text, count=1).strip()
    if not finished:
        return Answer(text, None, "cut_off")
    rationale, _, last = text.rpartition("\n")
    before = answer.removesuffix("{verdict}").strip()
    found = re.fullmatch(re.escape(before) + r"\s*(.+?)\.?\s*", last.strip())
    if found is None:
        return Answer(text, None, "no_verdict")
    if found[1] not in set(labels):
        return Answer(text, None, "unknown_label")
    if not rationale.strip():
        return Answer(text, None, "empty_rationale")
    return Answer(rationale.strip(), found[1], None)
