"""``rationales generate``: pairs × perspectives × samples into a store, and from there into rationales.parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lrkd.data.pairs import pairs_path, read_pairs
from lrkd.data.prompted_pairs import PairText
from lrkd.data.rationales import rationales_path, read_rationales
from lrkd.data.types import RATIONALES_FILE, ItemText, LabelSet
from lrkd.errors import UserError
from lrkd.generation.jobs import Completion, Engine, Job, Key, Sampling
from lrkd.generation.report import print_counts
from lrkd.generation.store import CompletionStore, Made, Stored
from lrkd.prompts import PromptBook

STORE_FILE = "completions.sqlite"
CHUNK = 4096
"""Jobs that an engine gets at a time: its prompts are in memory, and are sorted by length."""


def generate_rationales(
    *,
    root: Path,
    out: Path,
    model: str,
    adapter: str | None = None,
    server: str | None = None,
    prompts: str = "esci",
    label_set: str = "esci",
    item_text: str = "{title}",
    item_chars: int = 1000,
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
        prompts: The prompt book: esci, or a YAML file.
        label_set: esci, wands, or a YAML file; the prompt book must be written for it.
        item_text: Template of the item's text over title, description, brand, color, bullets and category.
        item_chars: Characters of the item's text at most.
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
        UserError: An option or a file is wrong, or the store or rationales.parquet in ``out`` was made otherwise.
    """
    console = Console(highlight=False, soft_wrap=True)
    sampling = _sampling(samples, max_new_tokens, temperature, top_p, top_k, seed)
    book, labels = PromptBook.load(prompts), LabelSet.load(label_set)
    text = PairText(ItemText(item_text), item_chars)
    book.check_labels(labels)
    asked = [perspectives] if isinstance(perspectives, str) else perspectives
    names = [book.perspective(name).name for name in dict.fromkeys(asked or [p.name for p in book.perspectives])]
    pairs = _pairs(root, text, split, limit, part, parts)
    console.print(f"Read {pairs.num_rows:,} pairs from {pairs_path(root)}")
    skipped = _present(root) if missing_only else set()
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
    made = Made(engine.teacher, weights, computed, book.version, labels.labels, item_text, item_chars, sampling)
    with CompletionStore(out / STORE_FILE, made) as store:
        refuse_foreign(store, out)
        present = store.keys()
        wanted = [
            Key(pair, name, sample)
            for pair in pairs["pair_id"].to_pylist()
            for name in names
            if (pair, name) not in skipped
            for sample in range(samples)
        ]
        missing = [key for key in wanted if key not in present]
        console.print(
            f"{len(wanted):,} completions wanted ({', '.join(names)}; {samples} each), "
            f"{len(wanted) - len(missing):,} of them in {store.path} already"
            + (f"; {pairs.num_rows * len(names) * samples - len(wanted):,} left out (missing_only)" if skipped else "")
        )
        _run(engine, missing, _Renderer(pairs, book, text), store, console)
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


class _Renderer:
    """Makes jobs of keys, from query and item alone (trap 16)."""

    def __init__(self, pairs: pa.Table, book: PromptBook, text: PairText) -> None:
        self.pairs, self.book, self.text = pairs, book, text
        self.row = {pair: row for row, pair in enumerate(pairs["pair_id"].to_pylist())}

    def jobs(self, keys: list[Key]) -> list[Job]:
        """The keys' jobs."""
        distinct = list(dict.fromkeys(key.pair_id for key in keys))
        rows = self.pairs.take(pa.array([self.row[pair] for pair in distinct])).to_pylist()
        text = {row["pair_id"]: self.text.render(row) for row in rows}
        return [Job(key, self.book.render(*text[key.pair_id], key.perspective)) for key in keys]


def _run(engine: Engine, keys: list[Key], renderer: _Renderer, store: CompletionStore, console: Console) -> None:
    """Generate the keys' completions into the store."""
    started, prompt_tokens, tokens = perf_counter(), 0, 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[rate]}"), transient=True, console=console) as progress:
        task = progress.add_task("Generating", total=len(keys), rate="")
        for done, completion in enumerate(_completions(engine, keys, renderer), 1):
            store.add([Stored.of(completion, renderer.book, engine.teacher)])
            prompt_tokens += completion.prompt_tokens
            tokens += completion.tokens
            seconds = perf_counter() - started
            progress.update(task, completed=done, rate=f"{done / seconds:.1f}/s, {tokens / seconds:,.0f} tokens/s")
    seconds = perf_counter() - started
    if keys:
        console.print(
            f"Generated {len(keys):,} completions in {seconds:,.0f} s ({len(keys) / seconds:.1f}/s): {prompt_tokens:,} "
            f"prompt tokens, {tokens:,} written ({tokens / seconds:,.0f}/s)"
        )


def _completions(engine: Engine, keys: list[Key], renderer: _Renderer) -> Iterator[Completion]:
    """The completions of all keys, whose prompts are rendered a few at a time; a pair's stay together."""
    start = 0
    while start < len(keys):
        end = min(start + CHUNK, len(keys))
        while end < len(keys) and keys[end].pair_id == keys[end - 1].pair_id:
            end += 1
        yield from engine.generate(renderer.jobs(keys[start:end]))
        start = end


def _pairs(root: Path, text: PairText, split: str | None, limit: int | None, part: int, parts: int) -> pa.Table:
    """The pairs to write for: pair_id, query and what the item's text needs."""
    if not 0 <= part < parts:
        raise UserError(f"part {part}: is 0 to {parts - 1} where parts is {parts}")
    columns = ["pair_id", *text.columns]
    pairs = read_pairs(root, columns=columns if split is None else [*columns, "split"])
    if split is not None:
        pairs = pairs.filter(pc.equal(pairs["split"], split)).drop_columns(["split"])
    pairs = pairs.slice(0, limit)
    pairs = pairs.take(pa.array(range(part, pairs.num_rows, parts), pa.int64()))
    if not pairs.num_rows:
        raise UserError(
            f"{pairs_path(root)}: no pair to write for (split {split}, limit {limit}, part {part} of {parts}); "
            "see `python -m lrkd data split`"
        )
    return pairs


def _present(root: Path) -> set[tuple[str, str]]:
    """Pairs and perspectives that the data root has a rationale for."""
    if not rationales_path(root).is_file():
        return set()
    found = read_rationales(root)
    return set(zip(found["pair_id"].to_pylist(), found["perspective"].to_pylist(), strict=True))


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
