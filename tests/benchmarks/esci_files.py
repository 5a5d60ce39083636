"""Generated files in ESCI's layout, of any size.

    python tests/benchmarks/esci_files.py FOLDER ROWS WIDTH

writes examples and products; titles have 80 characters, descriptions WIDTH.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TEXT_COLUMNS = ("product_title", "product_description", "product_bullet_point", "product_brand", "product_color")
CHUNK = 500_000


def generate(folder: Path, rows: int, width: int) -> None:
    """Write the two files: 20 items a query, 0.7 products a row, descriptions of ``width`` characters."""
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


if __name__ == "__main__":
    generate(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
