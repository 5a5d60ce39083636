"""What a store holds, in a few lines."""

from __future__ import annotations

from rich.console import Console

from lrkd.generation.store import CompletionStore


def print_counts(store: CompletionStore, console: Console) -> None:
    """Print the completions of a store by perspective and by what became of them."""
    counts = store.counts()
    console.print(
        f"{store.path} holds {counts.total:,} completions: {counts.prompt_tokens:,} prompt tokens, "
        f"{counts.tokens:,} written"
    )
    for perspective in sorted(counts.parsed.keys() | counts.failures.keys()):
        parsed, failures = counts.parsed.get(perspective, 0), counts.failures.get(perspective, {})
        lost = ", ".join(f"{number:,} {failure}" for failure, number in failures.items())
        console.print(f"  {perspective}: {parsed:,} parsed" + (f"; without a rationale: {lost}" if lost else ""))
