"""Jobs into batches: all of them, in order, together where they wait together, and a poisoned pair alone."""

import threading

import numpy as np
import pytest
from stand_in_scorer import NOT_A_NUMBER, POISON, StandInScorer

from lrkd.errors import UserError
from lrkd.serve.asked import ItemError
from lrkd.serve.batcher import Batcher, Full

SECONDS = 20


def pair(title, query="red mug"):
    return {"query": query, "title": title}


@pytest.fixture
def scorer():
    return StandInScorer()


@pytest.fixture
def start(scorer):
    made = []

    def start(**options):
        made.append(Batcher(scorer, **options))
        return made[-1]

    yield start
    scorer.go_on.set()
    for batcher in made:
        batcher.close()


def held(scorer, batcher):
    """Keeps the scorer busy with one pair, so that what is submitted next waits; a future of that pair."""
    scorer.go_on.clear()
    future = batcher.submit([pair("first")])
    while not scorer.batches:
        pass
    return future


def test_jobs_that_wait_together_are_scored_together(scorer, start):
    sizes = []
    batcher = start(observe=lambda pairs, seconds: sizes.append(pairs))
    futures = [held(scorer, batcher), *(batcher.submit([pair("Red mug"), pair(f"Mug {n}")]) for n in range(3))]
    assert batcher.waiting == 6
    scorer.go_on.set()
    found = [future.result(SECONDS) for future in futures]
    assert [[v.label for v in job] for job in found] == [["Irrelevant"], *[["Exact", "Complement"]] * 3]
    assert scorer.batches == sizes == [1, 6]
    assert batcher.waiting == 0


def test_a_job_spans_batches_and_keeps_its_order(scorer, start):
    batcher = start(size=4)
    titles = ["Red mug", "Mug", "Pan"] * 3 + ["Red mug"]
    first = held(scorer, batcher)
    long, short = batcher.submit([pair(title) for title in titles]), batcher.submit([pair("Mug")])
    scorer.go_on.set()
    expected = ["Exact", "Complement", "Irrelevant"] * 3 + ["Exact"]
    assert [v.label for v in long.result(SECONDS)] == expected
    assert [v.label for v in short.result(SECONDS)] == ["Complement"]
    assert first.done()
    assert scorer.batches == [1, 4, 4, 3]


def test_a_pair_that_the_model_cannot_bear_fails_alone(scorer, start, caplog):  # trap 44
    batcher = start()
    first = held(scorer, batcher)
    jobs = [batcher.submit([pair("Red mug"), pair("Mug")]) for _ in range(3)]
    poisoned = batcher.submit([pair("Red mug"), pair(POISON), pair("Mug")])
    scorer.go_on.set()
    assert [[v.label for v in job.result(SECONDS)] for job in jobs] == [["Exact", "Complement"]] * 3
    exact, error, complement = poisoned.result(SECONDS)
    assert (exact.label, complement.label) == ("Exact", "Complement")
    assert error.ours
    assert "choked" not in error.message, "what failed inside is for the log"
    assert "choked" in caplog.text
    assert first.done()
    assert sum(scorer.batches) < 1 + 9 * 4, "halves, not every pair alone"


def test_no_number_is_no_score(scorer, start):
    found = start().submit([pair("Red mug"), pair(NOT_A_NUMBER)]).result(SECONDS)
    assert found[0].label == "Exact"
    assert isinstance(found[1], ItemError)
    assert found[1].ours


def test_the_scorers_own_word_on_a_pair_reaches_the_client(scorer, start, monkeypatch):
    def score(pairs):
        raise UserError("pair 0: too strange")

    monkeypatch.setattr(scorer, "score", score)
    (error,) = start().submit([pair("Mug")]).result(SECONDS)
    assert (error.message, error.field, error.ours) == ("pair 0: too strange", None, False)


def test_beyond_its_capacity_nothing_is_taken(scorer, start):
    batcher = start(capacity=4)
    first = held(scorer, batcher)
    taken = batcher.submit([pair("Mug")] * 3)
    with pytest.raises(Full):
        batcher.submit([pair("Mug")] * 2)
    last = batcher.submit([pair("Mug")])
    scorer.go_on.set()
    assert [len(future.result(SECONDS)) for future in (first, taken, last)] == [1, 3, 1]
    assert len(batcher.submit([pair("Mug")] * 4).result(SECONDS)) == 4


def test_a_cancelled_job_costs_nothing(scorer, start):
    batcher = start(size=2)
    first = held(scorer, batcher)
    cancelled, kept = batcher.submit([pair("Mug")] * 10), batcher.submit([pair("Red mug")])
    assert cancelled.cancel()
    scorer.go_on.set()
    assert [v.label for v in kept.result(SECONDS)] == ["Exact"]
    assert first.done()
    assert scorer.batches == [1, 1]
    assert batcher.waiting == 0


def test_an_idle_scorer_waits_for_more(scorer, start):
    batcher = start(wait=60.0, size=3)
    futures = [batcher.submit([pair("Mug")]) for _ in range(3)]
    assert [len(future.result(SECONDS)) for future in futures] == [1, 1, 1]
    assert scorer.batches == [3], "a full batch waits no longer"


def test_closing_scores_what_was_taken_and_takes_no_more(scorer, start):
    batcher = start(wait=60.0)
    future = batcher.submit([pair("Red mug")])
    batcher.close()
    assert future.result(0)[0].label == "Exact"
    assert not batcher.alive
    with pytest.raises(Full):
        batcher.submit([pair("Mug")])


def test_nothing_is_answered_at_once(start):
    assert start().submit([]).result(0) == []


def test_many_threads_get_their_own_answers(scorer, start):  # trap 44: batched and single scores agree
    batcher = start(size=7)
    titles = ["Red mug", "Mug", "Pan", "Red pan", "Red mug, blue mug"]
    alone = {title: scorer.score([pair(title)]).probabilities[0] for title in titles}
    wrong = []

    def ask(seed):
        for _ in range(40):
            chosen = np.random.default_rng(seed).choice(titles, size=1 + seed).tolist()
            found = batcher.submit([pair(title) for title in chosen]).result(SECONDS)
            wrong.extend(t for t, v in zip(chosen, found, strict=True) if (v.probabilities != alone[t]).any())

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


@pytest.mark.parametrize("options", [{"size": 0}, {"wait": -1.0}])
def test_impossible_settings_are_refused(scorer, options):
    with pytest.raises(UserError, match="wants at least"):
        Batcher(scorer, **options)
