"""Fixtures of the tests that run many small fits."""

from __future__ import annotations

import contextlib
import io
import traceback
from types import SimpleNamespace

import pytest

from lrkd.__main__ import main
from lrkd.experiments import jobs


@pytest.fixture
def in_process(monkeypatch):
    """Lets commands run in this process, which saves the imports; a list of those that ran."""
    ran = []

    def start(command, environment, log):
        ran.append(command)
        shown, status = io.StringIO(), 0
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            try:
                main(list(command))
            except (SystemExit, RuntimeError) as error:
                status = error.code if isinstance(error, SystemExit) else 1
                traceback.print_exc()
        log.write(shown.getvalue().encode())
        return SimpleNamespace(poll=lambda: status)

    monkeypatch.setattr(jobs, "start", start)
    monkeypatch.setattr(jobs, "LOOK_EVERY", 0)
    return ran
