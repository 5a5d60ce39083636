"""``bench``: latency and pairs a second of an exported student, beside CrossEncoder's backends and a teacher."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lrkd.errors import UserError
from lrkd.serve.bench.contender import CROSS_ENCODERS, Contender, Worker
from lrkd.serve.bench.measure import Cell, requests, stream
from lrkd.serve.bench.pairs import Pair, pairs_of_length, pairs_of_root
from lrkd.serve.bench.report import Results, draw, machine, markdown
from lrkd.serve.scorer import Scorer, cores

BATCHES, LENGTHS = (1, 8, 32, 128), (16, 32, 64, 128)
WORDS = ("red", "blue", "white", "large", "steel", "cotton", "running", "shoes", "mug", "coffee", "garden", "hose")
"""What texts are made of where no data is given."""


def bench(
    *,
    model: Path,
    against: list[str] | str | None = None,
    root: str | None = None,
    batches: list[int] | int | None = None,
    lengths: list[int] | int | None = None,
    threads: list[int] | int | None = None,
    rounds: int = 5,
    seconds: float = 0.5,
    stream_pairs: int = 2000,
    teacher: str | None = None,
    teacher_pairs: int = 8,
    teacher_tokens: int = 192,
    out: Path = Path("runs/bench"),
) -> None:
    """Measure how fast an exported student answers, warm, with tokenisation, its contenders in turn.

    Requests of every batch size and length give p50, p95 and p99; with a data root, passes over its pairs give pairs a
    second, each contender with the batch size that suits it best. Writes bench.md, bench.json and bench.png. Nothing
    else should run meanwhile.

    Args:
        model: A folder that `python -m lrkd export` wrote, with its cross_encoder where CrossEncoders are measured.
        against: Other exported folders, or backends of sentence-transformers' CrossEncoder on the same backbone:
            torch-float32, torch-bfloat16, onnx-float32, onnx-int8, openvino-float32, openvino-bfloat16; =path/to/python
            behind one names the interpreter that has it.
        root: A data root whose pairs are the stream, and are judged by the teacher.
        batches: Pairs a request; 1, 8, 32 and 128 by default.
        lengths: Tokens a pair, special ones included; 16, 32, 64 and 128 by default, as far as the model takes them.
        threads: Threads; 1 and all cores by default.
        rounds: How often every contender has its turn.
        seconds: How long a turn is in each cell, about.
        stream_pairs: How many pairs of the root are the stream.
        teacher: A teacher, as for `rationales generate`, that writes rationales for pairs of the root.
        teacher_pairs: For how many.
        teacher_tokens: Tokens of a rationale at most.
        out: The folder to write.

    Raises:
        UserError: An option is wrong, or a contender cannot run here.
    """
    if teacher is not None and root is None:
        raise UserError("--teacher needs --root, whose pairs it judges")
    scorer = Scorer(model)
    console = Console(stderr=True, highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".backbone-") as folder:
        contenders = _contenders(model, _list(against, []), Path(folder))
        known = [length for length in LENGTHS if length <= scorer.card.max_length]
        cells = _cells(scorer, _list(batches, BATCHES), _list(lengths, known), root)
        streamed = pairs_of_root(root, scorer, stream_pairs) if root is not None else []
        results = Results(model, scorer.card, machine())
        for number in _list(threads, sorted({1, cores()})):
            _measure(contenders, cells, streamed, number, rounds, seconds, results, console)
    if teacher is not None and root is not None:
        results.teacher = _teacher(teacher, root, teacher_pairs, teacher_tokens)
    text = markdown(results)
    (out / "bench.md").write_text(text, encoding="utf-8")
    (out / "bench.json").write_text(json.dumps(results.to_dict(), indent=2) + "\n", encoding="utf-8")
    draw(results, out / "bench.png")
    print(text)
    print(f"wrote {out / 'bench.md'}, bench.json and bench.png")


def _contenders(model: Path, against: list[str], folder: Path) -> list[Contender]:
    """The export first, then who it is measured against."""
    contenders = [Contender("lrkd", "export", model), *(Contender.parse(text, folder / "model") for text in against)]
    names = [contender.name for contender in contenders]
    if len(set(names)) < len(names):
        raise UserError(f"--against: the names {', '.join(names)} are not all different")
    if any(contender.kind in CROSS_ENCODERS for contender in contenders):
        from lrkd.serve.bench.backbone import write_backbone

        write_backbone(model, folder / "model")
    return contenders


def _list(given: list[Any] | Any | None, default: Sequence[Any]) -> list[Any]:
    """What was given as several values, as one, or not at all."""
    return list(default) if given is None else given if isinstance(given, list) else [given]


def _cells(
    scorer: Scorer, batches: list[int], lengths: list[int], root: str | None
) -> dict[tuple[int, int], list[Pair]]:
    """The pairs of requests by batch size and length."""
    words: Sequence[str] = WORDS
    if root is not None:
        texts = pairs_of_root(root, scorer, 500)
        words = sorted({word for pair in texts for text in pair for word in text.split()})
    made = {length: pairs_of_length(scorer, length, max(batches), words) for length in lengths}
    return {(batch, length): made[length][:batch] for length in lengths for batch in batches}


def _measure(
    contenders: list[Contender],
    cells: dict[tuple[int, int], list[Pair]],
    streamed: list[Pair],
    threads: int,
    rounds: int,
    seconds: float,
    results: Results,
    console: Console,
) -> None:
    """All that is measured with one number of threads."""
    from lrkd.serve.bench.peak import peak_operations

    with contextlib.ExitStack() as stack, console.status(f"loading, {threads} threads") as status:
        workers = [stack.enter_context(Worker(contender, threads)) for contender in contenders]
        results.versions |= {worker.contender.name: worker.versions for worker in workers}

        def tell(what: str) -> None:
            status.update(f"{threads} threads: {what}")

        asked = {Cell(batch, length, threads): pairs for (batch, length), pairs in cells.items()}
        results.requests |= requests(workers, asked, rounds, seconds, tell)
        if streamed:
            results.streams[threads] = stream(workers, streamed, rounds, tell)
            tokens = Scorer(results.model).tokens(*map(list, zip(*streamed, strict=True)))
            results.stream_tokens = float(tokens.lengths.mean())
    results.peaks[threads] = peak_operations(results.card.precision, threads)


def _teacher(model: str, root: str, pairs: int, tokens: int) -> dict[str, Any]:
    """A teacher's rationales, in a process of its own."""
    arguments = ["--root", root, "--model", model, "--pairs", str(pairs), "--max_new_tokens", str(tokens)]
    command = [sys.executable, "-m", "lrkd.serve.bench.teacher", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"--teacher {model}: {' '.join(done.stderr.strip().splitlines()[-1:])}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {"model": model, **found}
