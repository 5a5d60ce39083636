"""StudentModule: a student as sentence-transformers' CrossEncoder takes it, for rerank code that is there already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from sentence_transformers.base.modules import Module
from tokenizers import Tokenizer
from torch import Tensor, nn

from lrkd.data.pair_tokens import FlatTokens, PairLayout, TokenCache, encode
from lrkd.data.types import TripleBatch
from lrkd.errors import UserError
from lrkd.hparams import component_factory
from lrkd.student import StudentLRKD

if TYPE_CHECKING:
    from lrkd.serve.card import StudentCard

TOKENIZER = "tokenizer.json"


class StudentModule(Module):
    """The one module of a CrossEncoder whose score is the expected gain, so that ``predict`` and ``rank`` order by it.

    Pairs are (query, item's text), laid out as in training: the item gives way first. ``forward`` leaves probabilities
    (B, C) and, of a student with an extractor, latents (B, P, R) among the features.

    Args:
        student: The student.
        tokenizer: Its tokenizer, without truncation and padding.
        settings: What ``config.json`` keeps: the student's ``class_path`` and ``init_args``, ``max_length``,
            ``query_cap`` and ``pad_id``.
    """

    save_in_root = True

    def __init__(self, student: StudentLRKD, tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.student, self.tokenizer, self.settings = student.eval(), tokenizer, settings
        self.layout = PairLayout.read(tokenizer, settings["pad_id"], TOKENIZER)

    def preprocess(
        self, inputs: Sequence[Sequence[str]], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Token ids, mask, segments and type ids (B, L) of B pairs of texts.

        Raises:
            UserError: What is given are not pairs of texts.
        """
        if not all(len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in inputs):
            raise UserError("a pair is (query, item's text), two texts")
        texts = [[(prompt or "") + query for query, _ in inputs], [" ".join(item.split()) for _, item in inputs]]
        flat = [FlatTokens.of([ids for piece in encode(self.tokenizer, some) for ids in piece]) for some in texts]
        tokens = TokenCache(flat[0], flat[1], self.layout, self.settings["max_length"], self.settings["query_cap"])
        return {name: torch.from_numpy(array) for name, array in tokens.batch(np.arange(len(inputs))).items()}

    def forward(self, features: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        """Adds ``scores`` (B, 1), ``probabilities`` (B, C) and, where there are any, ``latents`` (B, P, R)."""
        ids = features["ids"]
        none = ids.new_full((len(ids),), -1)
        tokens = (ids, features["mask"], features["segments"], features["type_ids"])
        output = self.student(TripleBatch(none, none, *tokens, none))
        probabilities = torch.softmax(output.logits.float() / self.student.temperature, -1)
        gains = probabilities.new_tensor(self.student.label_set.gains)
        features["probabilities"], features["scores"] = probabilities, (probabilities @ gains).unsqueeze(1)
        if output.latents is not None:
            features["latents"] = output.latents
        return features

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write weights, settings and tokenizer."""
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)
        self.save_config(output_path)
        self.tokenizer.save(str(Path(output_path) / TOKENIZER))

    def get_config_dict(self) -> dict[str, Any]:
        """What ``config.json`` keeps."""
        return self.settings

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Read what :meth:`save` wrote, from a folder or the hub."""
        where: dict[str, Any] = {"subfolder": subfolder, "token": token, "cache_folder": cache_folder}
        where |= {"revision": revision, "local_files_only": local_files_only}
        settings = cls.load_config(model_name_or_path, **where)
        made = component_factory(
            {"class_path": settings["class_path"], "init_args": settings["init_args"]}, StudentLRKD, "config.json"
        )
        file = cls.load_file_path(model_name_or_path, filename=TOKENIZER, **where)
        if file is None:
            raise UserError(f"{model_name_or_path}: no {TOKENIZER} in it; export the student again")
        module = cls(made(), Tokenizer.from_file(file), settings)
        return cast(Self, cls.load_torch_weights(model_name_or_path, model=module, **where))


def write_cross_encoder(student: StudentLRKD, tokenizer: Tokenizer, card: StudentCard, folder: Path) -> None:
    """Write a folder that ``CrossEncoder(folder, trust_remote_code=True)`` loads where lrkd is installed.

    Args:
        student: The student.
        tokenizer: Its tokenizer, without truncation and padding.
        card: Of its export.
        folder: The folder to make.
    """
    from sentence_transformers import CrossEncoder

    kind = type(student)
    settings = {
        "class_path": f"{kind.__module__}.{kind.__qualname__}",
        "init_args": plain_hyperparameters(student),
        "max_length": card.max_length,
        "query_cap": card.query_cap,
        "pad_id": card.pad_id,
    }
    module = StudentModule(student, tokenizer, settings)
    model = CrossEncoder(modules=[module], activation_fn=nn.Identity(), device="cpu")
    model.save_pretrained(str(folder), create_model_card=False)


def plain_hyperparameters(student: StudentLRKD) -> dict[str, Any]:
    """What makes the student anew, in plain types; its encoder from its configuration, without pretrained weights."""
    internal = ("_instantiator", "_class_path")
    hparams = {name: value for name, value in student.hparams.items() if name not in internal}
    made: Mapping[str, Any] = json.loads(json.dumps(hparams))
    return dict(made)
