"""Generation in process, with a transformers model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lrkd.errors import UserError
from lrkd.generation.jobs import Completion, Job, Sampling
from lrkd.pretrained import load_tokenizer, resolve, sha256
from lrkd.prompts.encoding import PromptEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Precision = Literal["float32", "bfloat16"]


class TransformersEngine:
    """A causal language model in this process.

    Args:
        model: A hub name, a folder (an adapter's too), or ``pkg:package/folder``.
        adapter: A folder with a peft adapter that is put on the model.
        sampling: How tokens are chosen.
        precision: Of the weights and all that is computed from them.
        device: Where to compute: cpu, cuda, cuda:1, ...; by default what is there.
        token_budget: Tokens whose keys and values are kept at a time; see :func:`~lrkd.generation.decoding.decode`.

    Raises:
        UserError: There is no such model or adapter, or it is not one that can be decoded here.
    """

    def __init__(
        self,
        model: str,
        *,
        adapter: str | None = None,
        sampling: Sampling,
        precision: Precision = "bfloat16",
        device: str | None = None,
        token_budget: int = 32_768,
    ) -> None:
        import torch

        from lrkd.causal_lm import load_causal_lm
        from lrkd.generation.tree_cache import tree_attention

        self.name, self.adapter, self.sampling, self.token_budget = model, adapter, sampling, token_budget
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder = PromptEncoder(load_tokenizer(model))
        self.model: PreTrainedModel = load_causal_lm(model, precision, adapter=adapter).to(self.device)
        with tree_attention(self.model):  # refuses what cannot be decoded here, before any prompt is rendered
            pass

    @property
    def teacher(self) -> str:
        """The model's name, with the adapter's."""
        return self.name if self.adapter is None else f"{self.name}+{self.adapter}"

    @cached_property
    def weights(self) -> str | None:
        """SHA-256 over the files of weights where the model and its adapter are folders, else None."""
        folders = [Path(resolve(name)) for name in (self.name, self.adapter) if name is not None]
        files = [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]
        digests = "".join(map(sha256, files))
        return hashlib.sha256(digests.encode()).hexdigest() if files else None

    def generate(self, jobs: Sequence[Job]) -> Iterator[Completion]:
        """The jobs' completions, each as soon as it is there.

        Raises:
            UserError: A prompt with its completion is longer than the model can take.
        """
        from lrkd.generation.in_process import complete

        self._check_lengths(jobs)
        yield from complete(self.model, self.encoder, jobs, self.sampling, self.token_budget)

    def _check_lengths(self, jobs: Sequence[Job]) -> None:
        config: Any = self.model.config
        limits = (getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window"))
        limit = min((value for value in limits if value), default=None)
        for job in jobs if limit is not None else []:
            prompt = self.encoder.prompt_ids(job.prompt)
            if limit is not None and len(prompt) + self.sampling.max_new_tokens > limit:
                raise UserError(
                    f"{self.teacher}: the prompt of pair {job.key.pair_id!r} has {len(prompt)} tokens; with "
                    f"max_new_tokens {self.sampling.max_new_tokens} that is more than the {limit} that the model "
                    "takes. Shorten the item_text, or lower max_new_tokens"
                )
