"""What the benchmarks share: programs in processes of their own, their seconds and peak memory, and a table of both.

Nothing but the standard library is imported: a child's peak counts from what its parent held when it was started.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any


@dataclass
class Run:
    """One run: wall-clock and CPU seconds from start to end, imports included, peak in bytes, what it printed last."""

    seconds: float
    cpu: float
    peak: int
    result: dict[str, Any] = field(default_factory=dict)

    def __add__(self, other: Run) -> Run:
        """One run after the other."""
        seconds, cpu = self.seconds + other.seconds, self.cpu + other.cpu
        return Run(seconds, cpu, max(self.peak, other.peak), self.result | other.result)


def run(*arguments: object, env: dict[str, str] | None = None) -> Run:
    """Run Python with these arguments; a last line of its output that is JSON is the result.

    The peak is that of the largest process: where a program starts others, theirs are not added up.
    """
    command = [sys.executable, *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as out:
        actions = [(os.POSIX_SPAWN_DUP2, out.fileno(), 1), (os.POSIX_SPAWN_DUP2, out.fileno(), 2)]
        started = perf_counter()
        process = os.posix_spawn(sys.executable, command, os.environ | (env or {}), file_actions=actions)
        _, status, usage = os.wait4(process, 0)
        seconds = perf_counter() - started
        out.seek(0)
        lines = out.read().splitlines()
    if status:
        raise SystemExit("\n".join([*lines[-30:], f"failed with status {status}: {' '.join(command)}"]))
    last = lines[-1] if lines else ""
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(
        seconds,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * unit,
        json.loads(last) if last.startswith("{") else {},
    )


def interleaved(programs: dict[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    """Every program once a round, in turn, every other round backwards: what drifts, drifts for all."""
    runs: dict[str, list[Run]] = {name: [] for name in programs}
    for number in range(rounds):
        for name in list(programs)[:: -1 if number % 2 else 1]:
            runs[name].append(programs[name]())
            print(f"round {number + 1}, {name}: {runs[name][-1].seconds:.1f} s", file=sys.stderr, flush=True)
    return runs


def table(runs: dict[str, list[Run]], rows: int, unit: str) -> str:
    """A Markdown table of medians; each program's seconds and peak also over the first one's, which is ours."""
    lines = [
        f"| program | seconds (lowest to highest) | CPU seconds | {unit}/s | seconds / ours | peak MB | peak / ours |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    ours = next(iter(runs.values()))
    for name, some in runs.items():
        every = sorted(r.seconds for r in some)
        seconds, cpu, peak = _medians(some)
        lines.append(
            f"| {name} | {seconds:.1f} ({every[0]:.1f} to {every[-1]:.1f}) | {cpu:.1f} | {rows / seconds:,.0f} "
            f"| {seconds / _medians(ours)[0]:.2f} | {peak / 1e6:,.0f} | {peak / _medians(ours)[2]:.2f} |"
        )
    return "\n".join(lines)


def _medians(runs: list[Run]) -> tuple[float, float, float]:
    columns = [(r.seconds, r.cpu, r.peak) for r in runs]
    seconds, cpu, peak = (statistics.median(column) for column in zip(*columns, strict=True))
    return seconds, cpu, peak


def machine(*packages: str) -> str:
    """One line: processor, cores, Python and the packages' versions."""
    return f"{_processor()}, {cores()} cores, Python {sys.version.split()[0]}" + "".join(
        f", {package} {_version(package)}" for package in packages
    )


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor")
    return subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
