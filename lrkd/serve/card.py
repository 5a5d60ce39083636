"""StudentCard: what an exported student is and how it is to be used, as a JSON file beside its weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from lrkd.data.item_text import ItemText
from lrkd.data.label_set import LabelSet
from lrkd.errors import UserError

CARD_FILE, MODEL_FILE, TOKENIZER_FILE = "card.json", "model.onnx", "tokenizer.json"
WEIGHTS_FILE = "model.onnx.data"
"""Holds the weights of a model that is too large for one file of protobuf."""


@dataclass(frozen=True)
class StudentCard:
    """What an exported student is.

    Args:
        method: The run's method.
        label_set: The C labels in order, with gains.
        temperature: What logits are divided by before the softmax; fitted on the validation split.
        item_text: The template of the item's text.
        max_length: Tokens of a pair at most, special ones included.
        query_cap: Tokens of a query at most.
        pad_id: The id of the pad token.
        latents: The names of the P latents; none without an extractor.
        latent_size: R, their width; 0 without an extractor.
        precision: ``float32``; ``int8``: its matrix products with weights are of 8-bit integers.
        metrics: The run's metrics by split.
        checks: What the export measured: the graph against the student in torch.
        source: The run: its folder, seed, fold, parameters, and the data's root and fingerprint.
        versions: Of the libraries that exported it.
        fingerprint: SHA-256 over the files' content and what decides the scores on this card.
    """

    method: str
    label_set: LabelSet
    temperature: float
    item_text: ItemText
    max_length: int
    query_cap: int
    pad_id: int
    latents: tuple[str, ...]
    latent_size: int
    precision: str
    metrics: dict[str, dict[str, float | None]]
    checks: dict[str, Any]
    source: dict[str, Any]
    versions: dict[str, str]
    fingerprint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as in the file."""
        plain = {"label_set": self.label_set.to_dict(), "item_text": self.item_text.template}
        return asdict(self) | plain | {"latents": list(self.latents)}

    def write(self, folder: Path) -> StudentCard:
        """Write ``card.json`` beside the model and the tokenizer.

        Returns:
            The card as written, with the fingerprint of what is there.
        """
        card = replace(self, fingerprint=self.digest(folder))
        text = json.dumps(card.to_dict(), indent=2, ensure_ascii=False)
        (folder / CARD_FILE).write_text(text + "\n", encoding="utf-8")
        return card

    @classmethod
    def read(cls, folder: Path) -> StudentCard:
        """A folder's card, checked against the files beside it.

        Raises:
            UserError: No such folder, a file is missing or broken, or one is not what was exported.
        """
        for name in (CARD_FILE, MODEL_FILE, TOKENIZER_FILE):
            if not (folder / name).is_file():
                raise UserError(f"{folder}: no {name} in it; give a folder that `python -m lrkd export` wrote")
        file = folder / CARD_FILE
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            label_set, item_text = LabelSet.from_dict(content["label_set"]), ItemText(content["item_text"])
            made = {"label_set": label_set, "item_text": item_text, "latents": tuple(content["latents"])}
            card = cls(**{field.name: content[field.name] for field in fields(cls)} | made)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{file}: not what `export` writes ({error!r}); export the run again") from error
        if card.fingerprint != card.digest(folder):
            raise UserError(
                f"{folder}: card, model and tokenizer do not belong together: a file was changed or is not whole; "
                "export the run again, or copy the folder again"
            )
        return card

    def digest(self, folder: Path) -> str:
        """SHA-256, in hex, over all that decides the scores."""
        text = {"item_text": self.item_text.template, "max_length": self.max_length, "query_cap": self.query_cap}
        decides = {"labels": self.label_set.to_dict(), "temperature": self.temperature, "pad_id": self.pad_id, **text}
        whole = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
        for name in (MODEL_FILE, WEIGHTS_FILE, TOKENIZER_FILE):
            if (folder / name).is_file():
                with (folder / name).open("rb") as file:
                    whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()
