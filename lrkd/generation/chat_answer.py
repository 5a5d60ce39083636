"""Reading the body of a chat completion, strictly."""

from __future__ import annotations

from typing import Any

from lrkd.generation.jobs import Completion, Key
from lrkd.generation.retries import Unanswered

ENDED = {"stop": True, "length": False, "content_filter": False}
"""Whether a text with this finish_reason ended by itself; other reasons (abort, error, a tool's call) are no answer."""


def read_completion(key: Key, body: Any) -> Completion:
    """The completion in the body of a response.

    Args:
        key: The job's.
        body: The parsed JSON.

    Returns:
        The first choice's text. A text that was cut off before it began (a thinking model's, say) is empty; token
        counts that the server does not give are 0.

    Raises:
        Unanswered: The body holds no answer.
    """
    if not isinstance(body, dict):
        raise Unanswered(f"a body that is no JSON object: {_shown(body)}")
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Unanswered(f"an answer without choices: {_shown(body)}")
    reason, message = choices[0].get("finish_reason"), choices[0].get("message")
    if not isinstance(reason, str) or reason not in ENDED:
        raise Unanswered(f"an answer with finish_reason {_shown(reason)}")
    text = message.get("content") if isinstance(message, dict) else None
    if text is None and not ENDED[reason]:
        text = ""
    if not isinstance(text, str):
        raise Unanswered(f"a message without content: {_shown(message)} (is it a thinking model? see extra_body)")
    usage = body.get("usage")
    return Completion(key, text, ENDED[reason], _tokens(usage, "prompt_tokens"), _tokens(usage, "completion_tokens"))


def _tokens(usage: Any, name: str) -> int:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) else 0


def _shown(value: Any) -> str:
    return repr(value)[:200]
