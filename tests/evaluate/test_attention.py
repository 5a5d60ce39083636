"""What latents look at, on models with random weights."""

import json

import lightning as L
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from lrkd.__main__ import main
from lrkd.data.types import LabelSet, TripleBatch
from lrkd.errors import UserError
from lrkd.evaluate.attention import PairAttention, Token, latent_names, plot_attention, token_weights_of
from lrkd.evaluate.attention_plot import draw
from lrkd.student import StudentLRKD

POLY = {"class_path": "lrkd.extractors.PolyEncoderExtractor"}
GAT = {
    "class_path": "lrkd.extractors.GATExtractor",
    "init_args": {"width": 16, "graph": {"class_path": "lrkd.extractors.LexicalGraph"}},
}
QUERY, TITLE = "Red mugs", "blue mugs, red handle"
COLUMNS = ["[CLS]", "Red", "mug", "·s", "[SEP]", "blue", "mug", "·s", ",", "red", "handle", "[SEP]"]


@pytest.fixture
def student(tiny_encoder):
    def make(extractor=POLY, **arguments):
        torch.manual_seed(0)
        text = {"item_text": "{title}", "max_length": 32, "query_cap": 12}
        defaults = {"label_set": LabelSet.load("esci").to_dict(), "num_perspectives": 3, "target_size": 8, "text": text}
        return StudentLRKD(tiny_encoder, extractor=extractor, **(defaults | arguments))

    return make


def save(model, path):
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return path


@pytest.mark.parametrize("extractor", [POLY, GAT], ids=["poly", "gat"])
def test_tokens_weights_and_verdict_are_the_model_s(extractor, student, tiny_encoder):
    model = student(extractor)
    model.temperature.fill_(2.0)
    found = token_weights_of(model, QUERY, TITLE)
    assert [token.text for token in found.tokens] == COLUMNS
    assert [token.part[0] for token in found.tokens] == list("sqqqsiiiiiis")
    assert found.latents == ("latent 1", "latent 2", "latent 3")
    # The reference lays the pair out with the tokenizer alone; there, the last separator belongs to the item.
    encoded = AutoTokenizer.from_pretrained(tiny_encoder)(QUERY, TITLE, return_tensors="pt")
    ids, none = encoded["input_ids"], torch.zeros(1, dtype=torch.long)
    segments = torch.tensor([[-1 if s is None else s for s in encoded.sequence_ids(0)]])
    types = (segments == 1).long()
    types[0, -1] = 1
    batch = TripleBatch(none, none, ids, ids > 0, segments, types, none)
    assert model.training, "looking leaves the mode as it was"
    model.eval()
    with torch.no_grad():
        output = model(batch)
        weights = model.extractor.token_weights(output.tokens)[0]
    np.testing.assert_allclose(found.weights, weights, atol=1e-6)
    probabilities = torch.softmax(output.logits[0] / 2.0, -1).tolist()
    assert list(found.probabilities) == ["Exact", "Substitute", "Complement", "Irrelevant"]
    assert list(found.probabilities.values()) == pytest.approx(probabilities, abs=1e-6)


def test_links_are_the_graph_s(student):
    # "Red" is 1 and 9 of the columns, "mug" 2 and 6, "s" 3 and 7; the Poly-Encoder has no graph.
    assert token_weights_of(student(GAT), QUERY, TITLE).links == ((1, 9), (2, 6), (3, 7))
    assert token_weights_of(student(POLY), QUERY, TITLE).links is None


def test_what_is_cut_is_not_shown(student):
    model = student(text={"item_text": "{title}", "max_length": 8, "query_cap": 1})
    found = token_weights_of(model, "red coffee", "red " * 20)
    assert [token.text for token in found.tokens] == ["[CLS]", "red", "[SEP]", "red", "red", "red", "red", "[SEP]"]


def test_without_a_text_setting_the_title_is_read(student):
    assert [token.text for token in token_weights_of(student(text=None), QUERY, TITLE).tokens] == COLUMNS


def test_a_byte_level_tokenizer_s_pieces_are_those_of_the_texts(student, tiny_roberta):
    torch.manual_seed(0)
    model = StudentLRKD(tiny_roberta, extractor=POLY, label_set=LabelSet.load("esci").to_dict(), target_size=8)
    tokens = token_weights_of(model, "red mug", "größe").tokens
    assert [token.text for token in tokens if token.part == "special"] == ["<s>", "</s>", "</s>", "</s>"]
    query = " ".join(token.text for token in tokens if token.part == "query").replace(" ·", "")
    assert query == "red mug"
    item = [token.text for token in tokens if token.part == "item"]
    assert item[0].startswith("g")
    assert all(text.startswith("·") for text in item[1:]), "one word"


@pytest.mark.parametrize(
    ("extractor", "message"),
    [
        ({"class_path": "lrkd.extractors.MLPExtractor"}, "MLPExtractor.*PolyEncoderExtractor and GATExtractor can"),
        (None, "no extractor.*PolyEncoderExtractor and GATExtractor can"),
    ],
)
def test_extractors_that_cannot_tell_are_refused(extractor, message, student):
    with pytest.raises(UserError, match=message):
        token_weights_of(student(extractor), QUERY, TITLE)


@pytest.mark.parametrize(("query", "title", "option"), [(" ", TITLE, "--query"), (QUERY, "", "--title")])
def test_empty_texts_are_refused(query, title, option, student):
    with pytest.raises(UserError, match=f"{option} is empty"):
        token_weights_of(student(), query, title)


def test_latents_are_named_by_the_run(tmp_path):
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    assert latent_names(checkpoint, 2) == ("latent 1", "latent 2")
    assert latent_names(checkpoint, 1) == ("latent",)
    record = {"data": {"targets": {"perspectives": ["business_rule", "user_intent"]}}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    assert latent_names(checkpoint, 2) == ("business rule", "user intent")
    assert latent_names(checkpoint, 1) == ("latent",), "a unified latent is of no one perspective"
    assert latent_names(checkpoint, 3) == ("latent 1", "latent 2", "latent 3")
    (tmp_path / "run" / "run.json").write_text(json.dumps({"data": {"targets": None}}))
    assert latent_names(checkpoint, 2) == ("latent 1", "latent 2")


def test_command_draws_and_says_what_it_did(student, tmp_path, capsys):
    checkpoint = save(student(GAT), tmp_path / "student.ckpt")
    out = tmp_path / "new" / "picture.png"
    main(["attention", "--ckpt_path", str(checkpoint), "--query", QUERY, "--title", TITLE, "--out", str(out)])
    shown = capsys.readouterr().out
    assert f"read {checkpoint} (GATExtractor)" in shown
    assert "latent 3: " in shown
    assert f"wrote {out}" in shown
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        plot_attention(tmp_path / "none.ckpt", query=QUERY, title=TITLE, out=tmp_path / "none.png")


def made_up(number=8, latents=2, links=((1, 4),), total=1.0):
    """A pair of two query tokens and as many item tokens as are left."""
    parts = ["special", "query", "query", "special", *["item"] * (number - 5), "special"]
    weights = np.random.default_rng(0).dirichlet(np.ones(number), latents) * total
    columns = tuple(Token(f"w{n}", part) for n, part in enumerate(parts))
    names = tuple(f"latent {n}" for n in range(latents))
    return PairAttention(columns, names, weights, {"Exact": 0.25, "Costs $5, $6": 0.75}, links)


def texts(pair, folder):
    """The texts in the picture: matplotlib's SVG has them as comments beside their outlines."""
    draw(pair, folder / "picture.svg")
    return [line.strip()[5:-4] for line in (folder / "picture.svg").read_text().splitlines() if "<!-- " in line]


def test_picture_names_what_it_shows(tmp_path):
    shown = texts(made_up(), tmp_path)
    assert {"query", "item", "latent 0", "latent 1", "w0", "w7", "attention weight"} <= set(shown)
    (title,) = [text for text in shown if "verdict" in text]
    assert title.index("Costs") < title.index("Exact 25%"), "the most probable label comes first"
    assert "query–item links of the token graph" in shown
    assert "(itself)" not in shown
    assert len([text for text in shown if text.isdigit()]) == 16, "a number in each of 2 × 8 cells"


def test_picture_shows_what_no_token_gets(tmp_path):
    shown = texts(made_up(total=0.9, latents=1), tmp_path)
    assert "(itself)" in shown
    assert "10" in shown


@pytest.mark.parametrize(
    ("links", "number", "text"),
    [
        ((), 8, "no query–item link in the token graph"),
        (tuple((q, i) for q in (1, 2) for i in range(4, 34)), 36, "60 query–item links in the token graph, too many"),
    ],
)
def test_picture_stays_legible(links, number, text, tmp_path):
    assert any(text in line for line in texts(made_up(number=number, links=links), tmp_path))


def test_picture_without_a_graph_has_no_links(tmp_path):
    assert not [text for text in texts(made_up(links=None), tmp_path) if "link" in text]
