"""``rationales merge``: what several processes generated, into one store and one rationales.parquet."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from lrkd.data.rationales import rationales_path
from lrkd.errors import UserError
from lrkd.generation.generate import STORE_FILE, refuse_foreign
from lrkd.generation.report import print_counts
from lrkd.generation.store import CompletionStore, merge


def merge_rationales(*, stores: list[Path], out: Path) -> None:
    """Merge the stores of several `rationales generate` runs that were made with the same settings.

    Completions are joined by key. One that stands in several stores must be the same in all of them.

    Args:
        stores: The folders (their --out) of the runs.
        out: Folder of the merged store and its rationales.parquet; may hold an earlier merge, which is added to.

    Raises:
        UserError: A store is missing, was made otherwise, or holds another completion of a key than another one.
    """
    console = Console(highlight=False, soft_wrap=True)
    if not stores:
        raise UserError("stores: none given")
    target = out / STORE_FILE
    added = merge([folder / STORE_FILE for folder in stores], target)
    console.print(f"Read {len(stores):,} stores: {added:,} completions are new in {target}")
    with CompletionStore(target) as store:
        refuse_foreign(store, out)
        print_counts(store, console)
        written = store.export(rationales_path(out))
    console.print(f"Wrote {written:,} rationales to {rationales_path(out)}")
