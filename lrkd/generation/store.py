"""Completions while they are being generated: one SQLite file that a killed run goes on from."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from lrkd.data.pairs import ParquetSink
from lrkd.data.types import RATIONALES_SCHEMA
from lrkd.errors import UserError
from lrkd.generation.jobs import Completion, Key, Sampling
from lrkd.prompts import Failure, PromptBook, parse_answer

TABLES = """
CREATE TABLE IF NOT EXISTS completions (
    pair_id TEXT NOT NULL, perspective TEXT NOT NULL, sample INTEGER NOT NULL,
    text TEXT NOT NULL, rationale TEXT NOT NULL, verdict TEXT, failure TEXT, finished INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, tokens INTEGER NOT NULL, teacher TEXT NOT NULL, prompt_version TEXT NOT NULL,
    PRIMARY KEY (pair_id, perspective, sample)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS made (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
KEY = "pair_id, perspective, sample"
COLUMNS = (
    "pair_id", "perspective", "sample", "text", "rationale", "verdict", "failure", "finished", "prompt_tokens",
    "tokens", "teacher", "prompt_version",
)  # fmt: skip
EXPORT_ROWS = 16_384


@dataclass(frozen=True)
class Made:
    """What a store's completions were made with; completions made otherwise go into another store.

    Args:
        teacher: The model's name.
        weights: What tells its weights from those of another model of that name; None where that is not known.
        precision: In which it computes; None where that is not known.
        prompt_version: The prompt book's version.
        labels: The labels that a verdict may be.
        item_text: The template of the item's text.
        item_chars: Characters of it at most.
        sampling: How tokens are chosen.
    """

    teacher: str
    weights: str | None
    precision: str | None
    prompt_version: str
    labels: tuple[str, ...]
    item_text: str
    item_chars: int
    sampling: Sampling

    def flat(self) -> dict[str, Any]:
        """Plain values by name, the sampling's among them."""
        values = asdict(self)
        sampling: dict[str, Any] = values.pop("sampling")
        return values | {"labels": list(self.labels)} | sampling


@dataclass(frozen=True)
class Stored:
    """A completion as the store keeps it: what was written, how it was read, and where it came from."""

    key: Key
    text: str
    rationale: str
    verdict: str | None
    failure: Failure | None
    finished: bool
    prompt_tokens: int
    tokens: int
    teacher: str
    prompt_version: str

    @classmethod
    def of(cls, completion: Completion, book: PromptBook, teacher: str) -> Stored:
        """A completion of one of the book's prompts, read."""
        c = completion
        answer = parse_answer(c.text, book.labels, book.answer, finished=c.finished)
        return cls(
            key=c.key,
            text=c.text,
            rationale=answer.rationale,
            verdict=answer.verdict,
            failure=answer.failure,
            finished=c.finished,
            prompt_tokens=c.prompt_tokens,
            tokens=c.tokens,
            teacher=teacher,
            prompt_version=book.version,
        )


@dataclass
class Counts:
    """Completions by what became of them."""

    parsed: dict[str, int] = field(default_factory=dict)
    """By perspective: those with rationale and verdict."""
    failures: dict[str, dict[str, int]] = field(default_factory=dict)
    """By perspective and failure."""
    prompt_tokens: int = 0
    tokens: int = 0

    @property
    def total(self) -> int:
        """All completions."""
        return sum(self.parsed.values()) + sum(n for found in self.failures.values() for n in found.values())


class CompletionStore:
    """Completions by key, in a file that survives SIGKILL: what was added is there, whole.

    Args:
        path: The SQLite file; made if it is not there.
        made: What the completions are made with; None: what the file says.

    Raises:
        UserError: The file is no store, is not there though ``made`` is None, or was made otherwise.
    """

    def __init__(self, path: Path, made: Made | None = None) -> None:
        self.path = path
        if made is None and not path.is_file():
            raise UserError(f"{path}: no such file; stores are made by `python -m lrkd rationales generate`")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=30)
        try:
            self._database.execute("PRAGMA journal_mode=WAL")  # readable while a run writes to it
            self._database.execute("PRAGMA synchronous=NORMAL")  # survives SIGKILL without waiting for the disk
            self._database.executescript(TABLES)
            self.made = self._settings(made)
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise UserError(f"{path}: not a store of completions: {error}") from error
        except UserError:
            self._database.close()
            raise

    def _settings(self, made: Made | None) -> dict[str, Any]:
        """The file's settings, written if it has none."""
        found = {name: json.loads(value) for name, value in self._database.execute("SELECT name, value FROM made")}
        if made is None:
            return found
        wanted = made.flat()
        if not found:
            with self._database:
                rows = [(name, json.dumps(value)) for name, value in wanted.items()]
                self._database.executemany("INSERT OR IGNORE INTO made VALUES (?, ?)", rows)  # two processes at once
            return wanted
        if different := differences(found, wanted):
            raise UserError(
                f"{self.path}: holds completions made otherwise ({'; '.join(different)}). Give another --out, or "
                "delete the file to make them anew"
            )
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def keys(self) -> set[Key]:
        """The keys that are there."""
        return {Key(*row) for row in self._database.execute(f"SELECT {KEY} FROM completions")}

    def add(self, completions: Iterable[Stored]) -> None:
        """Add completions, all or none; afterwards they are in the file.

        Raises:
            UserError: A key is there already: another process writes to the same file.
        """
        rows = [(*c.key, *astuple(c)[1:]) for c in completions]
        try:
            with self._database:
                self._database.executemany(f"INSERT INTO completions VALUES ({', '.join('?' * len(COLUMNS))})", rows)
        except sqlite3.IntegrityError as error:
            raise UserError(
                f"{self.path}: a key of the new completions is there already; let every process write to an --out of "
                "its own, and merge their stores"
            ) from error

    def __iter__(self) -> Iterator[Stored]:
        """The completions in the order of their keys."""
        for row in self._database.execute(f"SELECT {', '.join(COLUMNS)} FROM completions ORDER BY {KEY}"):
            text, rationale, verdict, failure, finished, *rest = row[3:]
            yield Stored(Key(*row[:3]), text, rationale, verdict, failure, bool(finished), *rest)

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM completions").fetchone()[0])

    def counts(self) -> Counts:
        """Completions by perspective and failure, and tokens."""
        counts = Counts()
        for perspective, failure, number, prompt_tokens, tokens in self._database.execute(
            "SELECT perspective, failure, count(*), sum(prompt_tokens), sum(tokens) FROM completions "
            "GROUP BY perspective, failure ORDER BY perspective, failure"
        ):
            if failure is None:
                counts.parsed[perspective] = number
            else:
                counts.failures.setdefault(perspective, {})[failure] = number
            counts.prompt_tokens += prompt_tokens
            counts.tokens += tokens
        return counts

    def rationales(self) -> Iterator[pa.Table]:
        """The parsed completions as tables of :data:`RATIONALES_SCHEMA`, in the order of their keys."""
        names = RATIONALES_SCHEMA.names
        found = self._database.execute(
            f"SELECT {', '.join(names)} FROM completions WHERE failure IS NULL ORDER BY {KEY}"
        )
        while rows := found.fetchmany(EXPORT_ROWS):
            columns = zip(*rows, strict=True)
            yield pa.Table.from_pydict(dict(zip(names, map(list, columns), strict=True)), RATIONALES_SCHEMA)

    def export(self, path: Path) -> int:
        """Write the parsed completions as ``rationales.parquet``; returns how many. Failures stay in the store."""
        with ParquetSink(path, RATIONALES_SCHEMA) as sink:
            for table in self.rationales():
                sink.write(table)
        return sink.rows


def merge(paths: Sequence[Path], out: Path) -> int:
    """Put the completions of several stores, made with the same settings, into one; returns how many are new in it.

    Args:
        paths: The stores.
        out: The store to add to; made if it is not there.

    Raises:
        UserError: The stores were made otherwise, or two of them hold different completions of one key.
    """
    added = 0
    for path in paths:
        with CompletionStore(path) as source:
            if not out.is_file():
                _copy_settings(source, out)
            with CompletionStore(out) as target:
                if different := differences(target.made, source.made):
                    raise UserError(
                        f"{path}: made otherwise than {out} ({'; '.join(different)}); they cannot be merged"
                    )
                added += _add_new(target, source)
    return added


def _copy_settings(source: CompletionStore, out: Path) -> None:
    settings = {name: value for name, value in source.made.items() if name not in asdict(Sampling())}
    sampling = Sampling(**{name: source.made[name] for name in asdict(Sampling())})
    labels = tuple(settings.pop("labels"))
    CompletionStore(out, Made(**settings, labels=labels, sampling=sampling)).close()


def _add_new(target: CompletionStore, source: CompletionStore) -> int:
    """Add what ``target`` lacks of ``source``."""
    present = {stored.key: stored for stored in target}
    new = []
    for stored in source:
        if (old := present.get(stored.key)) is None:
            new.append(stored)
        elif old != stored:
            raise UserError(
                f"{source.path}: another completion of {tuple(stored.key)} than in {target.path}; keys were generated "
                "twice with different results. Delete it from one of them"
            )
    target.add(new)
    return len(new)


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """In words, which settings differ."""
    names = sorted(found.keys() | wanted.keys())
    return [
        f"{name} {found.get(name)!r}, not {wanted.get(name)!r}" for name in names if found.get(name) != wanted.get(name)
    ]
