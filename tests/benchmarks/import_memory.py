"""Peak memory and seconds of ``data import`` at several sizes, on generated files in ESCI's layout.

    python tests/benchmarks/import_memory.py --rows 50000 2600000

prints a line a size and the ratio of the largest size's peak to the smallest's. Disk: about 2 KB a row meanwhile.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEXT_COLUMNS = ("product_title", "product_description", "product_bullet_point", "product_brand", "product_color")
CHUNK = 500_000


def generate(folder: Path, rows: int, width: int) -> None:
    """Write the two files: 20 items a query, 0.7 products a row, descriptions of ``width`` characters."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    text = " ".join(f"word{i}" for i in rng.integers(0, 5000, 300_000))
    widths = dict(zip(TEXT_COLUMNS, (80, width, width // 2, 8, 6), strict=True))
    products = max(1, rows * 7 // 10)

    def tables(count, make):
        return (make(np.arange(start, min(start + CHUNK, count))) for start in range(0, count, CHUNK))

    def product(i):
        cuts = {
            n: [text[a : a + w] for a in rng.integers(0, len(text) - w, len(i)).tolist()] for n, w in widths.items()
        }
        # Products lie in another order than the examples ask for them.
        ids = [f"B{k:09d}" for k in i[::-1].tolist()]
        return pa.table({"product_id": ids, **cuts, "product_locale": ["us"] * len(i)})

    def example(i):
        return pa.table(
            {
                "example_id": i,
                "query": [f"query number {k}" for k in (i // 20).tolist()],
                "query_id": i // 20,
                "product_id": [f"B{k:09d}" for k in (i * 104_729 % products).tolist()],
                "product_locale": ["us"] * len(i),
                "esci_label": np.array(["E", "S", "C", "I"])[i % 4],
                "small_version": np.ones(len(i), int),
                "large_version": np.ones(len(i), int),
                "split": np.where(i // 20 % 10 < 8, "train", "test"),
            }
        )

    for name, pieces in (("products", tables(products, product)), ("examples", tables(rows, example))):
        writer = None
        for piece in pieces:
            writer = writer or pq.ParquetWriter(folder / f"shopping_queries_dataset_{name}.parquet", piece.schema)
            writer.write_table(piece)
        writer.close()


def measure(rows: int, width: int, folder: Path) -> int:
    """One import in a process of its own; its peak in bytes."""
    source, root = folder / f"{rows}", folder / f"{rows}-root"
    source.mkdir()
    # In a process of its own: a child inherits its parent's peak.
    subprocess.run(
        [sys.executable, __file__, "--generate", source, "--rows", f"{rows}", "--width", f"{width}"], check=True
    )
    command = ["-m", "lrkd", "data", "import", "--format", "esci", "--input", str(source), "--out", str(root)]
    started = time.perf_counter()
    process = os.posix_spawn(sys.executable, [sys.executable, *command], os.environ)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"data import failed with status {status}")
    unit = 1 if sys.platform == "darwin" else 1024
    peak = usage.ru_maxrss * unit
    seconds = time.perf_counter() - started
    print(f"{rows:,} rows: peak {peak / 1e6:,.0f} MB, {seconds:,.1f} s, {rows / seconds:,.0f} rows/s", flush=True)
    return peak


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 2_600_000])
    parser.add_argument("--width", type=int, default=800, help="characters of a description")
    parser.add_argument("--folder", type=Path, help="where the files go meanwhile; the system's by default")
    parser.add_argument("--generate", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.generate:
        generate(args.generate, args.rows[0], args.width)
        return
    peaks = {}
    for rows in args.rows:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            peaks[rows] = measure(rows, args.width, Path(folder))
    print(f"ratio {max(args.rows):,} to {min(args.rows):,}: {peaks[max(args.rows)] / peaks[min(args.rows)]:.3f}")


if __name__ == "__main__":
    main()
