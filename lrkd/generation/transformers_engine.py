"""Generation in process, with a transformers model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lrkd.errors import UserError
from lrkd.generation.jobs import Completion, Job, Sampling
from lrkd.pretrained import resolve, sha256
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

        self.name, self.adapter, self.sampling, self.token_budget = model, adapter, sampling, token_budget
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        loaded, tokenizer = _load(model, adapter, getattr(torch, precision))
        self.model: PreTrainedModel = loaded.to(self.device).eval()
        self.encoder = PromptEncoder(tokenizer)

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


def _load(name: str, adapter: str | None, dtype: Any) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lrkd.generation.tree_cache import tree_attention

    try:
        tokenizer = AutoTokenizer.from_pretrained(_tokenizer_of(resolve(name)))
        model = AutoModelForCausalLM.from_pretrained(resolve(name), dtype=dtype, attn_implementation="sdpa")
        if adapter is not None:
            model.load_adapter(resolve(adapter))
        with tree_attention(model):  # refuses what cannot be decoded here
            pass
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(
            f"model {name!r}{f' with adapter {adapter!r}' if adapter else ''}: cannot be loaded as a causal language "
            f"model with sdpa attention: {error}"
        ) from error
    return model, tokenizer


def _tokenizer_of(folder: str) -> str:
    """Where the tokenizer is: an adapter that was saved without one has its base model's."""
    config, tokenizer = (Path(folder) / name for name in ("adapter_config.json", "tokenizer_config.json"))
    if config.is_file() and not tokenizer.is_file():
        return str(json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"])
    return folder
