"""Running what is planned, with a line for each run that ends and the time that is left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lrkd.errors import UserError
from lrkd.experiments.fits import PlannedRun, Step, missing
from lrkd.experiments.jobs import Ended, Job, run_jobs, tail

SAME_COMMAND = "The same command again goes on with what is not finished."


def execute(
    runs: Sequence[PlannedRun], folder: Path, places: Sequence[dict[str, str]], before: Iterable[Step] = ()
) -> None:
    """Run what is not finished; a failed run does not keep the others from running.

    Args:
        runs: All runs, the finished ones too; those that are needed stand before those that need them.
        folder: Takes ``logs/``, a file a run.
        places: An environment for each process side by side (:func:`~lrkd.experiments.jobs.slots`).
        before: What is made before any of them.

    Raises:
        UserError: A step or runs failed: names each, with the end of its log.
        SystemExit: It was interrupted (status 130); the running commands were ended.
    """
    left = [run for run in runs if not run.finished]
    print(f"{len(runs)} runs, {len(runs) - len(left)} of them finished; logs: {folder / 'logs'}", flush=True)
    first = [Job("before", lambda: missing(before), folder / "logs" / "before.log")]
    jobs = [Job(run.name, run.commands, folder / "logs" / f"{run.name}.log", run.needs) for run in left]
    progress = _Progress(runs, len(places))
    try:
        if left and (failed := [one for one in run_jobs(first, places[:1], lambda _: None) if one.error]):
            raise UserError(f"what comes before the runs failed: {_told(failed)}{SAME_COMMAND}")
        failed = [one for one in run_jobs(jobs, places, progress.report) if one.error]
    except KeyboardInterrupt:
        print(f"\nInterrupted, {progress.ended} of {len(left)} runs ended. {SAME_COMMAND}", flush=True)
        raise SystemExit(130) from None
    if failed:
        raise UserError(f"{len(failed)} of {len(runs)} runs failed: {_told(failed)}{SAME_COMMAND}")


class _Progress:
    """A line a run."""

    def __init__(self, runs: Sequence[PlannedRun], places: int) -> None:
        self.titles = {run.name: run.title for run in runs}
        self.left = sum(not run.finished for run in runs)
        self.places, self.ended, self.seconds = places, 0, 0.0

    def report(self, one: Ended) -> None:
        """Count a run that has ended and say so."""
        self.ended += 1
        self.seconds += one.seconds
        left = self.left - self.ended
        time = _time(self.seconds / self.ended * left / min(self.places, max(left, 1)))
        outcome = f"done in {_time(one.seconds)}" if one.error is None else f"FAILED: {one.error}"
        rest = f"; about {time} left" if left else ""
        print(f"{self.ended}/{self.left}  {self.titles[one.job.name]}  {outcome}{rest}", flush=True)


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _told(failed: Sequence[Ended]) -> str:
    """What went wrong, each with the end of its log."""
    return "\n" + "".join(f"  {one.job.name}: {one.error} ({one.job.log})\n{tail(one.job.log)}" for one in failed)
