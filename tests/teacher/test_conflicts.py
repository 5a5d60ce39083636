"""Conflict mining: the exact preference pairs of a small example, and what must hold for any table of verdicts."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from conflict_tables import BRIEF, LETTERS, write_pairs, write_rationales

from lrkd.__main__ import main
from lrkd.data.pairs import read_pairs
from lrkd.data.preference_pairs import read_preferences
from lrkd.data.types import LABEL_SETS
from lrkd.errors import UserError
from lrkd.teacher.conflicts import mine_conflicts
from lrkd.teacher.preference_audit import guess

PAIRS = {
    "p1": ("mug", "E", "train"),
    "p2": ("mug", "E", "train"),
    "p3": ("cup", "S", "train"),
    "p4": ("cup", "E", "train"),
    "p5": ("pot", "E", "test"),
    "p6": ("cup", None, "train"),
    "p7": ("POT!", "E", "train"),  # the query of p5, which tests
    "p8": ("pan", "E", "val"),
    "p9": ("lid", "E", None),
}
RATIONALES = [
    ("p1", "b", 0, "E"), ("p1", "s", 0, "S"), ("p1", "u", 0, "C"),  # b is right: b→s, b→u
    ("p2", "b", 0, "I"), ("p2", "s", 0, "E"), ("p2", "u", 0, "E"),  # b is wrong: s→b, u→b
    ("p3", "b", 0, "S"), ("p3", "s", 0, "E"), ("p3", "u", 0, "S"),  # s is wrong: b→s, u→s, in a class without s→
    ("p4", "b", 0, "I"), ("p4", "s", 0, "I"), ("p4", "u", 0, "I"),  # none is right
    *((pair, letter, 0, verdict) for pair in ("p5", "p6", "p7", "p8", "p9", "p0") for letter, verdict in ("bE", "sI")),
]  # fmt: skip
FURTHER = [
    ("p4", "s", 0, "E", "p4 s again"), ("p4", "u", 0, "S", "p4 u again"),  # right for p4: s→s, s→b, s→u; wrong: unused
    ("p1", "s", 0, "E", "p1 s again"),  # p1 has a right one already
]  # fmt: skip


@pytest.fixture
def root(tmp_path):
    write_pairs(tmp_path / "root", PAIRS)
    write_rationales(tmp_path / "root" / "rationales.parquet", RATIONALES, teacher="policy", prompt_version="v1")
    write_rationales(tmp_path / "more.parquet", FURTHER, teacher="policy", prompt_version="v2")
    return tmp_path / "root"


def mined(folder, root):
    """Each preference pair as (pair, chosen → rejected in letters with samples, prompt), read with every check."""
    letter = {name: brief for brief, name in BRIEF.items()}
    pairs = read_pairs(root, columns=["pair_id", "label"])
    table = read_preferences(folder / "preferences.parquet", pairs, LABEL_SETS["esci"], prompts=BRIEF.values())
    return [
        (
            row["pair_id"],
            f"{letter[row['chosen_perspective']]}{row['chosen_sample']}"
            f">{letter[row['rejected_perspective']]}{row['rejected_sample']}",
            letter[row["prompt"]],
        )
        for row in table.to_pylist()
    ]


UNBALANCED = [
    ("p1", "b0>s0", "n"),
    ("p1", "b0>u0", "n"),
    ("p2", "s0>b0", "n"),
    ("p2", "u0>b0", "n"),
    ("p3", "b0>s0", "n"),
    ("p3", "u0>s0", "n"),
]


def test_every_wrong_rationale_meets_every_right_one(root, tmp_path):  # trap 14
    report = mine_conflicts(root=root, out=tmp_path, balanced=False)
    assert mined(tmp_path, root) == UNBALANCED
    assert report["rationales"] == {
        "used": 12,
        "left_out": {
            "pair unknown": 2,  # p0
            "pair does not train": 6,  # p5, p8, p9
            "query also validates or tests": 2,  # p7
            "pair without label": 2,  # p6
        },
    }
    row = pq.read_table(tmp_path / "preferences.parquet").to_pylist()[0]
    assert row == {
        "pair_id": "p1",
        "prompt": "neutral",
        "chosen": "p1 b0",
        "rejected": "p1 s0",
        "chosen_perspective": "business_rule",
        "chosen_sample": 0,
        "rejected_perspective": "structured_analysis",
        "rejected_sample": 0,
        "chosen_verdict": "Exact",
        "rejected_verdict": "Substitute",
        "chosen_teacher": "policy",
        "rejected_teacher": "policy",
        "prompt_version": "v1",
    }


def test_balance_is_within_the_class(root, tmp_path):  # trap 14
    # Exact has b→s and s→b, b→u and u→b once each. Substitute has b→s and u→s alone; over all classes, b→s would be
    # twice as frequent as s→b, so that balancing without the class could keep p3's and drop p1's.
    report = mine_conflicts(root=root, out=tmp_path)
    assert mined(tmp_path, root) == UNBALANCED[:4]
    assert report["dropped"] == {"same_text": 0, "repeated": 0, "over_max_per_pair": 0, "unbalanced": 2}
    # Unbalanced: Exact {b,s} 1 of 2 guessed, {b,u} 1 of 2, Substitute {b,s} 1 of 1, {s,u} 1 of 1: 4 of 6.
    assert report["audit"]["found"]["leaks"]["perspectives_and_class"] == round(4 / 6, 6)
    # Without the class: {b,s} 2 of 3, {b,u} 1 of 2, {s,u} 1 of 1: 4 of 6.
    assert report["audit"]["found"]["leaks"]["perspectives"] == round(4 / 6, 6)
    assert report["audit"]["kept"]["leaks"]["perspectives_and_class"] == 0.5
    assert report["audit"]["kept"]["leaks"]["perspectives"] == 0.5


def test_further_samples_serve_where_none_is_right(root, tmp_path):
    report = mine_conflicts(root=root, out=tmp_path, more=tmp_path / "more.parquet", balanced=False)
    # The further samples' keys are taken, so they are counted on from 1.
    supplied = [("p4", "s1>b0", "n"), ("p4", "s1>s0", "s"), ("p4", "s1>u0", "n")]
    assert mined(tmp_path, root) == [*UNBALANCED, *supplied]
    assert report["pairs"] == {
        "with_rationales": 4,
        "all_right": 0,
        "some_right": 3,
        "none_right": 1,
        "none_right_but_a_further_sample": 1,
        "with_preference_pairs": 4,
    }
    versions = pq.read_table(tmp_path / "preferences.parquet")["prompt_version"].to_pylist()
    assert versions == ["v1"] * 6 + [None] * 3  # p4's sides are of two versions


def test_balance_keeps_what_is_within_a_perspective(root, tmp_path):
    drawn = set()
    for seed in range(8):
        mine_conflicts(root=root, out=tmp_path, more=tmp_path / "more.parquet", seed=seed)
        kept = set(mined(tmp_path, root))
        # Exact: b→s once (p1) against s→b of p2 and p4: one of these two. s→u (p4) has no u→s and goes.
        assert {("p1", "b0>s0", "n"), ("p1", "b0>u0", "n"), ("p2", "u0>b0", "n"), ("p4", "s1>s0", "s")} < kept
        (one,) = kept & {("p2", "s0>b0", "n"), ("p4", "s1>b0", "n")}
        assert len(kept) == 5
        drawn.add(one)
    assert len(drawn) == 2, "the seed decides"


def test_balance_prefers_other_pairs_to_more_of_one(tmp_path):
    # Three b→s of p1 and one of p2 against two s→b: one each of p1 and p2 stays.
    write_pairs(tmp_path, {f"p{n}": ("mug", "E", "train") for n in range(1, 5)})
    rows = [*(("p1", "b", n, "E") for n in range(3)), ("p1", "s", 0, "I"), ("p2", "b", 0, "E"), ("p2", "s", 0, "I")]
    rows += [(pair, letter, 0, verdict) for pair in ("p3", "p4") for letter, verdict in ("bI", "sE")]
    write_rationales(tmp_path / "rationales.parquet", rows)
    for seed in range(8):
        mine_conflicts(root=tmp_path, out=tmp_path, seed=seed)
        assert [pair for pair, _, _ in mined(tmp_path, tmp_path)] == ["p1", "p2", "p3", "p4"]


@pytest.mark.parametrize(("kinds", "expected"), [("within", {"p4"}), (["across"], {"p1", "p2", "p3", "p4"})])
def test_kinds(root, tmp_path, kinds, expected):
    mine_conflicts(root=root, out=tmp_path, more=tmp_path / "more.parquet", kinds=kinds, balanced=False)
    found = mined(tmp_path, root)
    assert {pair for pair, _, _ in found} == expected
    assert {direction[0] == direction[3] for _, direction, _ in found} == {kinds == "within"}


def test_the_cap_takes_a_second_of_a_direction_last(tmp_path):
    write_pairs(tmp_path, {"p1": ("mug", "E", "train")})
    samples = [("p1", "b", n, "E") for n in range(3)] + [("p1", "b", n, "S") for n in range(3, 6)]
    write_rationales(tmp_path / "rationales.parquet", [*samples, ("p1", "s", 0, "I")])
    # 9 within b, 3 of b→s: two directions.
    for most, within, across in ((1, None, None), (2, 1, 1), (4, 2, 2), (6, 3, 3), (8, 5, 3), (99, 9, 3)):
        mine_conflicts(root=tmp_path, out=tmp_path, balanced=False, max_per_pair=most)
        found = Counter(prompt for _, _, prompt in mined(tmp_path, tmp_path))
        assert found.total() == min(most, 12)
        if within:
            assert found == {"b": within, "n": across}


def test_the_cap_spares_the_scarce_direction(tmp_path):
    # Each of the pairs has b→s and, p1 to p3, u→s too; only p4 has an opposite: s→b. A cap of 1 before balancing must
    # keep a b→s, as u→s would be dropped.
    write_pairs(tmp_path, {f"p{n}": ("mug", "E", "train") for n in range(1, 5)})
    rows = [(f"p{n}", letter, 0, verdict) for n in range(1, 4) for letter, verdict in ("bE", "sI", "uE")]
    write_rationales(tmp_path / "rationales.parquet", [*rows, ("p4", "b", 0, "I"), ("p4", "s", 0, "E")])
    for seed in range(8):
        report = mine_conflicts(root=tmp_path, out=tmp_path, max_per_pair=1, seed=seed)
        assert report["stages"]["capped"]["perspectives"].keys() == {
            "business_rule → structured_analysis",
            "structured_analysis → business_rule",
        }
        assert report["stages"]["kept"]["preference_pairs"] == 2


def test_equal_texts_make_no_pair_and_no_pair_twice(tmp_path):  # trap 14
    write_pairs(tmp_path, {"p1": ("mug", "E", "train")})
    write_rationales(
        tmp_path / "rationales.parquet",
        [
            ("p1", "b", 0, "E", "fine"),
            ("p1", "u", 0, "E", "fine"),  # the same under the neutral prompt: once
            ("p1", "s", 0, "I", "wrong"),
            ("p1", "s", 1, "I", "fine"),  # the text of the right ones: never
        ],
    )
    report = mine_conflicts(root=tmp_path, out=tmp_path, balanced=False)
    assert mined(tmp_path, tmp_path) == [("p1", "b0>s0", "n")]
    assert report["dropped"] | {"same_text": 2, "repeated": 1} == report["dropped"]


def test_suspects_are_pairs_on_which_all_agree_against_the_label(root, tmp_path):
    report = mine_conflicts(root=root, out=tmp_path)
    assert report["suspects"] == {
        "pairs": 1,
        "share": 0.25,
        "labels": {"Exact → Irrelevant": 1},
        "examples": [{"pair_id": "p4", "label": "Exact", "verdict": "Irrelevant", "rationales": 3}],
    }


def test_one_perspective_alone_makes_no_suspect(tmp_path):
    write_pairs(tmp_path, {f"p{n}": ("mug", "E", "train") for n in range(4)})
    rows = [
        ("p0", "b", 0, "I"), ("p0", "b", 1, "I"),  # one perspective
        ("p1", "b", 0, "I"), ("p1", "s", 0, "C"),  # they disagree
        ("p2", "b", 0, "E"), ("p2", "s", 0, "E"),  # they are right
        ("p3", "b", 0, "S"), ("p3", "s", 0, "S"),
    ]  # fmt: skip
    write_rationales(tmp_path / "rationales.parquet", rows)
    suspects = mine_conflicts(root=tmp_path, out=tmp_path)["suspects"]
    assert [example["pair_id"] for example in suspects["examples"]] == ["p3"]


def test_lengths_and_traits_that_give_the_chosen_side_away(tmp_path):
    write_pairs(tmp_path, {f"p{n}": ("mug", "E", "train") for n in range(3)})
    write_rationales(
        tmp_path / "rationales.parquet",
        [
            ("p0", "b", 0, "E", "one two three"), ("p0", "b", 1, "I", "one two"),
            ("p1", "b", 0, "E", "één twee"), ("p1", "b", 1, "I", "a b c d"),  # 8 and 7 characters, 2 and 4 words
            ("p2", "b", 0, "E", "abc"), ("p2", "b", 1, "S", "abd"),  # equally long
        ],
    )  # fmt: skip
    audit = mine_conflicts(root=tmp_path, out=tmp_path)["audit"]["kept"]
    assert audit["lengths"] == {
        "chosen": {"characters": 8.0, "words": 2.0},  # (13 + 8 + 3) / 3, (3 + 2 + 1) / 3
        "rejected": {"characters": round(17 / 3, 2), "words": round(7 / 3, 2)},
    }
    assert audit["leaks"] == {
        "perspectives_and_class": None,
        "perspectives": None,
        "longer_is_chosen": 1.0,
        "verdicts": 1.0,
        "teachers": None,
    }
    assert audit["distinct"] == {"pairs": 3, "queries": 1}


def test_guess():
    # {0,1}: 0 chosen twice, 1 once; {1,2}: 2 chosen once; (3,3) does not differ. 3 of 4.
    assert guess(np.array([0, 0, 1, 2, 3]), np.array([1, 1, 0, 1, 3])) == 0.75
    # With something known that tells them apart, all 4.
    assert guess(np.array([0, 0, 1, 2, 3]), np.array([1, 1, 0, 1, 3]), np.array([0, 0, 1, 0, 0])) == 1.0
    assert guess(np.array([1]), np.array([1])) is None


def random_verdicts(seed):
    """Pairs and rationales at random: 0 to 3 samples a perspective, the neutral one too, and few different texts."""
    rng = np.random.default_rng(seed)
    splits = ["train", "train", "train", "val", "test", None]
    pairs = {
        f"p{n}": (f"q{n % 11}", rng.choice(["E", "S", "C", "I", None], p=[0.4, 0.2, 0.2, 0.1, 0.1]), splits[n % 11 % 6])
        for n in range(60)
    }
    rows, further = (
        [
            (f"p{n}", letter, sample, rng.choice(list("ESCI")), f"text {rng.integers(40)}")
            for n in range(62)
            for letter in "bsun"
            for sample in range(rng.integers(most))
        ]
        for most in (4, 3)
    )
    return pairs, rows, further


def brute_force(pairs, rows, further):
    """What may be mined at most: (pair, chosen's text, rejected's text, chosen's and rejected's letters)."""
    found = set()
    for name, (_, label, split) in pairs.items():
        first, more = ([row for row in some if row[0] == name] for some in (rows, further))
        right = [row for row in first if row[3] == label] or [row for row in more if row[3] == label]
        found |= {
            (name, good[4], bad[4], good[1], bad[1])
            for good in right
            for bad in first
            if label and split == "train" and bad[3] != label and bad[4] != good[4]
        }
    return found


@pytest.mark.parametrize("seed", range(6))
def test_random_tables(seed, tmp_path):  # trap 14
    pairs, rows, further = random_verdicts(seed)
    write_pairs(tmp_path, pairs)
    write_rationales(tmp_path / "rationales.parquet", rows)
    write_rationales(tmp_path / "more.parquet", further)
    letter = {name: brief for brief, name in BRIEF.items()}

    def mine(**options):
        report = mine_conflicts(root=tmp_path, out=tmp_path, more=tmp_path / "more.parquet", seed=seed, **options)
        mined(tmp_path, tmp_path)  # reading checks verdicts, sides, prompts and repetitions
        table = pq.read_table(tmp_path / "preferences.parquet").to_pylist()
        return report, [
            (
                row["pair_id"],
                row["chosen"],
                row["rejected"],
                letter[row["chosen_perspective"]],
                letter[row["rejected_perspective"]],
            )
            for row in table
        ]

    everything = brute_force(pairs, rows, further)
    report, found = mine(balanced=False, max_per_pair=10_000)
    assert set(found) <= everything
    # The same two texts stand there once a prompt: the perspective's, or for all across perspectives the neutral one.
    once = {(p, c, r, a if a == b else "n") for p, c, r, a, b in everything}
    assert {(p, c, r, a if a == b else "n") for p, c, r, a, b in found} == once
    assert len(found) == len(once)
    _, capped = mine(balanced=False, max_per_pair=3)
    whole = Counter(pair for pair, *_ in found)
    assert Counter(pair for pair, *_ in capped) == {pair: min(n, 3) for pair, n in whole.items()}
    report, kept = mine(max_per_pair=3)
    assert set(kept) <= set(found)
    assert max(Counter(pair for pair, *_ in kept).values()) <= 3
    directions = Counter((pairs[pair][1], a, b) for pair, _, _, a, b in kept)
    assert all(directions[label, b, a] == n for (label, a, b), n in directions.items())
    assert any(a != b for _, a, b in directions)
    assert set(report["audit"]["kept"]["checks"].values()) == {0}
    assert report["audit"]["kept"]["leaks"]["perspectives_and_class"] == 0.5
    assert {pairs[pair][2] for pair, *_ in kept} == {"train"}


def test_the_order_of_the_rows_does_not_matter(tmp_path):
    pairs, rows, further = random_verdicts(0)
    results = []
    for number, rng in enumerate((None, np.random.default_rng(1))):
        names = list(pairs) if rng is None else rng.permutation(list(pairs)).tolist()
        write_pairs(tmp_path, {name: pairs[name] for name in names})
        for name, some in (("rationales", rows), ("more", further)):
            order = range(len(some)) if rng is None else rng.permutation(len(some))
            write_rationales(tmp_path / f"{name}.parquet", [some[i] for i in order])
        out = tmp_path / f"{number}.parquet"
        report = mine_conflicts(root=tmp_path, out=out, more=tmp_path / "more.parquet", max_per_pair=2)
        results.append((pq.read_table(out), report | {"out": None}))
    assert results[0][0].num_rows > 20
    assert results[0][0].equals(results[1][0])
    assert results[0][1] == results[1][1]


def test_the_seed_draws(tmp_path):
    pairs, rows, _ = random_verdicts(0)
    write_pairs(tmp_path, pairs)
    write_rationales(tmp_path / "rationales.parquet", rows)

    def texts(seed):
        mine_conflicts(root=tmp_path, out=tmp_path, seed=seed)
        return pq.read_table(tmp_path / "preferences.parquet").to_pylist()

    assert texts(0) == texts(0) != texts(1)


def test_a_fold_excludes_its_own_and_the_validating_queries(esci_mini, tmp_path):  # trap 14, trap 33
    from lrkd.data.split_rows import group_queries, split_rows, training_mask

    report = mine_conflicts(root=esci_mini, out=tmp_path, fold=0)
    pairs = read_pairs(esci_mini, columns=["pair_id", "query", "label", "fold"])
    query = group_queries(pairs["query"])
    rows = split_rows(pairs, query, esci_mini, fold=0, val_fraction=0.1, seed=0)
    row = {name: number for number, name in enumerate(pairs["pair_id"].to_pylist())}
    used = [row[name] for name in pq.read_table(tmp_path / "preferences.parquet")["pair_id"].to_pylist()]
    held_out = set(query[rows["val"]]) | set(query[rows["test"]])
    assert len(used) > 500
    assert not set(query[used]) & held_out
    assert training_mask(rows, query)[used].all()
    # Three perspectives, one sample: a pair on which some are right has one against two, which makes two.
    stages = report["stages"]
    assert stages["found"]["preference_pairs"] == 2 * report["pairs"]["some_right"]
    assert report["audit"]["found"]["leaks"]["perspectives_and_class"] > 0.7
    assert report["audit"]["kept"]["leaks"]["perspectives_and_class"] == 0.5


def test_mistakes_are_named(root, tmp_path):
    for options, message in (
        ({"max_per_pair": 0}, "--max_per_pair is at least 1"),
        ({"kinds": []}, "--kinds is one or both of within, across"),
        ({"kinds": "between"}, r"got \['between'\]"),
        ({"fold": 7}, "no fold 7"),
        ({"label_set": "wands"}, "the label set 'wands' has"),
        ({"more": root}, "given twice"),
        ({"rationales": tmp_path / "no.parquet"}, r"no\.parquet: no such file"),
        ({"out": root / "pairs.parquet"}, "is read from, and would be overwritten"),
    ):
        with pytest.raises(UserError, match=message):
            mine_conflicts(**{"root": root, "out": tmp_path} | options)
    assert not (tmp_path / "preferences.parquet").exists()


def test_perspectives_must_be_the_prompt_books(root, tmp_path, monkeypatch):
    monkeypatch.setitem(BRIEF, "x", "gut_feeling")
    write_rationales(tmp_path / "other.parquet", [("p1", "x", 0, "E")])
    with pytest.raises(UserError, match="no perspective gut_feeling, from which rationales were written"):
        mine_conflicts(root=root, out=tmp_path, rationales=tmp_path / "other.parquet")


def test_a_root_without_a_split_is_named(tmp_path):
    write_pairs(tmp_path, {"p1": ("mug", "E", None)})
    write_rationales(tmp_path / "rationales.parquet", [("p1", "b", 0, "E")])
    with pytest.raises(UserError, match=r"no pair trains .* run `python -m lrkd data split` first"):
        mine_conflicts(root=tmp_path, out=tmp_path)


def test_nothing_in_conflict_is_an_empty_table(tmp_path, capsys):
    write_pairs(tmp_path, {"p1": ("mug", "E", "train")})
    write_rationales(tmp_path / "rationales.parquet", [("p1", "b", 0, "E")])
    mine_conflicts(root=tmp_path, out=tmp_path)
    assert mined(tmp_path, tmp_path) == []
    assert "Wrote 0 preference pairs" in capsys.readouterr().out
    write_rationales(tmp_path / "rationales.parquet", [])
    mine_conflicts(root=tmp_path, out=tmp_path)
    assert mined(tmp_path, tmp_path) == []


def test_the_command(root, tmp_path, capsys):
    main(["rationales", "conflicts", "--root", str(root), "--out", str(tmp_path), "--fold", "2",
          "--more", str(tmp_path / "more.parquet"), "--kinds", "within", "across", "--balanced", "false"])  # fmt: skip
    shown = capsys.readouterr().out
    report = json.loads((tmp_path / "preferences.json").read_text())
    assert report["selection"]["kinds"] == ["within", "across"]
    assert report["split"]["fold"] == 2
    assert f"Wrote {report['stages']['kept']['preference_pairs']} preference pairs" in shown
    assert set(LETTERS.values()) <= set(report["stages"]["kept"]["classes"])
    with pytest.raises(SystemExit):
        main(["rationales", "conflicts", "--root", str(root), "--out", str(tmp_path), "--kinds", "between"])
