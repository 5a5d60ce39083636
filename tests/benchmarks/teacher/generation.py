"""Decoding in `rationales generate` against transformers' own: rationales per second of the same prompts.

    python tests/benchmarks/teacher/generation.py --root data/mine --model path/to/llm --pairs 24 --rounds 3

prints the machine and a Markdown table: seconds to decode (loading and a warm-up left out), CPU seconds, completions
and tokens per second, peak resident memory of the process, medians over the rounds. The peers are `model.generate` in
batches sorted by length, in batches of several sizes; `generate_batch`, its continuous batching; and a call a prompt,
for which the first `--single` prompts are taken. All decode greedily, with the same model, precision and threads, every
prompt of the book for every pair. Below the table stands how many of generate's completions are the same as ours, token
by token; in bfloat16, rounding makes some differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from measured import Run, interleaved, machine, run

PREPARE = """
import json, sys
from transformers import AutoTokenizer
from lrkd.data.pairs import read_pairs
from lrkd.pretrained import resolve
from lrkd.prompts import PromptBook
from lrkd.prompts.encoding import PromptEncoder
root, model, pairs, out = sys.argv[1:]
encoder = PromptEncoder(AutoTokenizer.from_pretrained(resolve(model)))
book = PromptBook.load("esci")
rows = read_pairs(root, columns=["pair_id", "query", "title"]).slice(0, int(pairs)).to_pylist()
prompts = [encoder.prompt_ids(book.render(r["query"], r["title"], p.name)) for r in rows for p in book.every]
groups = [number for number in range(len(rows)) for _ in book.every]
json.dump({"prompts": prompts, "groups": groups, "end": encoder.end}, open(out, "w"))
"""
COMMON = """
import json, sys, time, torch
from transformers import AutoModelForCausalLM
from lrkd.pretrained import resolve
path, name, precision, threads, new, out, setting = sys.argv[1:]
torch.set_num_threads(int(threads))
new, setting = int(new), int(setting)
given = json.load(open(path))
prompts, groups, end = given["prompts"], given["groups"], given["end"]
model = AutoModelForCausalLM.from_pretrained(
    resolve(name), dtype=getattr(torch, precision), attn_implementation="sdpa"
).eval()
ids = {}
def batch(which):
    length = max(len(prompts[i]) for i in which)
    tokens = torch.tensor([[end] * (length - len(prompts[i])) + prompts[i] for i in which])
    mask = torch.tensor([[0] * (length - len(prompts[i])) + [1] * len(prompts[i]) for i in which])
    settings = {"max_new_tokens": new, "do_sample": False, "eos_token_id": end, "pad_token_id": end}
    with torch.inference_mode():
        written = model.generate(tokens, attention_mask=mask, **settings)[:, length:].tolist()
    for i, row in zip(which, written):
        ids[i] = row[: row.index(end)] if end in row else row
def measure(program, count):
    ids.clear()
    started, cpu = time.perf_counter(), time.process_time()
    program(count)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    json.dump(ids, open(out, "w"))
    print(json.dumps({"seconds": seconds, "cpu": cpu, "rows": len(ids), "tokens": sum(map(len, ids.values()))}))
"""
OURS = """
from lrkd.generation.decoding import decode
from lrkd.generation.jobs import Sampling
def ours(count):
    for found in decode(
        model, prompts[:count], groups=groups[:count], end=end, sampling=Sampling(max_new_tokens=new),
        seeds=[0] * count, token_budget=setting,
    ):
        ids[found.index] = found.ids
ours(4)
measure(ours, len(prompts))
"""
BATCHED = """
def batched(count):
    order = sorted(range(count), key=lambda i: -len(prompts[i]))
    for start in range(0, count, setting):
        batch(order[start : start + setting])
batched(4)
measure(batched, len(prompts))
"""
SINGLE = """
def single(count):
    for i in range(count):
        batch([i])
single(1)
measure(single, setting)
"""
CONTINUOUS = """
from transformers import GenerationConfig
config = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=end, pad_token_id=end)
def continuous(count):
    found = model.generate_batch(prompts[:count], generation_config=config)
    for i, output in enumerate(found.values()):
        ids[i] = output.generated_tokens
continuous(4)
measure(continuous, len(prompts))
"""


def row(runs: list[Run], name: str) -> str:
    """A program's line of the table: medians over its runs."""

    def middle(key: str) -> float:
        return statistics.median(found.result[key] for found in runs)

    seconds, rows, tokens = middle("seconds"), middle("rows"), middle("tokens")
    peak = statistics.median(found.peak for found in runs) / 2**20
    return (
        f"| {name} | {rows:,.0f} | {seconds:.1f} | {middle('cpu'):.1f} | {rows / seconds:.2f} | {tokens / seconds:.0f} "
        f"| {peak:,.0f} |"
    )


def same(ours: Path, theirs: Path) -> str:
    """How many completions are equal."""
    first, second = (json.loads(path.read_text()) for path in (ours, theirs))
    return f"{sum(first[key] == ids for key, ids in second.items())} of {len(second)}"


def programs(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What is measured, by name; each writes its completions to a file of that name."""
    sources = {f"lrkd, token budget {budget:,}": (OURS, budget) for budget in args.token_budgets}
    sources |= {f"generate, batch {size}, sorted": (BATCHED, size) for size in args.batch_sizes}
    sources["generate, a call a prompt"] = (SINGLE, args.single)
    if args.continuous:
        sources["generate_batch"] = (CONTINUOUS, 0)
    settings = (args.model, args.precision, args.threads, args.new_tokens)
    env = {"OMP_NUM_THREADS": str(args.threads)}
    return {
        name: partial(
            run, "-c", COMMON + source, folder / "prompts.json", *settings, folder / f"{name}.json", setting, env=env
        )
        for name, (source, setting) in sources.items()
    }


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a data root")
    parser.add_argument("--model", required=True, help="a causal language model: folder, hub name or pkg:")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--new_tokens", type=int, default=64, help="of a completion at most")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--token_budgets", type=int, nargs="+", default=[32_768])
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[16, 32, 64], help="of generate")
    parser.add_argument("--single", type=int, default=8, help="prompts for a call each")
    parser.add_argument("--continuous", action="store_true", help="measure generate_batch too, which is slow on CPU")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run("-c", PREPARE, args.root, args.model, args.pairs, folder / "prompts.json")
        measured = programs(args, folder)
        runs = interleaved(measured, args.rounds)
        first, *others = [folder / f"{program}.json" for program in measured]
        equal = {other.stem: same(first, other) for other in others}
    print(machine("torch", "transformers"))
    print(
        f"{args.pairs} pairs of {args.root.name}, {Path(args.model).name}, {args.precision}, {args.threads} threads, "
        f"{args.new_tokens} tokens at most, {args.rounds} rounds\n"
    )
    print("| decoding | prompts | seconds | CPU seconds | completions/s | tokens/s | peak MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(row(found, program) for program, found in runs.items()) + "\n")
    for program, found in equal.items():
        print(f"{program}: {found} completions as {next(iter(measured))} has them")


if __name__ == "__main__":
    main()
