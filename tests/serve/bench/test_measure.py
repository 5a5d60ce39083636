"""What is measured, and in what order, with workers whose seconds the tests decide."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from lrkd.errors import UserError
from lrkd.serve import Scorer
from lrkd.serve.bench.contender import Contender, Worker
from lrkd.serve.bench.measure import Cell, Timing, requests, stream
from lrkd.serve.bench.pairs import pairs_of_length, pairs_of_root

WORDS = ["red", "running", "shoes", "mug", "coffee", "women", "usb-c", "charger"]


class Asked:
    """A worker that takes a second for ``pace`` pairs and keeps the orders that all workers got."""

    def __init__(self, name, pace, orders, kind="export", best=None):
        self.contender = SimpleNamespace(name=name, kind=kind)
        self.pace, self.orders, self.best = pace, orders, best

    def seconds(self, pairs, *, repeat, size):
        self.orders.append((self.contender.name, len(pairs), repeat, size))
        slow = 1 if self.best in (None, size) else 2
        return [slow * len(pairs) / self.pace] * repeat


def test_contenders_answer_in_turn_and_every_other_round_backwards():
    orders = []
    workers = [Asked("a", 100, orders), Asked("b", 50, orders)]
    cells = {Cell(1, 8, 2): ["x"], Cell(4, 8, 2): ["x"] * 4}
    found = requests(workers, cells, rounds=2, seconds=0.2)
    warm, measured = orders[:4], orders[4:]
    assert warm == [("a", 1, 2, 1), ("b", 1, 2, 1), ("a", 4, 2, 4), ("b", 4, 2, 4)]
    # In 0.2 s: a answers 20 requests of one pair and 5 of four; b 10, and at least 5.
    assert measured == [
        ("a", 1, 20, 1), ("b", 1, 10, 1), ("a", 4, 5, 4), ("b", 4, 5, 4),
        ("b", 1, 10, 1), ("a", 1, 20, 1), ("b", 4, 5, 4), ("a", 4, 5, 4),
    ]  # fmt: skip
    assert len(found[Cell(1, 8, 2)]["a"].seconds) == 40
    assert found[Cell(4, 8, 2)]["b"].rate == pytest.approx(50)


def test_each_crossencoder_streams_with_its_best_batch_size():
    orders = []
    ours = Asked("ours", 100, orders)
    theirs = Asked("theirs", 80, orders, kind="torch-float32", best=64)
    found = stream([ours, theirs], ["x"] * 200, rounds=3)
    assert (found["theirs"].size, found["theirs"].rate) == (64, 80)
    assert [name for name, _, repeat, _ in orders if repeat == 1] == [
        "ours",
        "theirs",
        "theirs",
        "ours",
        "ours",
        "theirs",
    ]
    assert len([o for o in orders if o[0] == "ours" and o[2] == 2]) == 1, "an export has no batch size to look for"


def test_percentiles_are_milliseconds_over_all_requests():
    timing = Timing(4, [n / 1000 for n in range(1, 102)])
    assert [timing.percentile(q) for q in (50, 95, 99)] == pytest.approx([51, 96, 100])
    assert timing.rate == pytest.approx(4 / 0.051)


def test_pairs_have_exactly_so_many_tokens_and_are_not_cut(exported):
    scorer = Scorer(exported("mlp")[1])
    for length in (5, 16, 32):
        pairs = pairs_of_length(scorer, length, 6, WORDS)
        tokens = scorer.tokens(*map(list, zip(*pairs, strict=True)))
        assert tokens.lengths.tolist() == [length] * 6
        assert not np.sum(tokens.cut)
    assert len(set(pairs)) == 6
    for length in (4, 33):
        with pytest.raises(UserError, match=f"--lengths {length}: a pair of this model has 5 to 32 tokens"):
            pairs_of_length(scorer, length, 1, WORDS)


def test_stream_is_the_data_s_pairs(exported, tiny_root):
    pairs = pairs_of_root(str(tiny_root), Scorer(exported("mlp")[1]), 10)
    assert len(set(pairs)) == 10
    assert ("phone case", "Laptop sleeve") in pairs_of_root(str(tiny_root), Scorer(exported("mlp")[1]), 1000)


def test_contenders_are_exports_or_backends_maybe_of_another_interpreter(tmp_path):
    assert Contender.parse("onnx-int8=/venv/bin/python", tmp_path) == Contender(
        "CrossEncoder onnx int8", "onnx-int8", tmp_path, "/venv/bin/python"
    )
    assert Contender.parse(str(tmp_path), tmp_path / "backbone").kind == "export"
    with pytest.raises(UserError, match="--against torch: neither an exported folder nor one of torch-float32"):
        Contender.parse("torch", tmp_path)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system keeps no process to a core")
def test_a_worker_has_as_many_cores_as_threads(exported):
    ours = os.sched_getaffinity(0)
    with Worker(Contender("ours", "export", exported("encoder")[1]), 1) as worker:
        assert os.sched_getaffinity(worker._process.pid) == {min(ours)}
    assert os.sched_getaffinity(0) == ours
