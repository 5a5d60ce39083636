"""The synthetic catalogue: its gold rule, its perspectives' errors, and the files that it writes."""

import re
from collections import Counter

import pyarrow.parquet as pq
import pytest
from jsonargparse import auto_cli

from lrkd.data.pairs import read_pairs, write_table
from lrkd.data.rationales import read_rationales
from lrkd.data.synthetic import synthesize_data
from lrkd.data.synthetic.catalogue import deal_catalogue, words
from lrkd.data.synthetic.command import MARK, synthesize
from lrkd.data.synthetic.drawing import LABEL_MIX
from lrkd.data.synthetic.gold import Article, Model, Product, Wish, compare, gold_label
from lrkd.data.synthetic.perspectives import PERSPECTIVES
from lrkd.data.synthetic.report import accuracies, agreement
from lrkd.data.types import LABEL_SETS, PAIRS_SCHEMA, normalise_query
from lrkd.errors import UserError

ESCI = LABEL_SETS["esci"]
PHONE = Article("phone", "phone", models=True)
FLIP = Article("flip phone", "phone", models=True)
CASE = Article("phone case", "phone", goes_with=("phone",), fits=True)
CHARGER = Article("phone charger", "phone", goes_with=("phone",))
JACKET = Article("rain jacket", "jacket")
WINDBREAKER = Article("windbreaker", "jacket")
PANTS = Article("rain pants", "jacket", goes_with=("rain jacket",))
COFFEE_MAKER = Article("coffee maker", "coffee maker")
FILTERS = Article("paper filters", "coffee maker", goes_with=("coffee maker",))
N7, N8, M7 = Model("Norvik", "Nova", 7), Model("Norvik", "Nova", 8), Model("Kestra", "Mesa", 7)

GOLD = {
    "nothing stated, same article": (Wish(PHONE), Product(PHONE, "Norvik", N7), "Exact"),
    "accessory for product": (Wish(PHONE), Product(CASE, "Kestra", fit=N7), "Complement"),
    "product for accessory": (Wish(CASE), Product(PHONE, "Norvik", N7), "Complement"),
    "accessory for the stated model": (Wish(PHONE, model=N7), Product(CASE, "Kestra", fit=N7), "Complement"),
    "accessory for another generation": (Wish(PHONE, model=N7), Product(CASE, "Kestra", fit=N8), "Irrelevant"),
    "accessory for another brand": (Wish(PHONE, brand="Norvik"), Product(CASE, "Norvik", fit=M7), "Irrelevant"),
    "accessory that names no model": (Wish(PHONE, model=N7), Product(CHARGER, "Kestra"), "Complement"),
    "case fits": (Wish(CASE, fit=N7), Product(CASE, "Kestra", fit=N7), "Exact"),
    "case for another generation": (Wish(CASE, fit=N7), Product(CASE, "Kestra", fit=N8), "Irrelevant"),
    "phone that the case does not fit": (Wish(CASE, fit=N7), Product(PHONE, "Norvik", N8), "Irrelevant"),
    "two accessories of one thing": (Wish(CASE), Product(CHARGER, "Kestra"), "Irrelevant"),
    "complement without a shared word": (Wish(COFFEE_MAKER), Product(FILTERS, "Brenta"), "Complement"),
    "another family": (Wish(PHONE), Product(JACKET, "Kestra"), "Irrelevant"),
    "model generation": (Wish(PHONE, model=N7), Product(PHONE, "Norvik", N8), "Substitute"),
    "generation left open": (Wish(PHONE, model=Model("Norvik", "Nova")), Product(PHONE, "Norvik", N8), "Exact"),
    "model line": (Wish(PHONE, model=N7), Product(PHONE, "Kestra", M7), "Substitute"),
    "brand lock": (Wish(PHONE, brand="Norvik"), Product(PHONE, "Kestra", M7), "Substitute"),
    "without X, has it": (Wish(JACKET, exclusion="hood"), Product(JACKET, "B", features=("hood",)), "Irrelevant"),
    "without X, has it not": (Wish(JACKET, exclusion="hood"), Product(JACKET, "B", features=("lining",)), "Exact"),
    "with X, has it": (Wish(JACKET, feature="hood"), Product(JACKET, "B", features=("hood",)), "Exact"),
    "with X, has it not": (Wish(JACKET, feature="hood"), Product(JACKET, "B"), "Substitute"),
    "size": (Wish(JACKET, size="small"), Product(JACKET, "B", size="large"), "Substitute"),
    "colour": (Wish(JACKET, colour="red"), Product(JACKET, "B", colour="navy"), "Substitute"),
    "count": (Wish(FILTERS, count="100"), Product(FILTERS, "B", count="200"), "Substitute"),
    "men, for women": (Wish(JACKET, audience="men"), Product(JACKET, "B", audience="women"), "Irrelevant"),
    "men, unisex": (Wish(JACKET, audience="men"), Product(JACKET, "B", audience="unisex"), "Exact"),
    "kids, unisex": (Wish(JACKET, audience="kids"), Product(JACKET, "B", audience="unisex"), "Irrelevant"),
    "complement for others": (Wish(JACKET, audience="men"), Product(PANTS, "B", audience="kids"), "Irrelevant"),
    "bundle with the article as main": (Wish(PHONE), Product(PHONE, "Norvik", N7, extras=(CASE,)), "Exact"),
    "bundle with the article as extra": (Wish(CASE), Product(PHONE, "Norvik", N7, extras=(CASE,)), "Substitute"),
    "alternative": (Wish(JACKET), Product(WINDBREAKER, "B"), "Substitute"),
    "alternative and one miss": (Wish(JACKET, size="s"), Product(WINDBREAKER, "B", size="l"), "Substitute"),
    "alternative and two misses": (
        Wish(JACKET, size="s", colour="red"),
        Product(WINDBREAKER, "B", size="l", colour="navy"),
        "Irrelevant",
    ),
    "two misses": (
        Wish(JACKET, brand="A", size="s", colour="red"),
        Product(JACKET, "B", size="l", colour="red"),
        "Substitute",
    ),
    "three misses": (
        Wish(JACKET, brand="A", size="s", colour="red"),
        Product(JACKET, "B", size="l", colour="navy"),
        "Irrelevant",
    ),
}


@pytest.fixture(scope="module")
def data():
    return synthesize(200, 8, seed=3)


@pytest.mark.parametrize(("wish", "product", "label"), GOLD.values(), ids=GOLD)
def test_gold_rule(wish, product, label):
    assert gold_label(wish, product) == label


ERRORS = [
    # perspective, wish, product, the words for both articles, gold, its verdict
    ("user_intent", Wish(PHONE, model=N7), Product(PHONE, "Norvik", N8), "Substitute", "Exact"),
    ("user_intent", Wish(JACKET, size="s"), Product(JACKET, "B", size="l"), "Substitute", "Exact"),
    ("user_intent", Wish(FILTERS, count="50"), Product(FILTERS, "B", count="100"), "Substitute", "Exact"),
    ("user_intent", Wish(JACKET, brand="A"), Product(JACKET, "B"), "Substitute", "Exact"),
    (
        "user_intent",
        Wish(JACKET, exclusion="hood"),
        Product(JACKET, "B", features=("hood",)),
        "Irrelevant",
        "Substitute",
    ),
    (
        "user_intent",
        Wish(JACKET, colour="red", feature="hood"),
        Product(WINDBREAKER, "B", colour="navy"),
        "Irrelevant",
        "Substitute",
    ),
    ("structured_analysis", Wish(PHONE), Product(CASE, "B", fit=N7), "Complement", "Substitute"),
    ("structured_analysis", Wish(COFFEE_MAKER), Product(FILTERS, "B"), "Complement", "Irrelevant"),
    ("structured_analysis", Wish(JACKET), Product(WINDBREAKER, "B"), "Substitute", "Irrelevant"),
    ("structured_analysis", Wish(JACKET, feature="hood"), Product(JACKET, "B"), "Substitute", "Exact"),
    ("structured_analysis", Wish(CASE, fit=N7), Product(CASE, "B", fit=N8), "Irrelevant", "Substitute"),
    (
        "structured_analysis",
        Wish(JACKET, audience="men"),
        Product(JACKET, "B", audience="kids"),
        "Irrelevant",
        "Substitute",
    ),
    ("business_rule", Wish(JACKET, brand="A"), Product(JACKET, "B"), "Substitute", "Irrelevant"),
    ("business_rule", Wish(PHONE, model=N7), Product(PHONE, "Kestra", M7), "Substitute", "Irrelevant"),
    ("business_rule", Wish(JACKET), Product(WINDBREAKER, "B"), "Substitute", "Irrelevant"),
    ("business_rule", Wish(CASE), Product(PHONE, "Norvik", N7, extras=(CASE,)), "Substitute", "Exact"),
]


@pytest.mark.parametrize(("perspective", "wish", "product", "gold", "verdict"), ERRORS)
def test_each_perspective_errs_in_its_stated_way(perspective, wish, product, gold, verdict):
    assert gold_label(wish, product) == gold
    judged = PERSPECTIVES[perspective](compare(wish, product), wish.article.name, product.article.name)
    assert judged.verdict == verdict


def test_structured_analysis_takes_a_synonym_for_another_article():
    judged = PERSPECTIVES["structured_analysis"](
        compare(Wish(PHONE), Product(PHONE, "B", N7)), "smartphone", "5g phone"
    )
    assert judged.verdict == "Substitute"


def test_a_perspective_does_not_mention_what_it_overlooks():
    truth = compare(Wish(PHONE, model=N7), Product(PHONE, "Norvik", N8))
    assert [aspect.name for aspect in truth.missed] == ["generation"]
    assert PERSPECTIVES["user_intent"](truth, "phone", "phone").seen.aspects == ()


def test_every_article_can_have_every_label():
    catalogue = deal_catalogue(0)
    for article in catalogue.articles.values():
        assert catalogue.related(article, "together"), article.name
        assert not (article.fits or article.models) or article.family in catalogue.models, article.name
    assert len(catalogue.brands) >= 12


def test_same_seed_same_data_other_seed_other_catalogue(data):
    assert synthesize(200, 8, seed=3) == data
    other = synthesize(200, 8, seed=4)
    assert deal_catalogue(3).brands != deal_catalogue(4).brands
    assert len({p["query"] for p in data.pairs} & {p["query"] for p in other.pairs}) < 20


def test_more_samples_and_fewer_rationales_leave_the_rest_as_is(data):
    changed = synthesize(200, 8, seed=3, samples=2, rationale_share=0.3)
    assert changed.pairs == data.pairs
    first = [row for row in changed.rationales if row["sample"] == 0]
    assert len(changed.rationales) == 2 * len(first)
    assert all(row in data.rationales for row in first[:100])
    second = [row for row in changed.rationales if row["sample"] == 1]
    differ = sum(one["rationale"] != two["rationale"] for one, two in zip(first, second, strict=True))
    assert differ > 0.9 * len(first)


def test_keys_are_unique_and_marked_synthetic(data):
    assert len({pair["pair_id"] for pair in data.pairs}) == len(data.pairs) == 1600
    assert len({normalise_query(pair["query"]) for pair in data.pairs}) == 200
    assert all(pair[key].startswith("syn-") for pair in data.pairs for key in ("pair_id", "query_id", "item_id"))
    titles = {pair["item_id"]: pair["title"] for pair in data.pairs}
    assert len(set(titles.values())) == len(titles)


def test_label_mix_and_conflicts_are_in_the_stated_ranges(data):
    counts = Counter(pair["label"] for pair in data.pairs)
    for label, share in LABEL_MIX.items():
        assert counts[label] / len(data.pairs) == pytest.approx(share, abs=0.05)
    assert all(0.60 <= accuracy <= 0.87 for accuracy in accuracies(data).values())
    shares = agreement(data)
    assert 0.55 <= shares["agree"] <= 0.70
    assert shares["conflict"] > 0.25
    assert 0.03 <= shares["none"] <= 0.15
    assert len({row["pair_id"] for row in data.rationales}) / len(data.pairs) == pytest.approx(0.8, abs=0.04)


def test_rationales_are_plain_and_keep_the_verdict_to_themselves(data):
    stems = re.compile("|".join(label.lower().rstrip("e") for label in ESCI.labels))
    for row in data.rationales:
        assert not stems.search(row["rationale"].lower()), row["rationale"]
        assert 15 <= len(row["rationale"].split()) <= 40, row["rationale"]
        assert not re.search(r"[{}\n]|None", row["rationale"]), row["rationale"]
    assert len({row["rationale"] for row in data.rationales}) > 0.95 * len(data.rationales)


def test_rationales_mention_the_pair(data):
    pairs = {pair["pair_id"]: pair for pair in data.pairs}
    for row in data.rationales[:600]:
        pair, text = pairs[row["pair_id"]], row["rationale"].lower()
        words_of = {word for key in ("query", "title") for word in re.findall(r"\w{3,}", pair[key].lower())}
        assert sum(word in text for word in words_of) >= 2, row["rationale"]


def test_every_template_fills_its_slots():
    known = {"query", "asked", "offered", "brand", "name", "wanted", "found"}
    relations = {"same", "alternative", "contained", "together", "apart"}
    for style in words("rationales.yaml").values():
        assert set(style["relation"]) == relations
        assert style["met"]["any"]
        assert style["missed"]["any"]
        assert set(re.findall(r"{(\w+)}", str(style))) <= known


def test_the_title_alone_does_not_tell_the_label(data):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train, test = data.pairs[:1200], data.pairs[1200:]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=500))
    model.fit([pair["title"] for pair in train], [pair["label"] for pair in train])
    accuracy = model.score([pair["title"] for pair in test], [pair["label"] for pair in test])
    majority = Counter(pair["label"] for pair in test)["Exact"] / len(test)
    assert accuracy < majority + 0.04


def test_command_writes_a_marked_data_root_that_reads_back(tmp_path, capsys):
    auto_cli(
        synthesize_data, as_positional=False, args=["--out", str(tmp_path / "root"), "--queries=12", "--samples=2"]
    )
    pairs = read_pairs(tmp_path / "root", labels=ESCI)
    rationales = read_rationales(tmp_path / "root", labels=ESCI)
    assert pairs.num_rows == 96
    assert set(pairs["source"].to_pylist()) == set(rationales["teacher"].to_pylist()) == {"synthetic"}
    assert set(rationales["prompt_version"].to_pylist()) == {"synthetic-1"}
    assert set(rationales["perspective"].to_pylist()) == set(PERSPECTIVES)
    assert set(rationales["pair_id"].to_pylist()) < set(pairs["pair_id"].to_pylist())
    assert pairs["split"].null_count == pairs["fold"].null_count == 96
    for name in ("pairs", "rationales"):
        assert b"seed 0" in pq.read_schema(tmp_path / "root" / f"{name}.parquet").metadata[MARK]
    printed = capsys.readouterr().out
    assert "Synthetic data (seed 0)" in printed
    assert "96 pairs over 12 queries" in printed
    assert "agree on" in printed


def test_rerun_replaces_synthetic_data_and_leaves_no_stale_rationales(tmp_path):
    synthesize_data(out=tmp_path, queries=5)
    synthesize_data(out=tmp_path, queries=3, rationale_share=0)
    assert read_pairs(tmp_path).num_rows == 24
    assert not (tmp_path / "rationales.parquet").exists()


def test_real_data_is_not_overwritten(tmp_path, data):
    import pyarrow as pa

    write_table(pa.Table.from_pylist(data.pairs[:3], schema=PAIRS_SCHEMA), tmp_path / "pairs.parquet", PAIRS_SCHEMA)
    with pytest.raises(UserError, match=r"pairs\.parquet: exists and is not synthetic"):
        synthesize_data(out=tmp_path, queries=3)
    assert read_pairs(tmp_path).num_rows == 3


@pytest.mark.parametrize(
    ("option", "value"), [("queries", 0), ("items_per_query", -1), ("samples", 0), ("rationale_share", 1.2)]
)
def test_numbers_out_of_range_are_named(tmp_path, option, value):
    with pytest.raises(UserError, match=f"^{option} must .*--{option}"):
        synthesize_data(out=tmp_path, **{option: value})
    assert not list(tmp_path.iterdir())


def test_out_that_is_a_file_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="is a file; give a folder"):
        synthesize_data(out=file)
