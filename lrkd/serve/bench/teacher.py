"""A teacher that writes its rationales for pairs, timed; runs in a process of its own and prints a line of JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter


def measure(root: Path, model: str, pairs: int, max_new_tokens: int) -> dict[str, float]:
    """Let a teacher judge pairs from every perspective, greedily, in the batches that the engine makes.

    Args:
        root: The data root.
        model: The teacher, as for ``rationales generate``.
        pairs: How many pairs, the first ones.
        max_new_tokens: Tokens of a rationale at most.

    Returns:
        pairs, rationales, prompt_tokens, tokens (written) and seconds, loading left out.
    """
    from lrkd.data.prompted_pairs import PairText
    from lrkd.data.types import ItemText
    from lrkd.generation.jobs import Sampling
    from lrkd.generation.questions import Questions, pairs_to_ask
    from lrkd.generation.transformers_engine import TransformersEngine
    from lrkd.prompts.card import how_to_ask

    book, template, chars = how_to_ask(model, None, None, None)
    text = PairText(ItemText(template), chars)
    table = pairs_to_ask(root, text, None, pairs, 0, 1)
    questions = Questions(table, book, text, [perspective.name for perspective in book.perspectives], 1)
    engine = TransformersEngine(model, sampling=Sampling(max_new_tokens))
    jobs = questions.jobs(questions.keys())
    list(engine.generate(jobs[:1]))  # warm
    started = perf_counter()
    found = list(engine.generate(jobs))
    return {
        "pairs": table.num_rows,
        "rationales": len(found),
        "prompt_tokens": sum(completion.prompt_tokens for completion in found),
        "tokens": sum(completion.tokens for completion in found),
        "seconds": perf_counter() - started,
    }


def main() -> None:
    """Measure once and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pairs", type=int, required=True)
    parser.add_argument("--max_new_tokens", type=int, required=True)
    args = parser.parse_args()
    print("\n" + json.dumps(measure(args.root, args.model, args.pairs, args.max_new_tokens)), flush=True)


if __name__ == "__main__":
    main()
