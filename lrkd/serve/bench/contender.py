"""A contender of a benchmark, seen from the process that asks: its name, and its worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lrkd.errors import UserError

CROSS_ENCODERS = (
    "torch-float32",
    "torch-bfloat16",
    "onnx-float32",
    "onnx-int8",
    "openvino-float32",
    "openvino-bfloat16",
)
"""Backends of sentence-transformers' CrossEncoder, each with the precision that it computes in."""


@dataclass(frozen=True)
class Contender:
    """Something that scores pairs.

    Args:
        name: What the report calls it.
        kind: ``export``, or one of :data:`CROSS_ENCODERS`.
        folder: What it loads.
        python: The interpreter that has what it needs.
    """

    name: str
    kind: str
    folder: Path
    python: str = sys.executable

    @classmethod
    def parse(cls, text: str, backbone: Path) -> Contender:
        """A contender as it is given on the command line.

        Args:
            text: A folder that ``export`` wrote, or one of :data:`CROSS_ENCODERS`, with ``=path/to/python`` behind it
                where another interpreter has the backend.
            backbone: What a CrossEncoder loads.

        Raises:
            UserError: It is neither.
        """
        kind, _, python = text.partition("=")
        if kind in CROSS_ENCODERS:
            return cls(f"CrossEncoder {kind.replace('-', ' ')}", kind, backbone, python or sys.executable)
        if not Path(text).is_dir():
            raise UserError(
                f"--against {text}: neither an exported folder nor one of {', '.join(CROSS_ENCODERS)} (with "
                "=path/to/python behind it where another interpreter has the backend)"
            )
        return cls(Path(text).name, "export", Path(text))


class Worker:
    """A contender's process.

    Args:
        contender: Who.
        threads: Threads that it may compute with.

    Raises:
        UserError: It could not be loaded; says why.
    """

    def __init__(self, contender: Contender, threads: int) -> None:
        self.contender = contender
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # lives as long as the process
        threading = {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}
        # A worker is run as a file: with our interpreter it finds the modules that we found, lrkd among them.
        path = {"PYTHONPATH": os.pathsep.join(sys.path)} if contender.python == sys.executable else {}
        command = [contender.python, str(Path(__file__).with_name("worker.py"))]
        self._process = subprocess.Popen(
            [*command, contender.kind, str(contender.folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | threading | path,
        )
        self.versions: dict[str, str] = self._answer()["versions"]

    def seconds(self, pairs: Sequence[tuple[str, str]], *, repeat: int, size: int) -> list[float]:
        """The wall-clock seconds of each time that it scores these pairs, in batches of ``size`` if it asks for one."""
        assert self._process.stdin is not None
        order = {"pairs": [list(pair) for pair in pairs], "repeat": repeat, "size": size}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        seconds: list[float] = self._answer()["seconds"]
        return seconds

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines()[-1:]
            raise UserError(f"{self.contender.name} cannot run: {' '.join(last) or 'its process ended'}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()
