"""Ablation files: what is filled in, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lrkd.errors import UserError
from lrkd.experiments.ablation_file import as_option, read_ablation_file

CONTENT = {
    "runs": "runs/a",
    "folds": [0, None],
    "seeds": [3],
    "configs": ["common.yaml"],
    "options": {"trainer.max_epochs": 2, "model.init_args.dropout": 0.5},
    "before": [{"command": "data split --root ${data} --out 'a b'", "out": "${data}/pairs.parquet"}],
    "rows": {
        "encoder": "encoder.yaml",
        "taught": {
            "configs": ["encoder.yaml", "more.yaml"],
            "options": {
                "trainer.max_epochs": 1,
                "data.init_args.soft_labels": ["${encoder}/p.parquet"],
                "data.init_args.item_text": "{title} for $$5",
            },
            "before": [{"command": "predict --x ${fold}", "out": "${encoder}/p.parquet"}],
        },
    },
    "compare": {"baseline": "encoder"},
}
NAMES = {"data": "d", "fold": "0", "encoder": "runs/a/encoder-fold0-seed3"}


@pytest.fixture
def read(tmp_path):
    def read(**changes):
        path = tmp_path / "a.yaml"
        content = {k: v for k, v in (CONTENT | changes).items() if v is not ...}
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return read_ablation_file(path)

    return read


def test_what_a_file_says(read):
    plan = read()
    assert (plan.runs, plan.data, plan.split, plan.folds, plan.seeds) == ("runs/a", None, "test", [0, None], [3])
    assert plan.rows["encoder"].configs == ["encoder.yaml"]
    assert plan.rows["encoder"].mentions() == set()
    assert plan.rows["taught"].mentions() == {"encoder", "fold"}
    assert plan.compare == {"baseline": "encoder"}


def test_what_is_left_out_has_defaults(read):
    plan = read(folds=..., seeds=..., configs=..., options=..., before=..., compare=...)
    assert (plan.folds, plan.seeds, plan.configs, plan.options, plan.before) == ([None], [0], [], {}, [])


def test_a_rows_options_win_over_common_ones_and_common_configs_over_its_own(read):
    plan = read()
    assert plan.fit_options(plan.rows["taught"], NAMES) == [
        "--config=encoder.yaml",
        "--config=more.yaml",
        "--config=common.yaml",
        "--trainer.max_epochs=1",
        "--model.init_args.dropout=0.5",
        '--data.init_args.soft_labels=["runs/a/encoder-fold0-seed3/p.parquet"]',
        "--data.init_args.item_text={title} for $5",
    ]


def test_names_are_filled_into_commands_word_by_word(read):
    (step,) = read().steps(CONTENT["before"], {"data": "my data"})
    assert step.command == ["data", "split", "--root", "my data", "--out", "a b"]
    assert step.out == Path("my data/pairs.parquet")


@pytest.mark.parametrize(
    ("value", "option"),
    [(1e-4, "0.0001"), (None, "null"), (True, "true"), ("cls", "cls"), (["a"], '["a"]'), ({"a": 1}, '{"a": 1}')],
)
def test_values_as_options(value, option):
    assert as_option(value) == option


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": ...}, "lacks rows"),
        ({"rows": {}}, "rows: there are none"),
        ({"runs": ...}, "lacks runs"),
        ({"fold": [1]}, r"unknown keys \['fold'\]; the keys are runs, data,"),
        ({"seeds": []}, "lists of at least one number"),
        ({"folds": ["a"]}, "lists of at least one number"),
        ({"folds": 3}, "folds is a list, got 3"),
        ({"split": "train"}, "split is val or test, got 'train'"),
        ({"rows": {"a/b": "x.yaml"}}, "rows: a/b: a row's name"),
        ({"rows": {"seed": "x.yaml"}}, "rows: seed: a row's name"),
        ({"rows": {"a": {"config": "x.yaml"}}}, r"rows: a: unknown keys \['config'\]"),
        ({"rows": {"a": {"options": {}}}}, "rows: a: lacks configs"),
        ({"rows": {"a": 5}}, "rows: a: wants the keys configs, options, before, got 5"),
        ({"before": [{"command": "x"}]}, "before: lacks out"),
    ],
)
def test_files_that_are_wrong_are_refused(changes, message, read):
    with pytest.raises(UserError, match=message):
        read(**changes)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("${sed}", "'sed' is not known here; the names are fold, and data once --data is given"),
        ("$", "Invalid placeholder"),
    ],
)
def test_names_that_are_not_known_are_refused(value, message, read):
    with pytest.raises(UserError, match=message):
        read().fill([value], {"fold": "0"})


def test_a_file_that_is_not_there_or_no_yaml_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text("[")
    for name in ("a.yaml", "b.yaml"):
        with pytest.raises(UserError, match=f"{name}: not a readable YAML file"):
            read_ablation_file(tmp_path / name)
