"""Prompts and completions as token ids, for plain and chat-template models, thinking ones included."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lrkd.errors import UserError
from lrkd.prompts.book import Prompt

THINK, CLOSED = "<think>", "\n\n</think>\n\n"


@dataclass(frozen=True)
class PromptEncoder:
    """Turns prompts and completions into ids, the same for training and generation.

    A chat model's template lays the turns out, with its thinking switched off; where it has no switch and opens a think
    block all the same, the block is closed at once, so that the prompt ends as Qwen3's does with its switch. A plain
    model gets system and user text and the line ``Answer:``. A completion ends in one end token: that which the chat
    template closes the assistant's turn with, else the tokenizer's eos token (trap 5).

    Args:
        tokenizer: A transformers tokenizer.
    """

    tokenizer: Any

    @property
    def is_chat(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(self.tokenizer.chat_template)

    def prompt_text(self, prompt: Prompt) -> str:
        """The text before the completion."""
        if not self.is_chat:
            return "\n\n".join(part for part in (prompt.system, prompt.user, "Answer:\n") if part)
        text: str = self.tokenizer.apply_chat_template(
            _turns(prompt), tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        opened = text.rstrip()
        return f"{opened}{CLOSED}" if opened.endswith(THINK) else text

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The ids before the completion."""
        return [*self._start, *self._ids(self.prompt_text(prompt))]

    def encode(self, prompt: Prompt, completion: str) -> tuple[list[int], list[int]]:
        """The ids of a prompt and of its completion with the end token.

        Raises:
            UserError: The tokenizer merges the end of the prompt with the completion's beginning, so that training
                would see other ids than generation (trap 4).
        """
        text = self.prompt_text(prompt)
        before = self._ids(text)
        whole = self._ids(text + completion)
        if whole[: len(before)] != before:
            raise UserError(
                f"tokenizer {self.tokenizer.name_or_path!r}: the prompt's last token changes when the completion "
                f"{completion[:40]!r} follows; let the prompt end in a line break or a special token"
            )
        return [*self._start, *before], [*whole[len(before) :], self.end]

    @cached_property
    def end(self) -> int:
        """The id that ends a completion.

        Raises:
            UserError: The tokenizer has neither a chat template that closes a turn nor an eos token.
        """
        if self.is_chat:
            mark = "lrkd completion"
            turns = [*_turns(Prompt("", "pair", "question")), {"role": "assistant", "content": mark}]
            after = self._ids(self.tokenizer.apply_chat_template(turns, tokenize=False).rpartition(mark)[2])
            if after:
                return after[0]
        if self.tokenizer.eos_token_id is None:
            raise UserError(f"tokenizer {self.tokenizer.name_or_path!r} has no eos token to end a completion with")
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def _start(self) -> list[int]:
        """What the tokenizer puts before a plain text (BOS, or nothing); chat templates write their own."""
        bos = self.tokenizer.bos_token_id
        return [bos] if not self.is_chat and bos is not None and self.tokenizer("a").input_ids[0] == bos else []

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids


def _turns(prompt: Prompt) -> list[dict[str, str]]:
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return [*system, {"role": "user", "content": prompt.user}]
