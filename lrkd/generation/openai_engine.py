"""Completions from an OpenAI-compatible server, such as vLLM.

For instance, on a machine with a GPU::

    vllm serve Qwen/Qwen3-14B --generation-config vllm --max-model-len 4096 --port 8000

and then ``OpenAIEngine("Qwen/Qwen3-14B", "http://localhost:8000/v1", sampling=..., extra_body=...)``. Without
``--generation-config vllm`` the server fills in what :class:`~lrkd.generation.jobs.Sampling` leaves open from the
model's own generation_config.json: Qwen3's has a top_k of 20.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lrkd.errors import UserError
from lrkd.generation.background import Outlet, iterate_in_thread
from lrkd.generation.chat_answer import read_completion
from lrkd.generation.jobs import Completion, Job, Sampling, job_seed
from lrkd.generation.retries import Retries, Unanswered

if TYPE_CHECKING:
    from lrkd.generation.chat_server import ChatServer

OWN_FIELDS = {"model", "messages", "max_tokens", "temperature", "top_p", "top_k", "seed", "n", "stream"}


class OpenAIEngine:
    """Asks a server for chat completions, many at a time.

    Time-outs, lost connections, HTTP 408, 409, 429 and 5xx, and answers that are none (no JSON, no choices, no content)
    are asked again, later and later (:class:`~lrkd.generation.retries.Retries`); all else is refused at once. A message
    that is empty twice is what the model has to say.

    Args:
        model: The model's name on the server; rationales keep it as their teacher.
        base_url: The server's address, most often up to ``/v1``.
        sampling: How tokens are chosen. Each job sends a seed made of the sampling's and its key.
        concurrency: Requests under way at most. As many answers again may wait to be read; then no more are asked for.
        api_key: None: the environment's OPENAI_API_KEY, and where there is none, a placeholder, as most servers of
            one's own ask for no key.
        max_retries: How often a request is repeated before the run gives up.
        timeout: Seconds from sending a request to the end of its answer.
        backoff: Seconds before the first repetition; each further one waits twice as long, a minute at most.
        extra_body: Further fields of each request, as the server takes them. Rationales written in-process are written
            with thinking switched off; for the same from vLLM, SGLang or llama.cpp, and a model such as Qwen3, give
            ``{"chat_template_kwargs": {"enable_thinking": False}}``. It is not sent by default: OpenAI's own and other
            strict servers refuse fields that they do not know.

    Raises:
        UserError: The package openai is missing, or an argument is wrong.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        sampling: Sampling,
        concurrency: int = 16,
        api_key: str | None = None,
        max_retries: int = 8,
        timeout: float = 120.0,
        backoff: float = 0.5,
        extra_body: dict[str, Any] | None = None,
    ) -> None:
        if find_spec("openai") is None:
            raise UserError("to ask a server takes the package openai: pip install 'lrkd[openai]'")
        _check_url(base_url)
        if concurrency < 1 or max_retries < 0 or timeout <= 0 or backoff <= 0:
            raise UserError(
                "concurrency is at least 1, max_retries at least 0, timeout and backoff above 0, got "
                f"{concurrency}, {max_retries}, {timeout} and {backoff}"
            )
        if twice := sorted(OWN_FIELDS & set(extra_body or {})):
            raise UserError(f"extra_body has {twice}, which the engine sets itself: give them by its other options")
        self.model = model
        self.base_url = base_url
        self.sampling = sampling
        self.concurrency = concurrency
        self.api_key = api_key
        self.max_retries = max_retries
        self.timeout = timeout
        self.backoff = backoff
        self.extra_body = extra_body

    @property
    def teacher(self) -> str:
        """The model's name."""
        return self.model

    def generate(self, jobs: Sequence[Job]) -> Iterator[Completion]:
        """The jobs' completions, each as soon as it is there; closing the iterator cancels what is under way.

        Args:
            jobs: What to ask; the order of the answers is another.

        Raises:
            UserError: The server refuses, or one job's retries are used up; all answers that had come are yielded
                before.
        """
        if jobs:
            yield from iterate_in_thread(lambda outlet: self._produce(jobs, outlet), 2 * self.concurrency)

    async def _produce(self, jobs: Sequence[Job], outlet: Outlet[Completion]) -> None:
        from lrkd.generation.chat_server import ChatServer  # imports openai, which takes a second

        retries = Retries(self.max_retries, self.backoff)
        waiting = iter(jobs)

        async def work(server: ChatServer) -> None:
            for job in waiting:  # shared by all workers: a window that slides over the jobs
                await outlet.reserve()
                try:
                    outlet.put(await self._answer(server, job, retries))
                except Unanswered as failure:
                    raise UserError(self._given_up(job, failure, retries.answered, len(jobs))) from failure

        async with ChatServer(self.base_url, self.model, self.api_key, self.timeout) as server:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.concurrency, len(jobs))):
                        group.create_task(work(server))
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from failed.exceptions[0].__cause__

    async def _answer(self, server: ChatServer, job: Job, retries: Retries) -> Completion:
        request = self._request(job)
        empty = False

        async def ask() -> Completion:
            nonlocal empty
            completion = read_completion(job.key, await server.ask(request))
            if completion.finished and not completion.text and not empty:
                empty = True
                raise Unanswered("an empty message")
            return completion

        return await retries.until_answered(ask)

    def _request(self, job: Job) -> dict[str, Any]:
        system = [{"role": "system", "content": job.prompt.system}] if job.prompt.system else []
        top_k = {} if self.sampling.top_k is None else {"top_k": self.sampling.top_k}
        return {
            "messages": [*system, {"role": "user", "content": job.prompt.user}],
            "max_tokens": self.sampling.max_new_tokens,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "seed": job_seed(self.sampling.seed, job.key, bits=31),  # servers differ in how many they take
            "extra_body": {**top_k, **(self.extra_body or {})},
        }

    def _given_up(self, job: Job, failure: Unanswered, answered: int, jobs: int) -> str:
        return (
            f"{self.base_url}: gave up on {tuple(job.key)} {failure}. {answered:,} of {jobs:,} jobs were answered. See "
            "that the server is well, and run the command again: it goes on with the rest"
        )


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        fine = False
    if not fine:
        raise UserError(f"base_url {url!r}: give an address such as http://localhost:8000/v1")
