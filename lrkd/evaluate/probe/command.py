"""``probe``: what can be read from a student's latents, and from its [CLS], by linear probes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lrkd.errors import UserError
from lrkd.sentence_encoder import Precision

if TYPE_CHECKING:
    import numpy as np

    from lrkd.evaluate.probe.report import TaskResult
    from lrkd.evaluate.probe.tasks import Task
    from lrkd.evaluate.trained import TrainedStudent

ProbedSplit = Literal["test", "val", "held_out"]
SPLITS_OF: dict[ProbedSplit, tuple[Literal["val", "test"], ...]] = {
    "test": ("test",),
    "val": ("val",),
    "held_out": ("val", "test"),
}


def probe(
    *,
    run: Path,
    against: Path | None = None,
    split: ProbedSplit = "test",
    folds: int = 5,
    seed: int = 0,
    out: Path | None = None,
    root: Path | None = None,
    rationales: Path | list[Path] | None = None,
    batch_size: int = 64,
    precision: Precision = "float32",
    device: str | None = None,
) -> None:
    """Probe what a student's latents know: each perspective's verdict, conflict, negation, brand and category match.

    Linear probes on the latents, on the encoder's [CLS] (or mean) state, and on both, are fitted and tested on pairs
    that the student was not trained on, by folds of queries. Beside each stand the same probe on shuffled labels and
    the majority (docs/explaining.md). Writes probe.md, probe.csv and probe.json. For example:

        python -m lrkd probe --run runs/lrkd_mlp-seed0 --against runs/encoder-seed0

    Args:
        run: The run's folder.
        against: Another run on the same data, such as the encoder baseline; its vectors are probed, too.
        split: The pairs: test, val, or held_out for both (the validation pairs have chosen the epoch, but trained
            nothing).
        folds: Folds of queries.
        seed: Of the folds and of the shuffled labels.
        out: The folder that takes the report; by default probe/ in the run's.
        root: The data root, if it is not where it was when the run was trained.
        rationales: The same for the folders or files of rationales, where they were not the data root's.
        batch_size: Pairs a forward pass.
        precision: In which the student computes.
        device: Where to compute: cpu, cuda, cuda:1, ...; by default what is there.

    Raises:
        UserError: Not the run of a student, other data than it was trained on, two runs that do not hold out the same
            pairs, or no task that the pairs allow.
    """
    from rich.console import Console

    from lrkd.evaluate.probe.report import show, write
    from lrkd.evaluate.trained import TrainedStudent

    if folds < 2:
        raise UserError(f"folds {folds}: at least 2")
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 200  # a pipe or a file has no edge to wrap at
    moved: dict[str, Any] = {"root": root, "rationales": rationales, "device": device}
    students = [TrainedStudent.open(path, **moved) for path in (run, against) if path is not None]
    for student in students:
        student.data.setup("predict")
    rows = [_held_out(student, split) for student in students]
    if any(len(rows[0]) != len(other) or (rows[0] != other).any() for other in rows):
        raise UserError(f"--against {against}: holds out other pairs than {run}; probe runs of the same split or fold")
    if not len(rows[0]):
        raise UserError(f"{students[0].data.root}: no pair in split {split!r}, so nothing to probe")
    how: dict[str, Any] = {"batch_size": batch_size, "precision": precision}
    vectors = _vectors(students, rows[0], **how)
    tasks, query, left_out = _tasks(students[0], rows[0], folds)
    what = f"{len(rows[0]):,} pairs of {len(set(query.tolist())):,} queries that did not train"
    console.print(f"Read {', '.join(str(student.record.path) for student in students)}: {what} ({split})")
    for reason in left_out:
        console.print(f"Left out: {reason}")
    if not tasks:
        raise UserError(f"{students[0].data.root}: its {len(rows[0]):,} pairs allow no task: {'; '.join(left_out)}")
    results = _probe_all(tasks, vectors, query, folds, seed)
    show(console, results)
    source = {"run": str(run), "against": str(against or "none"), "split": split, "pairs": len(rows[0])}
    source |= {"folds": folds, "seed": seed, "data": str(students[0].data.root)}
    files = write(Path(out) if out is not None else students[0].record.path / "probe", results, source, left_out)
    console.print(f"Wrote {', '.join(map(str, files))}")


def _held_out(student: TrainedStudent, split: ProbedSplit) -> np.ndarray:
    """The rows of the split's pairs, without those whose query trains (trap 33)."""
    import numpy as np

    from lrkd.data.split_rows import group_queries

    data = student.data
    query = group_queries(data.pairs["query"])
    rows = np.sort(np.concatenate([data.rows(part) for part in SPLITS_OF[split]]))
    return rows[~np.isin(query[rows], query[data.rows("train")])]


def _vectors(students: list[TrainedStudent], rows: np.ndarray, **how: Any) -> dict[str, np.ndarray]:
    """By name (N, D): the first student's state, latents, both, and of several latents each; then the other's."""
    import numpy as np

    from lrkd.evaluate.attention import latent_names
    from lrkd.evaluate.features import student_features

    vectors: dict[str, np.ndarray] = {}
    for number, student in enumerate(students):
        made = student_features(student.model, student.data.tokens, rows, **how)
        prefix = f"{student.record.path.name}: " if number else ""
        state = prefix + ("[CLS]" if student.model.hparams["pooling"] == "cls" else "mean state")
        vectors[state] = made.state
        if made.latents is not None:
            latents = made.latents.reshape(len(rows), -1)
            vectors[f"{prefix}latents"] = latents
            vectors[f"{state} + latents"] = np.concatenate([made.state, latents], axis=1)
            number_of_latents = made.latents.shape[1]
            names = latent_names(student.record.checkpoint, number_of_latents) if number_of_latents > 1 else ()
            vectors |= {f"{prefix}latent: {name}": made.latents[:, n] for n, name in enumerate(names)}
    return vectors


def _tasks(student: TrainedStudent, rows: np.ndarray, folds: int) -> tuple[list[Task], np.ndarray, list[str]]:
    """The tasks, the pairs' query groups (N,), and what was left out."""
    import pyarrow as pa

    from lrkd.data.pairs import read_pairs
    from lrkd.data.rationales import merge_rationales
    from lrkd.data.split_rows import group_queries
    from lrkd.evaluate.probe.tasks import find_tasks

    data, labels = student.data, student.record.label_set
    pairs = read_pairs(data.root, columns=["pair_id", "query", "label", "brand", "category"]).take(pa.array(rows))
    query = group_queries(pairs["query"])
    rationales = None
    if data.rationales is not None or data.rationale_files[0].is_file():
        rationales, _ = merge_rationales(data.rationale_files, labels=labels)
    # Twice as many queries as folds, so that every fold and every inner fold has some of each class.
    found = find_tasks(pairs, query, rationales, labels.labels, least_queries=2 * folds)
    return found.tasks, query, found.left_out


def _probe_all(
    tasks: list[Task], vectors: dict[str, np.ndarray], query: np.ndarray, folds: int, seed: int
) -> list[TaskResult]:
    import numpy as np
    from rich.progress import Progress

    from lrkd.evaluate.probe.probing import majority_scores, probe_scores, query_folds, shuffled_by_query
    from lrkd.evaluate.probe.report import Probed, TaskResult

    results = []
    with Progress(transient=True) as progress:
        bar = progress.add_task("Probing", total=len(tasks) * len(vectors) * 2)
        for task in tasks:
            group = query[task.rows]
            splits = query_folds(task.label, group, folds, seed)
            shuffled = shuffled_by_query(task.label, group, seed)
            rows = [Probed("majority", None, majority_scores(task.label, splits), None)]
            for name, all_vectors in vectors.items():
                scores = []
                for label in (task.label, shuffled):
                    scores.append(probe_scores(all_vectors[task.rows], label, group, splits))
                    progress.advance(bar)
                rows.append(Probed(name, all_vectors.shape[1], *scores))
            counts = np.bincount(task.label, minlength=len(task.classes)).tolist()
            classes = dict(zip(task.classes, counts, strict=True))
            results.append(TaskResult(task.name, task.meaning, classes, len(np.unique(group)), rows))
    return results
