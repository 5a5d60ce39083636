"""Label sets: the relevance labels of a data set in order, with their gains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrkd.errors import UserError


@dataclass(frozen=True)
class LabelSet:
    """The relevance labels of a data set, best first, with the gain that each is worth in NDCG.

    Args:
        name: What the set is called, e.g. ``esci``.
        labels: The C label names in order; a label's place is its class index.
        gains: One gain a label (C), at least 0.

    Raises:
        UserError: Fewer than two labels, a repeated name, or gains that do not match the labels.
    """

    name: str
    labels: tuple[str, ...]
    gains: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "gains", tuple(float(gain) for gain in self.gains))
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise UserError(f"label set {self.name!r}: wants two or more different labels, has {list(self.labels)}")
        if len(self.gains) != len(self.labels):
            raise UserError(f"label set {self.name!r}: {len(self.labels)} labels but {len(self.gains)} gains")
        if not all(0 <= gain < float("inf") for gain in self.gains):
            raise UserError(f"label set {self.name!r}: gains must be finite and at least 0, got {list(self.gains)}")

    def __len__(self) -> int:
        return len(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as kept in checkpoints and ``run.json``."""
        return {"name": self.name, "labels": list(self.labels), "gains": list(self.gains)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> LabelSet:
        """The inverse of :meth:`to_dict`.

        Raises:
            UserError: A key is missing or unknown.
        """
        if not isinstance(value, dict) or set(value) != {"name", "labels", "gains"}:
            raise UserError(f"a label set has the keys name, labels and gains, got {value!r}")
        return cls(value["name"], tuple(value["labels"]), tuple(value["gains"]))

    @classmethod
    def load(cls, name: str) -> LabelSet:
        """A shipped label set by name, or a user's own from a YAML file with the keys name, labels, gains.

        Raises:
            UserError: Neither a shipped name nor a readable file.
        """
        if name in LABEL_SETS:
            return LABEL_SETS[name]
        if not Path(name).is_file():
            raise UserError(f"label set {name!r} is neither one of {sorted(LABEL_SETS)} nor a YAML file")
        import yaml

        try:
            return cls.from_dict(yaml.safe_load(Path(name).read_text(encoding="utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{name}: not a readable YAML file: {error}") from error


LABEL_SETS = {
    "esci": LabelSet("esci", ("Exact", "Substitute", "Complement", "Irrelevant"), (1.0, 0.1, 0.01, 0.0)),
    "wands": LabelSet("wands", ("Exact", "Partial", "Irrelevant"), (1.0, 0.5, 0.0)),
}
"""Shipped label sets. ESCI's gains are those of its ranking task (Reddy et al. 2022, arXiv 2206.06588, section 4);
WANDS gives no gains with its three grades: 1, 0.5, 0 are ours."""
