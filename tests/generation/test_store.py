import sqlite3
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from lrkd.data.rationales import read_rationales
from lrkd.data.types import RATIONALES_SCHEMA
from lrkd.errors import UserError
from lrkd.generation.jobs import Key, Sampling
from lrkd.generation.store import CompletionStore, Made, Stored, merge

MADE = Made("tiny", "abc", "bfloat16", "esci-1@12345678", ("Exact", "Irrelevant"), "{title}", 1000, Sampling())


def stored(pair, perspective="user_intent", sample=0, **changes):
    values = {
        "key": Key(pair, perspective, sample), "text": "It fits.\nVerdict: Exact", "rationale": "It fits.",
        "verdict": "Exact", "failure": None, "finished": True, "prompt_tokens": 20, "tokens": 7,
        "teacher": "tiny", "prompt_version": "esci-1@12345678",
    }  # fmt: skip
    return Stored(**values | changes)


CUT = stored("b", sample=1, text="It f", rationale="It f", verdict=None, failure="cut_off", finished=False, tokens=9)
THREE = [stored("b", "neutral"), CUT, stored("a")]


def test_what_was_added_is_there_when_opened_again(tmp_path):
    path = tmp_path / "new" / "store.sqlite"
    with CompletionStore(path, MADE) as store:
        store.add(THREE[:2])
        store.add(THREE[2:])
    with CompletionStore(path, MADE) as store:
        assert len(store) == 3
        assert store.keys() == {completion.key for completion in THREE}
        assert list(store) == [THREE[2], THREE[0], CUT]  # in the order of the keys
    with CompletionStore(path) as store:
        assert store.made == MADE.flat()


def test_counts_by_hand(tmp_path):
    with CompletionStore(tmp_path / "store.sqlite", MADE) as store:
        assert store.counts().total == 0
        store.add(THREE)
        counts = store.counts()
    assert counts.parsed == {"neutral": 1, "user_intent": 1}
    assert counts.failures == {"user_intent": {"cut_off": 1}}
    assert (counts.prompt_tokens, counts.tokens, counts.total) == (60, 23, 3)


def test_export_has_the_parsed_ones_by_key_and_is_a_data_roots(tmp_path):
    with CompletionStore(tmp_path / "store.sqlite", MADE) as store:
        store.add(THREE)
        assert store.export(tmp_path / "rationales.parquet") == 2
    table = read_rationales(tmp_path)
    assert table.schema.equals(RATIONALES_SCHEMA)
    assert table["pair_id"].to_pylist() == ["a", "b"]
    assert table.slice(0, 1).to_pylist()[0] == {
        "pair_id": "a", "perspective": "user_intent", "sample": 0, "rationale": "It fits.", "verdict": "Exact",
        "teacher": "tiny", "prompt_version": "esci-1@12345678", "tokens": 7,
    }  # fmt: skip


def test_an_empty_store_exports_an_empty_table(tmp_path):
    with CompletionStore(tmp_path / "store.sqlite", MADE) as store:
        assert store.export(tmp_path / "rationales.parquet") == 0
    assert pq.read_table(tmp_path / "rationales.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"teacher": "other"}, "teacher 'tiny', not 'other'"),
        ({"weights": None}, "weights"),
        ({"precision": "float32"}, "precision"),
        ({"prompt_version": "esci-2@0"}, "prompt_version"),
        ({"labels": ("Irrelevant", "Exact")}, "labels"),
        ({"item_text": "{title} {brand}"}, "item_text"),
        ({"sampling": Sampling(seed=1)}, "seed 0, not 1"),
        ({"sampling": Sampling(temperature=0.7)}, "temperature 0.0, not 0.7"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, change, named):
    CompletionStore(tmp_path / "store.sqlite", MADE).close()
    with pytest.raises(UserError, match=named):
        CompletionStore(tmp_path / "store.sqlite", replace(MADE, **change))


def test_a_key_is_never_there_twice(tmp_path):
    with CompletionStore(tmp_path / "store.sqlite", MADE) as store:
        store.add(THREE)
        with pytest.raises(UserError, match="there already"):
            store.add([stored("c"), stored("a")])
        assert len(store) == 3  # all or none


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        CompletionStore(tmp_path / "none.sqlite")
    (tmp_path / "text.sqlite").write_text("not a database, but long enough to be looked at" * 20)
    with pytest.raises(UserError, match="not a store"):
        CompletionStore(tmp_path / "text.sqlite", MADE)


def test_another_process_can_look_while_one_writes(tmp_path):
    with CompletionStore(tmp_path / "store.sqlite", MADE) as store:
        store.add(THREE[:1])
        found = sqlite3.connect(tmp_path / "store.sqlite").execute("SELECT pair_id, verdict FROM completions")
        assert found.fetchall() == [("b", "Exact")]
        store.add(THREE[1:])


def several(tmp_path, *contents, made=MADE):
    paths = [tmp_path / f"{number}.sqlite" for number in range(len(contents))]
    for path, completions in zip(paths, contents, strict=True):
        with CompletionStore(path, made) as store:
            store.add(completions)
    return paths


def test_merging_goes_by_key_and_takes_duplicates_once(tmp_path):
    paths = several(tmp_path, THREE[:2], THREE[1:], [stored("c")])
    assert merge(paths, tmp_path / "all.sqlite") == 4
    assert merge(paths, tmp_path / "all.sqlite") == 0
    with CompletionStore(tmp_path / "all.sqlite", MADE) as store:  # settings and all
        assert list(store) == [THREE[2], THREE[0], CUT, stored("c")]


def test_conflicting_completions_are_refused(tmp_path):
    paths = several(tmp_path, [stored("a")], [stored("a", rationale="Not at all.")])
    with pytest.raises(UserError, match=r"1\.sqlite: another completion of \('a', 'user_intent', 0\)"):
        merge(paths, tmp_path / "all.sqlite")


def test_stores_made_otherwise_are_not_merged(tmp_path):
    paths = several(tmp_path, [stored("a")])
    other = several(tmp_path / "other", [stored("b")], made=replace(MADE, teacher="other"))
    with pytest.raises(UserError, match="teacher 'tiny', not 'other'"):
        merge(paths + other, tmp_path / "all.sqlite")
