"""``rationales generate``: pairs × perspectives × samples into a store, and from there into rationales.parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from lrkd.data.pairs import pairs_path
from lrkd.data.prompted_pairs import PairText
from lrkd.data.rationales import rationales_path, read_rationales
from lrkd.data.types import RATIONALES_FILE, ItemText, LabelSet
from lrkd.errors import UserError
from lrkd.generation.filling import fill
from lrkd.generation.jobs import Engine, Sampling
from lrkd.generation.questions import Questions, having_rationales, pairs_to_ask
from lrkd.generation.report import print_counts
from lrkd.generation.store import CompletionStore, Made
from lrkd.prompts.card import how_to_ask

STORE_FILE = "completions.sqlite"


def generate_rationales(
    *,
    root: Path,
    out: Path,
    model: str,
    adapter: str | None = None,
    server: str | None = None,
    prompts: str | None = None,
    label_set: str = "esci",
    item_text: str | None = None,
    item_chars: int | None = None,
    perspectives: list[str] | str | None = None,
    samples: int = 1,
    max_new_tokens: int = 192,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    split: Literal["train", "val", "test"] | None = None,
    missing_only: bool = False,
    limit: int | None = None,
    part: int = 0,
    parts: int = 1,
    precision: Literal["float32", "bfloat16"] = "bfloat16",
    device: str | None = None,
    token_budget: int = 32_768,
    concurrency: int = 16,
    extra_body: dict[str, Any] | None = None,
) -> None:
    """Let a language model write rationales and verdicts for a data root's pairs.

    Completions go into a store (completions.sqlite), one by one; a killed run goes on where it stopped. At the end
    those with a rationale and a verdict are written to rationales.parquet; the others stay in the store and are
    counted. The gold label is not read.

    Args:
        root: The data root.
        out: Folder of the store and of rationales.parquet; may be the data root.
        model: The model in this process (a hub name, a folder, pkg:package/folder), or the model's name on the server.
        adapter: Folder of a peft adapter that is put on the model; in this process only.
        server: Base URL of an OpenAI-compatible server, e.g. http://localhost:8000/v1; none: generate in this process.
        prompts: The prompt book: esci, or a YAML file. By default that of the model's (or adapter's) folder, if
            `teacher export` wrote it, else esci.
        label_set: esci, wands, or a YAML file; the prompt book must be written for it.
        item_text: Template of the item's text over title, description, brand, color, bullets and category. By default
            what the teacher was trained with, if `teacher export` wrote its folder, else {title}.
        item_chars: Characters of the item's text at most; by default as for item_text, else 1000.
        perspectives: Perspectives of the prompt book (one or several names), neutral too; by default all but neutral.
        samples: Completions for each pair and perspective; several need a temperature.
        max_new_tokens: Tokens of a completion at most.
        temperature: 0: the most likely token always, else the softmax's temperature.
        top_p: Sample from the most likely tokens that together have this probability.
        top_k: Sample from this many most likely tokens; by default from all.
        seed: Decides, with a completion's key, what is drawn.
        split: Only the pairs of this split; by default all.
        missing_only: Leave out pairs and perspectives that the data root's rationales.parquet has a rationale for.
        limit: So many pairs at most, the first ones.
        part: Which part of the pairs, from 0: processes that share the work each take one, each with its own out.
        parts: How many parts; see `rationales merge`.
        precision: In which the model computes; in this process only.
        device: cpu, cuda, cuda:1, ...; by default what is there; in this process only.
        token_budget: Tokens whose keys and values are kept at a time: more fill a GPU better; in this process only.
        concurrency: Requests at a time; to a server only.
        extra_body: Further fields of each request; to a server only. A thinking model on vLLM wants
            '{"chat_template_kwargs": {"enable_thinking": false}}', which is what it gets in this process.

    Raises:
        UserError: An option or a file is wrong, an option is not what the teacher was trained with, or the store or
            rationales.parquet in ``out`` was made otherwise.
    """
    console = Console(highlight=False, soft_wrap=True)
    sampling = _sampling(samples, max_new_tokens, temperature, top_p, top_k, seed)
    book, template, chars = how_to_ask(adapter or model, prompts, item_text, item_chars)
    text, labels = PairText(ItemText(template), chars), LabelSet.load(label_set)
    book.check_labels(labels)
    asked = [perspectives] if isinstance(perspectives, str) else perspectives
    names = [book.perspective(name).name for name in dict.fromkeys(asked or [p.name for p in book.perspectives])]
    pairs = pairs_to_ask(root, text, split, limit, part, parts)
    console.print(
        f"Read {pairs.num_rows:,} pairs from {pairs_path(root)}; prompts {book.version}, items as {template!r}, "
        f"{chars:,} characters at most"
    )
    skipped = having_rationales(root) if missing_only else set()
    engine: Engine
    weights, computed = None, None
    if server is not None:
        engine = _server(model, server, adapter, sampling, concurrency, extra_body)
    else:
        from lrkd.generation.transformers_engine import TransformersEngine

        engine = TransformersEngine(
            model, adapter=adapter, sampling=sampling, precision=precision, device=device, token_budget=token_budget
        )
        weights, computed = engine.weights, precision
    made = Made(engine.teacher, weights, computed, book.version, labels.labels, template, chars, sampling)
    with CompletionStore(out / STORE_FILE, made) as store:
        refuse_foreign(store, out)
        fill(engine, Questions(pairs, book, text, names, samples, skipped), store, console)
        print_counts(store, console)
        written = store.export(rationales_path(out))
    console.print(f"Wrote {written:,} rationales to {rationales_path(out)}")


def _server(
    model: str,
    server: str,
    adapter: str | None,
    sampling: Sampling,
    concurrency: int,
    extra_body: dict[str, Any] | None,
) -> Engine:
    if adapter is not None:
        raise UserError("adapter: a server applies its adapters itself; give the adapter's name there as model")
    from lrkd.generation.openai_engine import OpenAIEngine

    return OpenAIEngine(model, server, sampling=sampling, concurrency=concurrency, extra_body=extra_body)


def refuse_foreign(store: CompletionStore, out: Path) -> None:
    """Accept a rationales.parquet in ``out`` only if all of it comes from this store: it is going to be replaced.

    Raises:
        UserError: It holds something else.
    """
    if not rationales_path(out).is_file():
        return
    ours = {tuple(row.values()) for table in store.rationales() for row in table.to_pylist()}
    foreign = sum(tuple(row.values()) not in ours for row in read_rationales(out).to_pylist())
    if foreign:
        raise UserError(
            f"{rationales_path(out)}: {foreign:,} of its rationales are not from {store.path} and would be lost; give "
            f"another --out, or move {RATIONALES_FILE} away"
        )


def _sampling(
    samples: int, max_new_tokens: int, temperature: float, top_p: float, top_k: int | None, seed: int
) -> Sampling:
    if samples < 1 or (samples > 1 and not temperature):
        raise UserError(
            f"samples {samples}: is at least 1, and several want a temperature above 0 (at 0 they are all the same)"
        )
    try:
        return Sampling(max_new_tokens, temperature, top_p, top_k, seed)
    except ValueError as error:
        raise UserError(str(error)) from error
