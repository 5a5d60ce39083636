"""The prompt book: perspectives as typed, versioned configuration."""

from __future__ import annotations

import hashlib
import json
from argparse import ArgumentError
from collections import Counter
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from lrkd.data.types import LabelSet
from lrkd.errors import UserError

SHIPPED = ("esci",)


@dataclass(frozen=True)
class Example:
    """A worked example (few-shot): a pair with the rationale and verdict that a perspective wants to see."""

    query: str
    item: str
    rationale: str
    verdict: str


@dataclass(frozen=True)
class Perspective:
    """A way of judging a pair.

    Args:
        name: What rationales, targets and reports call it.
        instruction: What the teacher is told to look at.
        examples: Worked examples, in order; none: zero-shot.
    """

    name: str
    instruction: str
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt: the system's turn, and the user's: the part that a pair's prompts share, and the rest."""

    system: str
    shared: str
    own: str

    @property
    def user(self) -> str:
        """The user's whole turn."""
        return f"{self.shared}\n\n{self.own}"


@dataclass(frozen=True)
class PromptBook:
    """All prompts of a teacher.

    A prompt never holds a gold label: it is rendered from query and item text alone (trap 16).

    Args:
        name: What the book is called; stands in :attr:`version`.
        system: The system's turn; may be empty.
        pair: Template over ``{labels}``, ``{query}`` and ``{item}``: what all prompts of a pair begin with.
        labels: Each label with its definition, in the label set's order.
        perspectives: At least one, with different names.
        neutral: The prompt that names no perspective: for preference pairs across perspectives, and for direct use.
        answer: Template over ``{verdict}``: the last line of every answer.

    Raises:
        UserError: A template lacks a field or has an unknown one, names repeat, or an example's verdict is no label.
    """

    name: str
    system: str
    pair: str
    labels: dict[str, str]
    perspectives: tuple[Perspective, ...]
    neutral: Perspective
    answer: str = "Verdict: {verdict}"

    def __post_init__(self) -> None:
        for argument, template, wanted in (
            ("pair", self.pair, {"labels", "query", "item"}),
            ("answer", self.answer, {"verdict"}),
        ):
            found = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
            if found != wanted:
                raise UserError(f"prompt book {self.name!r}: {argument} is a template over {wanted}, has {found}")
        if "\n" in self.answer or not self.answer.endswith("{verdict}"):
            raise UserError(f"prompt book {self.name!r}: answer is one line that ends in {{verdict}}: {self.answer!r}")
        if not self.perspectives:
            raise UserError(f"prompt book {self.name!r}: no perspective")
        twice = [name for name, n in Counter(p.name for p in self.every).items() if n > 1]
        if twice:
            raise UserError(f"prompt book {self.name!r}: several perspectives are called {twice}")
        for perspective in self.every:
            unknown = {example.verdict for example in perspective.examples} - self.labels.keys()
            if unknown:
                raise UserError(
                    f"prompt book {self.name!r}: {perspective.name} has examples with the verdicts {unknown}, "
                    f"which are none of {list(self.labels)}"
                )

    @property
    def every(self) -> tuple[Perspective, ...]:
        """The perspectives, and the neutral one last."""
        return (*self.perspectives, self.neutral)

    @property
    def version(self) -> str:
        """Name and content's digest, e.g. ``esci-1@5f3a9c21``: a change of any word is another version."""
        content = json.dumps(asdict(self)).encode()  # the order of labels counts
        return f"{self.name}@{hashlib.sha256(content).hexdigest()[:8]}"

    def perspective(self, name: str) -> Perspective:
        """The perspective of that name; ``neutral``'s too.

        Raises:
            UserError: There is none.
        """
        for perspective in self.every:
            if perspective.name == name:
                return perspective
        raise UserError(f"prompt book {self.name!r}: no perspective {name!r}; it has {[p.name for p in self.every]}")

    def render(self, query: str, item: str, perspective: str) -> Prompt:
        """The prompt for a pair from one perspective.

        Args:
            query: The query.
            item: The item's text (:class:`~lrkd.data.types.ItemText`).
            perspective: A perspective's name.
        """
        chosen = self.perspective(perspective)
        labels = "\n".join(f"- {label}: {meaning}" for label, meaning in self.labels.items())
        shared = self.pair.format(labels=labels, query=query, item=item)
        shown = [
            f"Example query: {e.query}\nExample product: {e.item}\n{self.completion(e.rationale, e.verdict)}"
            for e in chosen.examples
        ]
        ending = f'End with the line "{self.answer.format(verdict="LABEL")}", where LABEL is one of: ' + ", ".join(
            self.labels
        )
        return Prompt(self.system, shared, "\n\n".join([chosen.instruction, *shown, f"{ending}."]))

    def completion(self, rationale: str, verdict: str) -> str:
        """What a teacher should answer: the rationale, then the verdict's line."""
        return f"{rationale}\n{self.answer.format(verdict=verdict)}"

    def check_labels(self, labels: LabelSet) -> None:
        """Refuse a label set that the book was not written for.

        Raises:
            UserError: It has other labels, or in another order.
        """
        if list(self.labels) != list(labels.labels):
            raise UserError(
                f"prompt book {self.name!r} defines {list(self.labels)}, the label set {labels.name!r} has "
                f"{list(labels.labels)}; write a book for it (the shipped ones are {list(SHIPPED)})"
            )

    def to_json(self) -> str:
        """The book as JSON text, as kept in checkpoints."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> PromptBook:
        """The inverse of :meth:`to_json`.

        Raises:
            UserError: It is no JSON, or has other keys or types.
        """
        try:
            values = json.loads(text)
            perspectives = tuple(_perspective(perspective) for perspective in values["perspectives"])
            return cls(**{**values, "perspectives": perspectives, "neutral": _perspective(values["neutral"])})
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"prompt book: not what PromptBook.to_json() gives: {error}") from error

    @classmethod
    def load(cls, name: str) -> PromptBook:
        """A shipped book by name, or a user's own YAML file with this class's arguments as keys.

        Raises:
            UserError: Neither, or the file has other keys or types.
        """
        if name in SHIPPED:
            text = (files("lrkd.prompts") / f"{name}.yaml").read_text(encoding="utf-8")
        elif Path(name).is_file():
            text = Path(name).read_text(encoding="utf-8")
        else:
            raise UserError(f"prompts {name!r}: neither one of {list(SHIPPED)} nor a YAML file")
        try:
            return _typed(yaml.safe_load(text))
        except UserError:
            raise
        except (yaml.YAMLError, ArgumentError, ValueError, TypeError) as error:
            raise UserError(f"prompts {name}: {error}") from error


def _perspective(values: dict[str, Any]) -> Perspective:
    return Perspective(**{**values, "examples": tuple(Example(**example) for example in values["examples"])})


def _typed(values: dict[str, Any]) -> PromptBook:
    """The book of a YAML file's values, checked against the dataclasses' types."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PromptBook, "book")
    book: PromptBook = parser.instantiate(parser.parse_object({"book": values})).book
    return book
