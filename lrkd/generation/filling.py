"""Filling a store with completions, a few prompts at a time, with progress."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lrkd.generation.jobs import Completion, Engine, Key
from lrkd.generation.questions import Questions
from lrkd.generation.store import CompletionStore, Stored

CHUNK = 4096
"""Jobs that an engine gets at a time: its prompts are in memory, and are sorted by length."""


def fill(engine: Engine, questions: Questions, store: CompletionStore, console: Console) -> None:
    """Generate what the store lacks of the questions' completions."""
    wanted, present = questions.keys(), store.keys()
    missing = [key for key in wanted if key not in present]
    left_out = questions.pairs.num_rows * len(questions.perspectives) * questions.samples - len(wanted)
    console.print(
        f"{len(wanted):,} completions wanted ({', '.join(questions.perspectives)}; {questions.samples} each), "
        f"{len(wanted) - len(missing):,} of them in {store.path} already"
        + (f"; {left_out:,} left out (missing_only)" if questions.skipped else "")
    )
    started, prompt_tokens, tokens = perf_counter(), 0, 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[rate]}"), transient=True, console=console) as progress:
        task = progress.add_task("Generating", total=len(missing), rate="")
        for done, completion in enumerate(_completions(engine, missing, questions), 1):
            store.add([Stored.of(completion, questions.book, engine.teacher)])
            prompt_tokens += completion.prompt_tokens
            tokens += completion.tokens
            seconds = perf_counter() - started
            progress.update(task, completed=done, rate=f"{done / seconds:.1f}/s, {tokens / seconds:,.0f} tokens/s")
    seconds = perf_counter() - started
    if missing:
        console.print(
            f"Generated {len(missing):,} completions in {seconds:,.0f} s ({len(missing) / seconds:.1f}/s): "
            f"{prompt_tokens:,} prompt tokens, {tokens:,} written ({tokens / seconds:,.0f}/s)"
        )


def _completions(engine: Engine, keys: list[Key], questions: Questions) -> Iterator[Completion]:
    """The completions of all keys, whose prompts are rendered a few at a time; a pair's stay together."""
    start = 0
    while start < len(keys):
        end = min(start + CHUNK, len(keys))
        while end < len(keys) and keys[end].pair_id == keys[end - 1].pair_id:
            end += 1
        yield from engine.generate(questions.jobs(keys[start:end]))
        start = end
