"""What is left to do of a planned run, from the state of its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrkd.errors import UserError
from lrkd.experiments.fits import PlannedRun, Step, fit_command, missing

OPTIONS = ["--config=a.yaml", "--seed_everything=1"]


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


def test_a_fit_begins_where_there_is_nothing(tmp_path):
    assert fit_command(tmp_path / "run", OPTIONS) == ["fit", *OPTIONS]


def test_a_fit_goes_on_from_its_last_checkpoint(tmp_path):
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    touch(last)
    assert fit_command(tmp_path / "run", OPTIONS) == ["fit", *OPTIONS, f"--ckpt_path={last}"]
    assert last.exists()


def test_a_fit_that_was_killed_before_its_first_checkpoint_begins_again(tmp_path):
    for name in ("config.yaml", "metrics.csv", "checkpoints/last.new"):
        touch(tmp_path / "run" / name)
    assert fit_command(tmp_path / "run", OPTIONS) == ["fit", *OPTIONS]
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    touch(tmp_path / "run" / "thesis.tex")
    with pytest.raises(UserError, match="is to be a run's folder, but holds something else"):
        fit_command(tmp_path / "run", OPTIONS)
    assert (tmp_path / "run" / "thesis.tex").exists()


@pytest.mark.parametrize(("split", "verb"), [("test", "test"), ("val", "validate")])
def test_a_run_is_made_ready_fitted_and_scored_and_what_is_there_is_not_repeated(split, verb, tmp_path):
    folder, made = tmp_path / "run", tmp_path / "made"
    run = PlannedRun("a run", OPTIONS, folder, split, (Step(["embed"], made),))
    score = [verb, f"--ckpt_path={folder / 'checkpoints' / 'best.ckpt'}"]
    commands = run.commands()
    assert next(commands) == ["embed"]
    touch(made)
    assert next(commands) == ["fit", *OPTIONS]
    touch(folder / "run.json")
    assert next(commands) == score
    assert not run.finished
    assert list(run.commands()) == [score]
    touch(folder / f"{split}_metrics.json")
    assert list(commands) == list(run.commands()) == []
    assert run.finished


def test_a_step_that_makes_nothing_is_an_error(tmp_path):
    steps = missing([Step(["data", "split"], tmp_path / "pairs"), Step(["next"], Path("/"))])
    assert next(steps) == ["data", "split"]
    with pytest.raises(UserError, match=r"`python -m lrkd data split` ended well, but made no .*pairs"):
        next(steps)
