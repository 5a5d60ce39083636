"""Commands side by side, each job on a device or a share of the cores of its own, in the order of need."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lrkd.errors import UserError

PROGRAM = (sys.executable, "-m", "lrkd")
LOOK_EVERY = 0.1
STOP_SECONDS = 10


@dataclass(frozen=True)
class Job:
    """Commands of ``python -m lrkd``, one after the other, each in a process of its own.

    Args:
        name: Identifies the job.
        commands: Makes the commands; each is asked for when the one before has succeeded.
        log: The file that takes what they print. As long as one of them lives no other job gets hold of it, so that a
            run is never worked on twice at once, not even after this process was killed.
        needs: The names of jobs that must have succeeded before; those that are not run here count as done.
    """

    name: str
    commands: Callable[[], Iterator[list[str]]]
    log: Path
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    job: Job
    seconds: float
    error: str | None
    """What went wrong; None: nothing."""


def slots(jobs: int | None, devices: Sequence[str]) -> list[dict[str, str]]:
    """The environments of processes that run side by side.

    Args:
        jobs: How many; None: one a device, or one.
        devices: Values for ``CUDA_VISIBLE_DEVICES``, dealt in turn.

    Returns:
        One environment a process: its device, and its share of the cores unless ``OMP_NUM_THREADS`` is set.

    Raises:
        UserError: ``jobs`` is below 1.
    """
    number = len(devices) or 1 if jobs is None else jobs
    if number < 1:
        raise UserError(f"jobs is at least 1, got {number}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shared = number > 1 and "OMP_NUM_THREADS" not in os.environ
    threads = {"OMP_NUM_THREADS": str(max(1, cores // number))} if shared else {}
    pinned = [{"CUDA_VISIBLE_DEVICES": devices[i % len(devices)]} if devices else {} for i in range(number)]
    return [threads | device for device in pinned]


def run_jobs(jobs: Sequence[Job], places: Sequence[dict[str, str]], report: Callable[[Ended], None]) -> list[Ended]:
    """Run jobs, as many at a time as there are places; a failed one keeps only those from running that need it.

    Where this process is interrupted (Ctrl-C or SIGTERM), the running commands are ended before the error goes on.

    Args:
        jobs: The jobs; of those that could start, the first goes first.
        places: An environment for each process side by side.
        report: Is called with each job that has ended.

    Returns:
        How they ended, in the order of ending.

    Raises:
        UserError: Jobs need each other in a circle.
    """
    waiting, running, ended = list(jobs), list[_Running](), list[Ended]()
    free, failed = list(places), set[str]()

    def end(one: Ended) -> None:
        ended.append(one)
        if one.error is not None:
            failed.add(one.job.name)
        report(one)

    with _termination_interrupts():
        try:
            while waiting or running:
                unready = {job.name for job in waiting} | {one.job.name for one in running}
                for job in [job for job in waiting if not job.needs & unready]:
                    if missing := job.needs & failed:
                        end(Ended(job, 0.0, f"left out: it needs {' and '.join(sorted(missing))}"))
                    elif free:
                        running.append(_Running(job, free.pop(0)))
                    else:
                        break
                    waiting.remove(job)
                if waiting and not running and all(job.needs & {other.name for other in waiting} for job in waiting):
                    raise UserError(f"{', '.join(job.name for job in waiting)} need each other in a circle")
                for one in [one for one in running if one.has_ended()]:
                    running.remove(one)
                    free.append(one.environment)
                    end(Ended(one.job, one.seconds, one.error))
                time.sleep(LOOK_EVERY if running else 0)
        finally:
            for one in running:
                one.stop()
    return ended


class _Running:
    """A job at work."""

    def __init__(self, job: Job, environment: dict[str, str]) -> None:
        self.job, self.environment = job, environment
        self.error: str | None = None
        self._started = time.monotonic()
        self._commands = job.commands()
        self._command: list[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self._log = job.log.open("ab")
        try:
            fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the commands hold it, too: it is their stdout
        except BlockingIOError:
            self._commands = iter(())
            self.error = "is being run by another process"

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._started

    def has_ended(self) -> bool:
        """Whether it has; where only a command has, the next one is started."""
        try:
            ended = self._ended()
        except UserError as error:
            self.error, ended = str(error), True
        if ended:
            self._log.close()
        return ended

    def _ended(self) -> bool:
        if self._process is not None:
            status = self._process.poll()
            if status is None:
                return False
            if status != 0:
                self.error = f"`{_shown(self._command or [])}` ended with status {status}"
                return True
        self._command = next(self._commands, None)
        if self._command is None:
            return True
        self._log.write(f"$ {_shown(self._command)}\n".encode())
        self._log.flush()
        self._process = start(self._command, self.environment, self._log)
        return False

    def stop(self) -> None:
        """End it, with all processes that it may have started."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._log.close()


def start(command: list[str], environment: dict[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start one command in a session of its own: Ctrl-C in the terminal reaches it through this process alone."""
    return subprocess.Popen(
        [*PROGRAM, *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=os.environ | environment,
        start_new_session=True,
    )


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log, indented; empty if there is none."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        text = file.read().decode(errors="replace")
    return "".join(f"    {line}\n" for line in text.splitlines()[-lines:])


def _shown(command: list[str]) -> str:
    return shlex.join(["python", "-m", "lrkd", *command])


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """SIGTERM, too, ends the commands first. Only the main thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
