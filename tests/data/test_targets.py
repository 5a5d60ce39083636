"""The target store on disk."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from target_tables import FINGERPRINT_OF_TESTS

from lrkd.data.rationales import read_rationales
from lrkd.data.targets import FINGERPRINT, INDEX, VECTORS, Fingerprint, TargetStore
from lrkd.errors import UserError


def test_a_store_opens_with_what_it_holds(tiny_targets, tiny_root):
    store = TargetStore.open(tiny_targets)
    rationales = read_rationales(tiny_root)
    assert (store.width, len(store.vectors)) == (8, rationales.num_rows)
    assert isinstance(store.vectors, np.memmap)
    store.check_rationales(rationales, tiny_targets)


@pytest.mark.parametrize("missing", [FINGERPRINT, INDEX, VECTORS])
def test_an_unfinished_store_is_refused(missing, tiny_targets, tmp_path):  # trap 45
    shutil.copytree(tiny_targets, tmp_path / "targets")
    (tmp_path / "targets" / missing).unlink()
    with pytest.raises(UserError, match=r"no target store|unfinished"):
        TargetStore.open(tmp_path / "targets")


@pytest.mark.parametrize("vectors", [np.zeros((3, 8), np.float32), np.zeros((52, 8), np.float16), np.zeros(52, "f4")])
def test_vectors_that_do_not_fit_index_and_fingerprint_are_refused(vectors, tiny_targets, tmp_path):  # trap 45
    shutil.copytree(tiny_targets, tmp_path / "targets")
    np.save(tmp_path / "targets" / VECTORS, vectors)
    with pytest.raises(UserError, match=r"index.parquet has 52 rows and fingerprint.json says float32"):
        TargetStore.open(tmp_path / "targets")


@pytest.mark.parametrize("content", ["{", '{"encoder": "x"}', "[]"])
def test_a_broken_fingerprint_is_named(content, tiny_targets, tmp_path):
    shutil.copytree(tiny_targets, tmp_path / "targets")
    (tmp_path / "targets" / FINGERPRINT).write_text(content)
    with pytest.raises(UserError, match="not a target store's fingerprint"):
        TargetStore.open(tmp_path / "targets")


def changed_text(table):
    return table.set_column(table.column_names.index("rationale"), "rationale", pa.array(["x"] * table.num_rows))


@pytest.mark.parametrize(
    "change",
    [changed_text, lambda table: table.slice(1), lambda table: table.take(list(reversed(range(table.num_rows))))],
    ids=["text", "one less", "order"],
)
def test_other_rationales_are_refused(change, tiny_targets, tiny_root):  # trap 45
    with pytest.raises(UserError, match="made from other rationales"):
        TargetStore.open(tiny_targets).check_rationales(change(read_rationales(tiny_root)), tiny_targets)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Fingerprint)])
def test_fingerprints_differ_by_every_field_but_the_encoders_name(field):  # trap 45
    settings = json.loads(json.dumps(dataclasses.asdict(FINGERPRINT_OF_TESTS)))
    other = Fingerprint(**settings | {field: "other"})
    assert bool(FINGERPRINT_OF_TESTS.differences(other)) == (field != "encoder")
    assert FINGERPRINT_OF_TESTS.differences(Fingerprint(**settings)) == []
