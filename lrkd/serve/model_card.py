"""The model card of an export: a README.md with the numbers filled in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lrkd.serve.card import StudentCard

SHOWN = {
    "macro_f1": "Macro-F1 ↑",
    "accuracy": "Accuracy ↑",
    "ndcg@10": "NDCG@10 ↑",
    "auroc": "AUROC ↑",
    "ece": "ECE ↓",
}

TEMPLATE = """---
pipeline_tag: text-ranking
library_name: onnx
tags: [e-commerce, search, relevance, lrkd]
---

# {method}

Does an item match a search query? For a pair of query and item this model gives the probability of each of
{labels}{latents}. It was trained with [lrkd](https://arxiv.org/abs/2601.21611) (latent reasoning distillation).

## Results

{results}

{checks}

## Use

```python
from lrkd.serve import Scorer

scorer = Scorer("path/to/this/folder")
scored = scorer.score([{{"query": "red mug", {fields}}}])
scored.probabilities, scored.labels, scored.gains
scorer.rank("red mug", [{{{fields}}}]).order
```

It needs onnxruntime and tokenizers, not torch. An item is read as `{item_text}`; a pair is cut to {max_length} tokens,
a query to {query_cap}; the item gives way first. Logits are divided by the temperature {temperature:.3f}, fitted on
validation pairs. Items are ranked by the expected gain Σ p·gain with the gains {gains}.
{cross_encoder}
## Where it comes from

{source}

Fingerprint: `{fingerprint}`
"""

CROSS_ENCODER = """
Code that reranks with sentence-transformers takes the folder `cross_encoder` (it needs torch and lrkd; the score is the
expected gain):

```python
from sentence_transformers import CrossEncoder

model = CrossEncoder("path/to/this/folder/cross_encoder", trust_remote_code=True)
model.rank("red mug", ["Ceramic mug, red"])
```
"""


def write_model_card(card: StudentCard, folder: Path) -> None:
    """Write ``README.md`` beside the card that it tells of."""
    labels, gains = card.label_set.labels, card.label_set.gains
    several = f"{len(card.latents)} latent vectors ({', '.join(card.latents)})"
    one = "a latent vector that stands for the reasoning behind it"
    latents = f", and {one if len(card.latents) == 1 else several}" if card.latents else ""
    text = TEMPLATE.format(
        method=card.method,
        labels=", ".join(labels),
        latents=latents,
        results=_results(card),
        checks=_checks(card),
        fields=", ".join(
            f'"{name}": "Ceramic mug, red"' if name == "title" else f'"{name}": "..."' for name in card.item_text.fields
        ),
        item_text=card.item_text.template,
        max_length=card.max_length,
        query_cap=card.query_cap,
        temperature=card.temperature,
        gains=", ".join(f"{label} {gain:g}" for label, gain in zip(labels, gains, strict=True)),
        cross_encoder=CROSS_ENCODER if (folder / "cross_encoder").is_dir() else "",
        source=_source(card),
        fingerprint=card.fingerprint,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _results(card: StudentCard) -> str:
    """The run's metrics, a column a split, beside the row that always says the most frequent label."""
    if not card.metrics:
        return "The run was not scored on its test split (`python -m lrkd test`) before it was exported."
    heads, columns = [], []
    for split, metrics in card.metrics.items():
        heads += [f"{split} ({metrics['pairs'] or 0:,.0f} pairs)", f"{split}, always the majority label"]
        columns += [metrics, {name: metrics.get(f"majority/{name}") for name in SHOWN}]
    rows = [_row(["", *heads]), _row(["---", *["---:"] * len(heads)])]
    names = SHOWN | {f"f1/{label}": f"F1 of {label} ↑" for label in card.label_set.labels}
    rows += [_row([shown, *(_number(column.get(name)) for column in columns)]) for name, shown in names.items()]
    return "\n".join(rows)


def _checks(card: StudentCard) -> str:
    parity, split = card.checks["parity"], card.checks["split"]
    where = "" if card.precision == "float32" else ", but for rounding to integers,"
    return (
        f"These are the student's in torch. The exported graph ({card.precision}) was compared with it before it was "
        f"written: in {parity['shapes']} shapes up to {parity['longest']} tokens logits{where} agree within "
        f"{parity['logits']:.1g}; on {split['pairs']:,} pairs of {split['split']} its macro-F1 is "
        f"{split['macro_f1']:.4f} (torch: {split['macro_f1_torch']:.4f}), {split['labels_changed']:,} labels differ."
    )


def _source(card: StudentCard) -> str:
    source, data = card.source, card.source["data"]
    pairs = ", ".join(f"{number:,} {split}" for split, number in data["pairs"].items())
    parameters = ", ".join(f"{name} {number:,}" for name, number in source["parameters"].items())
    fold = "" if source["fold"] is None else f", fold {source['fold']}"
    facts = {
        "Run": f"{source['run']}, seed {source['seed']}{fold}; checkpoint `{source['checkpoint'][:16]}`",
        "Data": f"{data['root']} ({pairs} pairs); `{data['fingerprint'][:16]}`",
        "Encoder": source["encoder"],
        "Parameters": parameters,
        "Versions": ", ".join(f"{name} {value}" for name, value in card.versions.items()),
    }
    return "\n".join(f"- {name}: {fact}" for name, fact in facts.items())


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
