"""A server's chat completions by the ``openai`` client, and its failures sorted: to ask again, or to mend."""

from __future__ import annotations

import asyncio
import os
from types import TracebackType
from typing import Any

import openai

from lrkd.errors import UserError
from lrkd.generation.retries import Unanswered, retry_after

PASSING = (408, 409, 429)  # and all of 500 and more
NO_KEY = "none"


class ChatServer:
    """An OpenAI-compatible server, for one event loop: an async context manager.

    Args:
        base_url: Up to and with ``/v1``.
        model: The model's name on the server.
        api_key: None: the environment's OPENAI_API_KEY, and where there is none, a placeholder.
        timeout: Seconds of a whole request.
    """

    def __init__(self, base_url: str, model: str, api_key: str | None, timeout: float) -> None:
        self.base_url = base_url
        self.model = model
        self.timeout = timeout
        key = api_key or os.environ.get("OPENAI_API_KEY") or NO_KEY
        # Retries and time-outs are ours: the client's would know nothing of the other requests.
        self._client = openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=None)

    async def __aenter__(self) -> ChatServer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def ask(self, request: dict[str, Any]) -> Any:
        """The parsed body of the server's answer.

        Args:
            request: The arguments of the client's ``chat.completions.create``, without the model.

        Raises:
            Unanswered: A failure that may pass.
            UserError: The server refuses; says what to mend.
        """
        create = self._client.chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(self.timeout):
                response = await create(model=self.model, **request)
        except TimeoutError as error:
            raise Unanswered(f"no answer within {self.timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise Unanswered(f"{error.message} {error.__cause__ or ''}".strip()) from error
        except openai.APIStatusError as error:
            if error.status_code not in PASSING and error.status_code < 500:
                raise UserError(await self._refusal(error)) from error
            raise Unanswered(
                f"HTTP {error.status_code}: {_said(error)}",
                rate_limited=error.status_code == 429,
                wait=retry_after(error.response.headers),
            ) from error
        try:
            return response.http_response.json()
        except ValueError as error:
            raise Unanswered(f"a body that is not JSON: {response.http_response.text[:200]!r}") from error

    async def _refusal(self, error: openai.APIStatusError) -> str:
        refused = f"{self.base_url} refuses with HTTP {error.status_code}: {_said(error)}"
        if error.status_code in (401, 403):
            return f"{refused}. Put the key that the server wants into the environment's OPENAI_API_KEY (or api_key)"
        if error.status_code == 404:
            return f"{refused}. Asked for the model {self.model!r}; {await self._models()}"
        return (
            f"{refused}. Either prompt and completion together are too long for the model (lower max_new_tokens, "
            "shorten the prompts, or serve it with a longer context: vllm's --max-model-len), or the server does not "
            "know one of the options (top_k and extra_body are no part of OpenAI's own)"
        )

    async def _models(self) -> str:
        """What the server has, as the end of a sentence."""
        try:
            async with asyncio.timeout(self.timeout):
                names = [model.id async for model in self._client.models.list()]
        except (TimeoutError, openai.OpenAIError, ValueError, TypeError, AttributeError):
            return "the server lists no models there: check base_url, which most often ends in /v1"
        return f"the server lists {names}"


def _said(error: openai.APIStatusError) -> str:
    """The server's own words."""
    message = error.body.get("message") if isinstance(error.body, dict) else None
    return str(message or error.message).strip().rstrip(".")[:300]
