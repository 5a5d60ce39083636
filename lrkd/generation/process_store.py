"""One store for each process of a distributed run, and their merge."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from lrkd.data.rationales import rationales_path
from lrkd.generation.generate import STORE_FILE, refuse_foreign
from lrkd.generation.jobs import Key
from lrkd.generation.report import print_counts
from lrkd.generation.store import CompletionStore, Made, Stored, merge


class ProcessStore:
    """What one process writes, in a folder that all share.

    Args:
        folder: Where the stores of all processes are.
        rank: Which process this is.
        made: What the completions are made with.

    Raises:
        UserError: The folder's stores were made otherwise.
    """

    def __init__(self, folder: Path, rank: int, made: Made) -> None:
        self.folder = folder
        self._store = CompletionStore(folder / f"process{rank}.sqlite", made)
        self.present: set[Key] = set()
        """What is there already, whoever wrote it: a restarted run may have another number of processes."""
        for path in sorted(folder.glob("*.sqlite")):
            with CompletionStore(path, made) as store:
                self.present |= store.keys()

    def add(self, stored: Stored) -> None:
        """Keep a completion; afterwards it is in the file."""
        self._store.add([stored])

    def close(self) -> None:
        """Close this process's file."""
        self._store.close()

    def merge(self) -> None:
        """Join all processes' completions by key, and write ``rationales.parquet``; on one process, after all."""
        console = Console(highlight=False, soft_wrap=True)
        merge(sorted(self.folder.glob("process*.sqlite")), self.folder / STORE_FILE)
        with CompletionStore(self.folder / STORE_FILE) as store:
            refuse_foreign(store, self.folder)
            print_counts(store, console)
            written = store.export(rationales_path(self.folder))
        console.print(f"Wrote {written:,} rationales to {rationales_path(self.folder)}")
