"""The frozen sentence encoder that makes rationales into vectors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from lrkd.errors import UserError
from lrkd.pretrained import resolve, sha256

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Precision = Literal["float32", "bfloat16"]


class SentenceEncoder:
    """A sentence-transformers model in eval mode, with what a fingerprint says of it.

    Args:
        name: What sentence-transformers takes, or ``pkg:package/folder``.
        max_length: Tokens of a text at most; the encoder's own limit by default.
        device: Where to compute; by default what is there.
        precision: In which to compute: bfloat16 is autocast's.

    Raises:
        UserError: A ``pkg:`` name that is not installed, or a length that the encoder cannot take.
    """

    def __init__(
        self, name: str, max_length: int | None = None, device: str | None = None, precision: Precision = "float32"
    ) -> None:
        from sentence_transformers import SentenceTransformer

        self.name, self.precision = name, precision
        self.model: SentenceTransformer = SentenceTransformer(resolve(name), device=device).eval()
        if max_length is not None:
            limit = self.model.tokenizer.model_max_length
            if not 4 <= max_length <= limit:
                raise UserError(f"max_length {max_length}: {name} takes 4 to {limit} tokens")
            self.model.max_seq_length = max_length

    @property
    def max_length(self) -> int:
        """Tokens of a text at most."""
        return int(self.model.max_seq_length or self.model.tokenizer.model_max_length)

    @property
    def width(self) -> int:
        """R, the vectors' width."""
        return int(self.model.get_embedding_dimension() or 0)

    @property
    def pooling(self) -> str:
        """The settings of the pooling modules, e.g. ``{"pooling_mode": "mean", ...}``."""
        from sentence_transformers.sentence_transformer.modules import Pooling

        settings = [m.get_config_dict() for m in self.model if isinstance(m, Pooling)]
        return " ".join(json.dumps(setting, sort_keys=True) for setting in settings) or "none"

    @property
    def weights(self) -> str:
        """SHA-256 of the weights' file where there is one, else of the parameters."""
        file = Path(resolve(self.name)) / "model.safetensors"
        if file.is_file():
            return sha256(file)
        digest = hashlib.sha256()
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def token_counts(self, texts: list[str]) -> np.ndarray:
        """(N,) tokens of each text as the encoder reads it; characters where the encoder does not mask its padding."""
        mask = self.model.preprocess(texts).get("attention_mask")
        return np.array([len(text) for text in texts]) if mask is None else np.asarray(mask.sum(1).cpu())

    def encode(self, texts: list[str], batch_size: int) -> np.ndarray:
        """(N, R) float32 vectors of unit length, in batches of texts that follow one another."""
        import torch

        # A batch at a time: given all, sentence-transformers would sort them by characters, which pads more.
        batches = (texts[start : start + batch_size] for start in range(0, len(texts), batch_size))
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            vectors = [
                self.model.encode(batch, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False)
                for batch in batches
            ]
        return np.concatenate(vectors).astype(np.float32)
